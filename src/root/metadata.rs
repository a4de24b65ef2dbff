//! Setting of owner, mode, extended attributes and times.
//!
//! The order is owner, mode, attributes, times. chown clears setuid bits and capabilities, and an
//! ACL contains the group bits of the mode. In another order the result would differ from the
//! image.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::entry::{Meta, Mtime};
use crate::tree_path::TreePath;

use super::fault::change;
use super::{Result, Root};

/// The SELinux label for a staged file; none if the tree has no labels.
///
/// A file that replaces another one keeps the label of that path. A new file gets the label of its
/// directory.
#[derive(Clone, Debug, Default)]
pub struct SecurityLabel(Option<Box<[u8]>>);

const SELINUX: &[u8] = b"security.selinux";

impl Root {
    /// Sets all metadata of a regular file or directory.
    pub fn set_meta(&self, path: &TreePath, meta: &Meta) -> Result<()> {
        let fd = self
            .resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
            .map_err(|e| self.error("open", path, e))?;
        self.set_file_meta(&fd, path, meta)
    }

    /// Sets all metadata of an open file or directory.
    pub fn set_file_meta(&self, file: impl AsFd, path: &TreePath, meta: &Meta) -> Result<()> {
        let fail = |e: Errno| self.error("set the metadata of", path, e);
        let (uid, gid) = owner(meta);
        let mode = Mode::from_raw_mode(meta.mode.into());

        change(|| rustix::fs::fchown(&file, uid, gid)).map_err(fail)?;
        change(|| rustix::fs::fchmod(&file, mode)).map_err(fail)?;
        self.set_xattrs_exactly(path, &meta.xattrs)?;
        change(|| rustix::fs::futimens(&file, &timestamps(meta.mtime))).map_err(fail)
    }

    /// Sets all metadata of a pipe or device.
    pub fn set_special_meta(&self, path: &TreePath, meta: &Meta) -> Result<()> {
        let fail = |e: Errno| self.error("set the metadata of", path, e);
        let dir = self.parent_of(path).map_err(fail)?;
        let mode = Mode::from_raw_mode(meta.mode.into());

        set_owner_at(&dir, path, meta).map_err(fail)?;
        // chmodat follows links, but only root can put one here: stages are accessible to root
        // alone.
        change(|| rustix::fs::chmodat(&dir, path.name(), mode, AtFlags::empty())).map_err(fail)?;
        self.set_xattrs_exactly(path, &meta.xattrs)?;
        set_mtime_at(&dir, path, meta.mtime).map_err(fail)
    }

    /// Sets all metadata of a symbolic link, which has no mode of its own.
    pub fn set_symlink_meta(&self, path: &TreePath, meta: &Meta) -> Result<()> {
        let fail = |e: Errno| self.error("set the metadata of", path, e);
        let dir = self.parent_of(path).map_err(fail)?;

        set_owner_at(&dir, path, meta).map_err(fail)?;
        self.set_xattrs_exactly(path, &meta.xattrs)?;
        set_mtime_at(&dir, path, meta.mtime).map_err(fail)
    }

    /// Sets the mtime of any path; a symbolic link is not followed.
    pub fn set_times(&self, path: &TreePath, mtime: Mtime) -> Result<()> {
        let set = if path.is_root() {
            change(|| rustix::fs::futimens(&self.dir, &timestamps(mtime)))
        } else {
            self.parent_of(path).and_then(|dir| {
                if is_fuse(&dir) {
                    set_both_times_at(&dir, path, mtime)
                } else {
                    set_mtime_at(&dir, path, mtime)
                }
            })
        };
        set.map_err(|e| self.error("set the time of", path, e))
    }

    /// Reads the label for a file staged for `path`.
    pub fn label_for(&self, path: &TreePath) -> Result<SecurityLabel> {
        let mut current = Some(path.clone());
        while let Some(path) = current {
            if self.stat(&path)?.is_some() {
                let mut labels = self.xattrs_where(&path, |name| name == SELINUX)?;
                return Ok(SecurityLabel(labels.remove(SELINUX)));
            }
            current = path.parent();
        }
        Ok(SecurityLabel(None))
    }

    /// Sets the label of a path, if there is one.
    pub fn set_label(&self, path: &TreePath, label: &SecurityLabel) -> Result<()> {
        let Some(value) = &label.0 else { return Ok(()) };
        self.set_xattr(path, SELINUX, value)
            .map_err(|e| self.error("set the security label of", path, e))
    }
}

impl SecurityLabel {
    /// Whether there is a label to set.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

fn owner(meta: &Meta) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
}

fn set_owner_at(dir: impl AsFd, path: &TreePath, meta: &Meta) -> rustix::io::Result<()> {
    let (uid, gid) = owner(meta);
    change(|| rustix::fs::chownat(dir, path.name(), uid, gid, AtFlags::SYMLINK_NOFOLLOW))
}

fn set_mtime_at(dir: impl AsFd, path: &TreePath, mtime: Mtime) -> rustix::io::Result<()> {
    let times = timestamps(mtime);
    change(|| rustix::fs::utimensat(dir, path.name(), &times, AtFlags::SYMLINK_NOFOLLOW))
}

fn set_both_times_at(dir: impl AsFd, path: &TreePath, mtime: Mtime) -> rustix::io::Result<()> {
    let mtime = timestamps(mtime).last_modification;
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    change(|| rustix::fs::utimensat(dir, path.name(), &times, AtFlags::SYMLINK_NOFOLLOW))
}

/// Timestamps that set only the mtime.
fn timestamps(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

/// Whether a user-space program serves this filesystem.
///
/// Some of these programs ignore a call that sets only one of the two times, without an error.
fn is_fuse(dir: impl AsFd) -> bool {
    const FUSE_SUPER_MAGIC: u32 = 0x6573_5546;
    rustix::fs::fstatfs(dir).is_ok_and(|stat| stat.f_type as u32 == FUSE_SUPER_MAGIC)
}
