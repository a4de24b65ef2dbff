//! The system's rsync program, and the way through ssh to an rsync daemon.

mod process;
pub mod tunnel;

pub use process::{RsyncCall, RsyncError, RsyncFailure, RsyncOutcome, RsyncOutput, run};
