//! What Ctrl-C, SIGTERM and a terminal that goes away mean to a run.
//!
//! The signals are blocked in all threads and received by one that waits for them: nothing is ever
//! interrupted half-way. Before the seal the run stops at the next step and leaves nothing behind;
//! after it, it goes on to the end. SIGHUP never stops it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

static STOPPED: AtomicBool = AtomicBool::new(false);
static SEALED: AtomicBool = AtomicBool::new(false);

/// A run that does not come to a step within this time is in the network, where nothing is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Begins to receive signals; to be called before any other thread is started. `exit_code` is used
/// where the run has to be broken off because it does not come to a step.
pub fn receive(exit_code: i32) {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if signals.thread_block().is_err() {
        return;
    }
    // Ends with the process.
    drop(thread::spawn(move || {
        loop {
            match signals.wait() {
                Ok(Signal::SIGINT | Signal::SIGTERM) => stop(exit_code),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }));
}

fn stop(exit_code: i32) {
    if STOPPED.swap(true, Ordering::SeqCst) {
        return;
    }
    drop(thread::spawn(move || {
        thread::sleep(PATIENCE);
        if !SEALED.load(Ordering::SeqCst) {
            std::process::exit(exit_code);
        }
    }));
}

/// Whether a stop was asked for.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// From here on nothing stops the run.
pub fn seal() {
    SEALED.store(true, Ordering::SeqCst);
}
