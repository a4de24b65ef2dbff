//! The three pipes of a running program.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::{Hear, Output, ProcessError};

/// A caller hears a [`Heard::Tick`] about so often.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Longer lines are cut: an escaped path of 4,095 bytes takes 20 KiB.
const MAX_LINE: usize = 64 << 10;
/// So much of what a program complains about is kept from the beginning, and as much from the end.
const MAX_COMPLAINT: usize = 8 << 10;

/// What goes in and comes out.
pub(super) struct Pipes<'a> {
    input: Option<ChildStdin>,
    unread: &'a [u8],
    output: Option<ChildStdout>,
    complaints: Option<ChildStderr>,
    line: Vec<u8>,
    complaint: Vec<u8>,
    first: Vec<u8>,
    last: VecDeque<u8>,
}

impl<'a> Pipes<'a> {
    /// Takes the pipes of `child`, which is to read `input`.
    pub(super) fn of(child: &mut Child, input: &'a [u8]) -> Self {
        Pipes {
            input: child.stdin.take(),
            unread: input,
            output: child.stdout.take(),
            complaints: child.stderr.take(),
            line: Vec::new(),
            complaint: Vec::new(),
            first: Vec::new(),
            last: VecDeque::new(),
        }
    }

    /// Makes sure that no pipe is ever waited for.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        self.input.as_ref().map_or(Ok(()), |pipe| set_nonblocking(pipe.as_fd()))?;
        self.output.as_ref().map_or(Ok(()), |pipe| set_nonblocking(pipe.as_fd()))?;
        self.complaints.as_ref().map_or(Ok(()), |pipe| set_nonblocking(pipe.as_fd()))
    }

    /// Whether nothing can come any more.
    pub(super) fn are_silent(&self) -> bool {
        self.output.is_none() && self.complaints.is_none()
    }

    /// Waits until something can be read or written, at most until the next tick, and does that.
    pub(super) fn listen(&mut self, hear: &mut Hear<'_>) -> Result<(), ProcessError> {
        self.wait()?;
        if let Some(pipe) = &mut self.input {
            match pipe.write(self.unread) {
                Ok(written) => self.unread = &self.unread[written..],
                Err(e) if is_passing(&e) => {}
                // It does not want to know more.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.unread = &[],
                Err(e) => return Err(e.into()),
            }
            if self.unread.is_empty() {
                self.input = None;
            }
        }
        let mut buffer = [0; 16 << 10];
        match self.output.as_mut().map(|pipe| read(pipe, &mut buffer)).transpose()?.flatten() {
            Some(0) => self.output = None,
            Some(n) => {
                take_lines(&mut self.line, &buffer[..n], &mut |line| hear(Output::Line(line)))?
            }
            None => {}
        }
        match self.complaints.as_mut().map(|pipe| read(pipe, &mut buffer)).transpose()?.flatten() {
            Some(0) => self.complaints = None,
            Some(n) => {
                self.keep(&buffer[..n]);
                take_lines(&mut self.complaint, &buffer[..n], &mut |line| {
                    hear(Output::Complaint(line))
                })?;
            }
            None => {}
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), ProcessError> {
        let pipes = [
            self.output.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::IN)),
            self.complaints.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::IN)),
            self.input.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::OUT)),
        ];
        let pipes = pipes.into_iter().flatten();
        let mut pipes: Vec<PollFd<'_>> =
            pipes.map(|(pipe, flags)| PollFd::from_borrowed_fd(pipe, flags)).collect();
        // Without pipes only the end of the program is waited for: look for it more often.
        let wait = if pipes.is_empty() { TICK / 20 } else { TICK };
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        match poll(&mut pipes, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(ProcessError::Run(e.into())),
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let first = bytes.len().min(MAX_COMPLAINT - self.first.len());
        self.first.extend_from_slice(&bytes[..first]);
        self.last.extend(&bytes[first..]);
        let surplus = self.last.len().saturating_sub(MAX_COMPLAINT);
        self.last.drain(..surplus);
    }

    /// Tells what came without the end of a line.
    pub(super) fn finish(&mut self, hear: &mut Hear<'_>) -> Result<(), ProcessError> {
        let (line, complaint) =
            (std::mem::take(&mut self.line), std::mem::take(&mut self.complaint));
        let unheard = [Output::Line(&line), Output::Complaint(&complaint)];
        for (heard, _) in
            unheard.into_iter().zip([&line, &complaint]).filter(|(_, text)| !text.is_empty())
        {
            if hear(heard).is_break() {
                return Err(ProcessError::Stopped);
            }
        }
        Ok(())
    }

    /// What was complained about.
    pub(super) fn complaint(&mut self) -> String {
        let mut complaint = std::mem::take(&mut self.first);
        complaint.extend(&self.last);
        String::from_utf8_lossy(&complaint).into_owned()
    }
}

/// Tells each line that `bytes` ends, and keeps the rest in `line`.
fn take_lines(
    line: &mut Vec<u8>,
    bytes: &[u8],
    tell: &mut dyn FnMut(&[u8]) -> std::ops::ControlFlow<()>,
) -> Result<(), ProcessError> {
    for piece in bytes.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
        let (text, ends) = match piece.split_last() {
            Some((b'\n' | b'\r', text)) => (text, true),
            _ => (piece, false),
        };
        let room = MAX_LINE - line.len();
        line.extend_from_slice(&text[..text.len().min(room)]);
        if ends && !line.is_empty() {
            let told = tell(line);
            line.clear();
            if told.is_break() {
                return Err(ProcessError::Stopped);
            }
        }
    }
    Ok(())
}

fn set_nonblocking(pipe: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// What there is to read now: nothing yet, so many bytes, or 0 at the end.
fn read(pipe: &mut dyn Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match pipe.read(buffer) {
        Ok(n) => Ok(Some(n)),
        Err(e) if is_passing(&e) => Ok(None),
        Err(e) => Err(e),
    }
}
