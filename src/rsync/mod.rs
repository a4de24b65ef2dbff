//! The system's rsync program, and ssh tunnels to an rsync daemon.

mod error;
mod process;
pub mod relay;
mod socket_dir;
pub mod tunnel;

pub use error::{RsyncError, TunnelError};
pub use process::{RsyncCall, RsyncFailure, RsyncOutcome, RsyncOutput, run};
pub use relay::Relay;
