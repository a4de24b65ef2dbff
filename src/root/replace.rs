//! Moving and removing.

use std::io::Write;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::tree_path::TreePath;

use super::fault::change;
use super::{Descend, FileKind, Result, Root, RootError};

/// A directory at a longer path is removed through a handle of its own.
const FAR: usize = 2048;

/// How a rename treats what stands at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// It is replaced, without a moment in which nothing stands there.
    Replace,
    /// It is an error.
    NoReplace,
    /// The two change places.
    Exchange,
}

impl Root {
    /// Moves `source` in this tree to `path` in the tree `to`, on the same filesystem.
    pub fn rename(&self, source: &TreePath, to: &Root, path: &TreePath, how: Rename) -> Result<()> {
        let flags = match how {
            Rename::Replace => RenameFlags::empty(),
            Rename::NoReplace => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        let moved = self.parent_of(source).and_then(|from| {
            let dir = to.parent_of(path)?;
            if how == Rename::Replace {
                return change(|| rustix::fs::renameat(from, source.name(), dir, path.name()));
            }
            let moved = change(|| {
                rustix::fs::renameat_with(&from, source.name(), &dir, path.name(), flags)
            });
            if (how, moved) != (Rename::NoReplace, Err(Errno::INVAL)) {
                return moved;
            }
            // A filesystem that has no such rename, as those of FUSE: it is looked first.
            match rustix::fs::statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    change(|| rustix::fs::renameat(from, source.name(), dir, path.name()))
                }
                Ok(_) => Err(Errno::EXIST),
                Err(error) => Err(error),
            }
        });
        moved.map_err(|e| to.error("rename to", path, e))
    }

    /// Removes the name of something that is not a directory; what is not there is as good.
    pub fn unlink(&self, path: &TreePath) -> Result<()> {
        let done = self.remove_name(path, AtFlags::empty());
        self.unless_absent("remove", path, done)
    }

    /// Removes an empty directory; false where something still sits in it.
    pub fn remove_dir(&self, path: &TreePath) -> Result<bool> {
        match self.remove_name(path, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(false),
            answer => self.unless_absent("remove the directory", path, answer).map(|()| true),
        }
    }

    fn remove_name(&self, path: &TreePath, flags: AtFlags) -> rustix::io::Result<()> {
        let dir = self.parent_of(path)?;
        change(|| rustix::fs::unlinkat(dir, path.name(), flags))
    }

    /// Removes `path` with all that it holds; what is not there is as good. What is mounted in it stays. What
    /// may not be removed is an error, after all the rest has gone.
    ///
    /// An rsync that outlived the run that started it may still write there: what came meanwhile goes
    /// in another pass, and what was removed it cannot make again.
    pub fn remove_tree(&self, path: &TreePath) -> Result<()> {
        const PASSES: usize = 10;
        for _ in 0..PASSES {
            self.remove_once(path)?;
            if self.stat(path)?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn remove_once(&self, path: &TreePath) -> Result<()> {
        match self.stat(path)? {
            None => return Ok(()),
            Some(stat) if stat.kind != FileKind::Directory => return self.unlink(path),
            Some(_) => {}
        }
        let mut dirs = vec![path.clone()];
        let mut refused: Option<RootError> = None;
        let mut unless_refused = |done: Result<()>| match done {
            Err(error) if error.is_forbidden() => {
                refused.get_or_insert(error);
                Ok(())
            }
            done => done,
        };
        self.walk::<RootError>(path, |found| {
            if found.stat.kind != FileKind::Directory {
                unless_refused(self.unlink(&found.path))?;
                return Ok(Descend::Into);
            }
            if self.pins(&found.path)?.is_some_and(|pins| pins.mount_root) {
                return Ok(Descend::Past);
            }
            // What lies under a longer name than its own may be further down than a path reaches.
            let far = found.path.as_bytes().len() > FAR;
            if far {
                let tree = self.below(&found.path)?;
                let children = tree.children(&TreePath::root())?;
                children
                    .iter()
                    .try_for_each(|(child, _)| unless_refused(tree.remove_tree(child)))?;
            }
            dirs.push(found.path);
            Ok(if far { Descend::Past } else { Descend::Into })
        })?;
        for dir in dirs.iter().rev() {
            unless_refused(self.remove_dir(dir).map(drop))?;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Writes a whole small file so that either the old one or the new one is there, durably.
    pub fn write_durably(&self, path: &TreePath, bytes: &[u8], mode: u16) -> Result<()> {
        let beside =
            beside(path).map_err(|e| self.error("write", path, std::io::Error::other(e)))?;
        self.unlink(&beside)?;
        let mut file = self.create_file(&beside)?;
        let written = file.write_all(bytes).and_then(|()| {
            change(|| rustix::fs::fchmod(&file, Mode::from_raw_mode(mode.into())))?;
            file.sync_all()
        });
        written.map_err(|e| self.error("write", path, e))?;
        self.rename(&beside, self, path, Rename::Replace)?;
        self.sync_dir(&path.parent().unwrap_or_else(TreePath::root))
    }

    /// Makes what a directory lists durable.
    pub fn sync_dir(&self, path: &TreePath) -> Result<()> {
        let dir = self.open_dir(path)?;
        change(|| rustix::fs::fsync(dir)).map_err(|e| self.error("sync", path, e))
    }

    /// Makes the content and metadata of a regular file durable.
    pub fn sync_file(&self, path: &TreePath) -> Result<()> {
        let file = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY);
        file.and_then(|file| change(|| rustix::fs::fsync(file)))
            .map_err(|e| self.error("sync", path, e))
    }

    /// Makes the filesystem that holds the top of this tree durable.
    pub fn sync_filesystem(&self) -> Result<()> {
        let synced = change(|| rustix::fs::syncfs(self.dir.as_fd()));
        synced.map_err(|e| self.error("sync the filesystem of", &TreePath::root(), e))
    }

    fn unless_absent(
        &self,
        what: &'static str,
        path: &TreePath,
        done: rustix::io::Result<()>,
    ) -> Result<()> {
        match done {
            Err(e) if super::absent(&e.into()) => Ok(()),
            answer => answer.map_err(|e| self.error(what, path, e)),
        }
    }
}

/// Whether syncing a whole filesystem tells of data that could not be written. Kernels before 5.8 keep
/// that to themselves; there each file has to be synced.
pub fn sync_tells_errors() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 8)
}

/// The name under which a file is written before it takes its place.
fn beside(path: &TreePath) -> std::result::Result<TreePath, crate::tree_path::BadPath> {
    let mut name = path.name().to_vec();
    name.extend_from_slice(b".new");
    path.parent().unwrap_or_else(TreePath::root).join(&name)
}
