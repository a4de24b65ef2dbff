//! Opening a tree for a run: the lock, the mounts, and the recovery of an interrupted transaction.

use std::path::Path;

use crate::apply::error::{SessionError, Unapplied};
use crate::apply::filesystem::stage_lock::StageLock;
use crate::apply::filesystem::{Filesystems, mount_root_times, stage_dirs};
use crate::apply::journal::{self, JournalState, space_reserve};
use crate::apply::missing_filesystems::MissingFilesystems;
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{JOURNAL, RECEIVE_DIR, STAGE_DIR, name};
use crate::apply::roll_forward::cleanup::clean_up;
use crate::apply::roll_forward::{Applied, apply_changes, record_changes, roll_forward};
use crate::host::Kernel;
use crate::report::Monitor;
use crate::root::mounts::{self, Mount, RootMount};
use crate::root::{FileKind, Root, RootError};
use crate::state::Lock;
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
        session.missing_filesystems()?.check_all(&session.root)?;
        session._lock = Some(Lock::take(&session.root)?);
        let recovered = recover(&session.root, &session.filesystems, monitor)?;
        Ok((session, recovered))
    }

    /// As [`Session::open`], for a run that does nothing else.
    ///
    /// It does without the filesystem of the state directory if no change is pending there: all
    /// changes are made, and the next run records the state.
    pub fn recover(path: &Path, monitor: &dyn Monitor) -> Result<Recovery, SessionError> {
        let session = Session::look(path)?;
        let missing = session.missing_filesystems()?;
        if let Some(mount_root) = missing.with_state.first() {
            make_changes(&session.root, &session.filesystems, monitor)?;
            let root = session.root.location().display().to_string();
            let mount_root = session.root.show(mount_root);
            return Ok(Recovery::Unrecorded { root, mount_root });
        }

        let (session, applied) = Session::open(path, monitor)?;
        Ok(Recovery::Complete(Box::new(session), applied.map(Box::new)))
    }

    /// Mount roots of the filesystems that have pending changes and are not mounted.
    pub fn missing_for_recovery(&self) -> Result<Vec<TreePath>, RootError> {
        if journal::read_applied(&self.root)?.is_some() {
            return Ok(Vec::new());
        }
        Ok(self.missing_filesystems()?.with_changes)
    }

    fn missing_filesystems(&self) -> Result<MissingFilesystems, RootError> {
        let (root, filesystems) = (&self.root, &self.filesystems);
        if let Some(journal) = journal::peek(root)? {
            return MissingFilesystems::find(root, filesystems, &journal);
        }
        // The backups on a filesystem that is not mounted would be lost.
        match journal::peek_closed(root)? {
            Some(journal) => MissingFilesystems::find_after_end(root, filesystems, &journal),
            None => Ok(MissingFilesystems::default()),
        }
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

/// Result of a recovery.
pub enum Recovery {
    /// No transaction is interrupted any more; the second field is one that was completed.
    Complete(Box<Session>, Option<Box<Applied>>),
    /// All changes are made, but the filesystem of the state directory is not mounted.
    Unrecorded {
        /// Top of the tree, as shown to a person.
        root: String,
        /// Mount root of that filesystem.
        mount_root: String,
    },
}

/// Whether a committed transaction has to be completed; changes nothing.
pub fn is_interrupted(root: &Root) -> Result<bool, RootError> {
    let path = name(STAGE_DIR).join(JOURNAL.as_bytes()).unwrap_or_else(|_| TreePath::root());
    Ok(root.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::File))
}

/// Removes the stages of a transaction that was not committed or has ended.
pub fn drop_stages(root: &Root, filesystems: &Filesystems) -> Result<(), RootError> {
    space_reserve::release(root, filesystems)?;
    stage_dirs::remove_all(root, filesystems)
}

/// Makes all changes of a committed transaction, without the state directory and its lock.
fn make_changes(
    root: &Root,
    present: &Filesystems,
    monitor: &dyn Monitor,
) -> Result<(), SessionError> {
    let _lock = StageLock::take(root)?;
    let JournalState::Sealed(journal) = journal::find(root)? else { return Ok(()) };
    if journal::read_applied(root)?.is_some() {
        return Ok(());
    }

    let missing = MissingFilesystems::find(root, present, &journal)?;
    missing.check_changes(root)?;
    monitor.note(ApplyNotice::Recovering);
    match apply_changes(root, &journal, &missing.with_state, monitor) {
        Err(Unapplied::Reversed(reversed)) => {
            drop_stages(root, present)?;
            Err(reversed.into())
        }
        answer => Ok(answer?),
    }
}

/// Completes or discards the transaction of an interrupted run.
fn recover(
    root: &Root,
    present: &Filesystems,
    monitor: &dyn Monitor,
) -> Result<Option<Applied>, SessionError> {
    let applied = match journal::find(root)? {
        JournalState::Sealed(journal) => {
            MissingFilesystems::find(root, present, &journal)?.check_all(root)?;
            let _lock = StageLock::take(root)?;
            monitor.note(ApplyNotice::Recovering);
            let applied = match journal::read_applied(root)? {
                None => roll_forward(root, &journal, monitor),
                Some(unmounted) => {
                    record_changes(root, &journal, &unmounted, monitor).map_err(Unapplied::from)
                }
            };
            match applied {
                Err(Unapplied::Reversed(reversed)) => {
                    let filesystems = present.with_roots(journal.mount_roots.clone());
                    drop_stages(root, &filesystems)?;
                    mount_root_times::restore(root)?;
                    return Err(reversed.into());
                }
                answer => Some(answer?),
            }
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
