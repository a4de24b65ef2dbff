//! What a rename does elsewhere, between a slot and a path on a filesystem that has no slots of its own.
//!
//! It is a copy, durable before what it was made from goes, so that it can be repeated after an
//! interruption at any moment. What such a filesystem (see [`crate::apply::filesystem::limited`]) was about to hold stays in
//! the slot until it does hold it.

use std::io::{self, Read};

use crate::apply::on_disk::{STAGE_DIR, copied_slot_name, partial_backup_name};
use crate::apply::undo::backup;
use crate::root::{Descend, FileKind, Rename, Root, RootError};
use crate::tree_path::TreePath;

/// Compared at once.
const BLOCK: usize = 64 << 10;

/// A filesystem without slots, by where it begins.
pub(in crate::apply) struct CopyRename<'a> {
    /// The tree.
    pub root: &'a Root,
    /// Where the filesystem begins.
    pub top: &'a TreePath,
}

impl CopyRename<'_> {
    /// Makes what the slot holds stand at `path`; what stands there goes to the slot of `old`. Nothing
    /// stands there for a moment where one of the two is a directory.
    pub fn install(
        &self,
        coming: &Root,
        old: &Root,
        slot: &TreePath,
        path: &TreePath,
    ) -> Result<(), RootError> {
        if is_same(coming, slot, self.root, path)? {
            return self.finish(coming, slot, path);
        }
        let is_directory = |stat: crate::root::Stat| stat.kind == FileKind::Directory;
        let new = coming.stat(slot)?.is_some_and(is_directory);
        match self.root.stat(path)? {
            None => {}
            Some(live) if new || is_directory(live) => self.displace(old, slot, path)?,
            // What was kept before the seal is not what an interrupted copy may have left.
            Some(_) if old.stat(slot)?.is_some() => {}
            Some(_) => backup::link_backup(self.root, old, slot, path)?,
        }
        let aside = self.aside(slot)?;
        self.root.remove_tree(&aside)?;
        copy(coming, slot, self.root, &aside, false)?;
        let there = self.root.stat(path)?.is_some();
        self.root.rename(
            &aside,
            self.root,
            path,
            if there { Rename::Replace } else { Rename::NoReplace },
        )?;
        self.finish(coming, slot, path)
    }

    /// Moves what stands at `path` to the slot of `old`.
    pub fn displace(&self, old: &Root, slot: &TreePath, path: &TreePath) -> Result<(), RootError> {
        if old.stat(slot)?.is_none() {
            let part = partial_backup_name(slot);
            old.remove_tree(&part)?;
            copy(self.root, path, old, &part, true)?;
            old.rename(&part, old, slot, Rename::NoReplace)?;
            old.sync_filesystem()?;
        }
        self.root.remove_tree(path)
    }

    /// The slot goes when what it holds is durable at its place.
    fn finish(&self, coming: &Root, slot: &TreePath, path: &TreePath) -> Result<(), RootError> {
        self.root.sync_dir(&path.parent().unwrap_or_else(TreePath::root))?;
        self.root.below(self.top)?.sync_filesystem()?;
        // At once: half a slot would be taken for all that is to come.
        let gone = copied_slot_name(slot);
        coming.remove_tree(&gone)?;
        coming.rename(slot, coming, &gone, Rename::NoReplace)?;
        coming.remove_tree(&gone)
    }

    /// A place on the filesystem where nobody looks.
    fn aside(&self, slot: &TreePath) -> Result<TreePath, RootError> {
        let bad = |error| RootError {
            what: "make",
            path: self.root.show(self.top),
            source: io::Error::other(error),
        };
        let stage = self.top.join(STAGE_DIR.as_bytes()).map_err(bad)?;
        if self.root.stat(&stage)?.is_none() {
            self.root.create_dir(&stage)?;
        }
        stage.join(slot.name()).map_err(bad)
    }
}

/// Copies what stands at `from` in `source`, with what is below it, to `to` in `target`, durable; `whole`
/// with all metadata, else with times alone.
fn copy(
    source: &Root,
    from: &TreePath,
    target: &Root,
    to: &TreePath,
    whole: bool,
) -> Result<(), RootError> {
    let Some(stat) = source.stat(from)? else { return Ok(()) };
    let mut directories = Vec::new();
    let mut copy_one = |path: &TreePath, stat: &crate::root::Stat| -> Result<(), RootError> {
        let place = moved(path, from, to).map_err(|error| RootError {
            what: "copy",
            path: source.show(path),
            source: io::Error::other(error),
        })?;
        if stat.kind == FileKind::Directory {
            target.create_dir(&place)?;
            directories.push((path.clone(), place, *stat));
        } else if whole {
            source.copy(path, target, &place)?;
        } else if stat.kind == FileKind::File {
            source.copy_content(path, target, &place)?;
            target.set_times(&place, stat.mtime)?;
        }
        Ok(())
    };
    copy_one(from, &stat)?;
    if stat.kind == FileKind::Directory {
        source.walk::<RootError>(from, |visit| {
            copy_one(&visit.path, &visit.stat).map(|()| Descend::Into)
        })?;
    }
    for (path, place, stat) in directories.iter().rev() {
        if whole {
            target.set_meta(place, &stat.meta(source.xattrs(path)?))?;
        } else {
            target.set_times(place, stat.mtime)?;
        }
        target.sync_dir(place)?;
    }
    Ok(())
}

/// Where `path`, which is `from` or below it, is when that is at `to`.
fn moved(
    path: &TreePath,
    from: &TreePath,
    to: &TreePath,
) -> Result<TreePath, crate::tree_path::BadPath> {
    TreePath::new([to.as_bytes(), &path.as_bytes()[from.as_bytes().len()..]].concat())
}

/// Whether `path` holds what the slot holds, as far as both filesystems can: the same names, the same
/// kinds, the same bytes.
fn is_same(
    coming: &Root,
    slot: &TreePath,
    root: &Root,
    path: &TreePath,
) -> Result<bool, RootError> {
    let (Some(new), Some(live)) = (coming.stat(slot)?, root.stat(path)?) else { return Ok(false) };
    if new.kind != live.kind {
        return Ok(false);
    }
    match new.kind {
        FileKind::Directory => {
            let (here, there) = (coming.children(slot)?, root.children(path)?);
            let names = |children: &[(TreePath, crate::root::Stat)]| -> Vec<Vec<u8>> {
                children.iter().map(|(child, _)| child.name().to_vec()).collect()
            };
            if names(&here) != names(&there) {
                return Ok(false);
            }
            for ((new, _), (live, _)) in here.iter().zip(&there) {
                if !is_same(coming, new, root, live)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        FileKind::File if new.size == live.size => {
            let fail = |source| RootError { what: "read", path: root.show(path), source };
            same_bytes(coming.open_file(slot)?, root.open_file(path)?).map_err(fail)
        }
        _ => Ok(false),
    }
}

fn same_bytes(a: impl Read, b: impl Read) -> io::Result<bool> {
    let (mut a, mut b) =
        (io::BufReader::with_capacity(BLOCK, a), io::BufReader::with_capacity(BLOCK, b));
    loop {
        use std::io::BufRead;
        let (here, there) = (a.fill_buf()?, b.fill_buf()?);
        let length = here.len().min(there.len());
        if here[..length] != there[..length] || (length == 0 && here.len() != there.len()) {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
        a.consume(length);
        b.consume(length);
    }
}
