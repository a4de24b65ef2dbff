//! What Ctrl-C, SIGTERM and a terminal that goes away mean to a run.
//!
//! The signals are blocked in all threads and received by one that waits for them: nothing is ever
//! interrupted half-way. Before the seal the run stops at its next step, or where it waits, and leaves
//! nothing behind; after it, it goes on to the end, however often it is asked. SIGHUP never stops it.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

static STOPPED: AtomicBool = AtomicBool::new(false);

/// While a person or a time is waited for, a stop is looked for so often, in nanoseconds.
const TICK: i64 = 100_000_000;

/// Begins to receive signals; to be called before any other thread is started.
pub fn receive() {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if signals.thread_block().is_err() {
        return;
    }
    // Ends with the process.
    drop(thread::spawn(move || {
        loop {
            match signals.wait() {
                Ok(Signal::SIGINT | Signal::SIGTERM) => STOPPED.store(true, Ordering::SeqCst),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }));
}

/// Whether a stop was asked for.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Waits so long; false where a stop comes first.
pub fn sleep(time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || is_stopped() {
            return !is_stopped();
        }
        thread::sleep(left.min(Duration::from_nanos(TICK as u64)));
    }
}

/// Waits until standard input has something to say, or has ended; false where a stop comes first.
pub fn is_input_ready() -> bool {
    let input = std::io::stdin();
    loop {
        let mut asked = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)];
        let answer = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: TICK }));
        if is_stopped() {
            return false;
        }
        match answer {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}
