//! Permissions of a repository: the people who can read the archives of an image.

#![allow(clippy::disallowed_methods, reason = "a repository is not a target tree")]

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

/// Bits of directories that say who owns new entries.
const SETGID: u32 = 0o2000;

/// Readers of a repository; set explicitly, so that the umask of the publisher has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepositoryMode {
    /// Everyone on the server.
    #[default]
    Open,
    /// The owner and the group of the directory.
    Group,
    /// The owner.
    Private,
}

/// A word that names no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither open, group nor private")]
pub struct UnknownMode(String);

impl FromStr for RepositoryMode {
    type Err = UnknownMode;

    fn from_str(word: &str) -> Result<Self, UnknownMode> {
        match word {
            "open" => Ok(RepositoryMode::Open),
            "group" => Ok(RepositoryMode::Group),
            "private" => Ok(RepositoryMode::Private),
            other => Err(UnknownMode(other.to_owned())),
        }
    }
}

impl RepositoryMode {
    /// Mode of a repository by that of its head.
    pub(super) fn from_head(head: &Path) -> Option<Self> {
        let mode = std::fs::metadata(head).ok()?.permissions().mode();
        Some(match (mode & 0o004 != 0, mode & 0o040 != 0) {
            (true, _) => RepositoryMode::Open,
            (false, true) => RepositoryMode::Group,
            (false, false) => RepositoryMode::Private,
        })
    }

    /// Permissions of files.
    fn file(self) -> u32 {
        match self {
            RepositoryMode::Open => 0o644,
            RepositoryMode::Group => 0o640,
            RepositoryMode::Private => 0o600,
        }
    }

    /// Permissions of directories.
    fn directory(self) -> u32 {
        match self {
            RepositoryMode::Open => 0o755,
            RepositoryMode::Group => 0o750,
            RepositoryMode::Private => 0o700,
        }
    }

    /// Sets the permissions of a file.
    pub(super) fn set_file(self, file: &File) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(self.file()))
    }

    /// Sets the permissions of a directory; a set-group-ID bit stays.
    pub(super) fn set_directory(self, path: &Path) -> io::Result<()> {
        let directory = File::open(path)?;
        let setgid = directory.metadata()?.permissions().mode() & SETGID;
        directory.set_permissions(Permissions::from_mode(self.directory() | setgid))
    }
}
