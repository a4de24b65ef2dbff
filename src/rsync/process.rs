//! Runs the rsync program: never through a shell, in an environment that is cleaned, and never longer
//! than its deadline.
//!
//! The child leads a process group of its own. Whatever way [`run`] ends, the group is gone by then: it
//! is killed before its leader is reaped, so that its number cannot have become another's.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, prlimit, waitid};

/// The program; found by `PATH`.
const PROGRAM: &str = "rsync";
/// A caller hears a [`Heard::Tick`] about so often.
const TICK: Duration = Duration::from_millis(100);
/// Longer lines are cut: an escaped path of 4,095 bytes takes 20 KiB.
const MAX_LINE: usize = 64 << 10;
/// So much of what rsync complains about is kept from the beginning, and as much from the end.
const MAX_COMPLAINT: usize = 8 << 10;
/// How long output may still come from the group after its leader has ended.
const AFTERMATH: Duration = Duration::from_secs(2);

/// One run of rsync.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
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
pub enum Heard<'a> {
    /// A line of standard output, without its end (a newline or a carriage return).
    Line(&'a [u8]),
    /// A moment passed; comes about ten times a second, whatever rsync does.
    Tick,
}

/// How a run ended that was left to end by itself.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit status.
    pub status: ExitStatus,
    /// What rsync complained about: the first and the last 8 KiB of it.
    pub complaint: String,
}

/// Who is to blame for an [`Outcome`] that is no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
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
pub fn run(call: &Call<'_>, hear: &mut dyn FnMut(Heard<'_>) -> ControlFlow<()>) -> Result<Outcome, RsyncError> {
    let mut running = Running::start(call)?;
    let mut tick = Instant::now();
    let mut ended: Option<Instant> = None;
    loop {
        running.listen(hear)?;
        let now = Instant::now();
        if call.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(RsyncError::TimedOut);
        }
        if now.duration_since(tick) >= TICK {
            tick = now;
            if hear(Heard::Tick).is_break() {
                return Err(RsyncError::Stopped);
            }
        }
        if ended.is_none() && running.has_ended()? {
            ended = Some(now);
        }
        let silent = running.output.is_none() && running.complaints.is_none();
        if ended.is_some_and(|at| silent || now.duration_since(at) >= AFTERMATH) {
            return running.finish(hear);
        }
    }
}

struct Running {
    child: Child,
    group: Pid,
    output: Option<ChildStdout>,
    complaints: Option<ChildStderr>,
    line: Vec<u8>,
    first: Vec<u8>,
    last: VecDeque<u8>,
    reaped: bool,
}

impl Running {
    fn start(call: &Call<'_>) -> Result<Self, RsyncError> {
        let mut command = Command::new(PROGRAM);
        command.args(call.arguments).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // RSYNC_CONNECT_PROG, RSYNC_RSH and their like would run what somebody left in the environment.
        for (name, _) in env::vars_os() {
            if name.as_bytes().starts_with(b"RSYNC_") && name != "RSYNC_PROXY" {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C");
        if let Some(directory) = call.inside {
            // The child has the descriptor until it becomes rsync, and changes directory before that.
            command.current_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        }
        let mut child = command.spawn().map_err(|e| not_started(e, call))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(RsyncError::NotInstalled)?;
        let running = Running {
            output: child.stdout.take(),
            complaints: child.stderr.take(),
            child,
            group,
            line: Vec::new(),
            first: Vec::new(),
            last: VecDeque::new(),
            reaped: false,
        };
        if call.largest_file.is_some() {
            // Long before the first byte arrives, and before rsync forks its receiver.
            let limit = Rlimit { current: call.largest_file, maximum: call.largest_file };
            prlimit(Some(running.group), Resource::Fsize, limit).map_err(io::Error::from)?;
        }
        running.output.as_ref().map_or(Ok(()), |pipe| set_nonblocking(pipe.as_fd()))?;
        running.complaints.as_ref().map_or(Ok(()), |pipe| set_nonblocking(pipe.as_fd()))?;
        Ok(running)
    }

    /// Waits for output, at most until the next tick, and takes it in.
    fn listen(&mut self, hear: &mut dyn FnMut(Heard<'_>) -> ControlFlow<()>) -> Result<(), RsyncError> {
        let pipes = [self.output.as_ref().map(|p| p.as_fd()), self.complaints.as_ref().map(|p| p.as_fd())];
        let mut pipes: Vec<PollFd<'_>> =
            pipes.iter().flatten().map(|pipe| PollFd::from_borrowed_fd(*pipe, PollFlags::IN)).collect();
        // Without pipes only the end of the program is waited for: look for it more often.
        let wait = if pipes.is_empty() { TICK / 20 } else { TICK };
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        match poll(&mut pipes, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(RsyncError::Run(e.into())),
        }
        let mut buffer = [0; 16 << 10];
        match self.output.as_mut().map(|pipe| read(pipe, &mut buffer)).transpose()?.flatten() {
            Some(0) => self.output = None,
            Some(n) => self.take_output(&buffer[..n], hear)?,
            None => {}
        }
        match self.complaints.as_mut().map(|pipe| read(pipe, &mut buffer)).transpose()?.flatten() {
            Some(0) => self.complaints = None,
            Some(n) => self.take_complaint(&buffer[..n]),
            None => {}
        }
        Ok(())
    }

    fn take_output(
        &mut self,
        bytes: &[u8],
        hear: &mut dyn FnMut(Heard<'_>) -> ControlFlow<()>,
    ) -> Result<(), RsyncError> {
        for piece in bytes.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
            let (text, ends) = match piece.split_last() {
                Some((b'\n' | b'\r', text)) => (text, true),
                _ => (piece, false),
            };
            let room = MAX_LINE - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends && !self.line.is_empty() {
                let heard = hear(Heard::Line(&self.line));
                self.line.clear();
                if heard.is_break() {
                    return Err(RsyncError::Stopped);
                }
            }
        }
        Ok(())
    }

    fn take_complaint(&mut self, bytes: &[u8]) {
        let first = bytes.len().min(MAX_COMPLAINT - self.first.len());
        self.first.extend_from_slice(&bytes[..first]);
        self.last.extend(&bytes[first..]);
        let surplus = self.last.len().saturating_sub(MAX_COMPLAINT);
        self.last.drain(..surplus);
    }

    /// Looks whether the program has ended, and leaves it unreaped.
    fn has_ended(&self) -> Result<bool, RsyncError> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.group), options) {
            Ok(status) => Ok(status.is_some()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(RsyncError::Run(e.into())),
        }
    }

    fn finish(mut self, hear: &mut dyn FnMut(Heard<'_>) -> ControlFlow<()>) -> Result<Outcome, RsyncError> {
        if !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            if hear(Heard::Line(&line)).is_break() {
                return Err(RsyncError::Stopped);
            }
        }
        let status = self.end()?;
        let mut complaint = std::mem::take(&mut self.first);
        complaint.extend(&self.last);
        Ok(Outcome { status, complaint: String::from_utf8_lossy(&complaint).into_owned() })
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

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Outcome {
    /// Who is to blame; nobody after a success.
    pub fn failure(&self) -> Option<Failure> {
        let says = |text: &str| self.complaint.contains(text);
        let Some(code) = self.status.code() else { return Some(Failure::Local) };
        // The numbers are rsync's documented exit values.
        Some(match code {
            0 => return None,
            _ if says("No space left on device") || says("Disk quota exceeded") => Failure::NoRoom,
            5 if says("Unknown module") => Failure::NotFound,
            2 | 4 | 5 | 6 => Failure::Refused,
            10 | 35 => Failure::Unreachable,
            12 | 30 => Failure::Lost,
            23 if says("No such file or directory") => Failure::NotFound,
            23..=25 => Failure::Partial,
            1 | 3 | 11 | 13 | 14 | 22 => Failure::Local,
            _ => Failure::Other,
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

fn not_started(error: io::Error, call: &Call<'_>) -> RsyncError {
    // A working directory that is gone is reported in the same way.
    match error.kind() {
        io::ErrorKind::NotFound if call.inside.is_none_or(|fd| rustix::fs::fstat(fd).is_ok_and(|s| s.st_nlink > 0)) => {
            RsyncError::NotInstalled
        }
        _ => RsyncError::Run(error),
    }
}

fn set_nonblocking(pipe: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?)
}

/// What there is to read now: nothing yet, so many bytes, or 0 at the end.
fn read(pipe: &mut dyn Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match pipe.read(buffer) {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
