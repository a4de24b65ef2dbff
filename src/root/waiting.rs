//! Threads that wait for a disk.

use std::sync::LazyLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// A disk answers many questions sooner when they are asked together, however few processors there are.
const LEAST: usize = 8;

/// Does `work`, which mostly waits for a disk, and whatever it does in parallel, on more threads than there may be
/// processors.
pub fn on_many_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static THREADS: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
        let threads = rayon::current_num_threads().max(LEAST);
        ThreadPoolBuilder::new().num_threads(threads).build().ok()
    });
    match &*THREADS {
        Some(threads) => threads.install(work),
        // Where there may be no more, it takes longer.
        None => work(),
    }
}
