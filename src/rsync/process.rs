//! Runs the rsync program as [`process`] runs any: without a shell, in an environment that is cleaned, and
//! never longer than its deadline.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitStatus;
use std::time::Instant;

use crate::process::{self, ProcessError};

/// The program; found by `PATH`.
const PROGRAM: &str = "rsync";

/// One run of rsync.
#[derive(Clone, Copy, Debug)]
pub struct RsyncCall<'a> {
    /// Options, then `--`, then sources and destination.
    pub arguments: &'a [OsString],
    /// The working directory, which relative paths among the arguments start from.
    pub inside: Option<BorrowedFd<'a>>,
    /// After this time the run is killed.
    pub deadline: Option<Instant>,
    /// No file may grow beyond so many bytes, whatever the server sends.
    pub largest_file: Option<u64>,
}

/// What a caller hears during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RsyncOutput<'a> {
    /// A line of standard output, without its end (a newline or a carriage return).
    Line(&'a [u8]),
    /// A moment passed; comes about ten times a second, whatever rsync does.
    Tick,
}

/// How a run ended that was left to end by itself.
#[derive(Clone, Debug)]
pub struct RsyncOutcome {
    /// The exit status.
    pub status: ExitStatus,
    /// What rsync complained about: the first and the last 8 KiB of it.
    pub complaint: String,
}

/// Who is to blame for an [`RsyncOutcome`] that is no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RsyncFailure {
    /// The server has no such file, directory or module.
    NotFound,
    /// The server does not want: access, version or protocol.
    Refused,
    /// No server answers.
    Unreachable,
    /// The connection broke or fell silent.
    Lost,
    /// No room on this node.
    NoRoom,
    /// Something else on this node.
    Local,
    /// Some files could not be transferred, or vanished meanwhile.
    Partial,
    /// Anything else.
    Other,
}

/// Why a run did not come to its own end.
#[derive(Debug, thiserror::Error)]
pub enum RsyncError {
    /// There is no such program.
    #[error("the rsync program is not installed on this node")]
    NotInstalled,
    /// The program could not be run, or not be watched.
    #[error("cannot run the rsync program: {0}")]
    Run(#[from] io::Error),
    /// The deadline passed.
    #[error("rsync took longer than it may and was stopped")]
    TimedOut,
    /// The caller broke it off.
    #[error("rsync was stopped")]
    Stopped,
}

/// Runs rsync, tells `hear` what it prints, and waits for its end.
///
/// Breaks off as soon as `hear` says so, or when the deadline passes; then the program and all that it
/// started are killed.
pub fn run(
    call: &RsyncCall<'_>,
    hear: &mut dyn FnMut(RsyncOutput<'_>) -> ControlFlow<()>,
) -> Result<RsyncOutcome, RsyncError> {
    let environment = environment();
    let call = process::ProcessCall {
        program: OsStr::new(PROGRAM),
        arguments: call.arguments,
        environment: &environment,
        inside: call.inside,
        input: &[],
        deadline: call.deadline,
        largest_file: call.largest_file,
    };
    let outcome = process::run(&call, &mut |heard| match heard {
        process::Output::Line(line) => hear(RsyncOutput::Line(line)),
        process::Output::Tick => hear(RsyncOutput::Tick),
        process::Output::Complaint(_) => ControlFlow::Continue(()),
    })?;
    Ok(RsyncOutcome { status: outcome.status, complaint: outcome.complaint })
}

/// That of this program, without what would make rsync run something that somebody left there:
/// RSYNC_CONNECT_PROG, RSYNC_RSH and their like.
fn environment() -> Vec<(OsString, OsString)> {
    let harmless = |name: &OsString| {
        let bytes = name.as_bytes();
        bytes != b"LC_ALL" && (!bytes.starts_with(b"RSYNC_") || bytes == b"RSYNC_PROXY")
    };
    env::vars_os()
        .filter(|(name, _)| harmless(name))
        .chain([("LC_ALL".into(), "C".into())])
        .collect()
}

impl From<ProcessError> for RsyncError {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::NotFound => RsyncError::NotInstalled,
            ProcessError::Run(error) => RsyncError::Run(error),
            ProcessError::TimedOut => RsyncError::TimedOut,
            ProcessError::Stopped => RsyncError::Stopped,
        }
    }
}

impl RsyncOutcome {
    /// Who is to blame; nobody after a success.
    pub fn failure(&self) -> Option<RsyncFailure> {
        let says = |text: &str| self.complaint.contains(text);
        let Some(code) = self.status.code() else { return Some(RsyncFailure::Local) };
        // The numbers are rsync's documented exit values.
        Some(match code {
            0 => return None,
            _ if says("No space left on device") || says("Disk quota exceeded") => {
                RsyncFailure::NoRoom
            }
            5 if says("Unknown module") => RsyncFailure::NotFound,
            2 | 4 | 5 | 6 => RsyncFailure::Refused,
            10 | 35 => RsyncFailure::Unreachable,
            12 | 30 => RsyncFailure::Lost,
            23 if says("No such file or directory") => RsyncFailure::NotFound,
            23..=25 => RsyncFailure::Partial,
            1 | 3 | 11 | 13 | 14 | 22 => RsyncFailure::Local,
            _ => RsyncFailure::Other,
        })
    }

    /// The first line that tells what is wrong, else how the program ended.
    pub fn reason(&self) -> String {
        let line = self.complaint.lines().map(str::trim).find(|line| !line.is_empty());
        match line {
            Some(line) => line.chars().take(300).collect(),
            None => format!("rsync ended with {}", self.status),
        }
    }
}

#[cfg(test)]
mod tests;
