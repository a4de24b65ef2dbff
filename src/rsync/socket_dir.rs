//! A directory that only this user can enter, for the sockets of an ssh tunnel.
//!
//! It is locked while its run lasts. A run that was killed leaves its directory, without a lock, and
//! a later run removes it.

#![allow(
    clippy::disallowed_methods,
    reason = "the directory is below /run or TMPDIR, and is no part of a target tree"
)]

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Directory of the system for sockets; a reboot empties it.
const RUN: &str = "/run";
/// Beginning of the directory's name.
const PREFIX: &str = "si-tunnel-";
/// Limit of the directory's path: the address of a socket has 107 bytes (`unix(7)`).
const MAX_PATH: usize = 90;
/// Attempts to create the directory, before another run removes it.
const MAX_ATTEMPTS: u32 = 3;
/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;
/// In a sticky directory, others can neither rename nor remove the files of this user.
const STICKY: u32 = 0o1000;

/// The directory; removed with its files on drop.
#[derive(Debug)]
pub(super) struct SocketDir {
    path: PathBuf,
    /// The directory itself, locked.
    _lock: File,
}

impl SocketDir {
    /// Creates the directory below `/run`, or below `TMPDIR` if this user cannot write there.
    pub fn create() -> io::Result<Self> {
        Self::create_below(Path::new(RUN)).or_else(|_| Self::create_below(&env::temp_dir()))
    }

    /// Path of the directory; ssh accepts all of its characters.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn create_below(parent: &Path) -> io::Result<Self> {
        let parent = fs::canonicalize(parent)?;
        for directory in parent.ancestors() {
            let metadata = fs::metadata(directory)?;
            let owner = metadata.uid();
            let is_own = owner == 0 || owner == rustix::process::geteuid().as_raw();
            let is_closed = metadata.mode() & OTHERS_WRITE == 0 || metadata.mode() & STICKY != 0;
            if !is_own || !is_closed {
                let reason = format!("other users can replace files in {}", directory.display());
                return Err(io::Error::other(reason));
            }
        }

        remove_stale(&parent);

        // Exclusive: a directory that exists already may be another user's.
        let number = RandomState::new().build_hasher().finish();
        let path = parent.join(format!("{PREFIX}{number:016x}"));
        if path.as_os_str().len() > MAX_PATH || !has_plain_bytes(path.as_os_str()) {
            let reason = format!("{} is too long or has special characters", parent.display());
            return Err(io::Error::other(reason));
        }
        for _ in 1..MAX_ATTEMPTS {
            if let Ok(directory) = Self::create_locked(&path) {
                return Ok(directory);
            }
        }
        Self::create_locked(&path)
    }

    /// Fails if another run takes the new directory for one of a killed run.
    fn create_locked(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(path)?;
        let lock = File::open(path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        if lock.metadata()?.nlink() == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(SocketDir { path: path.to_owned(), _lock: lock })
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the directories of runs that were killed.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        // The owner and the type exclude anything that another user created.
        let is_own = entry.metadata().is_ok_and(|metadata| {
            metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw()
        });
        let Some(directory) = File::open(entry.path()).ok().filter(|_| is_own) else { continue };
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&entry.path());
        }
    }
}

/// Removes a directory with its files, which are sockets.
fn remove(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// Whether neither ssh nor a shell gives a byte of `path` a meaning.
fn has_plain_bytes(path: &OsStr) -> bool {
    path.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn directory_is_private_and_removed_on_drop() {
        let directory = SocketDir::create().expect("creates");
        let path = directory.path().to_owned();
        fs::write(path.join("80"), "").expect("writes");

        let mode = fs::metadata(&path).expect("is there").mode();
        assert_eq!(mode & 0o7777, 0o700);

        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn directory_of_killed_run_is_removed() {
        let scratch = tempfile::tempdir().expect("scratch");
        let left = scratch.path().join("si-tunnel-0123456789abcdef");
        fs::create_dir(&left).expect("scratch");
        fs::write(left.join("0"), "").expect("scratch");

        let first = SocketDir::create_below(scratch.path()).expect("creates");
        let second = SocketDir::create_below(scratch.path()).expect("creates");

        assert!(!left.exists());
        assert!(first.path().exists() && second.path().exists());
    }

    #[test]
    fn place_that_others_can_change_is_refused() {
        let scratch = tempfile::tempdir().expect("scratch");
        let place = scratch.path().join("place");
        fs::create_dir(&place).expect("scratch");
        let set_mode = |mode| {
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("scratch");
        };

        set_mode(0o777);
        assert!(SocketDir::create_below(&place).is_err());
        set_mode(0o1777);
        assert!(SocketDir::create_below(&place).is_ok());

        let special = scratch.path().join("a b");
        fs::create_dir(&special).expect("scratch");
        assert!(SocketDir::create_below(&special).is_err());
    }
}
