//! An object of the tree that is held by a descriptor, so that judging and acting concern one inode.
//!
//! Between two calls by path, the owner of a directory can replace the object in it. Owner, mode,
//! extended attributes and times are therefore set through the descriptor by which the object was
//! inspected, and so are hard links and copies made. This module has the only entry points for them.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::entry::{Mtime, Xattrs, xattr_travels};
use crate::tree_path::TreePath;

use super::error::is_absent;
use super::fault::change;
use super::procfs::ProcPath;
use super::xattrs::{HeldXattrs, ReadXattrs};
use super::{BoundedFile, FileKind, NewFile, Result, Root, Stat, lease};

/// The empty path of calls on a descriptor.
const EMPTY: &CStr = c"";

/// An object of a tree that is held by a descriptor.
pub struct Object<'a> {
    pub(super) root: &'a Root,
    pub(super) path: TreePath,
    pub(super) descriptor: Descriptor<'a>,
    /// Stat of the held inode, from when it was opened.
    pub(super) stat: Stat,
}

/// Version of an inode: it changes with the content, the metadata, and the number of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeVersion {
    dev: u64,
    ino: u64,
    ctime: Mtime,
}

/// The descriptor of a held object.
pub(super) enum Descriptor<'a> {
    /// Opened with `O_PATH`: the object itself was not opened, as is right for devices and pipes.
    Location(OwnedFd),
    /// Opened for reading.
    Open(OwnedFd),
    /// A file or directory that the caller has open.
    Borrowed(BorrowedFd<'a>),
}

impl Root {
    /// Holds the object at a path, of any type; `None` if it does not exist.
    ///
    /// The object is not opened: a device does not notice it, and a pipe does not block.
    pub fn hold(&self, path: &TreePath) -> Result<Option<Object<'_>>> {
        match self.resolve(path, OFlags::PATH) {
            Ok(fd) => self.hold_descriptor(path, Descriptor::Location(fd)).map(Some),
            Err(e) if is_absent(&e.into()) => Ok(None),
            Err(e) => Err(self.error("open", path, e)),
        }
    }

    /// Holds the directory at a path; `None` if nothing, or another type of object, is there.
    pub fn hold_dir(&self, path: &TreePath) -> Result<Option<Object<'_>>> {
        match self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => self.hold_descriptor(path, Descriptor::Open(fd)).map(Some),
            Err(e) if is_absent(&e.into()) => Ok(None),
            Err(e) => Err(self.error("open the directory", path, e)),
        }
    }

    /// Holds a file that was created at `path` and is still open.
    pub fn hold_new_file<'a>(&'a self, path: &TreePath, file: &'a NewFile) -> Result<Object<'a>> {
        self.hold_descriptor(path, Descriptor::Borrowed(file.as_fd()))
    }

    /// Holds a file of this tree that the caller has opened at `path`.
    pub fn hold_file<'a>(&'a self, path: &TreePath, file: &'a BoundedFile) -> Result<Object<'a>> {
        self.hold_descriptor(path, Descriptor::Borrowed(file.as_fd()))
    }

    fn hold_descriptor<'a>(
        &'a self,
        path: &TreePath,
        descriptor: Descriptor<'a>,
    ) -> Result<Object<'a>> {
        let stat =
            rustix::fs::fstat(descriptor.as_fd()).map_err(|e| self.error("inspect", path, e))?;
        Ok(Object { root: self, path: path.clone(), descriptor, stat: Stat::from(stat) })
    }
}

impl Object<'_> {
    /// Stat of the held inode, from when it was opened.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.stat.kind == FileKind::File
    }

    /// Reads the version of the inode as it is now.
    pub fn read_version(&self) -> Result<InodeVersion> {
        let stat = rustix::fs::fstat(self.descriptor.as_fd())
            .map_err(|e| self.root.error("inspect", &self.path, e))?;
        Ok(Stat::from(stat).version())
    }

    /// Reads the extended attributes that are part of an image.
    pub fn xattrs(&self) -> Result<Xattrs> {
        self.held_xattrs()
            .read_all(xattr_travels)
            .map_err(|e| self.root.error("read the extended attributes of", &self.path, e))
    }

    /// Reads the target of a symbolic link.
    pub(super) fn read_link(&self) -> Result<Box<[u8]>> {
        rustix::fs::readlinkat(self.descriptor.as_fd(), EMPTY, Vec::new())
            .map(|target| target.into_bytes().into())
            .map_err(|e| self.root.error("read the symlink", &self.path, e))
    }

    /// Makes a hard link of the object at `target` in the tree `to`.
    pub fn link_to(&self, to: &Root, target: &TreePath) -> Result<()> {
        self.link_in(to, target).map_err(|e| to.error("make the hardlink", target, e))
    }

    fn link_in(&self, to: &Root, target: &TreePath) -> rustix::io::Result<()> {
        let dir = to.parent_of(target)?;
        let linked = change(|| {
            rustix::fs::linkat(
                self.descriptor.as_fd(),
                EMPTY,
                &dir,
                target.name(),
                AtFlags::EMPTY_PATH,
            )
        });
        // A process without CAP_DAC_READ_SEARCH may link a descriptor only through /proc.
        if linked != Err(Errno::NOENT) {
            return linked;
        }
        let ProcPath { dir: procfs, path } = self.descriptor.proc_path();
        change(|| rustix::fs::linkat(procfs, path, &dir, target.name(), AtFlags::SYMLINK_FOLLOW))
    }

    /// Opens the content of a regular file for reading, up to the size that it had.
    pub(super) fn open_content(&self) -> Result<BoundedFile> {
        let fail = |e: std::io::Error| self.root.error("open", &self.path, e);
        if self.stat.kind != FileKind::File {
            return Err(fail(std::io::Error::other("it is no plain file")));
        }

        // The link in /proc leads to the held inode, also if its path leads elsewhere by now.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let ProcPath { dir, path } = self.descriptor.proc_path();
        let fd = lease::wait_for_end(|| rustix::fs::openat(dir, &path, flags, Mode::empty()))
            .map_err(|errno| fail(lease::explain(errno)))?;
        Ok(BoundedFile::new(File::from(fd), self.stat.size))
    }

    pub(super) fn held_xattrs(&self) -> HeldXattrs<'_> {
        match &self.descriptor {
            Descriptor::Location(_) => HeldXattrs::Linked(self.descriptor.proc_path()),
            Descriptor::Open(_) | Descriptor::Borrowed(_) => {
                HeldXattrs::Open(self.descriptor.as_fd())
            }
        }
    }
}

impl AsFd for Object<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Stat {
    /// Version of the inode.
    pub fn version(&self) -> InodeVersion {
        InodeVersion { dev: self.dev, ino: self.ino, ctime: self.ctime }
    }
}

impl InodeVersion {
    /// Device and number of the inode, which stay if it changes.
    pub fn inode(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

impl Descriptor<'_> {
    /// Path of the link in `/proc` that leads to the held inode itself.
    pub(super) fn proc_path(&self) -> ProcPath {
        ProcPath::of(self)
    }
}

impl AsFd for Descriptor<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Descriptor::Location(fd) | Descriptor::Open(fd) => fd.as_fd(),
            Descriptor::Borrowed(fd) => *fd,
        }
    }
}
