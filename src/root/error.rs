//! Errors of calls on a tree, and their wording.

use std::io;

use rustix::io::Errno;

/// A call on a tree that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}")]
pub struct RootError {
    /// The operation, as a verb.
    pub operation: &'static str,
    /// The path as it is printed.
    pub path: String,
    pub source: io::Error,
}

/// Another process holds a write lease on a file (fcntl, `F_SETLEASE`), and does not release it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("another process holds a lease on it")]
pub(super) struct LeaseHeld;

/// The object at a path is no regular file.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it is {kind}no plain file")]
pub(super) struct NotPlainFile {
    /// Kind of the object, followed by a conjunction.
    pub kind: &'static str,
}

/// Result of a call on a tree.
pub type Result<T> = std::result::Result<T, RootError>;

impl RootError {
    /// Whether the filesystem, or a quota, is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the path must not be changed: it is immutable, or its filesystem is read-only.
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        )
    }

    /// Whether the path cannot be moved: it is a mount point, or would have to leave its
    /// filesystem.
    pub fn is_immovable(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices)
    }

    /// Whether the filesystem does not support the call.
    pub fn is_unsupported(&self) -> bool {
        [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP]
            .iter()
            .any(|errno| self.source.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// Whether another process holds a lease on the file.
    pub fn is_leased(&self) -> bool {
        self.source.get_ref().is_some_and(|error| error.is::<LeaseHeld>())
    }

    /// Whether the object refuses to be inspected, as on a filesystem that a user or a server
    /// provides.
    pub(super) fn is_refused_inspection(&self) -> bool {
        [Errno::ACCESS, Errno::STALE, Errno::NOTCONN, Errno::PERM]
            .iter()
            .any(|errno| self.source.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// Whether the disk, or the program that provides a filesystem, reports a failure.
    pub(super) fn is_io_failure(&self) -> bool {
        self.source.raw_os_error() == Some(Errno::IO.raw_os_error())
    }

    /// Whether the object at the path, or a directory above it, refuses the call.
    ///
    /// Other errors are those of the disk or of the process, and concern every path.
    pub fn is_of_path(&self) -> bool {
        const OF_PATH: [Errno; 17] = [
            Errno::PERM,
            Errno::ACCESS,
            Errno::NOENT,
            Errno::NOTDIR,
            Errno::LOOP,
            Errno::EXIST,
            Errno::ISDIR,
            Errno::NOTEMPTY,
            Errno::BUSY,
            Errno::XDEV,
            Errno::STALE,
            Errno::NOTCONN,
            // The directory has as many subdirectories or links as it can, or a policy of its own.
            Errno::MLINK,
            Errno::NAMETOOLONG,
            Errno::DQUOT,
            Errno::NOKEY,
            Errno::INVAL,
        ];
        OF_PATH.iter().any(|errno| self.source.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// Whether the object is no regular file, so that it was not read.
    pub fn is_not_plain_file(&self) -> bool {
        // A socket cannot be opened, and a device may have no driver.
        self.source.get_ref().is_some_and(|error| error.is::<NotPlainFile>())
            || [Errno::NXIO, Errno::NODEV]
                .iter()
                .any(|errno| self.source.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// Whether the path does not exist.
    pub fn is_absent(&self) -> bool {
        is_absent(&self.source)
    }
}

/// Whether a path, or a directory above it, does not exist.
///
/// A symbolic link among the directories (ELOOP) counts as absent too, since no link is followed.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}
