//! Queue between one reader and a few workers that limits the bytes in memory.
//!
//! The reader decompresses an archive while the workers write files and rebuild deltas. Without the
//! limit, a fast reader would fill the memory of the node.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Jobs that were read and are not done.
pub(in crate::apply) struct BoundedQueue<T, E> {
    state: Mutex<QueueState<T, E>>,
    changed: Condvar,
    limit: u64,
}

struct QueueState<T, E> {
    /// Jobs with their weights.
    waiting: VecDeque<(T, u64)>,
    /// Sum of the weights of the jobs that wait or are in progress.
    weight: u64,
    /// Number of jobs in progress.
    working: usize,
    closed: bool,
    /// First failure of a worker.
    failure: Option<E>,
}

/// A worker failed, so that the queue accepts no more jobs.
pub(in crate::apply) struct QueueClosed;

impl<T: Send, E: Send> BoundedQueue<T, E> {
    /// Runs `read`, which pushes jobs, and `work` on each job, until all are done.
    ///
    /// Each worker has its own value of `tools`. The weights of the jobs in memory are at most
    /// about `limit`, or one job is alone. There are at most `workers` threads besides the reader. Jobs are started in the order in which they were pushed.
    pub fn run<W>(
        (limit, workers): (u64, usize),
        tools: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) -> Result<(), E> + Sync,
        read: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let state = QueueState {
            waiting: VecDeque::new(),
            weight: 0,
            working: 0,
            closed: false,
            failure: None,
        };
        let queue = BoundedQueue { state: Mutex::new(state), changed: Condvar::new(), limit };

        let read_result = thread::scope(|scope| {
            let worker = || {
                // If this worker panics, the reader and the other workers end as well.
                let _close = CloseOnDrop(&queue);
                let mut tools = tools();
                while let Some((job, weight)) = queue.pop() {
                    queue.complete(weight, work(&mut tools, job));
                }
            };
            for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(workers) {
                scope.spawn(worker);
            }

            let _close = CloseOnDrop(&queue);
            read(&queue)
        });

        match queue.lock().failure.take() {
            Some(failure) => Err(failure),
            None => read_result,
        }
    }

    /// Adds a job, once its weight fits.
    pub fn push(&self, job: T, weight: u64) -> Result<(), QueueClosed> {
        let mut state = self.wait_until(|state| {
            state.weight == 0 || state.weight.saturating_add(weight) <= self.limit
        })?;
        state.weight = state.weight.saturating_add(weight);
        state.waiting.push_back((job, weight));
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until all jobs that were pushed are done.
    pub fn drain(&self) -> Result<(), QueueClosed> {
        self.wait_until(|state| state.waiting.is_empty() && state.working == 0).map(drop)
    }

    fn wait_until(
        &self,
        ready: impl Fn(&QueueState<T, E>) -> bool,
    ) -> Result<MutexGuard<'_, QueueState<T, E>>, QueueClosed> {
        let state = self
            .changed
            .wait_while(self.lock(), |state| !state.closed && !ready(state))
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed { Err(QueueClosed) } else { Ok(state) }
    }

    /// Takes the next job; returns nothing once the queue is closed and empty, or a worker failed.
    fn pop(&self) -> Option<(T, u64)> {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| !state.closed && state.waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);

        let has_failed = state.failure.is_some();
        let job = state.waiting.pop_front().filter(|_| !has_failed)?;
        state.working += 1;
        Some(job)
    }

    fn complete(&self, weight: u64, result: Result<(), E>) {
        let mut state = self.lock();
        state.working -= 1;
        state.weight -= weight;
        if let Err(failure) = result {
            state.failure.get_or_insert(failure);
            state.closed = true;
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T, E>> {
        // No code that can panic runs under the lock, so a poisoned state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the queue on drop: jobs that wait are still done, unless a worker failed.
struct CloseOnDrop<'b, T: Send, E: Send>(&'b BoundedQueue<T, E>);

impl<T: Send, E: Send> Drop for CloseOnDrop<'_, T, E> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn all_jobs_are_done_within_the_limit() {
        let (current, peak, sum) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let work = |_: &mut (), weight: u64| {
            sum.fetch_add(weight, Ordering::SeqCst);
            current.fetch_sub(weight, Ordering::SeqCst);
            Ok::<_, ()>(())
        };
        let read = |queue: &BoundedQueue<u64, ()>| {
            for weight in [3, 4, 5, 20, 1, 2].repeat(50) {
                let now = current.fetch_add(weight, Ordering::SeqCst) + weight;
                peak.fetch_max(now, Ordering::SeqCst);
                queue.push(weight, weight).map_err(drop)?;
            }
            Ok(())
        };

        assert_eq!(BoundedQueue::run((10, 2), || (), work, read), Ok(()));

        assert_eq!(sum.into_inner(), 35 * 50);
        // One job that is not pushed yet and one that is done but still counted are included.
        assert!(peak.into_inner() <= 10 + 20 + 20);
    }

    #[test]
    fn worker_failure_stops_the_reader() {
        let work = |_: &mut (), job: u32| if job == 7 { Err("seven") } else { Ok(()) };
        let read = |queue: &BoundedQueue<u32, &str>| {
            (0..).try_for_each(|job| queue.push(job, 1)).map_err(|QueueClosed| "closed")
        };

        assert_eq!(BoundedQueue::run((4, 2), || (), work, read), Err("seven"));
    }

    #[test]
    fn reader_failure_is_returned() {
        let read = |queue: &BoundedQueue<u32, &str>| {
            queue.push(1, 1).map_err(|QueueClosed| "closed").and(Err("unreadable"))
        };

        assert_eq!(
            BoundedQueue::run((4, 2), || (), |_: &mut (), _| Ok(()), read),
            Err("unreadable")
        );
    }

    #[test]
    fn drained_queue_has_done_all_jobs() {
        let done = AtomicU64::new(0);
        let work = |_: &mut (), _: u32| {
            thread::yield_now();
            done.fetch_add(1, Ordering::SeqCst);
            Ok::<_, ()>(())
        };
        let read = |queue: &BoundedQueue<u32, ()>| {
            (0..100)
                .try_for_each(|job| queue.push(job, 1))
                .and_then(|()| queue.drain())
                .map_err(drop)?;
            assert_eq!(done.load(Ordering::SeqCst), 100);
            Ok(())
        };

        assert_eq!(BoundedQueue::run((1000, 2), || (), work, read), Ok(()));
    }
}
