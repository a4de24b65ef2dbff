//! Signals: SIGINT and SIGTERM request a cancellation, SIGHUP is ignored.
//!
//! All threads block the signals, and one thread waits for them. So no system call is interrupted.
//! Before the commit point the run stops at its next step and leaves nothing behind; after it the
//! request has no effect. A closed terminal (SIGHUP) never stops a run.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Interval between two checks for a cancellation while the program waits, in nanoseconds.
const TICK: i64 = 100_000_000;

/// Starts to receive signals. Call it before any other thread is started.
pub fn receive() {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if signals.thread_block().is_err() {
        return;
    }

    // The thread ends with the process.
    thread::spawn(move || {
        loop {
            match signals.wait() {
                Ok(Signal::SIGINT | Signal::SIGTERM) => CANCELLED.store(true, Ordering::SeqCst),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
}

/// Whether a cancellation was requested.
pub fn is_cancelled() -> bool {
    CANCELLED.load(Ordering::SeqCst)
}

/// Sleeps for `time`; false if a cancellation ended the sleep early.
pub fn sleep(time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || is_cancelled() {
            return !is_cancelled();
        }
        thread::sleep(left.min(Duration::from_nanos(TICK as u64)));
    }
}

/// Waits for input, or its end, on standard input; false after a cancellation.
pub fn is_input_ready() -> bool {
    let input = std::io::stdin();
    loop {
        let mut descriptors = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)];
        let result = poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: TICK }));
        if is_cancelled() {
            return false;
        }
        match result {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}
