//! The system's rsync program.

mod process;

pub use process::{Call, Failure, Heard, Outcome, RsyncError, run};
