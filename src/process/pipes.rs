//! The three pipes of a running program.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::error::ProcessError;
use super::output::{OutputSink, ProcessOutput};

/// Interval of [`ProcessOutput::Tick`], and the longest wait for a pipe.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Limit of a line; the rest of it is dropped. An escaped path of 4,095 bytes takes 20 KiB.
const MAX_LINE: usize = 64 << 10;
/// Bytes of standard error that are kept from its beginning, and as many from its end.
const MAX_EXCERPT: usize = 8 << 10;

/// Standard input, output and error of one child.
pub(super) struct Pipes<'a> {
    stdin: Option<ChildStdin>,
    unwritten: &'a [u8],
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// Incomplete last line of standard output.
    stdout_line: Vec<u8>,
    /// Incomplete last line of standard error.
    stderr_line: Vec<u8>,
    excerpt_head: Vec<u8>,
    excerpt_tail: VecDeque<u8>,
}

impl<'a> Pipes<'a> {
    /// Takes the pipes of `child`, which is to read `input`.
    pub(super) fn new(child: &mut Child, input: &'a [u8]) -> Self {
        Pipes {
            stdin: child.stdin.take(),
            unwritten: input,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            stdout_line: Vec::new(),
            stderr_line: Vec::new(),
            excerpt_head: Vec::new(),
            excerpt_tail: VecDeque::new(),
        }
    }

    /// Makes all pipes nonblocking: only `poll` waits.
    pub(super) fn set_nonblocking(&mut self) -> io::Result<()> {
        self.stdin.as_ref().map_or(Ok(()), |pipe| set_nonblocking(pipe.as_fd()))?;
        self.stdout.as_ref().map_or(Ok(()), |pipe| set_nonblocking(pipe.as_fd()))?;
        self.stderr.as_ref().map_or(Ok(()), |pipe| set_nonblocking(pipe.as_fd()))
    }

    /// Whether both outputs have reached their end.
    pub(super) fn are_closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// Waits until a pipe is ready, at most one tick, then transfers data.
    pub(super) fn transfer(&mut self, sink: &mut OutputSink<'_>) -> Result<(), ProcessError> {
        self.wait()?;
        self.write_input()?;

        let mut buffer = [0; 16 << 10];
        match self.stdout.as_mut().map(|pipe| read(pipe, &mut buffer)).transpose()?.flatten() {
            Some(0) => self.stdout = None,
            Some(length) => split_lines(&mut self.stdout_line, &buffer[..length], &mut |line| {
                sink(ProcessOutput::Line(line))
            })?,
            None => {}
        }

        match self.stderr.as_mut().map(|pipe| read(pipe, &mut buffer)).transpose()?.flatten() {
            Some(0) => self.stderr = None,
            Some(length) => {
                self.add_to_excerpt(&buffer[..length]);
                split_lines(&mut self.stderr_line, &buffer[..length], &mut |line| {
                    sink(ProcessOutput::ErrorLine(line))
                })?;
            }
            None => {}
        }
        Ok(())
    }

    fn write_input(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.stdin else { return Ok(()) };

        match pipe.write(self.unwritten) {
            Ok(written) => self.unwritten = &self.unwritten[written..],
            Err(error) if is_retryable(&error) => {}
            // The program has closed its input and needs no more of it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.unwritten = &[],
            Err(error) => return Err(error),
        }

        if self.unwritten.is_empty() {
            self.stdin = None;
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), ProcessError> {
        let pipes = [
            self.stdout.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::IN)),
            self.stderr.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::IN)),
            self.stdin.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::OUT)),
        ];
        let mut pipes: Vec<PollFd<'_>> = pipes
            .into_iter()
            .flatten()
            .map(|(pipe, flags)| PollFd::from_borrowed_fd(pipe, flags))
            .collect();

        // Without pipes nothing wakes `poll` when the program exits, so it is checked more often.
        let timeout = if pipes.is_empty() { TICK / 20 } else { TICK };
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match poll(&mut pipes, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(ProcessError::Run(error.into())),
        }
    }

    fn add_to_excerpt(&mut self, bytes: &[u8]) {
        let head = bytes.len().min(MAX_EXCERPT - self.excerpt_head.len());
        self.excerpt_head.extend_from_slice(&bytes[..head]);
        self.excerpt_tail.extend(&bytes[head..]);

        let surplus = self.excerpt_tail.len().saturating_sub(MAX_EXCERPT);
        self.excerpt_tail.drain(..surplus);
    }

    /// Passes the last lines to `sink`, which may have no newline.
    pub(super) fn flush_lines(&mut self, sink: &mut OutputSink<'_>) -> Result<(), ProcessError> {
        let stdout_line = std::mem::take(&mut self.stdout_line);
        let stderr_line = std::mem::take(&mut self.stderr_line);

        if !stdout_line.is_empty() && sink(ProcessOutput::Line(&stdout_line)).is_break() {
            return Err(ProcessError::Cancelled);
        }
        if !stderr_line.is_empty() && sink(ProcessOutput::ErrorLine(&stderr_line)).is_break() {
            return Err(ProcessError::Cancelled);
        }
        Ok(())
    }

    /// The first and the last 8 KiB of standard error.
    pub(super) fn take_stderr_excerpt(&mut self) -> String {
        let mut excerpt = std::mem::take(&mut self.excerpt_head);
        excerpt.extend(&self.excerpt_tail);
        String::from_utf8_lossy(&excerpt).into_owned()
    }
}

/// Passes each line that `bytes` completes to `sink`; the rest remains in `line`.
fn split_lines(
    line: &mut Vec<u8>,
    bytes: &[u8],
    sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<(), ProcessError> {
    for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        let (text, is_complete) = match piece.split_last() {
            Some((b'\n' | b'\r', text)) => (text, true),
            _ => (piece, false),
        };

        let room = MAX_LINE - line.len();
        line.extend_from_slice(&text[..text.len().min(room)]);

        if is_complete && !line.is_empty() {
            let flow = sink(line);
            line.clear();
            if flow.is_break() {
                return Err(ProcessError::Cancelled);
            }
        }
    }
    Ok(())
}

fn set_nonblocking(pipe: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?)
}

fn is_retryable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Reads from a nonblocking pipe: `None` if it is empty for now, 0 at its end.
fn read(pipe: &mut dyn Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match pipe.read(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if is_retryable(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
