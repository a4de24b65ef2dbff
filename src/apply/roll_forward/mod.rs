//! From the seal to the end: every step looks first whether it was made, so that all of them can be
//! repeated after an interruption at any moment.

pub(super) mod boot_flush;
pub(super) mod copy_rename;
pub(super) mod late_arrivals;
pub(super) mod step;

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use crate::apply::error::{Interrupted, RedoError};
use crate::apply::filesystem::{Filesystems, Slots, mount_root_times};
use crate::apply::journal::{self, Journal, space_reserve};
use crate::apply::notice::{ApplyNotice, BackupFate};
use crate::apply::plan::Action;
use crate::apply::undo::undo_log::UndoLog;
use crate::apply::undo::{self, UndoRetention, UndoSet};
use crate::entry::Entry;
use crate::report::{Event, Job, Monitor};
use crate::root::{FileKind, Root, RootError};
use crate::state::{self, State};
use crate::tree_path::TreePath;

use step::{Conflicts, Executor};

/// A transaction that is complete, durable and recorded.
#[derive(Debug)]
#[must_use]
pub struct Applied {
    /// What is recorded now, if anything is.
    pub state: Option<State>,
    /// From the first rename to the last rename or removal: the time in which the tree was mixed.
    pub mixed: Duration,
    /// Directories that stayed because something still sits in them.
    pub kept: Vec<TreePath>,
}

/// Does all that the journal says, records the state, and ends the transaction.
pub fn roll_forward(
    root: &Root,
    journal: &Journal,
    monitor: &dyn Monitor,
) -> Result<Applied, Interrupted> {
    let filesystems = Filesystems::from_mount_roots(journal.tops.clone());
    let (begin, mut met) = (Instant::now(), Conflicts::default());
    let answer = match redo(root, journal, &filesystems, begin, &mut met, monitor) {
        Err(broken)
            if broken.is_full() && space_reserve::release(root, &filesystems).unwrap_or(false) =>
        {
            monitor.note(ApplyNotice::ReserveReleased { error: broken });
            redo(root, journal, &filesystems, begin, &mut met, monitor)
        }
        answer => answer,
    };
    Ok(answer?)
}

fn redo(
    root: &Root,
    journal: &Journal,
    filesystems: &Filesystems,
    begin: Instant,
    met: &mut Conflicts,
    monitor: &dyn Monitor,
) -> Result<Applied, RedoError> {
    let takes_part = journal.takes_part();
    monitor.event(Event::Started { job: Job::Apply, total: journal.changes.len() as u64 });
    if journal.slots == Slots::Undo {
        filesystems.take_undo(root, takes_part.iter().copied())?;
    }
    let stages = filesystems.open_stages(root)?;
    let mut steps = Executor::new(root, filesystems, &stages, journal::sealed_at(root)?, met);
    let (mut kept, mut mixed) = (Vec::new(), Duration::ZERO);
    for change in &journal.changes {
        if !steps.apply(change)? {
            kept.push(change.path.clone());
        }
        if change.action.is_visible() {
            mixed = begin.elapsed();
        }
    }
    let strangers = late_arrivals::restore_late_arrivals(root, &stages, &journal.changes)?;
    if !strangers.restored.is_empty() {
        mixed = begin.elapsed();
    }
    let mut stuck = strangers.unrestorable;
    if !stuck.is_empty() {
        let listed: HashSet<TreePath> = undo::displaced(&stages)?.into_iter().collect();
        stuck.retain(|path| !listed.contains(path));
    }
    if !stuck.is_empty() {
        undo::also_displaced(&stages, &stuck)?;
    }
    for path in &stuck {
        monitor.warn(ApplyNotice::LateArrivalKept { path: root.show(path) });
    }
    for change in
        journal.changes.iter().filter(|change| matches!(change.action, Action::RemoveTree { .. }))
    {
        if root.stat(&change.path)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
            kept.push(change.path.clone());
        }
    }
    monitor.event(Event::Advanced { job: Job::Apply, by: journal.changes.len() as u64 });
    settle_directories(root, journal)?;
    if journal.keep == UndoRetention::Replace {
        UndoLog::settle(&stages, &journal.changes)?;
    }
    let grounds =
        journal.changes.iter().map(|change| filesystems.stage_filesystem_of(&change.path));
    let touched: BTreeSet<usize> = grounds.chain(takes_part).collect();
    filesystems.sync(root, touched.into_iter())?;
    boot_flush::write_back(root, journal, monitor);
    let mut state = match &journal.record.state {
        Some(text) => Some(State::parse(text, "the state in the journal")?),
        None => None,
    };
    let backup =
        if journal.keep == UndoRetention::Replace { BackupFate::Kept } else { BackupFate::Removed };
    for path in met.edited_after_seal.iter() {
        monitor.warn(ApplyNotice::EditedAfterSeal { path: root.show(path), backup });
    }
    for path in &kept {
        monitor.warn(ApplyNotice::DirectoryOccupied { path: root.show(path) });
    }
    for path in met.recreated_dirs.iter() {
        monitor.warn(ApplyNotice::DirectoryRecreated { path: root.show(path) });
    }
    if let Some(state) = &mut state {
        for path in &kept {
            state.deviate(path, "kept, since something untracked sits in it");
        }
        for path in met.recreated_dirs.iter() {
            state.deviate(
                path,
                "was not there any more when the update was made; what it held may be missing",
            );
        }
        state.written = jiff::Timestamp::now();
    }
    state::pinned::record(root, journal.record.held.as_deref())?;
    match &state {
        Some(state) => state::save(root, state, journal.record.manifest.as_deref())?,
        None => state::forget(root, journal.record.synced.as_ref())?,
    }
    // What cannot be given up now goes with the stage, or with the next run.
    let _ = space_reserve::release(root, filesystems);
    journal::close(root)?;
    monitor.event(Event::Finished { job: Job::Apply });
    if let Err(error) =
        clean_up(root, journal).and_then(|()| filesystems.report_leftovers(root, monitor))
    {
        monitor.warn(ApplyNotice::CleanUpFailed { error });
    }
    Ok(Applied { state, mixed, kept })
}

/// Puts what was displaced where it is kept, or removes it, then removes the stages, and puts the time of
/// the tops right, which that changes. Can be repeated.
pub(super) fn clean_up(root: &Root, journal: &Journal) -> Result<(), RootError> {
    journal::stay_closed(root)?;
    let filesystems = Filesystems::from_mount_roots(journal.tops.clone());
    let takes_part = journal.takes_part();
    if matches!(journal.keep, UndoRetention::Replace | UndoRetention::Discard) {
        // An earlier undo set would not fit any more, wherever parts of it lie.
        let mut earlier = UndoSet::tops(root);
        earlier.retain(|top| takes_part.iter().all(|&at| journal.tops[at] != *top));
        Filesystems::from_mount_roots(earlier).remove_undo(root)?;
    }
    match journal.keep {
        UndoRetention::Replace => filesystems.save_backups(root, &takes_part)?,
        UndoRetention::Discard if filesystems.has_backups(root)? => {
            let displaced = undo::displaced_slots(root, journal)?;
            if displaced.is_empty() {
                filesystems.remove_undo(root)?;
            } else {
                filesystems.thin_out(root, &displaced)?;
                filesystems.save_backups(root, &takes_part)?;
            }
        }
        // What only the node had was being kept already.
        UndoRetention::Discard => filesystems.save_backups(root, &takes_part)?,
        UndoRetention::Append => filesystems.save_beside(root, &takes_part)?,
        UndoRetention::KeepPrevious => {
            let displaced = undo::displaced_slots(root, journal)?;
            if !displaced.is_empty() {
                filesystems.thin_out(root, &displaced)?;
                filesystems.save_beside(root, &takes_part)?;
            }
        }
    }
    let mut times = mount_root_times::noted(root)?;
    for top in filesystems.mount_roots() {
        let entry = journal.directories.binary_search_by(|entry| entry.path.cmp(top));
        times.extend(entry.ok().map(|at| (top.clone(), journal.directories[at].meta.mtime)));
    }
    mount_root_times::save(root, &times)?;
    filesystems.remove_stages(root)?;
    mount_root_times::restore(root)
}

/// Gives directories their final metadata; children change no more.
fn settle_directories(root: &Root, journal: &Journal) -> Result<(), RootError> {
    let whole = journal.changes.iter().filter(|change| change.action == Action::SetDirMetadata);
    let whole: HashSet<&TreePath> = whole.map(|change| &change.path).collect();
    for entry in &journal.directories {
        if whole.contains(&entry.path) {
            match root.stat(&entry.path)? {
                Some(stat) if stat.kind == FileKind::Directory => {
                    root.set_meta(&entry.path, &entry.meta)?
                }
                _ => {}
            }
        } else {
            settle_time(root, entry)?;
        }
    }
    Ok(())
}

fn settle_time(root: &Root, entry: &Entry) -> Result<(), RootError> {
    match root.stat(&entry.path)? {
        Some(stat) if stat.kind == FileKind::Directory && stat.mtime != entry.meta.mtime => {
            let set = root.set_times(&entry.path, entry.meta.mtime);
            // The time alone of a directory that may not be written to stays: it is no drift.
            set.or_else(|error| if error.is_forbidden() { Ok(()) } else { Err(error) })
        }
        _ => Ok(()),
    }
}
