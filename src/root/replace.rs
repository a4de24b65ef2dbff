//! Renaming, replacing and syncing.

use std::io::Write;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::tree_path::{BadPath, TreePath};

use super::fault::change;
use super::{Result, Root};

/// Treatment of an existing target of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// The target is replaced atomically.
    Replace,
    /// A target is an error.
    NoReplace,
    /// Source and target are exchanged.
    Exchange,
}

impl Root {
    /// Renames `source` in this tree to `target` in the tree `to`, on the same filesystem.
    pub fn rename(
        &self,
        source: &TreePath,
        to: &Root,
        target: &TreePath,
        mode: Rename,
    ) -> Result<()> {
        self.rename_raw(source, to, target, mode).map_err(|e| to.error("rename to", target, e))
    }

    fn rename_raw(
        &self,
        source: &TreePath,
        to: &Root,
        target: &TreePath,
        mode: Rename,
    ) -> rustix::io::Result<()> {
        let source_dir = self.parent_of(source)?;
        let target_dir = to.parent_of(target)?;
        let flags = match mode {
            Rename::Replace => {
                return change(|| {
                    rustix::fs::renameat(source_dir, source.name(), target_dir, target.name())
                });
            }
            Rename::NoReplace => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };

        let renamed = change(|| {
            rustix::fs::renameat_with(&source_dir, source.name(), &target_dir, target.name(), flags)
        });
        let renamed = match renamed {
            Err(Errno::PERM) if is_renameat2_filtered(&target_dir) => Err(Errno::NOSYS),
            answer => answer,
        };
        if mode != Rename::NoReplace || !matches!(renamed, Err(Errno::INVAL | Errno::NOSYS)) {
            return renamed;
        }

        // The filesystem, such as FUSE, does not know the flag, or the kernel is older than 3.15.
        // A check before the rename is the best left.
        match rustix::fs::statat(&target_dir, target.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => change(|| {
                rustix::fs::renameat(source_dir, source.name(), target_dir, target.name())
            }),
            Ok(_) => Err(Errno::EXIST),
            Err(errno) => Err(errno),
        }
    }

    /// Replaces a small file atomically and durably.
    pub fn write_durably(&self, path: &TreePath, bytes: &[u8], mode: u16) -> Result<()> {
        let temporary = temporary_path(path)
            .map_err(|e| self.error("write", path, std::io::Error::other(e)))?;

        // An interrupted run may have left the temporary file.
        self.unlink(&temporary)?;
        let mut file = self.create_file(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| {
            change(|| rustix::fs::fchmod(&file, Mode::from_raw_mode(mode.into())))?;
            file.sync_all()
        });
        written.map_err(|e| self.error("write", path, e))?;

        self.rename(&temporary, self, path, Rename::Replace)?;
        self.sync_dir(&path.parent().unwrap_or_else(TreePath::root))
    }

    /// Makes the names in a directory durable.
    pub fn sync_dir(&self, path: &TreePath) -> Result<()> {
        let dir = self.open_dir(path)?;
        change(|| rustix::fs::fsync(dir)).map_err(|e| self.error("sync", path, e))
    }

    /// Makes content and metadata of a regular file durable.
    pub fn sync_file(&self, path: &TreePath) -> Result<()> {
        let file = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY);
        file.and_then(|file| change(|| rustix::fs::fsync(file)))
            .map_err(|e| self.error("sync", path, e))
    }

    /// Makes the whole filesystem of the root directory durable.
    pub fn sync_filesystem(&self) -> Result<()> {
        let synced = change(|| rustix::fs::syncfs(self.dir.as_fd()));
        synced.map_err(|e| self.error("sync the filesystem of", &TreePath::root(), e))
    }
}

/// Whether a filter of a container refuses renameat2 itself, as it refuses calls that it lacks.
fn is_renameat2_filtered(dir: impl AsFd) -> bool {
    // The kernel rejects this combination of flags before it looks at the names.
    let flags = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
    let answer = change(|| rustix::fs::renameat_with(&dir, c".", &dir, c".", flags));
    answer == Err(Errno::PERM)
}

/// Whether syncfs reports data that could not be written.
///
/// Kernels before 5.8 do not report it, so there each file has to be synced.
pub fn syncfs_reports_errors() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 8)
}

/// The name under which a file is written before it is renamed into place.
fn temporary_path(path: &TreePath) -> std::result::Result<TreePath, BadPath> {
    let name = [path.name(), b".new"].concat();
    path.parent().unwrap_or_else(TreePath::root).join(&name)
}
