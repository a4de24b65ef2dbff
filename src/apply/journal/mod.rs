//! The journal: what a sealed transaction still has to do, durable on the filesystem of the root.
//!
#![doc = include_str!("format.md")]

pub(super) mod space_reserve;

use std::collections::BTreeSet;
use std::io::Read;

use crate::apply::error::{FormatFault, JournalError, LineFault, SealError};
use crate::apply::filesystem::Slots;
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{
    AGENT, CLOSED_JOURNAL, DIRECTORIES, JOURNAL, MANIFEST, PINNED, STAGE_DIR, STATE, SYNCED, name,
};
use crate::apply::plan::{Action, Change};
use crate::apply::undo::UndoRetention;
use crate::entry::{Entry, Mtime};
use crate::image::{BadImageName, ImageName};
use crate::manifest::{parse_entries, parse_path, path_text, write_entries};
use crate::report::Monitor;
use crate::root::{Rename, Root, RootError};
use crate::tree_path::TreePath;

/// The first line of every journal of this format.
const HEAD: &str = "si-journal 1";
/// A journal larger than this is not ours: ten million changes with long paths take less.
const MAX_JOURNAL: u64 = 4 << 30;

/// What a sealed transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Where the filesystems begin that take part or could: see [`crate::apply::filesystem::Filesystems`].
    pub tops: Vec<TreePath>,
    /// Where the slots come from.
    pub slots: Slots,
    /// What becomes of what is displaced.
    pub keep: UndoRetention,
    /// In this order.
    pub changes: Vec<Change>,
    /// Tracked directories with their final metadata, of which the time is set, and all of it where a
    /// change says so.
    pub directories: Vec<Entry>,
    /// What is recorded in the end.
    pub record: CommitRecord,
}

/// What is recorded of a tree when a transaction is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitRecord {
    /// The state as text; `None` where nothing is known of the tree then.
    pub state: Option<String>,
    /// The manifest that the state names, as it is stored; `None` where it is recorded already.
    pub manifest: Option<Vec<u8>>,
    /// The generation that the node is not to go back to, as text.
    pub held: Option<String>,
    /// Where no state is recorded: the image that the tree was made of.
    pub synced: Option<ImageName>,
}

/// What is found where a journal is.
#[derive(Debug)]
pub enum JournalState {
    /// No transaction.
    Nothing,
    /// One that was sealed and has to be brought to its end.
    Sealed(Journal),
    /// One that is done; only what it displaced is not yet where it is kept.
    Done(Journal),
}

impl Journal {
    /// The filesystems whose stages the changes need; the top's always, it holds the journal.
    pub fn takes_part(&self) -> BTreeSet<usize> {
        std::iter::once(0).chain(self.changes.iter().map(|change| change.filesystem)).collect()
    }
}

/// Writes the parts, then renames the journal into place: that rename, once durable, is the seal.
pub fn seal(root: &Root, journal: &Journal, monitor: &dyn Monitor) -> Result<(), SealError> {
    // A journal that is visible must not be left over a stage that goes.
    write(root, journal, monitor).map_err(|error| match discard(root) {
        Ok(()) => SealError::Untouched(error),
        Err(removal) => SealError::Unknown { write: error, removal },
    })
}

fn write(root: &Root, journal: &Journal, monitor: &dyn Monitor) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE_DIR))?;
    keep_agent(&stage, monitor)?;
    let mut directories = Vec::new();
    // Writing to memory does not fail.
    let _ = write_entries(&journal.directories, &mut directories);
    stage.write_durably(&name(DIRECTORIES), &directories, 0o600)?;
    let record = &journal.record;
    let parts = [
        (STATE, record.state.as_ref().map(String::as_bytes)),
        (MANIFEST, record.manifest.as_deref()),
        (PINNED, record.held.as_ref().map(String::as_bytes)),
        (SYNCED, record.synced.as_ref().map(|image| image.as_str().as_bytes())),
    ];
    for (part, bytes) in parts {
        match bytes {
            Some(bytes) => stage.write_durably(&name(part), bytes, 0o600)?,
            None => stage.unlink(&name(part))?,
        }
    }
    root.sync_dir(&TreePath::root())?;
    stage.write_durably(&name(JOURNAL), text(journal).as_bytes(), 0o600)
}

/// Keeps this program beside the journal, so that the version that wrote it can finish it. Without that,
/// any later version has to, and can: that is no reason to stop.
fn keep_agent(stage: &Root, monitor: &dyn Monitor) -> Result<(), RootError> {
    let agent = name(AGENT);
    stage.unlink(&agent)?;
    match stage.keep_program(&agent) {
        Err(error) => {
            monitor.warn(ApplyNotice::AgentNotKept { error });
            stage.unlink(&agent)
        }
        Ok(()) => Ok(()),
    }
}

/// The journal of a transaction that is not wholly over.
pub fn find(root: &Root) -> Result<JournalState, JournalError> {
    let stage = match root.below(&name(STAGE_DIR)) {
        Err(e) if e.is_absent() => return Ok(JournalState::Nothing),
        answer => answer?,
    };
    if let Some(text) = read(&stage, JOURNAL)? {
        return Ok(JournalState::Sealed(load(&stage, JOURNAL, text)?));
    }
    match read(&stage, CLOSED_JOURNAL)? {
        Some(text) => Ok(JournalState::Done(load(&stage, CLOSED_JOURNAL, text)?)),
        None => Ok(JournalState::Nothing),
    }
}

/// The journal of an interrupted transaction as far as its own file goes, for who has no lock: the run
/// that it belongs to may end meanwhile. One that is not understood is left to [`find`].
pub fn peek(root: &Root) -> Result<Option<Journal>, RootError> {
    let stage = match root.below(&name(STAGE_DIR)) {
        Err(e) if e.is_absent() => return Ok(None),
        answer => answer?,
    };
    let text = read(&stage, JOURNAL)?.and_then(|text| String::from_utf8(text).ok());
    Ok(text.and_then(|text| parse(&text).ok()))
}

fn load(stage: &Root, file: &str, text: Vec<u8>) -> Result<Journal, JournalError> {
    let invalid = |fault| JournalError::Invalid { path: stage.show(&name(file)), fault };
    let text = String::from_utf8(text).map_err(|_| invalid(FormatFault::NotText))?;
    let journal = parse(&text).map_err(|fault| invalid(FormatFault::Line(fault)))?;
    let directories = match read(stage, DIRECTORIES)? {
        Some(directories) => parse_entries(directories.as_slice())
            .map_err(|e| invalid(FormatFault::Directories(e.into())))?,
        // A stage that is being removed goes file by file.
        None if file == CLOSED_JOURNAL => Vec::new(),
        None => return Err(invalid(FormatFault::PartMissing(DIRECTORIES))),
    };
    let text = |file: &'static str| -> Result<Option<String>, JournalError> {
        let text = read(stage, file)?.map(String::from_utf8).transpose();
        text.map_err(|_| invalid(FormatFault::PartNotText(file)))
    };
    let synced = text(SYNCED)?.map(|name| name.parse()).transpose();
    let synced = synced.map_err(|e: BadImageName| {
        invalid(FormatFault::PartInvalid { name: SYNCED, source: e.into() })
    })?;
    let (state, held) = (text(STATE)?, text(PINNED)?);
    let record = CommitRecord { state, manifest: read(stage, MANIFEST)?, held, synced };
    Ok(Journal { directories, record, ..journal })
}

/// When the transaction was sealed, by the clock of its filesystem.
pub fn sealed_at(root: &Root) -> Result<Mtime, RootError> {
    let stat = root.below(&name(STAGE_DIR))?.stat(&name(JOURNAL))?;
    Ok(stat.map_or(Mtime { seconds: i64::MAX, nanos: 0 }, |stat| stat.mtime))
}

/// Takes a journal back that may have become visible.
fn discard(root: &Root) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE_DIR))?;
    stage.unlink(&name(JOURNAL))?;
    stage.sync_dir(&TreePath::root())
}

/// Ends a transaction: what is left to do is only about what it displaced.
pub fn close(root: &Root) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE_DIR))?;
    stage.rename(&name(JOURNAL), &stage, &name(CLOSED_JOURNAL), Rename::Replace)
}

/// Makes it durable that a transaction has ended: what it still has to do may go only then.
pub fn stay_closed(root: &Root) -> Result<(), RootError> {
    root.below(&name(STAGE_DIR))?.sync_dir(&TreePath::root())
}

fn read(stage: &Root, file: &str) -> Result<Option<Vec<u8>>, RootError> {
    let open = match stage.open_file(&name(file)) {
        Err(e) if e.is_absent() => return Ok(None),
        answer => answer?,
    };
    let mut bytes = Vec::new();
    let read = open.take(MAX_JOURNAL).read_to_end(&mut bytes);
    read.map_err(|source| RootError { what: "read", path: stage.show(&name(file)), source })?;
    Ok(Some(bytes))
}

fn text(journal: &Journal) -> String {
    let mut text = format!("{HEAD}\n");
    for top in &journal.tops {
        text += &format!("filesystem {}\n", path_text(top));
    }
    text += match journal.slots {
        Slots::Stage => "slots stage\n",
        Slots::Undo => "slots undo\n",
    };
    text += match journal.keep {
        UndoRetention::Replace => "displaced keep\n",
        UndoRetention::Discard => "displaced drop\n",
        UndoRetention::KeepPrevious => "displaced drop-alone\n",
        UndoRetention::Append => "displaced keep-beside\n",
    };
    for change in &journal.changes {
        let action = match change.action {
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
        };
        text += &format!("{action} {} {}\n", change.filesystem, path_text(&change.path));
    }
    text += &format!("end {}\n", journal.changes.len());
    text
}

/// The journal alone, without what lies beside it.
fn parse(text: &str) -> Result<Journal, LineFault> {
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    if lines.next().map(|(_, line)| line) != Some(HEAD) {
        return Err(fault(1, "it is of a format that this program does not know"));
    }
    let (mut tops, mut changes, mut slots, mut keep) = (Vec::new(), Vec::new(), None, None);
    for (at, line) in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["filesystem", path] => {
                tops.push(parse_path(path.as_bytes()).map_err(|why| fault(at, why))?)
            }
            ["slots", "stage"] => slots = Some(Slots::Stage),
            ["slots", "undo"] => slots = Some(Slots::Undo),
            ["displaced", "keep"] => keep = Some(UndoRetention::Replace),
            ["displaced", "drop"] => keep = Some(UndoRetention::Discard),
            ["displaced", "drop-alone"] => keep = Some(UndoRetention::KeepPrevious),
            ["displaced", "keep-beside"] => keep = Some(UndoRetention::Append),
            ["end", count] => {
                let whole = count.parse() == Ok(changes.len()) && !tops.is_empty();
                let (Some(slots), Some(keep), true) = (slots, keep, whole) else {
                    return Err(fault(at, "lines are missing"));
                };
                let (directories, record) = (Vec::new(), CommitRecord::default());
                return Ok(Journal { tops, slots, keep, changes, directories, record });
            }
            [action, value, filesystem, path] => {
                let path = parse_path(path.as_bytes()).map_err(|why| fault(at, why))?;
                let filesystem =
                    filesystem.parse().map_err(|_| fault(at, "its filesystem is not a number"))?;
                let action = parse_action(action, value)
                    .ok_or_else(|| fault(at, "its action is unknown"))?;
                if filesystem >= tops.len() {
                    return Err(fault(at, "its filesystem is not listed"));
                }
                changes.push(Change { filesystem, path, action });
            }
            _ => return Err(fault(at, "it is no line of a journal")),
        }
    }
    Err(fault(0, "its end is missing"))
}

fn fault(number: usize, reason: &'static str) -> LineFault {
    LineFault { number, reason }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Journal {
        let path = |s: &str| TreePath::new(s).expect("good");
        let change = |path, action| Change { filesystem: 0, path, action };
        Journal {
            tops: vec![TreePath::root(), path("boot")],
            slots: Slots::Stage,
            keep: UndoRetention::Replace,
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
    fn what_is_written_is_read() {
        for (slots, keep) in [
            (Slots::Stage, UndoRetention::Replace),
            (Slots::Stage, UndoRetention::Append),
            (Slots::Undo, UndoRetention::Discard),
            (Slots::Undo, UndoRetention::KeepPrevious),
        ] {
            let journal = Journal { slots, keep, ..sample() };
            assert_eq!(parse(&text(&journal)), Ok(journal));
        }
    }

    #[test]
    fn a_cut_or_foreign_journal_is_refused() {
        let whole = text(&sample());
        for cut in 0..whole.len() - 1 {
            assert!(parse(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for (from, to) in [
            ("si-journal 1", "si-journal 2"),
            ("slots stage\n", ""),
            ("displaced keep\n", ""),
            ("install 1 0", "install 1 9"),
            ("install", "explode"),
        ] {
            assert!(parse(&whole.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn the_format_is_frozen() {
        let expected = include_str!("../../../tests/testdata/journal/v1");
        assert_eq!(text(&sample()), expected);
    }
}
