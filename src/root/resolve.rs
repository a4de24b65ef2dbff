//! Resolution of a [`TreePath`] to a descriptor, without following a symbolic link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::tree_path::TreePath;

use super::{Result, Root};

/// Way of resolving a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolver {
    /// One `openat2` call.
    Openat2,
    /// One `openat` call per component, for kernels before 5.6.
    Components,
}

/// Set when openat2 turns out to be missing, or by a test.
static LACKS_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Selects the resolver of this process; for tests.
pub fn force_resolver(resolver: Resolver) {
    LACKS_OPENAT2.store(resolver == Resolver::Components, Ordering::Relaxed);
}

/// The directory of a path.
pub(super) enum ParentDir<'a> {
    /// The root directory, which is always open.
    Root(BorrowedFd<'a>),
    /// Another directory, opened for one call.
    Opened(OwnedFd),
}

impl AsFd for ParentDir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ParentDir::Root(fd) => *fd,
            ParentDir::Opened(fd) => fd.as_fd(),
        }
    }
}

impl Root {
    /// Opens a path that is not a symbolic link; `flags` as for openat.
    pub(super) fn resolve(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if path.is_root() {
            return rustix::fs::openat(&self.dir, c".", flags, Mode::empty());
        }

        if !LACKS_OPENAT2.load(Ordering::Relaxed) {
            match self.resolve_by_openat2(path, flags) {
                Err(Errno::NOSYS) => LACKS_OPENAT2.store(true, Ordering::Relaxed),
                Err(Errno::PERM) if self.is_openat2_filtered() => {
                    LACKS_OPENAT2.store(true, Ordering::Relaxed);
                }
                answer => return answer,
            }
        }
        self.resolve_by_components(path, flags)
    }

    /// Whether a filter of a container refuses openat2 itself.
    fn is_openat2_filtered(&self) -> bool {
        let how = ResolveFlags::BENEATH;
        let opened = rustix::fs::openat2(&self.dir, c".", OFlags::PATH, Mode::empty(), how);
        opened.is_err_and(|errno| errno == Errno::PERM)
    }

    fn resolve_by_openat2(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.dir, path.as_bytes(), flags, Mode::empty(), how) {
                // AGAIN is not repeated here: a TreePath has no "..", so no rename elsewhere can be
                // the cause, but a lease on the file (see `Root::open_file`).
                Err(Errno::INTR) => {}
                answer => return answer,
            }
        }
    }

    fn resolve_by_components(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut current: Option<OwnedFd> = None;
        let mut components = path.components().peekable();

        while let Some(name) = components.next() {
            let flags = if components.peek().is_none() { flags } else { dir_flags };
            let dir = current.as_ref().map_or(self.dir.as_fd(), |fd| fd.as_fd());
            current = Some(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        }
        current.ok_or(Errno::INVAL)
    }

    /// Opens the directory of a path, for the `*at` calls.
    pub(super) fn parent_of(&self, path: &TreePath) -> rustix::io::Result<ParentDir<'_>> {
        let parent = path.parent().ok_or(Errno::BUSY)?;
        if parent.is_root() {
            return Ok(ParentDir::Root(self.dir.as_fd()));
        }
        self.resolve(&parent, OFlags::PATH | OFlags::DIRECTORY).map(ParentDir::Opened)
    }

    /// Opens a directory for reading and for syncing.
    pub(super) fn open_dir(&self, path: &TreePath) -> Result<OwnedFd> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| self.error("open the directory", path, e))
    }
}
