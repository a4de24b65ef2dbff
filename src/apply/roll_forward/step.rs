//! The changes of a transaction, one after the other: each looks first whether it was made.

use crate::apply::error::RedoError;
use crate::apply::filesystem::{Filesystems, Stages};
use crate::apply::on_disk::{obstacle_name, slot_name};
use crate::apply::plan::{Action, Change};
use crate::apply::roll_forward::copy_rename::CopyRename;
use crate::apply::undo::backup;
use crate::entry::Mtime;
use crate::root::{FileKind, Rename, Root, RootError, Stat, mounts};
use crate::tree_path::TreePath;

/// What the changes are made with.
pub(in crate::apply) struct Executor<'a> {
    root: &'a Root,
    filesystems: &'a Filesystems,
    stages: &'a Stages,
    /// Where something is mounted.
    mounted: Vec<TreePath>,
    /// The directory of the last change: many follow each other in the same one.
    here: Option<(TreePath, Root)>,
    /// When the transaction was sealed.
    sealed: Mtime,
    met: &'a mut Conflicts,
}

/// What changes met with; kept from one attempt to the next.
#[derive(Debug, Default)]
pub(in crate::apply) struct Conflicts {
    /// Directories that had to be made anew.
    pub recreated_dirs: Vec<TreePath>,
    /// What somebody changed after the seal.
    pub edited_after_seal: Vec<TreePath>,
}

impl<'a> Executor<'a> {
    /// Executor on the tree at `root`, sealed at the time `sealed`.
    pub(in crate::apply) fn new(
        root: &'a Root,
        filesystems: &'a Filesystems,
        stages: &'a Stages,
        sealed: Mtime,
        met: &'a mut Conflicts,
    ) -> Self {
        let mounted = mounts::read(root.shown()).map_or_else(|_| Vec::new(), |(_, below)| below);
        let mounted = mounted.into_iter().map(|mount| mount.at).collect();
        Executor { root, filesystems, stages, mounted, here: None, sealed, met }
    }

    /// Makes one change unless it is made; false where a directory had to stay.
    pub(in crate::apply) fn apply(&mut self, change: &Change) -> Result<bool, RedoError> {
        // Set in the end, with the times; or part of another change.
        if matches!(change.action, Action::SetDirMetadata | Action::CoveredByParent) {
            return Ok(true);
        }
        let (at, root) = (change.filesystem, self.root);
        let missing = || RedoError::NoStage { path: root.show(&change.path) };
        let coming = self.stages.staged(at).ok_or_else(missing)?;
        let old = self.stages.backups(at).ok_or_else(missing)?;
        let comes = matches!(
            change.action,
            Action::Install { .. } | Action::Exchange { .. } | Action::MakeDir { .. }
        );
        let ground = self.filesystems.stage_filesystem_of(&change.path);
        if ground != at && (comes || matches!(change.action, Action::Remove { .. })) {
            self.here = None;
            let carry = CopyRename { root, top: &self.filesystems.mount_roots()[ground] };
            carried(&carry, coming, old, change, &mut self.met.recreated_dirs)?;
            return Ok(true);
        }
        let path = change.path.alone();
        let mounted = self.mounted.iter().any(|at| at.is_below(&change.path));
        let Some(here) = self.open_parent(change, comes.then_some(old))? else { return Ok(true) };
        match change.action {
            Action::Install { slot } => {
                if install(here, coming, old, slot, &path)?
                    .is_some_and(|live| changed_since(&live, self.sealed))
                {
                    self.met.edited_after_seal.push(change.path.clone());
                }
            }
            Action::Exchange { slot, to_directory } => {
                exchange(here, coming, old, slot, &path, to_directory)?
            }
            Action::MakeDir { slot } => make(here, old, slot, &path)?,
            Action::Remove { slot } => remove(here, old, slot, &path)?,
            // What has been mounted in it meanwhile must not go along: it stays as it is.
            Action::RemoveTree { .. } if mounted => {}
            Action::RemoveTree { slot } => remove_tree(here, old, slot, &path)?,
            Action::RemoveDir => return Ok(here.remove_dir(&path)?),
            Action::SetDirMetadata | Action::CoveredByParent => {}
            Action::SetTime(mtime) => {
                if here.stat(&path)?.is_some() {
                    here.set_times(&path, mtime)?;
                }
            }
        }
        Ok(true)
    }

    /// The directory that holds the path of `change`; where something is to come into it, it is made if it
    /// has gone, and what is in its way moved to `old`.
    fn open_parent(
        &mut self,
        change: &Change,
        old: Option<&Root>,
    ) -> Result<Option<&Root>, RootError> {
        let Some(parent) = change.path.parent() else { return Ok(None) };
        if self.here.as_ref().is_none_or(|(path, _)| *path != parent) {
            self.here = None;
            if let Some(old) = old {
                make_way(self.root, None, old, &change.path, &mut self.met.recreated_dirs)?;
            }
            match self.root.below(&parent) {
                Ok(here) => self.here = Some((parent, here)),
                Err(error) if error.is_absent() && old.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.here.as_ref().map(|(_, here)| here))
    }
}

/// One change on a filesystem that has no slots.
fn carried(
    carry: &CopyRename,
    coming: &Root,
    old: &Root,
    change: &Change,
    anew: &mut Vec<TreePath>,
) -> Result<(), RootError> {
    let (root, path) = (carry.root, &change.path);
    if !matches!(change.action, Action::Remove { .. }) {
        make_way(root, Some(carry), old, path, anew)?;
    }
    let live = root.stat(path)?.map(|live| live.kind == FileKind::Directory);
    match change.action {
        Action::Install { slot } | Action::Exchange { slot, .. } => {
            match coming.stat(&slot_name(slot))? {
                Some(_) => carry.install(coming, old, &slot_name(slot), path),
                None => Ok(()),
            }
        }
        // A directory that came to stand there is not what was to go.
        Action::Remove { slot } if live == Some(false) => {
            carry.displace(old, &slot_name(slot), path)
        }
        Action::MakeDir { slot } if live != Some(true) => {
            if live.is_some() {
                carry.displace(old, &slot_name(slot), path)?;
            }
            root.create_dir(path)
        }
        _ => Ok(()),
    }
}

/// Whether somebody changed what is `live` after the seal. Each name of it that goes changes it as well, and
/// its second name among the displaced makes two of them: with more, only the time of its content counts.
fn changed_since(live: &Stat, sealed: Mtime) -> bool {
    live.ctime > sealed && (live.links <= 2 || live.mtime > sealed)
}

/// Says what it replaced.
fn install(
    root: &Root,
    coming: &Root,
    old: &Root,
    slot: u32,
    path: &TreePath,
) -> Result<Option<Stat>, RootError> {
    let slot = slot_name(slot);
    let Some(new) = coming.stat(&slot)? else { return Ok(None) };
    let Some(live) = root.stat(path)? else {
        coming.rename(&slot, root, path, Rename::NoReplace)?;
        return Ok(None);
    };
    if live.kind == FileKind::Directory || new.kind == FileKind::Directory {
        // It came to stand there after the seal: it goes aside, whatever it is.
        set_aside(root, old, &slot, path)?;
        coming.rename(&slot, root, path, Rename::NoReplace)?;
        return Ok(Some(live));
    }
    if !old.stat(&slot)?.is_some_and(|kept| backup::is_backup_of(&kept, &live)) {
        // So did this, after its predecessor had got its second name.
        old.unlink(&slot)?;
        backup::link_backup(root, old, &slot, path)?;
    }
    if (new.dev, new.ino) == (live.dev, live.ino) {
        // A rename between two names of one inode does nothing.
        coming.unlink(&slot)?;
        return Ok(None);
    }
    coming.rename(&slot, root, path, Rename::Replace)?;
    Ok(Some(live))
}

fn exchange(
    root: &Root,
    coming: &Root,
    old: &Root,
    slot: u32,
    path: &TreePath,
    to_directory: bool,
) -> Result<(), RootError> {
    let slot = slot_name(slot);
    let Some(new) = coming.stat(&slot)? else { return Ok(()) };
    let is_new = (new.kind == FileKind::Directory) == to_directory;
    if is_new {
        match root.stat(path)? {
            None => return coming.rename(&slot, root, path, Rename::NoReplace),
            Some(live) if (live.kind == FileKind::Directory) == to_directory => {
                set_aside(root, old, &slot, path)?;
                return coming.rename(&slot, root, path, Rename::NoReplace);
            }
            Some(_) => match coming.rename(&slot, root, path, Rename::Exchange) {
                // A filesystem that cannot do it: nothing stands there for a moment.
                Err(error) if error.is_unsupported() => {
                    set_aside(root, old, &slot, path)?;
                    return coming.rename(&slot, root, path, Rename::NoReplace);
                }
                answer => answer?,
            },
        }
    }
    coming.rename(&slot, old, &slot, Rename::NoReplace)
}

fn make(root: &Root, old: &Root, slot: u32, path: &TreePath) -> Result<(), RootError> {
    match root.stat(path)? {
        Some(live) if live.kind == FileKind::Directory => return Ok(()),
        Some(_) => set_aside(root, old, &slot_name(slot), path)?,
        None => {}
    }
    root.create_dir(path)
}

fn remove(root: &Root, old: &Root, slot: u32, path: &TreePath) -> Result<(), RootError> {
    let slot = slot_name(slot);
    if old.stat(&slot)?.is_some() {
        return Ok(());
    }
    match root.stat(path)? {
        // A directory that came to stand there is not what was to go.
        None => Ok(()),
        Some(live) if live.kind == FileKind::Directory => Ok(()),
        Some(_) => root.rename(path, old, &slot, Rename::NoReplace),
    }
}

fn remove_tree(root: &Root, old: &Root, slot: u32, path: &TreePath) -> Result<(), RootError> {
    let slot = slot_name(slot);
    if old.stat(&slot)?.is_some() {
        return Ok(());
    }
    match root.stat(path)? {
        Some(live) if live.kind == FileKind::Directory => {
            root.rename(path, old, &slot, Rename::NoReplace)
        }
        // What came to stand there is not what was to go.
        _ => Ok(()),
    }
}

/// Makes the directories above `path` where they have gone since the tree was looked at, or something
/// else stands in their place, which goes aside; `anew` names them. What a directory of the image should
/// be like is set in the end, as for all of them.
fn make_way(
    root: &Root,
    carry: Option<&CopyRename>,
    old: &Root,
    path: &TreePath,
    anew: &mut Vec<TreePath>,
) -> Result<(), RootError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let stands = root.stat(&parent)?;
    if stands.is_some_and(|stat| stat.kind == FileKind::Directory) {
        return Ok(());
    }
    make_way(root, carry, old, &parent, anew)?;
    if root.stat(&parent)?.is_some() {
        let mut free = 0;
        while old.stat(&obstacle_name(free))?.is_some() {
            free += 1;
        }
        match carry {
            Some(carry) => carry.displace(old, &obstacle_name(free), &parent)?,
            None => root.rename(&parent, old, &obstacle_name(free), Rename::NoReplace)?,
        }
    }
    root.create_dir(&parent)?;
    anew.push(parent);
    Ok(())
}

fn set_aside(root: &Root, old: &Root, slot: &TreePath, path: &TreePath) -> Result<(), RootError> {
    old.remove_tree(slot)?;
    root.rename(path, old, slot, Rename::NoReplace)
}
