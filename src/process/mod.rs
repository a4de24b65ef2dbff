//! Runs other programs: never through a shell, in an environment that is given whole, and never longer
//! than the deadline.
//!
//! The child leads a process group of its own. Whatever way [`run`] ends, the group is gone by then: it
//! is killed before its leader is reaped, so that its number cannot have become another's. What a program
//! of a tree is, and how it is run where the tree is not the running system, is said in [`Programs`].

mod pipes;
mod programs;

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, prlimit, waitid,
};

use pipes::{Pipes, TICK};

pub use programs::{PATH, Programs, Task, follow};

/// How long output may still come from the group after its leader has ended.
const AFTERMATH: Duration = Duration::from_secs(2);

/// One run of a program.
#[derive(Clone, Copy, Debug)]
pub struct ProcessCall<'a> {
    /// A path, or a name that is looked up in the `PATH` of `environment`.
    pub program: &'a OsStr,
    /// What it is told.
    pub arguments: &'a [OsString],
    /// All of its environment.
    pub environment: &'a [(OsString, OsString)],
    /// The working directory, which relative paths among the arguments start from.
    pub inside: Option<BorrowedFd<'a>>,
    /// What it reads from its standard input.
    pub input: &'a [u8],
    /// After this time the run is killed.
    pub deadline: Option<Instant>,
    /// No file may grow beyond so many bytes.
    pub largest_file: Option<u64>,
}

/// What a caller hears during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// A line of standard output, without its end (a newline or a carriage return).
    Line(&'a [u8]),
    /// A line of standard error, likewise.
    Complaint(&'a [u8]),
    /// A moment passed; comes about ten times a second, whatever the program does.
    Tick,
}

/// How a run ended that was left to end by itself.
#[derive(Clone, Debug)]
pub struct ProcessOutcome {
    /// The exit status.
    pub status: ExitStatus,
    /// What came on standard error: the first and the last 8 KiB of it.
    pub complaint: String,
}

/// Why a run did not come to its own end.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no such program.
    #[error("there is no such program")]
    NotFound,
    /// The program could not be run, or not be watched.
    #[error("it cannot be run: {0}")]
    Run(#[from] io::Error),
    /// The deadline passed.
    #[error("it took longer than it may and was stopped")]
    TimedOut,
    /// The caller broke it off.
    #[error("it was stopped")]
    Stopped,
}

/// Who hears what a program says, and may break it off.
pub type Hear<'a> = dyn FnMut(Output<'_>) -> ControlFlow<()> + 'a;

/// Runs a program, tells `hear` what it prints, and waits for its end.
///
/// Breaks off as soon as `hear` says so, or when the deadline passes; then the program and all that it
/// started are killed.
pub fn run(call: &ProcessCall<'_>, hear: &mut Hear<'_>) -> Result<ProcessOutcome, ProcessError> {
    let mut running = Running::start(call)?;
    let mut tick = Instant::now();
    let mut ended: Option<Instant> = None;
    loop {
        running.pipes.listen(hear)?;
        let now = Instant::now();
        if call.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(ProcessError::TimedOut);
        }
        if now.duration_since(tick) >= TICK {
            tick = now;
            if hear(Output::Tick).is_break() {
                return Err(ProcessError::Stopped);
            }
        }
        if ended.is_none() && running.has_ended()? {
            ended = Some(now);
        }
        if ended.is_some_and(|at| running.pipes.are_silent() || now.duration_since(at) >= AFTERMATH)
        {
            return running.finish(hear);
        }
    }
}

struct Running<'a> {
    child: Child,
    group: Pid,
    pipes: Pipes<'a>,
    reaped: bool,
}

impl<'a> Running<'a> {
    fn start(call: &ProcessCall<'a>) -> Result<Self, ProcessError> {
        let mut command = Command::new(call.program);
        command.args(call.arguments).process_group(0).env_clear();
        command.envs(call.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(if call.input.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(directory) = call.inside {
            // The child has the descriptor until it becomes the program, and changes directory before that.
            command.current_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        }
        let mut child = command.spawn().map_err(|e| not_started(e, call))?;
        let group =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(ProcessError::NotFound)?;
        let pipes = Pipes::of(&mut child, call.input);
        let mut running = Running { child, group, pipes, reaped: false };
        if call.largest_file.is_some() {
            // Long before the first byte arrives, and before the program starts others.
            let limit = Rlimit { current: call.largest_file, maximum: call.largest_file };
            prlimit(Some(running.group), Resource::Fsize, limit).map_err(io::Error::from)?;
        }
        running.pipes.prepare()?;
        Ok(running)
    }

    /// Looks whether the program has ended, and leaves it unreaped.
    fn has_ended(&self) -> Result<bool, ProcessError> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.group), options) {
            Ok(status) => Ok(status.is_some()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(ProcessError::Run(e.into())),
        }
    }

    fn finish(mut self, hear: &mut Hear<'_>) -> Result<ProcessOutcome, ProcessError> {
        self.pipes.finish(hear)?;
        let status = self.end()?;
        Ok(ProcessOutcome { status, complaint: self.pipes.complaint() })
    }

    /// Kills what is left of the group, then reaps its leader.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if !self.reaped {
            // Fails where nobody is left, which is as good.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn not_started(error: io::Error, call: &ProcessCall<'_>) -> ProcessError {
    // A working directory that is gone is reported in the same way.
    match error.kind() {
        io::ErrorKind::NotFound
            if call.inside.is_none_or(|fd| rustix::fs::fstat(fd).is_ok_and(|s| s.st_nlink > 0)) =>
        {
            ProcessError::NotFound
        }
        _ => ProcessError::Run(error),
    }
}

#[cfg(test)]
mod tests;
