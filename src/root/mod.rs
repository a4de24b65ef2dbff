//! The one handle on a tree: every path is a [`TreePath`], resolved from an open directory.
//!
//! No symbolic link is followed, at any depth. The kernel resolves a path with
//! `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`; before Linux 5.6, this module opens component
//! by component with `O_NOFOLLOW`. So a symbolic link that somebody plants leads to an error, and
//! never to a write outside the tree. `.clippy.toml` refuses calls by path in all other modules.
//!
//! Each change of the tree passes one fault point ([`fault`]), so that tests can fail or kill a run
//! at it.

#![allow(clippy::disallowed_methods, reason = "this module is the one that touches a target tree")]

mod batch_stat;
mod bounded_file;
mod copy;
mod create;
mod error;
pub mod fault;
mod filesystem_identity;
pub mod freeze;
mod inspect;
mod io_pool;
mod lease;
mod metadata;
pub mod mounts;
mod new_file;
mod object;
mod privileges;
pub mod procfs;
mod program;
mod project;
mod remove;
mod replace;
mod resolve;
mod swap;
mod time_support;
mod walk;
mod writers;
mod xattrs;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::tree_path::TreePath;

pub use bounded_file::{BoundedFile, BoundedReader};
pub use error::{Result, RootError};
pub use inspect::{ChangeLocks, FileKind, FreeSpace, Stat};
pub use io_pool::on_many_threads;
pub use metadata::SecurityLabel;
pub use new_file::NewFile;
pub use object::{InodeVersion, Object};
pub use privileges::{CAPABILITY, Privileges, ProgramIdentity, SET_ID};
pub use replace::{Rename, syncfs_reports_errors};
pub use resolve::{Resolver, force_resolver};
pub use swap::active_swap_files;
pub use time_support::TimeSupport;
pub use walk::{Descend, ListedName, OpenDirectory, SurveyRules, Visit};

/// An open directory tree.
pub struct Root {
    dir: OwnedFd,
    location: PathBuf,
}

impl Root {
    /// Opens the tree at `path`; symbolic links in `path` itself are followed, since the caller is
    /// trusted.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |e: io::Error| RootError {
            operation: "open",
            path: path.display().to_string(),
            source: e,
        };
        let location = std::fs::canonicalize(path).map_err(fail)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&location, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
        Ok(Root { dir, location })
    }

    /// Opens the tree below `path` as a handle of its own; no path above it can be reached through
    /// it.
    pub fn below(&self, path: &TreePath) -> Result<Root> {
        let dir = self.open_dir(path)?;
        Ok(Root { dir, location: self.location.join(path.as_os_str()) })
    }

    /// Path of the tree when it was opened: for messages, and for programs that need a path.
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Duplicates the descriptor of the root directory.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        self.dir.try_clone().map_err(|e| self.error("open", &TreePath::root(), e))
    }

    /// Formats a path for people, with the location of the tree in front.
    pub fn show(&self, path: &TreePath) -> String {
        let location = self.location.display().to_string();
        if path.is_root() {
            return location;
        }
        format!("{}{path}", if location == "/" { "" } else { &location })
    }

    /// The error of a path in which a filesystem is mounted.
    pub fn busy(&self, path: &TreePath) -> RootError {
        self.error("replace", path, rustix::io::Errno::BUSY)
    }

    fn error(
        &self,
        operation: &'static str,
        path: &TreePath,
        source: impl Into<io::Error>,
    ) -> RootError {
        RootError { operation, path: self.show(path), source: source.into() }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests;
