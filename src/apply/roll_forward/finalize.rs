//! Last phases of the roll forward: directory metadata, sync, and the recorded state.

use std::collections::{BTreeSet, HashSet};

use crate::apply::error::RedoError;
use crate::apply::filesystem::Filesystems;
use crate::apply::journal::Journal;
use crate::apply::plan::{Action, OCCUPIED};
use crate::entry::Entry;
use crate::root::{FileKind, Root, RootError};
use crate::state::{self, State, StateError};
use crate::tree_path::TreePath;

/// Reason of a deviation: the directory disappeared during the update and was created again.
const RECREATED: &str = "removed by another process during the update and created again; \
                         untracked entries in it may be missing";

/// Sets the final metadata of the directories in `scope`; no entry of theirs changes any more.
pub(super) fn set_directory_metadata(
    root: &Root,
    journal: &Journal,
    scope: &dyn Fn(&TreePath) -> bool,
) -> Result<(), RootError> {
    let with_all_metadata: HashSet<&TreePath> = journal
        .changes
        .iter()
        .filter(|change| change.action == Action::SetDirMetadata)
        .map(|change| &change.path)
        .collect();

    for entry in journal.directories.iter().filter(|entry| scope(&entry.path)) {
        if with_all_metadata.contains(&entry.path) {
            let stat = root.stat(&entry.path)?;
            if stat.is_some_and(|stat| stat.kind == FileKind::Directory) {
                root.set_meta(&entry.path, &entry.meta)?;
            }
        } else {
            set_directory_time(root, entry)?;
        }
    }
    Ok(())
}

fn set_directory_time(root: &Root, entry: &Entry) -> Result<(), RootError> {
    match root.stat(&entry.path)? {
        Some(stat) if stat.kind == FileKind::Directory && stat.mtime != entry.meta.mtime => {
            match root.set_times(&entry.path, entry.meta.mtime) {
                // A time that differs on a directory that cannot be written is no drift.
                Err(error) if error.is_forbidden() => Ok(()),
                answer => answer,
            }
        }
        _ => Ok(()),
    }
}

/// Makes every filesystem durable that has a stage or a changed path.
pub(super) fn sync(
    root: &Root,
    filesystems: &Filesystems,
    journal: &Journal,
) -> Result<(), RootError> {
    let mut changed: BTreeSet<usize> = journal.participants();
    // A path on a limited filesystem has its slot elsewhere.
    changed
        .extend(journal.changes.iter().map(|change| filesystems.entry_filesystem_of(&change.path)));
    filesystems.sync(root, changed.into_iter())
}

/// The state to be recorded: that of the journal, and the deviations of the roll forward.
pub(super) fn final_state(
    journal: &Journal,
    kept: &[TreePath],
    recreated: &[TreePath],
) -> Result<Option<State>, StateError> {
    let Some(text) = &journal.record.state else { return Ok(None) };
    let mut state = State::parse(text, "the state in the journal")?;

    for path in kept {
        state.record_deviation(path, OCCUPIED);
    }
    for path in recreated {
        state.record_deviation(path, RECREATED);
    }
    state.written = jiff::Timestamp::now();
    Ok(Some(state))
}

/// Records the pinned generation and the state.
pub(super) fn record(
    root: &Root,
    journal: &Journal,
    state: Option<&State>,
) -> Result<(), RedoError> {
    state::pinned::record(root, journal.record.pinned.as_deref())?;
    match state {
        Some(state) => state::save(root, state, journal.record.manifest.as_deref())?,
        None => state::forget(root, journal.record.synced.as_ref())?,
    }
    Ok(())
}
