//! Opens the session of a run, and completes an interrupted transaction.

use std::path::Path;

use crate::apply::error::RefusalKind;
use crate::apply::roll_forward::Applied;
use crate::apply::session::{self, Recovery, Session};
use crate::apply::{Untouched, preflight};
use crate::fetch::leave_system_resolver;
use crate::host::boot_loader::pending;
use crate::host::{self, FstabEntry};
use crate::report::Monitor;
use crate::root::{FileKind, Root};
use crate::state::is_above_own;
use crate::tree_path::TreePath;
use crate::update::downloaded;
use crate::update::error::{Refusal, UpdateError};
use crate::update::fstab;
use crate::update::notice::{RecoveredContent, RecoveredTree, UpdateNotice};

/// Completes an interrupted transaction, if there is one, and does nothing else.
///
/// Returns the paths that were left out.
pub fn recover(root: &Path, monitor: &dyn Monitor) -> Result<Vec<TreePath>, UpdateError> {
    let unlocked = Session::look(root)?;
    if !session::is_interrupted(&unlocked.root).map_err(Untouched::from)? {
        check_state_mounted(&unlocked)?;
    }
    let (session, applied) = match Session::recover(root, monitor)? {
        Recovery::Complete(session, applied) => (session, applied),
        Recovery::Unrecorded { root, mount_root } => {
            monitor.note(UpdateNotice::Unrecorded { root, mount_root });
            return Ok(Vec::new());
        }
    };
    let mut left_out = Vec::new();
    match applied {
        Some(applied) => {
            monitor.note(UpdateNotice::Recovered(describe_tree(&session, &applied)));
            left_out = applied.left_out;
        }
        None => {
            let root = session.root.location().display().to_string();
            monitor.note(UpdateNotice::NotInterrupted { root });
        }
    }

    // A boot, and even more an initramfs, lacks most programs that the boot loader's tool needs.
    if !pending::load(&session.root).map_err(Untouched::from)?.is_empty() {
        monitor.warn(UpdateNotice::BootLoaderPending);
    }
    downloaded::show(&session.root, monitor);
    Ok(left_out)
}

/// Completes an interrupted transaction before a run that has nothing else to do.
pub fn recover_first(root: &Path, monitor: &dyn Monitor) -> Result<(), UpdateError> {
    let unlocked = Session::look(root)?;
    if session::is_interrupted(&unlocked.root).map_err(Untouched::from)? {
        recover(root, monitor)?;
    }
    Ok(())
}

/// A filesystem that is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmountedFilesystem {
    pub mount_root: TreePath,
    /// Its entry in the fstab of the tree, if a disk can be mounted by it.
    pub entry: Option<FstabEntry>,
}

/// Lists the filesystems that [`recover`] needs and that are not mounted, in tree order.
pub fn pending_filesystems(root: &Path) -> Result<Vec<UnmountedFilesystem>, UpdateError> {
    let session = Session::look(root)?;
    let mount_roots = session.missing_for_recovery().map_err(Untouched::from)?;
    if mount_roots.is_empty() {
        return Ok(Vec::new());
    }

    let fstab = fstab::read(&session.root)?;
    let mut pending = Vec::new();
    for mount_root in mount_roots {
        // A symbolic link would lead the mount out of the tree.
        let stat = session.root.stat(&mount_root).map_err(Untouched::from)?;
        let is_directory = stat.is_some_and(|stat| stat.kind == FileKind::Directory);
        let entry = is_directory.then(|| FstabEntry::find(&fstab, &mount_root)).flatten();
        pending.push(UnmountedFilesystem { mount_root, entry });
    }
    Ok(pending)
}

/// Lists the disks in the fstab of a tree that are not mounted, in tree order.
///
/// A rescue system mounts them, and creates mount points that are missing.
pub fn unmounted_filesystems(root: &Path) -> Result<Vec<UnmountedFilesystem>, UpdateError> {
    let session = Session::look(root)?;
    let fstab = fstab::read(&session.root)?;
    let mut mount_roots = host::mount_points(&fstab);
    mount_roots.sort();
    mount_roots.dedup();
    mount_roots.retain(|point| session.mounts.iter().all(|mount| mount.at != *point));

    let mut unmounted = Vec::new();
    for mount_root in mount_roots {
        let Some(entry) = FstabEntry::find(&fstab, &mount_root) else { continue };
        let entry = can_mount(&session.root, &mount_root)?.then_some(entry);
        unmounted.push(UnmountedFilesystem { mount_root, entry });
    }
    Ok(unmounted)
}

/// Checks that a mount point is a directory, or can be created as one.
///
/// A symbolic link at or above it would lead the mount out of the tree.
fn can_mount(root: &Root, mount_root: &TreePath) -> Result<bool, UpdateError> {
    let mut path = mount_root.clone();
    loop {
        if let Some(stat) = root.stat(&path).map_err(Untouched::from)? {
            return Ok(stat.kind == FileKind::Directory);
        }
        let Some(parent) = path.parent() else { return Ok(true) };
        path = parent;
    }
}

/// Opens the tree for a dry run, without the lock.
///
/// Refuses a tree with an interrupted transaction: a forecast would be about a mixed tree.
pub(super) fn open_for_dry_run(root: &Path) -> Result<Session, UpdateError> {
    let session = Session::look(root)?;
    if session::is_interrupted(&session.root).map_err(Untouched::from)? {
        return Err(Refusal::DryRunWhileInterrupted.into());
    }
    Ok(session)
}

/// Opens the tree of an update or a rollback, and completes an interrupted transaction.
pub(super) fn open_session(
    root: &Path,
    allow_root_fs: &[String],
    monitor: &dyn Monitor,
) -> Result<Session, UpdateError> {
    // Checked before the lock, which cannot be created in a read-only tree either.
    let unlocked = Session::look(root)?;
    let shown = unlocked.root.show(&TreePath::root());
    preflight::check_root_filesystem(unlocked.host.as_ref(), &shown, allow_root_fs)?;

    if !session::is_interrupted(&unlocked.root).map_err(Untouched::from)? {
        check_state_mounted(&unlocked)?;
    }
    let (session, applied) = Session::open(root, monitor)?;
    if let Some(applied) = applied {
        // The C library of this process may be of another generation than its modules now.
        leave_system_resolver(monitor)?;
        monitor.note(UpdateNotice::RecoveredFirst(describe_tree(&session, &applied)));
    }
    Ok(session)
}

/// Refuses a tree whose fstab names a filesystem for the state directory that is not mounted.
///
/// Lock and state would be created below its mount point, and vanish with the next mount.
fn check_state_mounted(session: &Session) -> Result<(), UpdateError> {
    let is_mounted = |point: &TreePath| session.mounts.iter().any(|mount| mount.at == *point);
    let points = host::mount_points(&fstab::read(&session.root)?);
    let missing =
        points.iter().find(|point| !point.is_root() && is_above_own(point) && !is_mounted(point));
    match missing {
        Some(point) => {
            let mount_root = session.root.show(point);
            Err(Untouched::from(RefusalKind::StateNotMounted { mount_root }).into())
        }
        None => Ok(()),
    }
}

fn describe_tree(session: &Session, applied: &Applied) -> RecoveredTree {
    let content = match &applied.state {
        Some(state) if state.is_published() => RecoveredContent::Generation(state.generation),
        Some(state) => RecoveredContent::Unpublished(state.image.clone()),
        None => RecoveredContent::Unrecorded,
    };
    RecoveredTree { root: session.root.location().display().to_string(), content }
}
