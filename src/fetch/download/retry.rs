//! Retry policy of a download, and its minimum rate.

use std::time::{Duration, Instant};

use super::spool::random_number;
use crate::fetch::options::FetchOptions;

/// Longest pause that this node chooses.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that a server may request.
const MAX_REQUESTED_PAUSE: Duration = Duration::from_secs(60);
/// Progress after which an attempt does not count as failed.
///
/// Without it, a large file over a bad connection would use up its attempts, although it arrives.
const PROGRESS: u64 = 1 << 20;

/// Failed attempts of one file, and the pause before the next.
pub(in crate::fetch) struct RetryPolicy<'a> {
    options: &'a FetchOptions,
    failures: u32,
}

impl<'a> RetryPolicy<'a> {
    pub fn new(options: &'a FetchOptions) -> Self {
        RetryPolicy { options, failures: 0 }
    }

    /// Number of failed attempts in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failed attempt; returns the pause before the next, or `None` after the last.
    ///
    /// The attempt added `received` bytes; the server may have `requested` a pause.
    pub fn next_pause(&mut self, received: u64, requested: Option<Duration>) -> Option<Duration> {
        if received >= PROGRESS {
            self.failures = 0;
        }
        self.failures += 1;
        if self.failures >= self.options.attempts {
            return None;
        }

        let doublings = (self.failures - 1).min(16);
        let longest = self.options.base_delay.saturating_mul(1 << doublings).min(MAX_PAUSE);

        // A random pause: many nodes that lost one server should not return in the same moment.
        let fraction = 0.5 + (random_number() % 1024) as f64 / 2048.0;
        let requested = requested.unwrap_or_default().min(MAX_REQUESTED_PAUSE);
        Some(longest.mul_f64(fraction).max(requested))
    }
}

/// Check that data arrives fast enough. A silent connection is found by the idle timeout.
pub(in crate::fetch) struct MinimumRate {
    window: Duration,
    minimum: u64,
    window_start: Instant,
    received: u64,
}

impl MinimumRate {
    pub fn new(options: &FetchOptions) -> Self {
        let minimum = options.minimum_speed as f64 * options.speed_window.as_secs_f64();
        MinimumRate {
            window: options.speed_window,
            minimum: minimum as u64,
            window_start: Instant::now(),
            received: 0,
        }
    }

    /// Counts `bytes`; returns false if a window ended with too few of them.
    pub fn is_kept(&mut self, bytes: u64) -> bool {
        self.received += bytes;
        if self.window_start.elapsed() < self.window {
            return true;
        }

        let is_enough = self.received >= self.minimum;
        self.window_start = Instant::now();
        self.received = 0;
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_the_last_attempt() {
        let options = FetchOptions {
            attempts: 4,
            base_delay: Duration::from_millis(100),
            ..FetchOptions::default()
        };
        let mut policy = RetryPolicy::new(&options);

        for (shortest, longest) in [(50, 100), (100, 200), (200, 400)] {
            let pause = policy.next_pause(0, None).expect("another attempt").as_millis();
            assert!((shortest..=longest).contains(&pause), "{pause}");
        }
        assert_eq!(policy.next_pause(0, None), None);
    }

    #[test]
    fn small_progress_keeps_failure_count() {
        let options =
            FetchOptions { attempts: 2, base_delay: Duration::ZERO, ..FetchOptions::default() };
        let mut policy = RetryPolicy::new(&options);

        for _ in 0..10 {
            assert!(policy.next_pause(PROGRESS, None).is_some());
        }
        assert_eq!(policy.next_pause(PROGRESS - 1, None), None);
    }

    #[test]
    fn requested_pause_is_limited() {
        let options = FetchOptions { base_delay: Duration::ZERO, ..FetchOptions::default() };
        let mut policy = RetryPolicy::new(&options);

        let seconds = Duration::from_secs;
        assert_eq!(policy.next_pause(0, Some(seconds(7))), Some(seconds(7)));
        assert_eq!(policy.next_pause(0, Some(seconds(86_400))), Some(MAX_REQUESTED_PAUSE));
    }
}
