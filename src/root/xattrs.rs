//! Extended attributes.
//!
//! The system calls for them have no `*at` form. So a path is given as its name below
//! `/proc/self/fd/N`, where N is the descriptor of its directory; no component of the path is
//! resolved again.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::entry::{Xattrs, xattr_travels};
use crate::tree_path::TreePath;

use super::fault::change;
use super::procfs::ProcPath;
use super::{Result, Root};

/// Largest buffer in bytes; the kernel limits names and values to 64 KiB.
const MAX_BUFFER: usize = 1 << 18;

impl Root {
    /// Reads the extended attributes that are part of an image.
    pub fn xattrs(&self, path: &TreePath) -> Result<Xattrs> {
        self.xattrs_where(path, xattr_travels)
    }

    /// Reads the extended attributes whose names pass `filter`.
    pub fn xattrs_where(&self, path: &TreePath, filter: impl Fn(&[u8]) -> bool) -> Result<Xattrs> {
        self.with_named_xattrs(path, |target| target.read_all(&filter))
            .map_err(|e| self.error("read the extended attributes of", path, e))
    }

    /// Calls `operation` while the directory of the path is open.
    fn with_named_xattrs<T>(
        &self,
        path: &TreePath,
        operation: impl FnOnce(&NamedXattrs) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        if path.is_root() {
            // "." keeps the call from applying to the link in /proc itself.
            return operation(&NamedXattrs::new(self.dir.as_fd(), b"."));
        }
        let dir = self.parent_of(path)?;
        operation(&NamedXattrs::new(dir.as_fd(), path.name()))
    }
}

/// A file whose extended attributes can be read.
pub(super) trait ReadXattrs {
    fn list(&self) -> rustix::io::Result<Vec<u8>>;
    fn get(&self, name: &[u8]) -> rustix::io::Result<Vec<u8>>;

    /// Reads the attributes whose names pass `filter`; none if the filesystem has no attributes.
    fn read_all(&self, filter: impl Fn(&[u8]) -> bool) -> rustix::io::Result<Xattrs> {
        let mut xattrs = Xattrs::new();
        let names = match self.list() {
            Err(Errno::OPNOTSUPP) => return Ok(xattrs),
            names => names?,
        };

        for name in split_names(&names).filter(|name| filter(name)) {
            match self.get(name) {
                Ok(value) => {
                    xattrs.insert(name.into(), value.into());
                }
                // Another program has removed it since.
                Err(Errno::NODATA) => {}
                Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
                Err(errno) => return Err(errno),
            }
        }
        Ok(xattrs)
    }
}

/// A name in an open directory, as a path below a link in `/proc`; read only.
pub(super) struct NamedXattrs(ProcPath);

impl NamedXattrs {
    pub(super) fn new(dir: BorrowedFd<'_>, name: &[u8]) -> Self {
        let mut place = ProcPath::of(dir);
        place.path.push(OsStr::from_bytes(name));
        NamedXattrs(place)
    }
}

impl ReadXattrs for NamedXattrs {
    fn list(&self) -> rustix::io::Result<Vec<u8>> {
        with_growing_buffer(|buffer| self.0.call(|path| rustix::fs::llistxattr(path, buffer)))
    }

    fn get(&self, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
        with_growing_buffer(|buffer| self.0.call(|path| rustix::fs::lgetxattr(path, name, buffer)))
    }
}

/// A held object, whose extended attributes can be set.
pub(super) enum HeldXattrs<'a> {
    /// A link in `/proc` to the inode, for a descriptor that does not allow reading.
    Linked(ProcPath),
    /// A file or directory that is open for reading.
    Open(BorrowedFd<'a>),
}

impl HeldXattrs<'_> {
    /// Sets the attributes of an image, and removes all others that an image could have.
    pub(super) fn set_exactly(&self, xattrs: &Xattrs) -> rustix::io::Result<()> {
        let present = match self.list() {
            Err(Errno::OPNOTSUPP) if xattrs.is_empty() => return Ok(()),
            answer => answer?,
        };
        let surplus =
            split_names(&present).filter(|name| xattr_travels(name) && !xattrs.contains_key(*name));
        for name in surplus {
            match self.remove(name) {
                // Some filesystems list an ACL that only repeats the mode, and cannot remove it.
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }

        // Capabilities last: other changes of the inode can clear them.
        let is_capability = |name: &&[u8]| *name == b"security.capability";
        let names = || xattrs.keys().map(|name| name.as_ref());
        for name in names().filter(|name| !is_capability(name)).chain(names().filter(is_capability))
        {
            self.set(name, &xattrs[name])?;
        }
        Ok(())
    }

    /// Sets one attribute.
    pub(super) fn set(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        let flags = XattrFlags::empty();
        match self {
            HeldXattrs::Linked(place) => {
                place.call(|path| change(|| rustix::fs::setxattr(path, name, value, flags)))
            }
            HeldXattrs::Open(fd) => change(|| rustix::fs::fsetxattr(fd, name, value, flags)),
        }
    }

    fn remove(&self, name: &[u8]) -> rustix::io::Result<()> {
        match self {
            HeldXattrs::Linked(place) => {
                place.call(|path| change(|| rustix::fs::removexattr(path, name)))
            }
            HeldXattrs::Open(fd) => change(|| rustix::fs::fremovexattr(fd, name)),
        }
    }
}

impl ReadXattrs for HeldXattrs<'_> {
    fn list(&self) -> rustix::io::Result<Vec<u8>> {
        with_growing_buffer(|buffer| match self {
            HeldXattrs::Linked(place) => place.call(|path| rustix::fs::listxattr(path, buffer)),
            HeldXattrs::Open(fd) => rustix::fs::flistxattr(fd, buffer),
        })
    }

    fn get(&self, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
        with_growing_buffer(|buffer| match self {
            HeldXattrs::Linked(place) => {
                place.call(|path| rustix::fs::getxattr(path, name, buffer))
            }
            HeldXattrs::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
        })
    }
}

/// The names of a list in which each name ends with a NUL.
fn split_names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&b| b == 0).filter(|name| !name.is_empty())
}

/// Repeats a call with larger buffers until its answer fits.
fn with_growing_buffer(
    call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 512];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < MAX_BUFFER => buffer.resize(buffer.len() * 8, 0),
            Err(errno) => return Err(errno),
        }
    }
}
