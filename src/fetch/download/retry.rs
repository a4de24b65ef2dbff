//! How often something is tried again, after which pause, and how slow is too slow.

use std::time::{Duration, Instant};

use crate::fetch::FetchOptions;
use crate::fetch::download::spool::random;

/// No pause is longer, unless the server asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A server may ask for no longer pause.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);
/// An attempt that brought so much is not held against the next: the connection is bad, but the file comes.
const REAL_GAIN: u64 = 1 << 20;

/// Counts the attempts of one file.
pub(in crate::fetch) struct RetryPolicy<'a> {
    options: &'a FetchOptions,
    failures: u32,
}

impl<'a> RetryPolicy<'a> {
    pub fn new(options: &'a FetchOptions) -> Self {
        RetryPolicy { options, failures: 0 }
    }

    /// How many attempts in a row failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The pause after an attempt that failed though it brought `gained` bytes, and after which the
    /// server `asked` for some; nothing when it is time to give up.
    pub fn pause(&mut self, gained: u64, asked: Option<Duration>) -> Option<Duration> {
        if gained >= REAL_GAIN {
            self.failures = 0;
        }
        self.failures += 1;
        if self.failures >= self.options.attempts {
            return None;
        }
        let doublings = (self.failures - 1).min(16);
        let longest = self.options.base_delay.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        // Between half and all of it: many nodes that were cut off together do not come back together.
        let share = 0.5 + (random() % 1024) as f64 / 2048.0;
        Some(longest.mul_f64(share).max(asked.unwrap_or_default().min(LONGEST_REQUEST)))
    }
}

/// Watches that bytes arrive fast enough; silence is watched elsewhere.
pub(in crate::fetch) struct MinimumRate {
    window: Duration,
    minimum: u64,
    began: Instant,
    bytes: u64,
}

impl MinimumRate {
    pub fn new(options: &FetchOptions) -> Self {
        let minimum = options.minimum_speed as f64 * options.speed_window.as_secs_f64();
        MinimumRate {
            window: options.speed_window,
            minimum: minimum as u64,
            began: Instant::now(),
            bytes: 0,
        }
    }

    /// Takes note of `bytes` that arrived; `false` where the last window brought too few.
    pub fn holds(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        if self.began.elapsed() < self.window {
            return true;
        }
        let enough = self.bytes >= self.minimum;
        (self.began, self.bytes) = (Instant::now(), 0);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let options = FetchOptions {
            attempts: 4,
            base_delay: Duration::from_millis(100),
            ..FetchOptions::default()
        };
        let mut patience = RetryPolicy::new(&options);
        for (least, most) in [(50, 100), (100, 200), (200, 400)] {
            let pause = patience.pause(0, None).expect("not yet").as_millis();
            assert!((least..=most).contains(&pause), "{pause}");
        }
        assert_eq!(patience.pause(0, None), None);
    }

    #[test]
    fn a_real_gain_is_a_new_beginning_and_a_small_one_is_not() {
        let options =
            FetchOptions { attempts: 2, base_delay: Duration::ZERO, ..FetchOptions::default() };
        let mut patience = RetryPolicy::new(&options);
        for _ in 0..10 {
            assert!(patience.pause(REAL_GAIN, None).is_some());
        }
        assert_eq!(patience.pause(REAL_GAIN - 1, None), None);
    }

    #[test]
    fn a_server_is_obeyed_within_reason() {
        let options = FetchOptions { base_delay: Duration::ZERO, ..FetchOptions::default() };
        let mut patience = RetryPolicy::new(&options);
        assert_eq!(patience.pause(0, Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert_eq!(patience.pause(0, Some(Duration::from_secs(86_400))), Some(LONGEST_REQUEST));
    }
}
