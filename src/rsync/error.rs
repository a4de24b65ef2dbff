//! Failures to run rsync or ssh. The exit status of rsync is an outcome, not an error.

use std::io;
use std::time::Duration;

use crate::process::ProcessError;

/// Failure to run rsync to its end.
#[derive(Debug, thiserror::Error)]
pub enum RsyncError {
    /// The program does not exist.
    #[error("the rsync program is not installed on this node")]
    NotInstalled,
    /// A system call failed while rsync was started or watched.
    #[error("cannot run the rsync program: {0}")]
    Run(#[from] io::Error),
    /// The deadline passed; rsync was killed.
    #[error("rsync exceeded its time limit and was killed")]
    TimedOut,
    /// The caller cancelled the run; rsync was killed.
    #[error("rsync was cancelled")]
    Cancelled,
}

impl From<ProcessError> for RsyncError {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::NotFound => RsyncError::NotInstalled,
            ProcessError::Run(error) => RsyncError::Run(error),
            ProcessError::TimedOut => RsyncError::TimedOut,
            ProcessError::Cancelled => RsyncError::Cancelled,
        }
    }
}

/// Failure to open an ssh tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The program does not exist.
    #[error("the ssh program is not installed on this node")]
    NotInstalled,
    /// A system call failed while ssh was started or watched.
    #[error("cannot run the ssh program: {0}")]
    Run(#[from] io::Error),
    /// No directory can be created that only this user can enter.
    #[error("cannot create a private directory for the sockets of the ssh tunnel: {0}")]
    SocketDir(#[source] io::Error),
    /// This ssh forwards no Unix sockets.
    #[error(
        "cannot open the ssh tunnel: the ssh program is too old to forward Unix sockets; \
         install OpenSSH 6.7 or newer ({stderr})"
    )]
    PortsOnly {
        /// Its error output in one line.
        stderr: String,
    },
    /// ssh ended before the tunnel was open.
    #[error(
        "cannot open the ssh tunnel: ssh exited: {}",
        if .stderr.is_empty() { "it printed no reason" } else { .stderr }
    )]
    Ended {
        /// Its error output in one line.
        stderr: String,
    },
    /// The tunnel was not open in time.
    #[error("cannot open the ssh tunnel: ssh did not open it within {0:?}")]
    TimedOut(Duration),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}
