//! Waiting for the end of a write lease (fcntl, `F_SETLEASE`).
//!
//! open(2) with `O_NONBLOCK` fails with EAGAIN while another process holds a write lease. The first
//! such call asks the holder to release it; the kernel takes it away after lease-break-time, 45
//! seconds. Any user may hold leases on files of his own, so the waits of a run are bounded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::error::LeaseHeld;

/// First pause between two calls, and the longest one, in milliseconds.
const PAUSES: [u64; 2] = [1, 64];
/// Most milliseconds that one call waits: a holder that reacts needs less.
const MAX_WAIT: u64 = 500;
/// Milliseconds that all calls of the process may wait together.
const BUDGET: u64 = 4000;

/// The rest of [`BUDGET`].
static LEFT: AtomicU64 = AtomicU64::new(BUDGET);

/// Calls `open` until it does not fail because of a lease, or the time is over.
pub(super) fn wait_for_end<T>(
    mut open: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    let [mut pause, longest] = PAUSES;
    let mut waited = 0;
    loop {
        match open() {
            Err(Errno::AGAIN) if waited < MAX_WAIT && take(pause) => {
                thread::sleep(Duration::from_millis(pause));
                waited += pause;
                pause = (2 * pause).min(longest);
            }
            answer => return answer,
        }
    }
}

/// The error of a call, with the lease as the reason of EAGAIN.
pub(super) fn explain(errno: Errno) -> std::io::Error {
    match errno {
        Errno::AGAIN => std::io::Error::other(LeaseHeld),
        errno => errno.into(),
    }
}

/// Takes milliseconds from the budget; returns false if it has less.
fn take(pause: u64) -> bool {
    let subtract = |left: u64| left.checked_sub(pause);
    LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn lease_is_waited_for_in_bounded_time() {
        let mut calls = 0;
        let released = wait_for_end(|| {
            calls += 1;
            if calls < 4 { Err(Errno::AGAIN) } else { Ok(calls) }
        });
        assert_eq!(released, Ok(4));

        let start = Instant::now();
        assert_eq!(wait_for_end::<()>(|| Err(Errno::AGAIN)), Err(Errno::AGAIN));
        assert!(start.elapsed() < Duration::from_secs(5));

        assert_eq!(wait_for_end::<()>(|| Err(Errno::NOENT)), Err(Errno::NOENT));
    }
}
