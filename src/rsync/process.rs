//! One run of the rsync program, and the classification of its failures.
//!
//! rsync is run by [`process`]: without a shell, within a deadline, without the variables that would
//! make it start another program, and confined to its working directory. So a server that takes
//! rsync over cannot write elsewhere.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::process::ExitStatus;
use std::time::Instant;

use super::error::RsyncError;
use super::relay::{self, Relay, RelayProgram};
use crate::process::{self, WriteAccess, environment};

/// Name of the program, searched in `PATH`.
const PROGRAM: &str = "rsync";
/// Words of a warning about a symlink in the live tree.
const SKIPPED_SYMLINK: &str = "refusing to follow a symlink";

/// Arguments of one run of rsync.
#[derive(Clone, Copy, Debug)]
pub struct RsyncCall<'a> {
    /// Options, then `--`, then sources and destination.
    pub arguments: &'a [OsString],
    /// Directory to which relative paths among the arguments refer, the only one that rsync may
    /// write to.
    pub working_dir: Option<BorrowedFd<'a>>,
    /// Time at which the run is killed.
    pub deadline: Option<Instant>,
    /// Limit of the size of each file, if the server sends more than it announced.
    pub max_file_size: Option<u64>,
    /// Tunnel to the daemon; without one rsync connects by itself.
    pub relay: Option<&'a Relay>,
}

/// Event of a running rsync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RsyncOutput<'a> {
    /// A line of standard output, without its newline or carriage return.
    Line(&'a [u8]),
    /// About 100 ms have passed; sent even if rsync prints nothing.
    Tick,
}

/// Result of a run that ended by itself.
#[derive(Clone, Debug)]
pub struct RsyncOutcome {
    /// The exit status.
    pub status: ExitStatus,
    /// The first and the last 8 KiB of standard error.
    pub stderr_excerpt: String,
}

/// Cause of an [`RsyncOutcome`] with an exit status other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RsyncFailure {
    /// The server has no such file, directory or module.
    NotFound,
    /// The server refuses: access, version or protocol.
    Refused,
    /// No server answers.
    Unreachable,
    /// The connection was interrupted or silent for too long.
    Lost,
    /// A filesystem of this node is full.
    DiskSpace,
    /// Another failure of this node.
    Local,
    /// Some files could not be read on the server, or vanished meanwhile.
    Partial,
    /// Some files could not be written on this node.
    PartialHere,
    /// Any other exit status.
    Other,
}

/// Runs rsync, passes its output to `sink`, and waits for its end.
///
/// rsync and its children are killed if `sink` returns `Break` or the deadline passes.
pub fn run(
    call: &RsyncCall<'_>,
    sink: &mut dyn FnMut(RsyncOutput<'_>) -> ControlFlow<()>,
) -> Result<RsyncOutcome, RsyncError> {
    let mut environment = environment::of_rsync();
    let program = call.relay.map(|_| RelayProgram::open()).transpose()?;
    if let Some((relay, program)) = call.relay.zip(program.as_ref()) {
        environment.push((relay::VARIABLE.into(), relay.command(program)));
    }
    let call = process::ProcessCall {
        program: OsStr::new(PROGRAM),
        arguments: call.arguments,
        environment: &environment,
        working_dir: call.working_dir,
        input: &[],
        deadline: call.deadline,
        max_file_size: call.max_file_size,
        // All data of the server is received there. Only the live tree is read besides.
        write_access: call.working_dir.map_or(WriteAccess::Nowhere, WriteAccess::Below),
    };

    let outcome = process::run(&call, &mut |output| match output {
        process::ProcessOutput::Line(line) => sink(RsyncOutput::Line(line)),
        process::ProcessOutput::Tick => sink(RsyncOutput::Tick),
        process::ProcessOutput::ErrorLine(_) => ControlFlow::Continue(()),
    })?;
    Ok(RsyncOutcome { status: outcome.status, stderr_excerpt: outcome.stderr_excerpt })
}

impl RsyncOutcome {
    /// The cause of the failure; `None` after a success.
    ///
    /// The exit values are those of rsync(1). A few causes share one value and are
    /// distinguished by the message, which is in English (`LC_ALL=C`).
    pub fn failure(&self) -> Option<RsyncFailure> {
        let has_message = |text: &str| self.stderr_excerpt.contains(text);
        let Some(code) = self.status.code() else { return Some(RsyncFailure::Local) };

        Some(match code {
            0 => return None,
            _ if has_message("No space left on device") || has_message("Disk quota exceeded") => {
                RsyncFailure::DiskSpace
            }
            _ if has_message(relay::NOT_CONNECTED) => RsyncFailure::Unreachable,
            5 if has_message("Unknown module") => RsyncFailure::NotFound,
            2 | 4 | 5 | 6 => RsyncFailure::Refused,
            // A daemon's answer, with the code of a mistake in the command line.
            1 if has_message("ERROR: module is ") => RsyncFailure::Refused,
            10 | 35 => RsyncFailure::Unreachable,
            12 | 30 => RsyncFailure::Lost,
            23 if self.stderr_excerpt.lines().any(is_missing_on_server) => RsyncFailure::NotFound,
            23 | 24 if self.stderr_excerpt.lines().any(is_of_this_node) => {
                RsyncFailure::PartialHere
            }
            23..=25 => RsyncFailure::Partial,
            1 | 3 | 11 | 13 | 14 | 22 => RsyncFailure::Local,
            _ => RsyncFailure::Other,
        })
    }

    /// The line of standard error that explains the failure, else the exit status.
    ///
    /// It is the first one, except that a relay that cannot connect explains the others, and that a
    /// symlink of a user, which rsync does not follow, is no failure.
    pub fn reason(&self) -> String {
        let mut lines = self.stderr_excerpt.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.clone().next();
        let cause = lines.clone().find(|line| !line.contains(SKIPPED_SYMLINK));
        let relay = lines.find(|line| line.starts_with(relay::NOT_CONNECTED));
        let line = relay.or(cause).or(first);
        match line {
            Some(line) => line.chars().take(300).collect(),
            None => format!("rsync ended with {}", self.status),
        }
    }
}

/// Whether a line of standard error names a path that the server does not have.
fn is_missing_on_server(line: &str) -> bool {
    line.contains("No such file or directory") && !is_of_this_node(line)
}

/// Whether a line of standard error is about a file of this node: its receiving processes say so.
fn is_of_this_node(line: &str) -> bool {
    ["[generator]", "[receiver]", "[Receiver]"].iter().any(|process| line.contains(process))
}

#[cfg(test)]
mod tests;
