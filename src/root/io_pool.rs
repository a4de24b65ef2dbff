//! Threads that wait for a disk.

use rayon::ThreadPoolBuilder;

/// A disk answers many questions sooner when they are asked together, however few processors there are.
const LEAST: usize = 8;

/// Does `work`, which mostly waits for a disk, and whatever it does in parallel, on more threads than there may be
/// processors. They end with it, so that nothing of them stays in memory.
pub fn on_many_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let threads = rayon::current_num_threads().max(LEAST);
    match ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(threads) => threads.install(work),
        // Where there may be no more, it takes longer.
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
    fn so_many_wait_at_a_time() {
        let (waiting, all) = (Mutex::new(0), Condvar::new());
        let wait = |_| {
            let mut here = waiting.lock().expect("no panic");
            *here += 1;
            all.notify_all();
            let waits = |here: &mut usize| *here < LEAST;
            !all.wait_timeout_while(here, Duration::from_secs(30), waits)
                .expect("no panic")
                .1
                .timed_out()
        };
        assert!(on_many_threads(|| (0..LEAST).into_par_iter().with_max_len(1).all(wait)));
    }
}
