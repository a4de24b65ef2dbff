//! One run at a time.

use std::fs::File;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::root::Root;

use super::{StateError, make_dirs, place, place_dir};

/// Held while a run works on a tree. The kernel drops it with the process, so it cannot get stuck.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the tree at `root`, or says at once that another run has it.
    pub fn take(root: &Root) -> Result<Self, StateError> {
        make_dirs(root, &place_dir())?;
        let file = root.open_or_create_file(&place("lock"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(StateError::Locked(root.shown().display().to_string())),
            Err(e) => Err(StateError::Invalid {
                path: root.show(&place("lock")),
                why: format!("cannot be locked: {e}"),
            }),
        }
    }
}
