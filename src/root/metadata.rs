//! Setting of owner, mode, extended attributes and times.
//!
//! The order is owner, mode, attributes, times. chown clears setuid bits and capabilities, and an
//! ACL contains the group bits of the mode. In another order the result would differ from the
//! image.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::entry::{Meta, Mtime};
use crate::tree_path::TreePath;

use super::fault::change;
use super::object::{Descriptor, Object};
use super::procfs::ProcPath;
use super::{FileKind, Result, Root};

/// The SELinux label for a staged file; none if the tree has no labels.
///
/// A file that replaces another one keeps the label of that path. A new file gets the label of its
/// directory.
#[derive(Clone, Debug, Default)]
pub struct SecurityLabel(Option<Box<[u8]>>);

const SELINUX: &[u8] = b"security.selinux";

impl Object<'_> {
    /// Sets all metadata; a symbolic link has no mode of its own.
    pub fn set_meta(&self, meta: &Meta) -> Result<()> {
        let fail = |e: Errno| self.root.error("set the metadata of", &self.path, e);
        self.set_owner(meta).map_err(fail)?;
        if self.stat.kind != FileKind::Symlink {
            self.set_mode(meta.mode).map_err(fail)?;
        }

        self.held_xattrs()
            .set_exactly(&meta.xattrs)
            .map_err(|e| self.root.error("set the extended attributes of", &self.path, e))?;
        self.set_times_to(&timestamps(meta.mtime)).map_err(fail)
    }

    /// Sets the mtime.
    pub fn set_mtime(&self, mtime: Mtime) -> Result<()> {
        let mut times = timestamps(mtime);
        if is_fuse(self.descriptor.as_fd()) {
            times.last_access = times.last_modification;
        }
        self.set_times_to(&times).map_err(|e| self.root.error("set the time of", &self.path, e))
    }

    /// Sets the security label, if there is one.
    pub fn set_label(&self, label: &SecurityLabel) -> Result<()> {
        let Some(value) = &label.0 else { return Ok(()) };
        self.held_xattrs()
            .set(SELINUX, value)
            .map_err(|e| self.root.error("set the security label of", &self.path, e))
    }

    fn set_owner(&self, meta: &Meta) -> rustix::io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        let fd = self.descriptor.as_fd();
        change(|| rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH))
    }

    fn set_mode(&self, mode: u16) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(mode.into());
        match &self.descriptor {
            Descriptor::Location(_) => {
                let ProcPath { dir, path } = self.descriptor.proc_path();
                change(|| rustix::fs::chmodat(dir, &path, mode, AtFlags::empty()))
            }
            Descriptor::Open(_) | Descriptor::Borrowed(_) => {
                change(|| rustix::fs::fchmod(self.descriptor.as_fd(), mode))
            }
        }
    }

    fn set_times_to(&self, times: &Timestamps) -> rustix::io::Result<()> {
        match &self.descriptor {
            Descriptor::Location(_) => {
                let ProcPath { dir, path } = self.descriptor.proc_path();
                change(|| rustix::fs::utimensat(dir, &path, times, AtFlags::empty()))
            }
            Descriptor::Open(_) | Descriptor::Borrowed(_) => {
                change(|| rustix::fs::futimens(self.descriptor.as_fd(), times))
            }
        }
    }
}

impl Root {
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
}

impl SecurityLabel {
    /// Whether there is a label to set.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
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
