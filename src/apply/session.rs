//! The lock on a tree, and what an interrupted run left behind.

use std::path::Path;

use crate::apply::error::SessionError;
use crate::apply::filesystem::{Filesystems, mount_root_times};
use crate::apply::journal::{self, Journal, JournalState, space_reserve};
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{JOURNAL, RECEIVE_DIR, STAGE_DIR, name};
use crate::apply::plan::Change;
use crate::apply::roll_forward::{Applied, clean_up, roll_forward};
use crate::host::Kernel;
use crate::report::Monitor;
use crate::root::mounts::{self, Host, Mount};
use crate::root::{FileKind, Root, RootError};
use crate::state::{Lock, is_above_own};
use crate::tree_path::TreePath;

/// A tree that this run alone works on, in the state before or after a transaction, never in between.
pub struct Session {
    /// The tree.
    pub root: Root,
    /// What holds its top.
    pub host: Option<Host>,
    /// What is mounted below it.
    pub mounts: Vec<Mount>,
    /// Pairs of places that show one directory.
    pub twins: Vec<(TreePath, TreePath)>,
    /// Where renames can happen, as far as mounts tell.
    pub filesystems: Filesystems,
    /// The kernel that runs, if the tree is the running system.
    pub kernel: Option<Kernel>,
    _lock: Option<Lock>,
}

impl Session {
    /// Takes the lock and finishes or drops what an interrupted run left; says what it finished.
    pub fn open(
        path: &Path,
        monitor: &dyn Monitor,
    ) -> Result<(Self, Option<Applied>), SessionError> {
        let mut session = Session::look(path)?;
        // The lock is a file of the tree, too: nothing may be made where a filesystem is missing.
        if let Some(journal) = journal::peek(&session.root)? {
            check_mounted(&session.root, &session.filesystems, &journal)?;
        }
        session._lock = Some(Lock::take(&session.root)?);
        let finished = recover(&session.root, &session.filesystems, monitor)?;
        Ok((session, finished))
    }

    /// Looks at a tree without the lock, for a run that changes nothing.
    pub fn look(path: &Path) -> Result<Self, SessionError> {
        let root = Root::open(path)?;
        let (host, mounts) = mounts::read(root.shown()).map_err(SessionError::Mounts)?;
        let mut tops = Vec::new();
        for mount in mounts.iter().filter(|mount| mount.takes_part()) {
            // A file that is mounted on is not a place for a stage.
            if root.stat(&mount.at)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
                tops.push(mount.at.clone());
            }
        }
        let twins = mounts::twins(host.as_ref(), &mounts);
        let filesystems = Filesystems::new(tops).with_limited(&mounts);
        let kernel = Kernel::running_on(&root)?;
        Ok(Session { root, host, mounts, twins, filesystems, kernel, _lock: None })
    }

    /// Directories that something foreign is mounted on: not the image's.
    pub fn foreign(&self) -> impl Iterator<Item = TreePath> {
        self.mounts.iter().filter(|mount| !mount.takes_part()).map(|mount| mount.at.clone())
    }
}

/// Whether an interrupted transaction waits to be finished; changes nothing.
pub fn is_interrupted(root: &Root) -> Result<bool, RootError> {
    let path = name(STAGE_DIR).join(JOURNAL.as_bytes()).unwrap_or_else(|_| TreePath::root());
    Ok(root.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::File))
}

/// Refuses to go on where a filesystem is not mounted that something changes on, or that holds what is
/// recorded: it would be written below the mount point, and be lost. One that takes part has a stage.
fn check_mounted(
    root: &Root,
    present: &Filesystems,
    journal: &Journal,
) -> Result<(), SessionError> {
    let (tops, changes) = (&journal.tops, &journal.changes);
    let all = Filesystems::from_mount_roots(tops.clone());
    for (at, top) in tops.iter().enumerate().skip(1) {
        let stirs = |change: &Change| change.path == *top || change.path.is_below(top);
        let missing = if changes.iter().any(|change| change.filesystem == at) {
            !all.has_stage(root, at)?
        } else {
            (is_above_own(top) || changes.iter().any(stirs))
                && !present.is_mount_root(top)
                && !is_apart(root, top)?
        };
        if missing {
            return Err(SessionError::NotMounted { mount_root: root.show(top) });
        }
    }
    Ok(())
}

/// Whether the directory at `top` is on another filesystem than the one above it, as a subvolume is.
fn is_apart(root: &Root, top: &TreePath) -> Result<bool, RootError> {
    let above = top.parent().map(|parent| root.stat(&parent)).transpose()?.flatten();
    Ok(root.stat(top)?.zip(above).is_some_and(|(stat, above)| stat.dev != above.dev))
}

/// Removes what a transaction needed that was not sealed, or is over.
pub fn drop_stages(root: &Root, filesystems: &Filesystems) -> Result<(), RootError> {
    space_reserve::release(root, filesystems)?;
    filesystems.remove_stages(root)
}

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
    // Without a journal nothing of a stage was ever visible; a full sync leaves what it received.
    let filesystems = present.and(Filesystems::list_backups(root)?);
    let mut left = root.stat(&name(RECEIVE_DIR))?.is_some();
    for at in 0..filesystems.mount_roots().len() {
        left |= filesystems.has_stage(root, at)?;
    }
    if left {
        mount_root_times::save_if_absent(root, &filesystems)?;
    }
    drop_stages(root, &filesystems)?;
    root.remove_tree(&name(RECEIVE_DIR))?;
    mount_root_times::restore(root)?;
    filesystems.report_leftovers(root, monitor)?;
    Ok(applied)
}
