//! Owner, permissions, attributes and times.
//!
//! The order matters: chown clears setuid bits and capabilities, and an ACL carries the group bits of
//! the mode; so owner, then mode, then attributes (capabilities last), then times.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::entry::{Meta, Mtime, Xattrs, xattr_travels};
use crate::tree_path::TreePath;

use super::fault::change;
use super::inspect::StatTarget;
use super::{Result, Root};

/// The security labels of a tree that has any: a replaced path keeps its own, a new one takes that
/// of the directory that it comes into.
#[derive(Clone, Debug, Default)]
pub struct Labels(Option<Box<[u8]>>);

const SELINUX: &[u8] = b"security.selinux";

impl Root {
    /// Gives the regular file or directory that stands at `path` exactly this metadata.
    pub fn set_meta(&self, path: &TreePath, meta: &Meta) -> Result<()> {
        let fd = self
            .resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
            .map_err(|e| self.error("open", path, e))?;
        self.set_open_meta(&fd, path, meta)
    }

    /// As [`Root::set_meta`], on a file that is open already.
    pub fn set_file_meta(&self, file: impl AsFd, path: &TreePath, meta: &Meta) -> Result<()> {
        self.set_open_meta(file, path, meta)
    }

    fn set_open_meta(&self, fd: impl AsFd, path: &TreePath, meta: &Meta) -> Result<()> {
        let fail = |e: Errno| self.error("set the metadata of", path, e);
        let (uid, gid) = owner(meta);
        change(|| rustix::fs::fchown(&fd, uid, gid)).map_err(fail)?;
        change(|| rustix::fs::fchmod(&fd, Mode::from_raw_mode(meta.mode.into()))).map_err(fail)?;
        self.set_xattrs_exactly(path, &meta.xattrs)?;
        change(|| rustix::fs::futimens(&fd, &times(meta.mtime))).map_err(fail)
    }

    /// Gives the symlink, pipe or device at `path` exactly this metadata; a symlink has no mode.
    pub fn set_special_meta(&self, path: &TreePath, meta: &Meta, symlink: bool) -> Result<()> {
        let fail = |e: Errno| self.error("set the metadata of", path, e);
        let dir = self.parent_of(path).map_err(fail)?;
        let (uid, gid) = owner(meta);
        change(|| rustix::fs::chownat(&dir, path.name(), uid, gid, AtFlags::SYMLINK_NOFOLLOW))
            .map_err(fail)?;
        if !symlink {
            // Nothing else can be made here in between: stages are root's alone.
            let mode = Mode::from_raw_mode(meta.mode.into());
            change(|| rustix::fs::chmodat(&dir, path.name(), mode, AtFlags::empty()))
                .map_err(fail)?;
        }
        self.set_xattrs_exactly(path, &meta.xattrs)?;
        set_times_at(&dir, path, meta.mtime).map_err(fail)
    }

    /// Sets the time of last modification of whatever stands at `path`, symlinks included.
    pub fn set_times(&self, path: &TreePath, mtime: Mtime) -> Result<()> {
        let set = if path.is_root() {
            change(|| rustix::fs::futimens(&self.dir, &times(mtime)))
        } else {
            self.parent_of(path).and_then(|dir| {
                let both = || -> rustix::io::Result<()> {
                    let last = times(mtime).last_modification;
                    let times = Timestamps { last_access: last, last_modification: last };
                    change(|| {
                        rustix::fs::utimensat(&dir, path.name(), &times, AtFlags::SYMLINK_NOFOLLOW)
                    })
                };
                if is_fuse(&dir) { both() } else { set_times_at(&dir, path, mtime) }
            })
        };
        set.map_err(|e| self.error("set the time of", path, e))
    }

    fn set_xattrs_exactly(&self, path: &TreePath, wanted: &Xattrs) -> Result<()> {
        let set = || -> rustix::io::Result<()> {
            let dir = if path.is_root() { None } else { Some(self.parent_of(path)?) };
            let place = StatTarget::of(self, dir.as_ref(), path);
            let present = match place.list() {
                Err(Errno::OPNOTSUPP) if wanted.is_empty() => return Ok(()),
                answer => answer?,
            };
            for name in
                present.split(|&b| b == 0).filter(|name| !name.is_empty() && xattr_travels(name))
            {
                // An ACL that only repeats the mode is not listed by every filesystem as removable.
                match if wanted.contains_key(name) { Ok(()) } else { place.remove(name) } {
                    Ok(()) | Err(Errno::NODATA) => {}
                    Err(e) => return Err(e),
                }
            }
            let capability = |name: &&[u8]| *name == b"security.capability";
            let names = || wanted.keys().map(|name| name.as_ref());
            for name in names().filter(|n| !capability(n)).chain(names().filter(capability)) {
                place.set(name, &wanted[name])?;
            }
            Ok(())
        };
        set().map_err(|e| self.error("set the extended attributes of", path, e))
    }

    /// The label that something staged for `path` has to carry.
    pub fn label_for(&self, path: &TreePath) -> Result<Labels> {
        let is_label = |name: &[u8]| name == SELINUX;
        let mut at = Some(path.clone());
        while let Some(place) = at {
            if self.stat(&place)?.is_some() {
                return Ok(Labels(self.xattrs_where(&place, is_label)?.remove(SELINUX)));
            }
            at = place.parent();
        }
        Ok(Labels(None))
    }

    /// Gives `path` a label, where there is one to give.
    pub fn set_label(&self, path: &TreePath, label: &Labels) -> Result<()> {
        let Some(value) = &label.0 else { return Ok(()) };
        let set = || -> rustix::io::Result<()> {
            let dir = self.parent_of(path)?;
            StatTarget::of(self, Some(&dir), path).set(SELINUX, value)
        };
        set().map_err(|e| self.error("set the security label of", path, e))
    }
}

impl Labels {
    /// Whether there is a label to give.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

fn owner(meta: &Meta) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
}

fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

/// Whether a program serves this filesystem: some take one time without the other for none, and say so
/// to nobody.
fn is_fuse(dir: impl AsFd) -> bool {
    const FUSE: u32 = 0x6573_5546;
    rustix::fs::fstatfs(dir).is_ok_and(|found| found.f_type as u32 == FUSE)
}

fn set_times_at(dir: impl AsFd, path: &TreePath, mtime: Mtime) -> rustix::io::Result<()> {
    change(|| rustix::fs::utimensat(dir, path.name(), &times(mtime), AtFlags::SYMLINK_NOFOLLOW))
}
