//! Text form of the redo journal, by the clauses of `format.md`.

use crate::apply::error::LineFault;
use crate::apply::filesystem::Slots;
use crate::apply::journal::{CommitRecord, Journal};
use crate::apply::plan::{Action, Change};
use crate::apply::undo::UndoRetention;
use crate::manifest::{parse_path, path_text};
use crate::tree_path::TreePath;

/// First line of every journal of this format (clause 1).
const HEAD: &str = "si-journal 1";

/// The journal file; the files beside it are not part of the text.
pub(super) fn write(journal: &Journal) -> String {
    let mut text = format!("{HEAD}\n");
    for mount_root in &journal.mount_roots {
        text += &format!("filesystem {}\n", path_text(mount_root));
    }
    text += match journal.slots {
        Slots::Stage => "slots stage\n",
        Slots::Undo => "slots undo\n",
    };
    text += match journal.retention {
        UndoRetention::Replace => "displaced keep\n",
        UndoRetention::Discard => "displaced drop\n",
        UndoRetention::KeepPrevious => "displaced drop-alone\n",
        UndoRetention::Append => "displaced keep-beside\n",
    };

    for change in &journal.changes {
        let (action, path) = (action_text(change.action), path_text(&change.path));
        text += &format!("{action} {} {path}\n", change.filesystem);
    }
    text += &format!("end {}\n", journal.changes.len());
    text
}

fn action_text(action: Action) -> String {
    match action {
        Action::Install { slot } => format!("install {slot}"),
        Action::Exchange { slot, to_directory: true } => format!("to-directory {slot}"),
        Action::Exchange { slot, to_directory: false } => format!("from-directory {slot}"),
        Action::MakeDir { slot } => format!("make-directory {slot}"),
        Action::Remove { slot } => format!("remove {slot}"),
        Action::RemoveTree { slot } => format!("remove-tree {slot}"),
        Action::CoveredByParent => "inside 0".to_owned(),
        Action::RemoveDir => "remove-directory 0".to_owned(),
        Action::SetTime(mtime) => format!("time {mtime}"),
        Action::SetDirMetadata => "directory 0".to_owned(),
    }
}

/// Parses a journal file; the result has no directories and no record.
pub fn parse(text: &str) -> Result<Journal, LineFault> {
    let mut lines = text.lines().zip(1..);
    if lines.next().map(|(line, _)| line) != Some(HEAD) {
        return Err(fault(1, "it is of a format that this program does not know"));
    }

    let mut mount_roots = Vec::new();
    let mut changes = Vec::new();
    let mut slots = None;
    let mut retention = None;
    for (line, number) in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["filesystem", path] => mount_roots.push(path_of(path, number)?),
            ["slots", "stage"] => slots = Some(Slots::Stage),
            ["slots", "undo"] => slots = Some(Slots::Undo),
            ["displaced", "keep"] => retention = Some(UndoRetention::Replace),
            ["displaced", "drop"] => retention = Some(UndoRetention::Discard),
            ["displaced", "drop-alone"] => retention = Some(UndoRetention::KeepPrevious),
            ["displaced", "keep-beside"] => retention = Some(UndoRetention::Append),
            ["end", count] => {
                let is_complete = count.parse() == Ok(changes.len()) && !mount_roots.is_empty();
                let (Some(slots), Some(retention), true) = (slots, retention, is_complete) else {
                    return Err(fault(number, "lines are missing"));
                };
                let directories = Vec::new();
                let record = CommitRecord::default();
                return Ok(Journal { mount_roots, slots, retention, changes, directories, record });
            }
            [action, value, filesystem, path] => {
                let path = path_of(path, number)?;
                let filesystem = filesystem
                    .parse()
                    .map_err(|_| fault(number, "its filesystem is not a number"))?;
                let action = parse_action(action, value)
                    .ok_or_else(|| fault(number, "its action is unknown"))?;
                if filesystem >= mount_roots.len() {
                    return Err(fault(number, "its filesystem is not listed"));
                }
                changes.push(Change { filesystem, path, action });
            }
            _ => return Err(fault(number, "it is no line of a journal")),
        }
    }
    Err(fault(0, "its end is missing"))
}

fn path_of(text: &str, number: usize) -> Result<TreePath, LineFault> {
    parse_path(text.as_bytes()).map_err(|reason| fault(number, reason))
}

fn parse_action(action: &str, value: &str) -> Option<Action> {
    let slot = || value.parse().ok();
    Some(match action {
        "install" => Action::Install { slot: slot()? },
        "to-directory" => Action::Exchange { slot: slot()?, to_directory: true },
        "from-directory" => Action::Exchange { slot: slot()?, to_directory: false },
        "make-directory" => Action::MakeDir { slot: slot()? },
        "remove" => Action::Remove { slot: slot()? },
        "remove-tree" => Action::RemoveTree { slot: slot()? },
        "inside" => Action::CoveredByParent,
        "remove-directory" => Action::RemoveDir,
        "directory" => Action::SetDirMetadata,
        "time" => Action::SetTime(value.parse().ok()?),
        _ => return None,
    })
}

fn fault(number: usize, reason: &'static str) -> LineFault {
    LineFault { number, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Mtime;

    fn sample() -> Journal {
        let path = |text: &str| TreePath::new(text).expect("a valid path");
        let change = |path, action| Change { filesystem: 0, path, action };

        Journal {
            mount_roots: vec![TreePath::root(), path("boot")],
            slots: Slots::Stage,
            retention: UndoRetention::Replace,
            changes: vec![
                change(path("etc/a b\n"), Action::Install { slot: 1 }),
                Change {
                    filesystem: 1,
                    ..change(path("boot/x"), Action::Exchange { slot: 2, to_directory: true })
                },
                change(path("bin"), Action::Exchange { slot: 3, to_directory: false }),
                change(path("again"), Action::MakeDir { slot: 4 }),
                change(path("f"), Action::SetTime(Mtime { seconds: -5, nanos: 7 })),
                change(path("old"), Action::Remove { slot: u32::MAX }),
                change(path("tree"), Action::RemoveTree { slot: 5 }),
                change(path("dir"), Action::RemoveDir),
                change(path("tree/in"), Action::CoveredByParent),
                change(path("etc"), Action::SetDirMetadata),
            ],
            directories: Vec::new(),
            record: CommitRecord::default(),
        }
    }

    #[test]
    fn written_journals_are_read_back() {
        for (slots, retention) in [
            (Slots::Stage, UndoRetention::Replace),
            (Slots::Stage, UndoRetention::Append),
            (Slots::Undo, UndoRetention::Discard),
            (Slots::Undo, UndoRetention::KeepPrevious),
        ] {
            let journal = Journal { slots, retention, ..sample() };

            assert_eq!(parse(&write(&journal)), Ok(journal));
        }
    }

    #[test]
    fn truncated_and_foreign_journals_are_refused() {
        let text = write(&sample());

        for length in 0..text.len() - 1 {
            assert!(parse(&text[..length]).is_err(), "the first {length} bytes");
        }
        for (from, to) in [
            ("si-journal 1", "si-journal 2"),
            ("slots stage\n", ""),
            ("displaced keep\n", ""),
            ("install 1 0", "install 1 9"),
            ("install", "explode"),
        ] {
            assert!(parse(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn format_is_frozen() {
        let expected = include_str!("../../../tests/testdata/journal/v1");

        assert_eq!(write(&sample()), expected);
    }
}
