//! Attributes that a process inherits from its parent, set to known values.
//!
//! Daemons, init scripts and test harnesses start programs with ignored signals, open descriptors,
//! a private umask or a limit of file sizes. Each of these changes the result of a run: with SIGCHLD
//! ignored the kernel reaps children before `wait`, so each hook counts as failed. A write above
//! RLIMIT_FSIZE kills the process, also after the commit point. So both programs begin with
//! [`normalize`].
//!
//! The runtime of Rust has opened `/dev/null` on closed descriptors 0 to 2 before `main`, and
//! ignores SIGPIPE, so that a closed pipe is an error of the write.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// First descriptor after standard input, output and error.
const FIRST_OTHER: u32 = 3;
/// Descriptors that are marked one by one, on a kernel before 5.11.
const MAX_MARKED: u64 = 1 << 16;
/// New files of children can be read by all, and written by their owner.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// Sets signals, descriptors and limits; called before the first thread starts.
pub fn normalize() {
    restore_signals();
    close_on_exec();
    raise_file_size_limit();
}

/// Sets the umask of a program that sets the mode of each file of its own, for its children.
pub fn fix_umask() {
    umask(UMASK);
}

/// Largest size that this process may give a file, if it is limited.
pub fn file_size_limit() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

/// Restores signals without which the program cannot wait for children or be stopped.
#[allow(unsafe_code, reason = "sigaction has no safe wrapper; no handler is installed")]
fn restore_signals() {
    for number in [Signal::SIGCHLD, Signal::SIGTERM] {
        // SAFETY: the default action runs no code of this process. It cannot fail for these two.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
    // A blocked SIGXFSZ makes write(2) return EFBIG. An ignored one would be inherited by children;
    // the mask of a child is emptied before exec.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
}

/// Marks all inherited descriptors, so that no child receives them.
#[allow(unsafe_code, reason = "close_range has no safe wrapper; with this flag it closes nothing")]
fn close_on_exec() {
    // SAFETY: the call takes three numbers. CLOSE_RANGE_CLOEXEC leaves the descriptors open.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_OTHER, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result == 0 {
        return;
    }

    let end = getrlimit(Resource::Nofile).current.unwrap_or(MAX_MARKED).min(MAX_MARKED);
    for number in i32::try_from(FIRST_OTHER).unwrap_or(i32::MAX)..i32::try_from(end).unwrap_or(0) {
        // SAFETY: fcntl takes numbers only, and fails for a descriptor that is not open.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Removes the limit of file sizes, or else raises it as far as this process may.
fn raise_file_size_limit() {
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Fsize, unlimited).is_err() {
        let maximum = getrlimit(Resource::Fsize).maximum;
        // It cannot fail: each process may raise its limit to the maximum.
        let _ = setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum });
    }
}

/// Opens an empty standard input for a child: `/dev/null`, or a pipe if there are no devices.
#[allow(clippy::disallowed_methods, reason = "a device of the running system")]
pub(super) fn open_null() -> io::Result<OwnedFd> {
    match std::fs::File::open("/dev/null") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (reader, _) = io::pipe()?;
            Ok(reader.into())
        }
        opened => Ok(opened.map_err(|e| io::Error::other(format!("/dev/null: {e}")))?.into()),
    }
}
