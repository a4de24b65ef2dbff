//! Last phases of the roll forward: directory metadata, sync, and the recorded state.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::apply::error::RedoError;
use crate::apply::filesystem::Filesystems;
use crate::apply::journal::Journal;
use crate::apply::plan::{Action, OCCUPIED};
use crate::entry::Entry;
use crate::root::{Root, RootError};
use crate::state::{self, LoadedState, State, StateError};
use crate::tree_path::TreePath;

/// Reason of a deviation: the directory disappeared during the update and was created again.
const RECREATED: &str = "removed by another process during the update and created again; \
                         untracked entries in it may be missing";

/// Part of the metadata of a directory that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetadataScope {
    /// Owner, mode, extended attributes and time.
    All,
    /// The time, which a change of its entries modified.
    Time,
}

/// Directories that get all their metadata.
pub(super) struct MetadataScopes<'a>(HashSet<&'a TreePath>);

impl<'a> MetadataScopes<'a> {
    pub(super) fn new(journal: &'a Journal) -> Self {
        let changes = journal.changes.iter();
        let with_all = changes.filter(|change| change.action == Action::SetDirMetadata);
        MetadataScopes(with_all.map(|change| &change.path).collect())
    }

    /// The part that a directory gets.
    pub(super) fn of(&self, path: &TreePath) -> MetadataScope {
        if self.0.contains(path) { MetadataScope::All } else { MetadataScope::Time }
    }
}

/// Deviations from the plan that the roll forward found.
pub(super) struct FoundDeviations<'a> {
    /// Directories that were to be removed and are not.
    pub kept: &'a [TreePath],
    /// Directories that had to be created again.
    pub recreated: &'a [TreePath],
    /// Paths that were left out, with the refusal.
    pub left_out: &'a BTreeMap<TreePath, String>,
}

/// Sets the final metadata of a directory; no entry of it changes any more.
pub(super) fn set_directory(
    root: &Root,
    entry: &Entry,
    scope: MetadataScope,
) -> Result<(), RootError> {
    // By now its owner may have put another type of object in its place.
    let Some(directory) = root.hold_dir(&entry.path)? else { return Ok(()) };
    if scope == MetadataScope::All {
        return directory.set_meta(&entry.meta);
    }
    if directory.stat().mtime == entry.meta.mtime {
        return Ok(());
    }
    match directory.set_mtime(entry.meta.mtime) {
        // A time that differs on a directory that cannot be written is no drift.
        Err(error) if error.is_forbidden() && is_unwritable(root, &entry.path)? => Ok(()),
        answer => answer,
    }
}

/// Whether nobody can write a directory: it has a flag, or its filesystem is read-only.
fn is_unwritable(root: &Root, path: &TreePath) -> Result<bool, RootError> {
    let locks = root.change_locks(path)?;
    let is_flagged = locks.is_some_and(|locks| locks.immutable || locks.append_only);
    Ok(is_flagged || !root.is_writable(path)?)
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
    found: &FoundDeviations<'_>,
) -> Result<Option<State>, StateError> {
    let Some(text) = &journal.record.state else { return Ok(None) };
    let mut state = State::parse(text, "the state in the journal")?;

    for path in found.kept {
        state.record_deviation(path, OCCUPIED);
    }
    for path in found.recreated {
        // Tracked paths in it may be missing, too: the next run compares all of them.
        state.record_left_out(path, RECREATED);
    }
    for (path, refusal) in found.left_out {
        state.record_left_out(path, format!("left out: {refusal}"));
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
    // Before the state: without a state, the transaction can still be reversed.
    state::pinned::record(root, journal.record.pinned.as_deref())?;
    match state {
        Some(state) => state::save(root, state, journal.record.manifest.as_deref())?,
        None => state::forget(root, journal.record.synced.as_ref())?,
    }
    Ok(())
}

/// Whether a state is recorded already, although a later step of its record failed.
pub(super) fn is_recorded(root: &Root, state: &State) -> bool {
    match state::load(root) {
        Ok(LoadedState::Valid(found) | LoadedState::FromCopy(found)) => *found == *state,
        _ => false,
    }
}
