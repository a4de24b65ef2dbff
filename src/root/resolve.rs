//! From a [`TreePath`] to a descriptor, without following a symlink.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::tree_path::TreePath;

use super::{Result, Root};

/// Set once the kernel is found to lack openat2 (before 5.6), or by a test.
static OLD_KERNEL: AtomicBool = AtomicBool::new(false);

/// Makes this process resolve as it would on a kernel without openat2; for tests.
pub fn force_old_kernel(old: bool) {
    OLD_KERNEL.store(old, Ordering::Relaxed);
}

/// The directory that holds a path.
pub(super) enum Holder<'a> {
    /// The top of the tree, which is open anyway.
    Top(BorrowedFd<'a>),
    /// Another one, opened for this call.
    Opened(OwnedFd),
}

impl AsFd for Holder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Holder::Top(fd) => *fd,
            Holder::Opened(fd) => fd.as_fd(),
        }
    }
}

impl Root {
    /// Opens what stands at `path`, never a symlink; `flags` as for openat.
    pub(super) fn resolve(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if path.is_root() {
            return rustix::fs::openat(&self.dir, c".", flags, Mode::empty());
        }
        if !OLD_KERNEL.load(Ordering::Relaxed) {
            match self.by_openat2(path, flags) {
                Err(Errno::NOSYS) => OLD_KERNEL.store(true, Ordering::Relaxed),
                answer => return answer,
            }
        }
        self.by_components(path, flags)
    }

    fn by_openat2(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.dir, path.as_bytes(), flags, Mode::empty(), how) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                answer => return answer,
            }
        }
    }

    fn by_components(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at: Option<OwnedFd> = None;
        let mut components = path.components().peekable();
        while let Some(name) = components.next() {
            let last = components.peek().is_none();
            let from = at.as_ref().map_or(self.dir.as_fd(), |fd| fd.as_fd());
            at = Some(rustix::fs::openat(
                from,
                name,
                if last { flags } else { step },
                Mode::empty(),
            )?);
        }
        at.ok_or(Errno::INVAL)
    }

    /// Opens the directory that holds `path`, as a place for calls that end in `at`.
    pub(super) fn parent_of(&self, path: &TreePath) -> rustix::io::Result<Holder<'_>> {
        let parent = path.parent().ok_or(Errno::BUSY)?;
        if parent.is_root() {
            return Ok(Holder::Top(self.dir.as_fd()));
        }
        self.resolve(&parent, OFlags::PATH | OFlags::DIRECTORY).map(Holder::Opened)
    }

    /// Opens the directory at `path` for reading and for syncing.
    pub(super) fn open_dir(&self, path: &TreePath) -> Result<OwnedFd> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| self.error("open the directory", path, e))
    }
}
