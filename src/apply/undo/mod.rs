//! The undo set: what the last transaction displaced, and how it is brought back.
//!
//! A rollback is a transaction like any other. What it puts back is the undo set itself, which is complete
//! and durable already; what it displaces becomes the next undo set, so that it can be undone as well.

pub(super) mod backup;
mod rollback_plan;
pub mod undo_log;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};

use crate::apply::error::{UndoLogError, Untouched};
use crate::apply::filesystem::{Filesystems, Stages, mount_root_times};
use crate::apply::journal::Journal;
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{DISPLACED_LIST, name, slot_name};
use crate::apply::plan::{Action, Change, ChangePlan};
use crate::generation::GenerationId;
use crate::host::KeepUndo;
use crate::manifest::{parse_path, path_text};
use crate::report::Monitor;
use crate::root::{Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

use backup::DiskUsage;
use undo_log::UndoLog;

/// What becomes of what a transaction displaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoRetention {
    /// It becomes the undo set, in place of an earlier one.
    Replace,
    /// It goes, and an earlier undo set, which would not fit any more, with it.
    Discard,
    /// It goes; an earlier undo set still leads back and stays.
    KeepPrevious,
    /// It is kept beside an earlier undo set, which still leads back: it was displaced by a repair.
    Append,
}

/// How much may be kept.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// Whether anything is.
    pub keep: KeepUndo,
    /// The largest share of a filesystem that an undo set may hold.
    pub share: f64,
    /// Whether the transaction leads to the generation that is recorded: what it repairs is not worth
    /// the way back to the generation before.
    pub repairs: bool,
    /// The generation that is recorded in the end, if any is.
    pub made: Option<GenerationId>,
}

/// An undo set that is there.
pub struct UndoSet {
    way_back: UndoLog,
    filesystems: Filesystems,
    sets: HashMap<usize, Root>,
}

/// Decides what becomes of what `transaction` displaces.
pub(super) fn decide(
    root: &Root,
    filesystems: &Filesystems,
    transaction: &ChangePlan,
    limits: &RetentionLimits,
    monitor: &dyn Monitor,
) -> Result<UndoRetention, Untouched> {
    let fits = |undo: &UndoSet| undo.leads_from(limits.made);
    let repairs = limits.repairs && UndoSet::find(root).ok().flatten().as_ref().is_some_and(fits);
    // What only this node had is kept in any case.
    let (kept, gone) = match (repairs, transaction.displaced.is_empty()) {
        (true, false) => return Ok(UndoRetention::Append),
        (true, true) => (UndoRetention::Append, UndoRetention::KeepPrevious),
        (false, _) => (UndoRetention::Replace, UndoRetention::Discard),
    };
    match limits.keep {
        KeepUndo::Never => return Ok(gone),
        KeepUndo::Always => return Ok(kept),
        KeepUndo::Auto => {}
    }
    // What repairs displace is kept beside what is kept already.
    let weights = if repairs { weigh(root, filesystems)? } else { Vec::new() };
    for (at, bytes) in backup::cost(root, transaction)? {
        let top = &filesystems.mount_roots()[at];
        let allowed = (root.below(top)?.room()?.total as f64 * limits.share) as u64;
        let there: u64 =
            weights.iter().filter(|weight| weight.top == *top).map(|weight| weight.bytes).sum();
        if bytes.saturating_add(there) > allowed {
            let place = root.show(top);
            monitor.warn(if repairs {
                ApplyNotice::RepairNotKept { bytes, place, present: there, allowed }
            } else {
                ApplyNotice::UpdateNotUndoable { bytes, place, allowed }
            });
            return Ok(gone);
        }
    }
    Ok(kept)
}

/// What only the node had and goes along with a directory, as it was listed.
pub(super) fn displaced(stages: &Stages) -> Result<Vec<TreePath>, RootError> {
    let list = match stages.backups(0).map(|old| old.open_file(&name(DISPLACED_LIST))) {
        Some(Err(error)) if !error.is_absent() => return Err(error),
        Some(Ok(file)) => BufReader::new(file),
        _ => return Ok(Vec::new()),
    };
    let fail = |source| RootError { what: "read", path: DISPLACED_LIST.to_owned(), source };
    let lines = list.split(b'\n').collect::<Result<Vec<_>, _>>().map_err(fail)?;
    Ok(lines.iter().filter_map(|line| parse_path(line).ok()).collect())
}

/// Adds to the list what turned out to go along.
pub(super) fn also_displaced(stages: &Stages, more: &[TreePath]) -> Result<(), RootError> {
    let Some(old) = stages.backups(0) else { return Ok(()) };
    let listed = displaced(stages)?;
    let list: String = listed.iter().chain(more).map(|path| path_text(path) + "\n").collect();
    old.write_durably(&name(DISPLACED_LIST), list.as_bytes(), 0o600)
}

/// The slots of directories that hold what only the node had, as it was listed.
pub(super) fn displaced_slots(
    root: &Root,
    journal: &Journal,
) -> Result<HashSet<(usize, TreePath)>, RootError> {
    let listed =
        displaced(&Filesystems::from_mount_roots(journal.tops.clone()).open_stages(root)?)?;
    let slots = journal.changes.iter().filter_map(|change| match change.action {
        Action::Exchange { slot, .. } | Action::Install { slot } | Action::RemoveTree { slot } => {
            Some((change, slot))
        }
        _ => None,
    });
    let holds = |change: &Change| {
        listed.iter().any(|path| *path == change.path || path.is_below(&change.path))
    };
    Ok(slots
        .filter(|(change, _)| holds(change))
        .map(|(change, slot)| (change.filesystem, slot_name(slot)))
        .collect())
}

/// Notes what is before `transaction` among what it displaces, with what is recorded.
pub(super) fn note(
    root: &Root,
    stages: &Stages,
    transaction: &ChangePlan,
    keep: UndoRetention,
    made: Option<GenerationId>,
) -> Result<(), RootError> {
    let Some(old) = stages.backups(0) else { return Ok(()) };
    if !transaction.displaced.is_empty() {
        let list: String =
            transaction.displaced.iter().map(|path| path_text(path) + "\n").collect();
        old.write_durably(&name(DISPLACED_LIST), list.as_bytes(), 0o600)?;
    }
    if keep != UndoRetention::Replace {
        return Ok(());
    }
    state::keep(root, old)?;
    UndoLog::of(root, stages, made, transaction)?.write(old)
}

/// What would be free without the undo set of one filesystem.
pub(super) struct Weight {
    /// Where the filesystem begins.
    pub top: TreePath,
    /// On the disk.
    pub bytes: u64,
    /// Of which no other name is left.
    pub inodes: u64,
}

/// What would be free without the undo sets of a tree, readable or not.
pub(super) fn weigh(root: &Root, filesystems: &Filesystems) -> Result<Vec<Weight>, RootError> {
    let all = filesystems.and(UndoSet::tops(root));
    let mut sum = DiskUsage::default();
    for at in 0..all.mount_roots().len() {
        if let Some(set) = all.undo_of(root, at)? {
            sum.add_tree(at, &set, &TreePath::root())?;
        }
    }
    let (bytes, inodes) = (sum.bytes(), sum.inodes());
    let of = |map: &HashMap<usize, u64>, at| map.get(&at).copied().unwrap_or(0);
    let tops = all.mount_roots().iter().enumerate();
    Ok(tops
        .map(|(at, top)| Weight {
            top: top.clone(),
            bytes: of(&bytes, at),
            inodes: of(&inodes, at),
        })
        .collect())
}

/// Removes the undo set of a tree: its room is needed.
pub fn drop_all(root: &Root, filesystems: &Filesystems) -> Result<(), RootError> {
    mount_root_times::save_if_absent(root, &filesystems.and(UndoSet::tops(root)))?;
    match UndoSet::find(root) {
        Ok(Some(undo)) => undo.remove(root)?,
        Ok(None) | Err(_) => filesystems.remove_undo(root)?,
    }
    mount_root_times::restore(root)
}

impl UndoSet {
    /// The undo set of the tree, if there is one.
    pub fn find(root: &Root) -> Result<Option<UndoSet>, UndoLogError> {
        let top = Filesystems::new(Vec::new());
        let Some(set) = top.undo_of(root, 0)? else { return Ok(None) };
        let Some(way_back) = UndoLog::read(&set)? else { return Ok(None) };
        let filesystems = Filesystems::from_mount_roots(way_back.tops.clone());
        let mut sets = HashMap::new();
        for at in 0..filesystems.mount_roots().len() {
            sets.extend(filesystems.undo_of(root, at)?.map(|set| (at, set)));
        }
        Ok(Some(UndoSet { way_back, filesystems, sets }))
    }

    /// Where the filesystems begin that the undo set of the tree is on, if it can be read.
    pub(super) fn tops(root: &Root) -> Vec<TreePath> {
        UndoSet::find(root).ok().flatten().map_or_else(Vec::new, |undo| undo.way_back.tops)
    }

    /// Removes it; without its way back it is none, whatever happens meanwhile.
    fn remove(self, root: &Root) -> Result<(), RootError> {
        if let Some(set) = self.sets.get(&0) {
            UndoLog::remove(set)?;
        }
        self.filesystems.remove_undo(root)
    }

    /// Whether it leads back from a tree of which `now` is recorded: not so where something else made it what
    /// it is.
    pub fn leads_from(&self, now: Option<GenerationId>) -> bool {
        self.way_back.made == now
    }

    /// What was recorded before: the state as text and the manifest as it is stored.
    pub fn record(&self) -> Result<state::StoredManifest, RootError> {
        match self.sets.get(&0) {
            Some(set) => state::kept(set),
            None => Ok(state::StoredManifest::default()),
        }
    }

    /// The bytes that would be free without it.
    pub fn bytes(&self) -> Result<u64, RootError> {
        let mut sum = DiskUsage::default();
        for (at, set) in &self.sets {
            sum.add_tree(*at, set, &TreePath::root())?;
        }
        Ok(sum.bytes().values().sum())
    }
}
