//! The lock that admits one run at a time.

use std::fs::File;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::root::Root;

use super::{StateError, create_dirs, directory_path, file_path};

/// Held while a run works on a tree.
///
/// The kernel releases the lock when the process ends, so a killed run leaves none.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Whether a run holds the lock of the tree; creates nothing.
    pub fn is_held(root: &Root) -> Result<bool, StateError> {
        let path = file_path("lock");
        let file = match root.open_file(&path) {
            Err(error) if error.is_absent() => return Ok(false),
            file => file?,
        };
        // A shared lock, which ends with this function: two of these calls do not disturb each other.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(StateError::Lock { path: root.show(&path), source: errno.into() }),
        }
    }

    /// Takes the lock of the tree; fails at once if another run holds it.
    pub fn take(root: &Root) -> Result<Self, StateError> {
        create_dirs(root, &directory_path())?;
        let file = root.open_or_create_file(&file_path("lock"))?;

        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(Errno::WOULDBLOCK) => {
                Err(StateError::Locked { root: root.location().display().to_string() })
            }
            Err(errno) => {
                let path = root.show(&file_path("lock"));
                Err(StateError::Lock { path, source: errno.into() })
            }
        }
    }
}
