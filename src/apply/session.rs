//! Opening a tree for a run: the lock, the mounts, and the recovery of an interrupted transaction.

use std::path::Path;

use crate::apply::error::SessionError;
use crate::apply::filesystem::{Filesystems, mount_root_times, stage_dirs};
use crate::apply::journal::{self, Journal, JournalState, space_reserve};
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{JOURNAL, RECEIVE_DIR, STAGE_DIR, name};
use crate::apply::roll_forward::cleanup::clean_up;
use crate::apply::roll_forward::{Applied, roll_forward};
use crate::host::Kernel;
use crate::report::Monitor;
use crate::root::mounts::{self, Mount, RootMount};
use crate::root::{FileKind, Root, RootError};
use crate::state::{Lock, is_above_own};
use crate::tree_path::TreePath;

/// A tree that no other run changes, in the state before or after a transaction, never in between.
pub struct Session {
    /// The tree.
    pub root: Root,
    /// Filesystem of the root, if it is known.
    pub host: Option<RootMount>,
    /// Mounts below the root.
    pub mounts: Vec<Mount>,
    /// Pairs of paths that show the same directory.
    pub twins: Vec<(TreePath, TreePath)>,
    /// Filesystems of the tree, except for btrfs subvolumes, which no mount table lists.
    pub filesystems: Filesystems,
    /// The running kernel, if the tree is the running system.
    pub kernel: Option<Kernel>,
    _lock: Option<Lock>,
}

impl Session {
    /// Locks the tree, and completes or discards the transaction of an interrupted run.
    ///
    /// The second result is the transaction that was completed.
    pub fn open(
        path: &Path,
        monitor: &dyn Monitor,
    ) -> Result<(Self, Option<Applied>), SessionError> {
        let mut session = Session::look(path)?;

        // The lock is a file of the tree. If a filesystem is missing, it would be created below the
        // mount point.
        if let Some(journal) = journal::peek(&session.root)? {
            check_mounted(&session.root, &session.filesystems, &journal)?;
        }
        session._lock = Some(Lock::take(&session.root)?);
        let recovered = recover(&session.root, &session.filesystems, monitor)?;
        Ok((session, recovered))
    }

    /// Opens a tree without the lock, for a run that changes nothing.
    pub fn look(path: &Path) -> Result<Self, SessionError> {
        let root = Root::open(path)?;
        let (host, mounts) = mounts::read(root.location()).map_err(SessionError::Mounts)?;

        let mut mount_roots = Vec::new();
        for mount in mounts.iter().filter(|mount| mount.takes_part()) {
            // A mount on a file has no place for a stage.
            if root.stat(&mount.at)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
                mount_roots.push(mount.at.clone());
            }
        }
        let twins = mounts::aliases(host.as_ref(), &mounts);
        let filesystems = Filesystems::new(mount_roots).with_limited(&mounts);
        let kernel = Kernel::running_on(&root)?;
        Ok(Session { root, host, mounts, twins, filesystems, kernel, _lock: None })
    }

    /// Mount points of filesystems that do not belong to the image, such as NFS.
    pub fn foreign(&self) -> impl Iterator<Item = TreePath> {
        self.mounts.iter().filter(|mount| !mount.takes_part()).map(|mount| mount.at.clone())
    }
}

/// Whether a committed transaction has to be completed; changes nothing.
pub fn is_interrupted(root: &Root) -> Result<bool, RootError> {
    let path = name(STAGE_DIR).join(JOURNAL.as_bytes()).unwrap_or_else(|_| TreePath::root());
    Ok(root.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::File))
}

/// Refuses a recovery if a filesystem is not mounted that the recovery would write to.
///
/// It would write below the mount point instead, and the files would vanish with the next mount. A
/// filesystem that takes part is recognised by its stage.
fn check_mounted(
    root: &Root,
    present: &Filesystems,
    journal: &Journal,
) -> Result<(), SessionError> {
    let filesystems = Filesystems::from_mount_roots(journal.mount_roots.clone());
    for (at, mount_root) in journal.mount_roots.iter().enumerate().skip(1) {
        let takes_part = journal.changes.iter().any(|change| change.filesystem == at);
        let is_missing = if takes_part {
            !stage_dirs::exists(root, &filesystems, at)?
        } else {
            // A limited filesystem has no stage, nor has one with only the state directory.
            let is_written = is_above_own(mount_root)
                || journal
                    .changes
                    .iter()
                    .any(|change| change.path == *mount_root || change.path.is_below(mount_root));
            is_written
                && !present.is_mount_root(mount_root)
                && !is_on_other_filesystem(root, mount_root)?
        };

        if is_missing {
            return Err(SessionError::NotMounted { mount_root: root.show(mount_root) });
        }
    }
    Ok(())
}

/// Whether a directory is on another filesystem than its parent, as a btrfs subvolume is.
fn is_on_other_filesystem(root: &Root, path: &TreePath) -> Result<bool, RootError> {
    let Some(parent) = path.parent() else { return Ok(false) };
    let (stat, parent) = (root.stat(path)?, root.stat(&parent)?);
    Ok(stat.zip(parent).is_some_and(|(stat, parent)| stat.dev != parent.dev))
}

/// Removes the stages of a transaction that was not committed or has ended.
pub fn drop_stages(root: &Root, filesystems: &Filesystems) -> Result<(), RootError> {
    space_reserve::release(root, filesystems)?;
    stage_dirs::remove_all(root, filesystems)
}

/// Completes or discards the transaction of an interrupted run.
fn recover(
    root: &Root,
    present: &Filesystems,
    monitor: &dyn Monitor,
) -> Result<Option<Applied>, SessionError> {
    let applied = match journal::find(root)? {
        JournalState::Sealed(journal) => {
            check_mounted(root, present, &journal)?;
            monitor.note(ApplyNotice::Recovering);
            Some(roll_forward(root, &journal, monitor)?)
        }
        JournalState::Done(journal) => {
            clean_up(root, &journal)?;
            None
        }
        JournalState::Nothing => None,
    };

    // Without a journal, stages and the receive directory are only material.
    let filesystems = present.with_roots(stage_dirs::read_mount_roots(root)?);
    let mut is_left = root.stat(&name(RECEIVE_DIR))?.is_some();
    for at in 0..filesystems.mount_roots().len() {
        is_left |= stage_dirs::exists(root, &filesystems, at)?;
    }
    if is_left {
        mount_root_times::save_if_absent(root, &filesystems)?;
    }
    drop_stages(root, &filesystems)?;
    root.remove_tree(&name(RECEIVE_DIR))?;
    mount_root_times::restore(root)?;
    stage_dirs::report_leftovers(root, &filesystems, monitor)?;
    Ok(applied)
}
