//! Roll forward: carries out the redo journal, from the commit point to the end of the transaction.
//!
//! Every action first tests whether it was done. So the whole journal can be repeated from its
//! first action after a kill or a power cut at any moment, by this run or by a later one. The order
//! of the phases is the order in which their results become durable: live tree, state, end of the
//! journal, undo set. A state that is recorded is therefore true.
//!
//! A path that refuses its change is left out, or the transaction is reversed: see `refusal` and
//! `reverse`.

mod boot_flush;
pub(super) mod cleanup;
mod copy_rename;
mod finalize;
mod late_arrivals;
mod refusal;
mod reverse;
mod step;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::apply::error::{Interrupted, RedoError, RefusalText, Reversed, Unapplied};
use crate::apply::filesystem::stage_dirs::{self, Stages};
use crate::apply::filesystem::{Filesystems, Slots, undo_dirs};
use crate::apply::journal::{self, Journal, space_reserve};
use crate::apply::notice::{ApplyNotice, BackupFate};
use crate::apply::on_disk::slot_name;
use crate::apply::plan::Action;
use crate::apply::undo::undo_log::UndoLog;
use crate::apply::undo::{self, UndoRetention};
use crate::entry::Entry;
use crate::report::{Event, Job, Monitor};
use crate::root::{FileKind, Root, RootError};
use crate::state::State;
use crate::tree_path::TreePath;

use finalize::{FoundDeviations, MetadataScope, MetadataScopes};
use refusal::{LeftOut, Retries};
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
    /// Paths that refused their change and were left out, in tree order.
    pub left_out: Vec<TreePath>,
}

/// Carries out the journal, records the state and ends the transaction.
pub fn roll_forward(
    root: &Root,
    journal: &Journal,
    monitor: &dyn Monitor,
) -> Result<Applied, Unapplied> {
    let run = RollForward::new(root, journal, monitor);
    run.redo_or_reverse(|conflicts| run.redo(conflicts))
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
) -> Result<(), Unapplied> {
    let run = RollForward { unmounted, ..RollForward::new(root, journal, monitor) };
    run.redo_or_reverse(|conflicts| run.apply(conflicts))
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

/// Result of the changes.
#[derive(Default)]
struct Changed {
    /// Time of the last visible change, since the beginning.
    mixed: Duration,
    /// Directories that were to be removed and are not.
    kept: Vec<TreePath>,
    left_out: LeftOut,
    retries: Retries,
    /// Whether space reserves exist that a full disk is given first.
    has_reserves: bool,
}

impl<'a> RollForward<'a> {
    fn new(root: &'a Root, journal: &'a Journal, monitor: &'a dyn Monitor) -> Self {
        let filesystems = Filesystems::from_mount_roots(journal.mount_roots.clone());
        RollForward { root, journal, filesystems, unmounted: &[], begin: Instant::now(), monitor }
    }

    /// Runs `phases`; if a path refuses that cannot be left out, reverses the transaction.
    ///
    /// A reversal that an earlier run began is completed.
    fn redo_or_reverse<T>(
        &self,
        phases: impl Fn(&mut Conflicts) -> Result<T, RedoError>,
    ) -> Result<T, Unapplied> {
        let is_reversing = journal::is_reversing(self.root).map_err(Interrupted::from_root)?;
        let refusal = if is_reversing {
            RefusalText::Earlier
        } else {
            match self.repeat_if_full(phases) {
                Err(RedoError::Refused(refusal)) => RefusalText::Now(refusal),
                answer => return Ok(answer.map_err(Interrupted::from)?),
            }
        };

        let left_out = self.repeat_if_full(|_| self.reverse()).map_err(|error| match refusal {
            RefusalText::Now(_) if !journal::is_reversing(self.root).unwrap_or(true) => {
                Interrupted::Redo(error)
            }
            _ => Interrupted::Reversal(error),
        })?;
        Err(Reversed { refusal, left_out }.into())
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
        let changed = self.make_changes(conflicts)?;
        let state = finalize::final_state(self.journal, &changed.deviations(conflicts))?;
        self.report(&changed, conflicts);

        self.end(state.as_ref())?;
        let Changed { mixed, kept, left_out, .. } = changed;
        Ok(Applied { state, mixed, kept, left_out: left_out.paths().keys().cloned().collect() })
    }

    /// Makes all changes, and marks the journal.
    fn apply(&self, conflicts: &mut Conflicts) -> Result<(), RedoError> {
        let changed = self.make_changes(conflicts)?;
        let state = finalize::final_state(self.journal, &changed.deviations(conflicts))?;
        self.report(&changed, conflicts);

        let text = state.map(|state| state.to_toml()).transpose()?;
        let mark = || -> Result<(), RedoError> {
            Ok(journal::mark_applied(self.root, text.as_deref(), self.unmounted)?)
        };
        Retries::default().attempt(mark)
    }

    /// Does the rest of a transaction whose changes are made, except on `unmounted` filesystems.
    fn record(&self, unmounted: &[TreePath]) -> Result<Applied, RedoError> {
        let mut changed = Changed::default();
        let scopes = MetadataScopes::new(self.journal);
        for entry in &self.journal.directories {
            if is_on_any(&entry.path, unmounted) {
                self.set_directory(entry, scopes.of(&entry.path), &mut changed)?;
            }
        }

        // The state beside the journal has the deviations already.
        let conflicts = Conflicts::default();
        let state = finalize::final_state(self.journal, &changed.deviations(&conflicts))?;
        self.end(state.as_ref())?;
        let left_out = state.iter().flat_map(State::left_out_paths).collect();
        Ok(Applied { state, mixed: Duration::ZERO, kept: Vec::new(), left_out })
    }

    /// Makes all changes, durably.
    fn make_changes(&self, conflicts: &mut Conflicts) -> Result<Changed, RedoError> {
        let (root, journal, filesystems) = (self.root, self.journal, &self.filesystems);
        let total = journal.changes.len() as u64;
        self.monitor.event(Event::Started { job: Job::Apply, total });
        let has_reserves = space_reserve::exists(root, filesystems)?;
        let mut changed = Changed { has_reserves, ..Changed::default() };
        if journal.slots == Slots::Undo {
            changed.settle(|| {
                let participants = journal.participants().into_iter();
                Ok(undo_dirs::take_over(root, filesystems, participants)?)
            })?;
        }
        let stages = stage_dirs::open_all(root, filesystems)?;

        if journal.slots == Slots::Undo {
            changed.settle(|| Ok(undo::restore_privileges(&stages, &journal.changes)?))?;
        }

        self.change_tree(&stages, conflicts, &mut changed)?;
        // Only these changes were not made; the metadata of a directory may be refused as well.
        let unmade: Vec<TreePath> = changed.left_out.paths().keys().cloned().collect();
        let left_out = changed.left_out_slots(journal);
        changed.settle(|| Ok(undo::remove_privileges(&stages, &left_out, self.monitor)?))?;
        self.monitor.event(Event::Advanced { job: Job::Apply, by: total });

        let scopes = MetadataScopes::new(journal);
        for entry in &journal.directories {
            if !is_on_any(&entry.path, self.unmounted) {
                self.set_directory(entry, scopes.of(&entry.path), &mut changed)?;
            }
        }
        if journal.retention == UndoRetention::Replace {
            changed.settle(|| Ok(UndoLog::correct(&stages, &journal.changes, &unmade)?))?;
        }
        changed.settle(|| Ok(finalize::sync(root, filesystems, journal)?))?;
        boot_flush::write_back(root, filesystems, journal, self.monitor);
        Ok(changed)
    }

    /// Records the state, ends the transaction and cleans up.
    fn end(&self, state: Option<&State>) -> Result<(), RedoError> {
        let mut retries = Retries::default();
        let recorded = retries.attempt(|| finalize::record(self.root, self.journal, state));
        if let Err(error) = recorded {
            // Without its record, the whole transaction can still be reversed.
            let is_recorded = state.is_none_or(|state| finalize::is_recorded(self.root, state));
            return Err(if is_recorded { error } else { refused(error) });
        }

        // A reserve that cannot be removed now is removed with the stage, or by the next run.
        let _ = space_reserve::release(self.root, &self.filesystems);
        retries.attempt(|| -> Result<(), RedoError> { Ok(journal::close(self.root)?) })?;
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
        changed: &mut Changed,
    ) -> Result<(), RedoError> {
        let sealed_at = journal::sealed_at(self.root)?;
        let filesystems = &self.filesystems;
        let mut executor = Executor::new(self.root, filesystems, stages, sealed_at, conflicts);

        for change in &self.journal.changes {
            if changed.left_out.add_dependant(&change.path) {
                continue;
            }
            match changed.retries.attempt(|| executor.apply(change)) {
                Ok(ActionResult::Done) => {}
                Ok(ActionResult::DirectoryKept) => changed.kept.push(change.path.clone()),
                Err(error) => {
                    changed.leave_out(self.root, filesystems, &change.path, error)?;
                    continue;
                }
            }
            if change.action.is_visible() {
                changed.mixed = self.begin.elapsed();
            }
        }

        let arrivals = changed.settle(|| {
            let changes = &self.journal.changes;
            Ok(late_arrivals::restore_late_arrivals(self.root, stages, changes)?)
        })?;
        if !arrivals.restored.is_empty() {
            changed.mixed = self.begin.elapsed();
        }
        changed.settle(|| Ok(self.list_unrestorable(stages, arrivals.unrestorable.clone())?))?;
        changed.kept.extend(self.recreated_by_arrivals());
        Ok(())
    }

    /// Sets the final metadata of a directory, in which no entry changes any more.
    fn set_directory(
        &self,
        entry: &Entry,
        scope: MetadataScope,
        changed: &mut Changed,
    ) -> Result<(), RedoError> {
        if changed.left_out.add_dependant(&entry.path) {
            return Ok(());
        }
        let set =
            || -> Result<(), RedoError> { Ok(finalize::set_directory(self.root, entry, scope)?) };
        match changed.retries.attempt(set) {
            Err(error) => changed.leave_out(self.root, &self.filesystems, &entry.path, error),
            Ok(()) => Ok(()),
        }
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
    fn recreated_by_arrivals(&self) -> Vec<TreePath> {
        let mut directories = Vec::new();
        for change in &self.journal.changes {
            if matches!(change.action, Action::RemoveTree { .. }) {
                let stat = self.root.stat(&change.path).ok().flatten();
                if stat.is_some_and(|stat| stat.kind == FileKind::Directory) {
                    directories.push(change.path.clone());
                }
            }
        }
        directories
    }

    /// Warns of everything that was not as planned.
    fn report(&self, changed: &Changed, conflicts: &Conflicts) {
        let backup = match self.journal.retention {
            UndoRetention::Replace => BackupFate::Kept,
            _ => BackupFate::Removed,
        };

        for path in &conflicts.edited_after_seal {
            let path = self.root.show(path);
            self.monitor.warn(ApplyNotice::EditedAfterSeal { path, backup });
        }
        for (path, refusal) in changed.left_out.topmost() {
            let (path, refusal) = (self.root.show(path), refusal.clone());
            self.monitor.warn(ApplyNotice::LeftOut { path, refusal });
        }
        for path in &changed.kept {
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

impl Changed {
    /// Retries a step that belongs to no path of the tree.
    fn settle<T>(&mut self, step: impl FnMut() -> Result<T, RedoError>) -> Result<T, RedoError> {
        self.retries.attempt(step).map_err(refused)
    }

    /// Leaves out a path that refused its change, if that is allowed.
    fn leave_out(
        &mut self,
        root: &Root,
        filesystems: &Filesystems,
        path: &TreePath,
        error: RedoError,
    ) -> Result<(), RedoError> {
        // A full disk is first given the space reserves.
        let refusal = if self.has_reserves {
            error.into_refusal()
        } else {
            error.into_refusal_at(root, path)
        };
        self.left_out.add(root, filesystems, path, refusal?).map_err(RedoError::Refused)
    }

    /// Backup slots of the paths that were left out, by filesystem.
    fn left_out_slots(&self, journal: &Journal) -> HashSet<(usize, TreePath)> {
        let changes = journal.changes.iter();
        let left_out = changes.filter(|change| self.left_out.paths().contains_key(&change.path));
        left_out
            .filter_map(|change| Some((change.filesystem, slot_name(change.action.slot()?))))
            .collect()
    }

    /// All deviations from the plan, for the state.
    fn deviations<'a>(&'a self, conflicts: &'a Conflicts) -> FoundDeviations<'a> {
        let left_out = self.left_out.paths();
        FoundDeviations { kept: &self.kept, recreated: &conflicts.recreated_dirs, left_out }
    }
}

/// The refusal of a path, as a reason to reverse the transaction.
fn refused(error: RedoError) -> RedoError {
    error.into_refusal().map_or_else(|error| error, RedoError::Refused)
}

/// Whether `path` is at or below one of the mount roots.
fn is_on_any(path: &TreePath, mount_roots: &[TreePath]) -> bool {
    mount_roots.iter().any(|mount_root| path == mount_root || path.is_below(mount_root))
}
