//! A pool of threads that wait for a disk.

use rayon::ThreadPoolBuilder;

/// Smallest number of threads: a disk answers several requests at once faster, however few
/// processors there are.
const MIN_THREADS: usize = 8;

/// Runs `work` with more threads than processors, for work that mostly waits for a disk.
///
/// The threads end with the work, so that their stacks do not stay in memory.
pub fn on_many_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let threads = rayon::current_num_threads().max(MIN_THREADS);
    match ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(work),
        // Without more threads the work takes longer.
        Err(_) => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use rayon::prelude::*;

    use super::*;

    #[test]
    fn minimum_number_of_threads_waits_at_once() {
        let (waiting, all_wait) = (Mutex::new(0), Condvar::new());
        let all_met = on_many_threads(|| {
            (0..MIN_THREADS).into_par_iter().with_max_len(1).all(|_| {
                let mut count = waiting.lock().expect("no panic");
                *count += 1;
                all_wait.notify_all();
                let timeout = Duration::from_secs(30);
                let waited =
                    all_wait.wait_timeout_while(count, timeout, |count| *count < MIN_THREADS);
                !waited.expect("no panic").1.timed_out()
            })
        });

        assert!(all_met);
    }
}
