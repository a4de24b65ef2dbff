//! Emulated rename between a slot and a path on a limited filesystem, which has no slots.
//!
//! It is a copy that is durable before its source is removed. So it can be repeated after an
//! interruption at any moment, and the slot keeps the content until the limited filesystem has it.

use std::io::{self, BufRead, Read};

use crate::apply::on_disk::{STAGE_DIR, copied_slot_name, partial_backup_name};
use crate::apply::undo::backup;
use crate::root::{Descend, FileKind, Object, Rename, Root, RootError, Stat};
use crate::tree_path::{BadPath, TreePath};

/// Bytes that are compared at once.
const BLOCK: usize = 64 << 10;

/// Moves objects between the slots of one filesystem and the paths of a limited one.
pub(super) struct CopyRename<'a> {
    /// The tree.
    pub root: &'a Root,
    /// Mount root of the limited filesystem.
    pub mount_root: &'a TreePath,
    /// Staged content of the filesystem with the slots.
    pub staged: &'a Root,
    /// Backups of the filesystem with the slots.
    pub backups: &'a Root,
}

/// Metadata that is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metadata {
    /// Everything, for a backup.
    All,
    /// Times only: a limited filesystem has nothing else.
    Times,
}

impl CopyRename<'_> {
    /// Installs the content of a staged slot at `path`, and backs up the object there.
    ///
    /// The path is missing for a moment if one of the two is a directory.
    pub(super) fn install(&self, slot: &TreePath, path: &TreePath) -> Result<(), RootError> {
        if is_same(self.staged, slot, self.root, path)? {
            return self.remove_slot(slot, path);
        }

        let is_directory = |stat: Stat| stat.kind == FileKind::Directory;
        let installs_directory = self.staged.stat(slot)?.is_some_and(is_directory);
        match self.root.stat(path)? {
            None => {}
            Some(live) if installs_directory || is_directory(live) => self.displace(slot, path)?,
            // The present file may be an incomplete copy; the backup was made before the commit.
            Some(_) if self.backups.stat(slot)?.is_some() => {}
            Some(_) => backup::link_backup(self.root, self.backups, slot, path)?,
        }

        let copied = self.temporary_path(slot)?;
        self.root.remove_tree(&copied)?;
        copy_tree(self.staged, slot, self.root, &copied, Metadata::Times)?;
        let exists = self.root.stat(path)?.is_some();
        let mode = if exists { Rename::Replace } else { Rename::NoReplace };
        self.root.rename(&copied, self.root, path, mode)?;
        self.remove_slot(slot, path)
    }

    /// Moves the object at `path` to a backup slot.
    pub(super) fn displace(&self, slot: &TreePath, path: &TreePath) -> Result<(), RootError> {
        if self.backups.stat(slot)?.is_none() {
            let partial = partial_backup_name(slot);
            self.backups.remove_tree(&partial)?;
            copy_tree(self.root, path, self.backups, &partial, Metadata::All)?;
            self.backups.rename(&partial, self.backups, slot, Rename::NoReplace)?;
            self.backups.sync_filesystem()?;
        }
        self.root.remove_tree(path)
    }

    /// Removes a staged slot after its content has become durable at `path`.
    fn remove_slot(&self, slot: &TreePath, path: &TreePath) -> Result<(), RootError> {
        self.root.sync_dir(&path.parent().unwrap_or_else(TreePath::root))?;
        self.root.below(self.mount_root)?.sync_filesystem()?;

        // Renamed first: a slot that is removed in part would be taken for the whole content.
        let copied = copied_slot_name(slot);
        self.staged.remove_tree(&copied)?;
        self.staged.rename(slot, self.staged, &copied, Rename::NoReplace)?;
        self.staged.remove_tree(&copied)
    }

    /// Path on the limited filesystem at which a copy is made before it is renamed into place.
    fn temporary_path(&self, slot: &TreePath) -> Result<TreePath, RootError> {
        let too_long = |error: BadPath| RootError {
            operation: "make",
            path: self.root.show(self.mount_root),
            source: io::Error::other(error),
        };
        let stage = self.mount_root.join(STAGE_DIR.as_bytes()).map_err(too_long)?;
        if self.root.stat(&stage)?.is_none() {
            self.root.create_dir(&stage)?;
        }
        stage.join(slot.name()).map_err(too_long)
    }
}

/// Copies the object at `from`, with everything below it, to `to`; directories are synced.
fn copy_tree(
    source: &Root,
    from: &TreePath,
    target: &Root,
    to: &TreePath,
    metadata: Metadata,
) -> Result<(), RootError> {
    let Some(stat) = source.stat(from)? else { return Ok(()) };
    let mut directories = Vec::new();
    let mut copy_one = |path: &TreePath, stat: &Stat| -> Result<(), RootError> {
        let copy = moved(path, from, to).map_err(|error| RootError {
            operation: "copy",
            path: source.show(path),
            source: io::Error::other(error),
        })?;
        if stat.kind == FileKind::Directory {
            target.create_dir(&copy)?;
            directories.push((path.clone(), copy, *stat));
        } else if metadata == Metadata::All {
            source.copy(path, target, &copy, &|| false)?;
        } else if let Some(file) = source.hold(path)?.filter(Object::is_file) {
            file.copy_content_to(target, &copy)?;
        }
        Ok(())
    };

    copy_one(from, &stat)?;
    if stat.kind == FileKind::Directory {
        source.walk::<RootError>(from, |visit| {
            copy_one(&visit.path, &visit.stat)?;
            Ok(Descend::Into)
        })?;
    }

    // Deepest first: an entry that is created later would change the time of its directory.
    for (path, copy, stat) in directories.iter().rev() {
        if let Some(held) = target.hold_dir(copy)? {
            match metadata {
                Metadata::All => held.set_meta(&stat.meta(source.xattrs(path)?))?,
                Metadata::Times => held.set_mtime(stat.mtime)?,
            }
        }
        target.sync_dir(copy)?;
    }
    Ok(())
}

/// The path of `path`, which is `from` or below it, after `from` was moved to `to`.
fn moved(path: &TreePath, from: &TreePath, to: &TreePath) -> Result<TreePath, BadPath> {
    TreePath::new([to.as_bytes(), &path.as_bytes()[from.as_bytes().len()..]].concat())
}

/// Whether `path` has the names, types and bytes of a slot; metadata is not compared.
fn is_same(
    staged: &Root,
    slot: &TreePath,
    root: &Root,
    path: &TreePath,
) -> Result<bool, RootError> {
    let (Some(new), Some(live)) = (staged.stat(slot)?, root.stat(path)?) else { return Ok(false) };
    if new.kind != live.kind {
        return Ok(false);
    }
    match new.kind {
        FileKind::Directory => is_same_directory(staged, slot, root, path),
        FileKind::File if new.size == live.size => {
            has_same_bytes(staged.open_file(slot)?, root.open_file(path)?)
                .map_err(|source| RootError { operation: "read", path: root.show(path), source })
        }
        _ => Ok(false),
    }
}

fn is_same_directory(
    staged: &Root,
    slot: &TreePath,
    root: &Root,
    path: &TreePath,
) -> Result<bool, RootError> {
    let (new, live) = (staged.children(slot)?, root.children(path)?);
    if new.len() != live.len() {
        return Ok(false);
    }
    for ((new, _), (live, _)) in new.iter().zip(&live) {
        if new.name() != live.name() || !is_same(staged, new, root, live)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_same_bytes(a: impl Read, b: impl Read) -> io::Result<bool> {
    let mut a = io::BufReader::with_capacity(BLOCK, a);
    let mut b = io::BufReader::with_capacity(BLOCK, b);
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let length = left.len().min(right.len());
        if left[..length] != right[..length] || (length == 0 && left.len() != right.len()) {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
        a.consume(length);
        b.consume(length);
    }
}
