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
