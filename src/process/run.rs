//! One run of a program, from its start until its process group is gone.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, prlimit, waitid,
};

use super::confinement::{self, WriteAccess};
use super::error::ProcessError;
use super::output::{OutputSink, ProcessOutput};
use super::pipes::{Pipes, TICK};
use super::surroundings;
use crate::root::procfs::{self, in_directory};

/// Time for descendants to close the output after the group leader has ended.
///
/// A daemon that keeps the output open would otherwise make the run last until the deadline.
const GRACE_AFTER_EXIT: Duration = Duration::from_secs(2);

/// Arguments of one run of a program.
#[derive(Clone, Copy, Debug)]
pub struct ProcessCall<'a> {
    /// A path, or a name that is searched in the `PATH` of `environment`.
    pub program: &'a OsStr,
    /// Arguments after the program's name.
    pub arguments: &'a [OsString],
    /// The complete environment: nothing is inherited.
    pub environment: &'a [(OsString, OsString)],
    /// Directory in which the program starts; `/` if there is none.
    pub working_dir: Option<BorrowedFd<'a>>,
    /// Bytes for standard input; if empty, standard input is `/dev/null`.
    pub input: &'a [u8],
    /// Time at which the run is killed.
    pub deadline: Option<Instant>,
    /// Limit of the size of each file that the program writes (`RLIMIT_FSIZE`).
    pub max_file_size: Option<u64>,
    /// Directory to which the program may write.
    pub write_access: WriteAccess<'a>,
}

/// Result of a run that ended by itself.
#[derive(Clone, Debug)]
pub struct ProcessOutcome {
    /// The exit status.
    pub status: ExitStatus,
    /// The first and the last 8 KiB of standard error.
    pub stderr_excerpt: String,
}

/// Runs a program, passes its output to `sink`, and waits for its end.
///
/// The program and its descendants are killed if `sink` returns `Break` or the deadline passes.
pub fn run(
    call: &ProcessCall<'_>,
    sink: &mut OutputSink<'_>,
) -> Result<ProcessOutcome, ProcessError> {
    let mut process = RunningProcess::start(call)?;
    let mut last_tick = Instant::now();
    let mut exit_time: Option<Instant> = None;

    loop {
        process.pipes.transfer(sink)?;

        let now = Instant::now();
        if call.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(ProcessError::TimedOut);
        }

        if now.duration_since(last_tick) >= TICK {
            last_tick = now;
            if sink(ProcessOutput::Tick).is_break() {
                return Err(ProcessError::Cancelled);
            }
        }

        if exit_time.is_none() && process.has_exited()? {
            exit_time = Some(now);
        }
        if exit_time.is_some_and(|time| {
            process.pipes.are_closed() || now.duration_since(time) >= GRACE_AFTER_EXIT
        }) {
            return process.finish(sink);
        }
    }
}

/// A started child with its process group; killed and reaped on drop.
struct RunningProcess<'a> {
    child: Child,
    group: Pid,
    pipes: Pipes<'a>,
    reaped: bool,
}

impl<'a> RunningProcess<'a> {
    fn start(call: &ProcessCall<'a>) -> Result<Self, ProcessError> {
        let mut command = Command::new(call.program);
        command.args(call.arguments).process_group(0).env_clear();
        command.envs(call.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(match call.input {
            [] => surroundings::open_null()?.into(),
            _ => Stdio::piped(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());

        let started = match call.working_dir {
            // The child changes directory before exec closes this descriptor.
            Some(directory) if procfs::is_mounted() => {
                command.current_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()));
                confinement::spawn(&mut command, call.write_access)
            }
            Some(directory) => {
                in_directory(directory, || confinement::spawn(&mut command, call.write_access))
            }
            None => confinement::spawn(command.current_dir("/"), call.write_access),
        };
        let mut child = started.map_err(|error| start_error(error, call))?;
        let group =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(ProcessError::NotFound)?;
        let pipes = Pipes::new(&mut child, call.input);
        let mut process = RunningProcess { child, group, pipes, reaped: false };

        if call.max_file_size.is_some() {
            // The program has not received any data yet, and has started no children.
            let limit = Rlimit { current: call.max_file_size, maximum: call.max_file_size };
            prlimit(Some(process.group), Resource::Fsize, limit).map_err(io::Error::from)?;
        }
        process.pipes.set_nonblocking()?;
        Ok(process)
    }

    /// Whether the leader has exited; does not reap it.
    fn has_exited(&self) -> Result<bool, ProcessError> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.group), options) {
            Ok(status) => Ok(status.is_some()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(ProcessError::Run(error.into())),
        }
    }

    fn finish(mut self, sink: &mut OutputSink<'_>) -> Result<ProcessOutcome, ProcessError> {
        self.pipes.flush_lines(sink)?;
        let status = self.kill_and_reap()?;
        Ok(ProcessOutcome { status, stderr_excerpt: self.pipes.take_stderr_excerpt() })
    }

    /// Kills the remaining group, then reaps its leader.
    fn kill_and_reap(&mut self) -> io::Result<ExitStatus> {
        if !self.reaped {
            // Fails if the group has no process left, which is the aim.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for RunningProcess<'_> {
    fn drop(&mut self) {
        let _ = self.kill_and_reap();
    }
}

/// The failure of `spawn`: ENOENT means the program, unless the working directory was removed.
fn start_error(error: io::Error, call: &ProcessCall<'_>) -> ProcessError {
    match error.kind() {
        io::ErrorKind::NotFound
            if call
                .working_dir
                .is_none_or(|fd| rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_nlink > 0)) =>
        {
            ProcessError::NotFound
        }
        _ => ProcessError::Run(error),
    }
}
