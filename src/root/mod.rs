//! The one handle to a tree: every path is a [`TreePath`], resolved from an open directory without
//! following a symlink.
//!
//! Nothing outside this module touches a target tree (kept by `.clippy.toml`). A path planted as a
//! symlink, at any depth, ends in an error and never in a write somewhere else: the kernel resolves
//! with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, and where it is too old, component by
//! component with `O_NOFOLLOW`. Every change passes one point, where tests let it fail: [`fault`].

#![allow(clippy::disallowed_methods, reason = "this module is the one that touches a target tree")]

mod batch_stat;
mod copy;
mod create;
pub mod fault;
pub mod freeze;
mod inspect;
mod io_pool;
mod metadata;
pub mod mounts;
mod new_file;
mod program;
mod project;
mod replace;
mod resolve;
mod walk;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::tree_path::TreePath;

pub use inspect::{FileKind, FreeSpace, Pins, Stat};
pub use io_pool::on_many_threads;
pub use metadata::Labels;
pub use new_file::NewFile;
pub use replace::{Rename, sync_tells_errors};
pub use resolve::force_old_kernel;
pub use walk::{Descend, Surveyed, Visit};

/// An open directory tree.
pub struct Root {
    dir: OwnedFd,
    shown: PathBuf,
}

/// A call on a tree that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}")]
pub struct RootError {
    /// What was tried, as a verb.
    pub what: &'static str,
    /// Where, as a person knows it.
    pub path: String,
    /// Why not.
    pub source: io::Error,
}

/// The result of a call on a tree.
pub type Result<T> = std::result::Result<T, RootError>;

impl Root {
    /// Opens the tree at `path`; symlinks in `path` itself are followed, since it is the caller's word.
    pub fn open(path: &Path) -> Result<Self> {
        let fail =
            |e: io::Error| RootError { what: "open", path: path.display().to_string(), source: e };
        let shown = std::fs::canonicalize(path).map_err(fail)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&shown, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
        Ok(Root { dir, shown })
    }

    /// The tree below `path` as a handle of its own, from which nothing above can be reached.
    pub fn below(&self, path: &TreePath) -> Result<Root> {
        let dir = self.open_dir(path)?;
        Ok(Root { dir, shown: self.shown.join(path.as_os_str()) })
    }

    /// Where the tree was when it was opened: for messages, and for programs that take a path.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// A second descriptor of the top directory.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        self.dir.try_clone().map_err(|e| self.error("open", &TreePath::root(), e))
    }

    /// `path` as a person knows it, with the place of the tree in front.
    pub fn show(&self, path: &TreePath) -> String {
        let top = self.shown.display().to_string();
        if path.is_root() {
            return top;
        }
        format!("{}{path}", if top == "/" { "" } else { &top })
    }

    fn error(
        &self,
        what: &'static str,
        path: &TreePath,
        source: impl Into<io::Error>,
    ) -> RootError {
        RootError { what, path: self.show(path), source: source.into() }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl RootError {
    /// Whether the filesystem (or a quota) is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether it may not be changed: immutable, or on a filesystem that is mounted read-only.
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        )
    }

    /// Whether something cannot be moved from where it is: it is in use as a mount point, or would leave its
    /// filesystem.
    pub fn is_bound(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices)
    }

    /// Whether the filesystem has no such call.
    pub fn is_unsupported(&self) -> bool {
        let known =
            [rustix::io::Errno::INVAL, rustix::io::Errno::NOSYS, rustix::io::Errno::OPNOTSUPP];
        known.iter().any(|errno| self.source.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// Whether nothing was there.
    pub fn is_absent(&self) -> bool {
        absent(&self.source)
    }
}

/// Whether an error says that a path, or a directory on the way to it, is not there.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

#[cfg(test)]
mod tests;
