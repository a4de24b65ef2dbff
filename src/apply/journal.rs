//! The journal: what a sealed transaction still has to do, durable on the filesystem of the root.
//!
#![doc = include_str!("journal.md")]

use std::io::Read;

use crate::entry::{Entry, Mtime};
use crate::manifest::{parse_entries, parse_path, path_text, write_entries};
use crate::report::Monitor;
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

use super::prepare::{Action, Change};
use super::{STAGE, name};

/// The first line of every journal of this format.
const HEAD: &str = "si-journal 1";
/// The program that wrote the journal: what recovers before anything else of the system runs it.
const AGENT: &str = "agent";
/// A journal larger than this is not ours: ten million changes with long paths take less.
const MAX_JOURNAL: u64 = 4 << 30;

/// What a sealed transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Where the filesystems begin that take part or could: see [`super::filesystems::Filesystems`].
    pub tops: Vec<TreePath>,
    /// In this order.
    pub changes: Vec<Change>,
    /// Tracked directories with their final metadata, of which the time is set, and all of it where a
    /// change says so.
    pub directories: Vec<Entry>,
    /// The state to be recorded in the end, as text.
    pub state: String,
    /// The manifest to be recorded, as it is stored; `None` where it is recorded already.
    pub manifest: Option<Vec<u8>>,
}

/// Where filesystems begin, and the changes, as the journal's own file lists them.
pub type Listed = (Vec<TreePath>, Vec<Change>);

/// Why a journal cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk said no.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It is not what this program, or an older one, wrote.
    #[error(
        "the journal {path} cannot be followed: {why}; with the version that wrote it run --recover, or remove it and run with --check=content"
    )]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Why a transaction is not known to be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It is not.
    #[error(transparent)]
    Untouched(#[from] RootError),
    /// The journal may be durable and could not be taken back: what it says has to happen.
    #[error("the journal could neither be made durable ({0}) nor be taken back ({1})")]
    Unknown(RootError, RootError),
}

/// Writes the parts, then renames the journal into place: that rename, once durable, is the seal.
pub fn seal(root: &Root, journal: &Journal, monitor: &dyn Monitor) -> Result<(), SealError> {
    // A journal that is visible must not be left over a stage that goes.
    write(root, journal, monitor).map_err(|error| match discard(root) {
        Ok(()) => SealError::Untouched(error),
        Err(again) => SealError::Unknown(error, again),
    })
}

fn write(root: &Root, journal: &Journal, monitor: &dyn Monitor) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE))?;
    keep_agent(&stage, monitor)?;
    let mut directories = Vec::new();
    // Writing to memory does not fail.
    let _ = write_entries(&journal.directories, &mut directories);
    stage.write_durably(&name("directories.mtree"), &directories, 0o600)?;
    stage.write_durably(&name("state.toml"), journal.state.as_bytes(), 0o600)?;
    match &journal.manifest {
        Some(manifest) => stage.write_durably(&name("manifest"), manifest, 0o600)?,
        None => stage.unlink(&name("manifest"))?,
    }
    root.sync_dir(&TreePath::root())?;
    stage.write_durably(&name("journal"), text(journal).as_bytes(), 0o600)
}

/// Keeps this program beside the journal, so that the version that wrote it can finish it. Without that,
/// any later version has to, and can: only a full disk is reason enough to stop.
fn keep_agent(stage: &Root, monitor: &dyn Monitor) -> Result<(), RootError> {
    let agent = name(AGENT);
    stage.unlink(&agent)?;
    match stage.keep_program(&agent) {
        Err(error) if !error.is_full() => {
            monitor.warn(format!("{error}; an interruption will have to be recovered from by the installed one"));
            stage.unlink(&agent)
        }
        answer => answer,
    }
}

/// The journal of an interrupted transaction; `None` where there is none.
pub fn load(root: &Root) -> Result<Option<Journal>, JournalError> {
    let stage = match root.below(&name(STAGE)) {
        Err(e) if e.is_absent() => return Ok(None),
        answer => answer?,
    };
    let Some(text) = read(&stage, "journal")? else { return Ok(None) };
    let invalid = |why: String| JournalError::Invalid { path: stage.show(&name("journal")), why };
    let text = String::from_utf8(text).map_err(|_| invalid("it is not text".to_owned()))?;
    let (tops, changes) = parse(&text).map_err(|(line, why)| invalid(format!("line {line}: {why}")))?;
    let missing = |file: &str| invalid(format!("{file} is missing beside it"));
    let directories = read(&stage, "directories.mtree")?.ok_or_else(|| missing("directories.mtree"))?;
    let directories = parse_entries(directories.as_slice()).map_err(|e| invalid(e.to_string()))?;
    let state = read(&stage, "state.toml")?.ok_or_else(|| missing("state.toml"))?;
    let state = String::from_utf8(state).map_err(|_| invalid("the state beside it is not text".to_owned()))?;
    Ok(Some(Journal { tops, changes, directories, state, manifest: read(&stage, "manifest")? }))
}

/// What the journal of an interrupted transaction lists, for who has no lock: the run that it belongs to
/// may end meanwhile. One that is not understood is left to [`load`].
pub fn peek(root: &Root) -> Result<Option<Listed>, RootError> {
    let stage = match root.below(&name(STAGE)) {
        Err(e) if e.is_absent() => return Ok(None),
        answer => answer?,
    };
    let text = read(&stage, "journal")?.and_then(|text| String::from_utf8(text).ok());
    Ok(text.and_then(|text| parse(&text).ok()))
}

/// Ends a transaction: without its journal it is over.
pub fn discard(root: &Root) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE))?;
    stage.unlink(&name("journal"))?;
    stage.sync_dir(&TreePath::root())
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
    for change in &journal.changes {
        let action = match change.action {
            Action::Install { slot } => format!("install {slot}"),
            Action::Exchange { slot, to_directory: true } => format!("to-directory {slot}"),
            Action::Exchange { slot, to_directory: false } => format!("from-directory {slot}"),
            Action::Remove { slot } => format!("remove {slot}"),
            Action::RemoveDir => "remove-directory 0".to_owned(),
            Action::Times(mtime) => format!("time {mtime}"),
            Action::Directory => "directory 0".to_owned(),
        };
        text += &format!("{action} {} {}\n", change.filesystem, path_text(&change.path));
    }
    text += &format!("end {}\n", journal.changes.len());
    text
}

type Fault = (usize, &'static str);

fn parse(text: &str) -> Result<Listed, Fault> {
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    if lines.next().map(|(_, line)| line) != Some(HEAD) {
        return Err((1, "it is of a format that this program does not know"));
    }
    let (mut tops, mut changes) = (Vec::new(), Vec::new());
    for (at, line) in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["filesystem", path] => tops.push(parse_path(path.as_bytes()).map_err(|why| (at, why))?),
            ["end", count] => {
                let whole = count.parse() == Ok(changes.len()) && !tops.is_empty();
                return if whole { Ok((tops, changes)) } else { Err((at, "lines are missing")) };
            }
            [action, value, filesystem, path] => {
                let path = parse_path(path.as_bytes()).map_err(|why| (at, why))?;
                let filesystem = filesystem.parse().map_err(|_| (at, "its filesystem is not a number"))?;
                let action = parse_action(action, value).ok_or((at, "its action is unknown"))?;
                if filesystem >= tops.len() {
                    return Err((at, "its filesystem is not listed"));
                }
                changes.push(Change { filesystem, path, action });
            }
            _ => return Err((at, "it has another number of words")),
        }
    }
    Err((0, "its end is missing"))
}

fn parse_action(action: &str, value: &str) -> Option<Action> {
    let slot = || value.parse().ok();
    Some(match action {
        "install" => Action::Install { slot: slot()? },
        "to-directory" => Action::Exchange { slot: slot()?, to_directory: true },
        "from-directory" => Action::Exchange { slot: slot()?, to_directory: false },
        "remove" => Action::Remove { slot: slot()? },
        "remove-directory" => Action::RemoveDir,
        "directory" => Action::Directory,
        "time" => {
            let (seconds, nanos) = value.split_once('.')?;
            let nanos: u32 = nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?;
            Action::Times(Mtime { seconds: seconds.parse().ok()?, nanos })
        }
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
            changes: vec![
                change(path("etc/a b\n"), Action::Install { slot: 1 }),
                Change { filesystem: 1, ..change(path("boot/x"), Action::Exchange { slot: 2, to_directory: true }) },
                change(path("bin"), Action::Exchange { slot: 3, to_directory: false }),
                change(path("f"), Action::Times(Mtime { seconds: -5, nanos: 7 })),
                change(path("old"), Action::Remove { slot: u32::MAX }),
                change(path("dir"), Action::RemoveDir),
                change(path("etc"), Action::Directory),
            ],
            directories: Vec::new(),
            state: String::new(),
            manifest: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let journal = sample();
        assert_eq!(parse(&text(&journal)), Ok((journal.tops, journal.changes)));
    }

    #[test]
    fn a_cut_or_foreign_journal_is_refused() {
        let whole = text(&sample());
        for cut in 0..whole.len() - 1 {
            assert!(parse(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for (from, to) in [("si-journal 1", "si-journal 2"), ("install 1 0", "install 1 9"), ("install", "explode")] {
            assert!(parse(&whole.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn the_format_is_frozen() {
        let expected = include_str!("../../tests/testdata/journal/v1");
        assert_eq!(text(&sample()), expected);
    }
}
