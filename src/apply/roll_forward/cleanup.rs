//! End of a transaction: retains the backups, removes the stages, restores times of mount roots.

use crate::apply::filesystem::{Filesystems, mount_root_times, stage_dirs, undo_dirs};
use crate::apply::journal::{self, Journal};
use crate::apply::undo::undo_log::UndoLog;
use crate::apply::undo::{self, UndoRetention, UndoSet};
use crate::root::{Root, RootError};

/// Cleans up after a transaction that has ended. It can be repeated.
pub(in crate::apply) fn clean_up(root: &Root, journal: &Journal) -> Result<(), RootError> {
    journal::sync_close(root)?;
    let filesystems = Filesystems::from_mount_roots(journal.mount_roots.clone());

    retain_backups(root, &filesystems, journal)?;
    save_final_times(root, &filesystems, journal)?;
    stage_dirs::remove_all(root, &filesystems)?;
    mount_root_times::restore(root)
}

/// Keeps or removes the backups, by the undo retention of the journal.
fn retain_backups(
    root: &Root,
    filesystems: &Filesystems,
    journal: &Journal,
) -> Result<(), RootError> {
    let participants = journal.participants();
    if journal.retention != UndoRetention::Replace
        && let Some(backups) = stage_dirs::open_all(root, filesystems)?.backups(0)
    {
        // Only a reversal needed it.
        UndoLog::remove(backups)?;
    }
    if matches!(journal.retention, UndoRetention::Replace | UndoRetention::Discard) {
        remove_undo_elsewhere(root, journal)?;
    }

    match journal.retention {
        UndoRetention::Replace => undo_dirs::replace(root, filesystems, &participants),
        UndoRetention::Append => undo_dirs::append(root, filesystems, &participants),
        // The slots that contain displaced paths are kept in any case: these paths exist nowhere
        // else.
        UndoRetention::Discard if stage_dirs::has_backups(root, filesystems)? => {
            let displaced = undo::displaced_slots(root, filesystems, &journal.changes)?;
            if displaced.is_empty() {
                return undo_dirs::remove_all(root, filesystems);
            }
            undo_dirs::remove_backups_except(root, filesystems, &displaced)?;
            undo_dirs::replace(root, filesystems, &participants)
        }
        // The root's backups were moved already, by a run that was interrupted here.
        UndoRetention::Discard => undo_dirs::replace(root, filesystems, &participants),
        UndoRetention::KeepPrevious => {
            let displaced = undo::displaced_slots(root, filesystems, &journal.changes)?;
            if displaced.is_empty() {
                return Ok(());
            }
            undo_dirs::remove_backups_except(root, filesystems, &displaced)?;
            undo_dirs::append(root, filesystems, &participants)
        }
    }
}

/// Removes the parts of an earlier undo set on filesystems that did not take part.
///
/// They belong to another transaction than the new undo set.
fn remove_undo_elsewhere(root: &Root, journal: &Journal) -> Result<(), RootError> {
    let participants = journal.participants();
    let mut elsewhere = UndoSet::mount_roots(root);
    elsewhere
        .retain(|mount_root| participants.iter().all(|&at| journal.mount_roots[at] != *mount_root));
    undo_dirs::remove_all(root, &Filesystems::from_mount_roots(elsewhere))
}

/// Saves the times that mount roots have at the end: those of the image, or their earlier ones.
fn save_final_times(
    root: &Root,
    filesystems: &Filesystems,
    journal: &Journal,
) -> Result<(), RootError> {
    let mut times = mount_root_times::read_saved(root)?;
    for mount_root in filesystems.mount_roots() {
        let entry = journal.directories.binary_search_by(|entry| entry.path.cmp(mount_root));
        if let Ok(at) = entry {
            times.insert(mount_root.clone(), journal.directories[at].meta.mtime);
        }
    }
    mount_root_times::save(root, &times)
}
