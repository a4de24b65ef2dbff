//! Roll forward: carries out the redo journal, from the commit point to the end of the transaction.
//!
//! Every action first tests whether it was done. So the whole journal can be repeated from its
//! first action after a kill or a power cut at any moment, by this run or by a later one. The order
//! of the phases is the order in which their results become durable: live tree, state, end of the
//! journal, undo set. A state that is recorded is therefore true.

mod boot_flush;
pub(super) mod cleanup;
mod copy_rename;
mod finalize;
mod late_arrivals;
mod step;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::apply::error::{Interrupted, RedoError};
use crate::apply::filesystem::stage_dirs::{self, Stages};
use crate::apply::filesystem::{Filesystems, Slots, undo_dirs};
use crate::apply::journal::{self, Journal, space_reserve};
use crate::apply::notice::{ApplyNotice, BackupFate};
use crate::apply::plan::Action;
use crate::apply::undo::undo_log::UndoLog;
use crate::apply::undo::{self, UndoRetention};
use crate::report::{Event, Job, Monitor};
use crate::root::{FileKind, Root, RootError};
use crate::state::State;
use crate::tree_path::TreePath;

use step::{ActionResult, Conflicts, Executor};

/// A transaction that is complete, durable and recorded.
#[derive(Debug)]
#[must_use]
pub struct Applied {
    /// The recorded state, if the generation of the tree is known.
    pub state: Option<State>,
    /// Time from the first rename to the last rename or removal, in which the tree was mixed.
    pub mixed: Duration,
    /// Directories that were not removed because they contain untracked paths.
    pub kept: Vec<TreePath>,
}

/// Carries out the journal, records the state and ends the transaction.
pub fn roll_forward(
    root: &Root,
    journal: &Journal,
    monitor: &dyn Monitor,
) -> Result<Applied, Interrupted> {
    let run = RollForward::new(root, journal, monitor);
    Ok(run.repeat_if_full(|conflicts| run.redo(conflicts))?)
}

/// Carries out the journal without recording the state, whose filesystem is not mounted.
///
/// `unmounted` are the mount roots of the filesystems that are missing; no action is on them. The
/// end is marked, so that a later run does not repeat the actions: programs may have changed the
/// same paths by then.
pub fn apply_changes(
    root: &Root,
    journal: &Journal,
    unmounted: &[TreePath],
    monitor: &dyn Monitor,
) -> Result<(), Interrupted> {
    let run = RollForward { unmounted, ..RollForward::new(root, journal, monitor) };
    Ok(run.repeat_if_full(|conflicts| run.apply(conflicts))?)
}

/// Records the state after [`apply_changes`], and ends the transaction.
pub fn record_changes(
    root: &Root,
    journal: &Journal,
    unmounted: &[TreePath],
    monitor: &dyn Monitor,
) -> Result<Applied, Interrupted> {
    let run = RollForward::new(root, journal, monitor);
    Ok(run.repeat_if_full(|_| run.record(unmounted))?)
}

/// One roll forward; its methods are the phases.
struct RollForward<'a> {
    root: &'a Root,
    journal: &'a Journal,
    filesystems: Filesystems,
    /// Mount roots without a filesystem: nothing is written at or below them.
    unmounted: &'a [TreePath],
    begin: Instant,
    monitor: &'a dyn Monitor,
}

/// Result of the visible changes.
struct Changed {
    /// Time of the last visible change, since the beginning.
    mixed: Duration,
    /// Directories that were to be removed and are not.
    kept: Vec<TreePath>,
}

impl<'a> RollForward<'a> {
    fn new(root: &'a Root, journal: &'a Journal, monitor: &'a dyn Monitor) -> Self {
        let filesystems = Filesystems::from_mount_roots(journal.mount_roots.clone());
        RollForward { root, journal, filesystems, unmounted: &[], begin: Instant::now(), monitor }
    }

    /// Runs `phases`; if a disk is full, removes the space reserves and runs them once more.
    fn repeat_if_full<T>(
        &self,
        phases: impl Fn(&mut Conflicts) -> Result<T, RedoError>,
    ) -> Result<T, RedoError> {
        let mut conflicts = Conflicts::default();
        match phases(&mut conflicts) {
            Err(error) if error.is_full() && self.release_reserves().unwrap_or(false) => {
                self.monitor.note(ApplyNotice::ReserveReleased { error });
                phases(&mut conflicts)
            }
            answer => answer,
        }
    }

    fn release_reserves(&self) -> Result<bool, RootError> {
        if self.unmounted.is_empty() {
            space_reserve::release(self.root, &self.filesystems)
        } else {
            space_reserve::release_in_stages(self.root, &self.filesystems)
        }
    }

    /// Makes all changes, records the state and ends the transaction.
    fn redo(&self, conflicts: &mut Conflicts) -> Result<Applied, RedoError> {
        let Changed { mixed, kept } = self.make_changes(conflicts)?;
        let state = finalize::final_state(self.journal, &kept, &conflicts.recreated_dirs)?;
        self.report(&kept, conflicts);

        self.end(state.as_ref())?;
        Ok(Applied { state, mixed, kept })
    }

    /// Makes all changes, and marks the journal.
    fn apply(&self, conflicts: &mut Conflicts) -> Result<(), RedoError> {
        let Changed { kept, .. } = self.make_changes(conflicts)?;
        let state = finalize::final_state(self.journal, &kept, &conflicts.recreated_dirs)?;
        self.report(&kept, conflicts);

        let text = state.map(|state| state.to_toml()).transpose()?;
        Ok(journal::mark_applied(self.root, text.as_deref(), self.unmounted)?)
    }

    /// Does the rest of a transaction whose changes are made, except on `unmounted` filesystems.
    fn record(&self, unmounted: &[TreePath]) -> Result<Applied, RedoError> {
        finalize::set_directory_metadata(self.root, self.journal, &|path: &TreePath| {
            is_on_any(path, unmounted)
        })?;

        // The state beside the journal has the deviations already.
        let state = finalize::final_state(self.journal, &[], &[])?;
        self.end(state.as_ref())?;
        Ok(Applied { state, mixed: Duration::ZERO, kept: Vec::new() })
    }

    /// Makes all changes, durably.
    fn make_changes(&self, conflicts: &mut Conflicts) -> Result<Changed, RedoError> {
        let (root, journal, filesystems) = (self.root, self.journal, &self.filesystems);
        let total = journal.changes.len() as u64;
        self.monitor.event(Event::Started { job: Job::Apply, total });
        if journal.slots == Slots::Undo {
            undo_dirs::take_over(root, filesystems, journal.participants().into_iter())?;
        }
        let stages = stage_dirs::open_all(root, filesystems)?;

        if journal.slots == Slots::Undo {
            undo::restore_privileges(&stages, &journal.changes)?;
        }

        let changed = self.change_tree(&stages, conflicts)?;
        undo::remove_privileges(&stages, self.monitor)?;
        self.monitor.event(Event::Advanced { job: Job::Apply, by: total });

        finalize::set_directory_metadata(root, journal, &|path: &TreePath| {
            !is_on_any(path, self.unmounted)
        })?;
        if journal.retention == UndoRetention::Replace {
            UndoLog::correct(&stages, &journal.changes)?;
        }
        finalize::sync(root, filesystems, journal)?;
        boot_flush::write_back(root, filesystems, journal, self.monitor);
        Ok(changed)
    }

    /// Records the state, ends the transaction and cleans up.
    fn end(&self, state: Option<&State>) -> Result<(), RedoError> {
        finalize::record(self.root, self.journal, state)?;

        // A reserve that cannot be removed now is removed with the stage, or by the next run.
        let _ = space_reserve::release(self.root, &self.filesystems);
        journal::close(self.root)?;
        self.monitor.event(Event::Finished { job: Job::Apply });
        if let Err(error) = self.clean_up() {
            self.monitor.warn(ApplyNotice::CleanUpFailed { error });
        }
        Ok(())
    }

    /// Carries out all actions in order, then moves late arrivals back.
    fn change_tree(
        &self,
        stages: &Stages,
        conflicts: &mut Conflicts,
    ) -> Result<Changed, RedoError> {
        let sealed_at = journal::sealed_at(self.root)?;
        let filesystems = &self.filesystems;
        let mut executor = Executor::new(self.root, filesystems, stages, sealed_at, conflicts);
        let mut changed = Changed { mixed: Duration::ZERO, kept: Vec::new() };

        for change in &self.journal.changes {
            if executor.apply(change)? == ActionResult::DirectoryKept {
                changed.kept.push(change.path.clone());
            }
            if change.action.is_visible() {
                changed.mixed = self.begin.elapsed();
            }
        }

        let arrivals =
            late_arrivals::restore_late_arrivals(self.root, stages, &self.journal.changes)?;
        if !arrivals.restored.is_empty() {
            changed.mixed = self.begin.elapsed();
        }
        self.list_unrestorable(stages, arrivals.unrestorable)?;
        changed.kept.extend(self.recreated_by_arrivals()?);
        Ok(changed)
    }

    /// Adds late arrivals that stay among the backups to the list of displaced paths.
    fn list_unrestorable(
        &self,
        stages: &Stages,
        mut paths: Vec<TreePath>,
    ) -> Result<(), RootError> {
        if !paths.is_empty() {
            let listed: HashSet<TreePath> = undo::read_displaced(stages)?.into_iter().collect();
            paths.retain(|path| !listed.contains(path));
        }
        if !paths.is_empty() {
            undo::append_displaced(stages, &paths)?;
        }
        for path in &paths {
            let path = self.root.show(path);
            self.monitor.warn(ApplyNotice::LateArrivalKept { path });
        }
        Ok(())
    }

    /// Directories that were removed as a whole and exist again, for their late arrivals.
    fn recreated_by_arrivals(&self) -> Result<Vec<TreePath>, RootError> {
        let mut directories = Vec::new();
        for change in &self.journal.changes {
            if matches!(change.action, Action::RemoveTree { .. }) {
                let stat = self.root.stat(&change.path)?;
                if stat.is_some_and(|stat| stat.kind == FileKind::Directory) {
                    directories.push(change.path.clone());
                }
            }
        }
        Ok(directories)
    }

    /// Warns of everything that was not as planned.
    fn report(&self, kept: &[TreePath], conflicts: &Conflicts) {
        let backup = match self.journal.retention {
            UndoRetention::Replace => BackupFate::Kept,
            _ => BackupFate::Removed,
        };

        for path in &conflicts.edited_after_seal {
            let path = self.root.show(path);
            self.monitor.warn(ApplyNotice::EditedAfterSeal { path, backup });
        }
        for path in kept {
            let path = self.root.show(path);
            self.monitor.warn(ApplyNotice::DirectoryOccupied { path });
        }
        for path in &conflicts.recreated_dirs {
            let path = self.root.show(path);
            self.monitor.warn(ApplyNotice::DirectoryRecreated { path });
        }
    }

    fn clean_up(&self) -> Result<(), RootError> {
        cleanup::clean_up(self.root, self.journal)?;
        stage_dirs::report_leftovers(self.root, &self.filesystems, self.monitor)
    }
}

/// Whether `path` is at or below one of the mount roots.
fn is_on_any(path: &TreePath, mount_roots: &[TreePath]) -> bool {
    mount_roots.iter().any(|mount_root| path == mount_root || path.is_below(mount_root))
}
