//! Lock of the root's stage: admits one roll forward at a time.
//!
//! The normal lock is a file of the state directory, which a recovery in an initramfs cannot reach
//! if its filesystem is not mounted yet. So each roll forward also locks the directory `.si-stage`,
//! which the journal is in.

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::apply::on_disk::{STAGE_DIR, name};
use crate::root::Root;
use crate::state::StateError;

/// Held from before the commit point until the end of the roll forward.
///
/// The kernel releases the lock when the process ends, so a killed run leaves none.
#[must_use]
pub struct StageLock {
    _stage: Root,
}

impl StageLock {
    /// Takes the lock; fails at once if another run holds it.
    pub fn take(root: &Root) -> Result<Self, StateError> {
        let path = name(STAGE_DIR);
        let locked = || StateError::Locked { root: root.location().display().to_string() };
        let stage = root.below(&path)?;
        // A network filesystem may not lock directories: there only the normal lock is left.
        let result = rustix::fs::flock(&stage, FlockOperation::NonBlockingLockExclusive);
        if result == Err(Errno::WOULDBLOCK) {
            return Err(locked());
        }

        // The run that held the lock before may have removed its stage at its end.
        let held = rustix::fs::fstat(&stage).ok().map(|stat| (stat.st_dev, stat.st_ino));
        let present = root.stat(&path)?.map(|stat| (stat.dev, stat.ino));
        if held == present { Ok(StageLock { _stage: stage }) } else { Err(locked()) }
    }
}
