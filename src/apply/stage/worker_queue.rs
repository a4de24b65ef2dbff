//! Hands what is read to a few workers while more is being read, and holds what is in memory to a bound.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// More than this do not pay: they wait for the disk, and each keeps memory. The processors of a node are its
/// jobs' in the first place.
const WORKERS: usize = 2;

/// What was read and waits, or is being worked on.
pub(in crate::apply) struct BoundedQueue<T, E> {
    load: Mutex<QueueState<T, E>>,
    changed: Condvar,
    most: u64,
}

struct QueueState<T, E> {
    waiting: VecDeque<(T, u64)>,
    /// Of what waits and of what is being worked on.
    weight: u64,
    working: usize,
    ended: bool,
    failure: Option<E>,
}

/// A worker failed, so that nothing more is taken.
pub(in crate::apply) struct QueueClosed;

impl<T: Send, E: Send> BoundedQueue<T, E> {
    /// Runs `read`, which puts pieces on the belt, and `work` on each of them, with what `tools` makes for each
    /// worker. About `most` of their weights are in memory at a time, or one piece alone.
    ///
    /// Pieces are begun in the order in which they were put.
    pub fn run<W>(
        most: u64,
        tools: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) -> Result<(), E> + Sync,
        read: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let load = QueueState {
            waiting: VecDeque::new(),
            weight: 0,
            working: 0,
            ended: false,
            failure: None,
        };
        let belt = BoundedQueue { load: Mutex::new(load), changed: Condvar::new(), most };
        let read = thread::scope(|scope| {
            let worker = || {
                // Also where this one panics, the others and the reader come to an end.
                let _ending = CloseOnDrop(&belt);
                let mut tools = tools();
                while let Some((piece, weight)) = belt.take() {
                    belt.done(weight, work(&mut tools, piece));
                }
            };
            for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(WORKERS) {
                scope.spawn(worker);
            }
            let _ending = CloseOnDrop(&belt);
            read(&belt)
        });
        match belt.load().failure.take() {
            Some(failure) => Err(failure),
            None => read,
        }
    }

    /// Puts a piece on the belt, once there is room.
    pub fn put(&self, piece: T, weight: u64) -> Result<(), QueueClosed> {
        let mut load = self.wait_until(|load| {
            load.weight == 0 || load.weight.saturating_add(weight) <= self.most
        })?;
        load.weight = load.weight.saturating_add(weight);
        load.waiting.push_back((piece, weight));
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until everything that was put is worked on.
    pub fn drain(&self) -> Result<(), QueueClosed> {
        self.wait_until(|load| load.waiting.is_empty() && load.working == 0).map(drop)
    }

    fn wait_until(
        &self,
        ready: impl Fn(&QueueState<T, E>) -> bool,
    ) -> Result<MutexGuard<'_, QueueState<T, E>>, QueueClosed> {
        let waits = |load: &mut QueueState<T, E>| !load.ended && !ready(load);
        let load =
            self.changed.wait_while(self.load(), waits).unwrap_or_else(PoisonError::into_inner);
        if load.ended { Err(QueueClosed) } else { Ok(load) }
    }

    fn take(&self) -> Option<(T, u64)> {
        let waits = |load: &mut QueueState<T, E>| !load.ended && load.waiting.is_empty();
        let mut load =
            self.changed.wait_while(self.load(), waits).unwrap_or_else(PoisonError::into_inner);
        let failed = load.failure.is_some();
        let piece = load.waiting.pop_front().filter(|_| !failed);
        load.working += usize::from(piece.is_some());
        piece
    }

    fn done(&self, weight: u64, result: Result<(), E>) {
        let mut load = self.load();
        load.working -= 1;
        load.weight -= weight;
        if let Err(failure) = result {
            load.failure.get_or_insert(failure);
            load.ended = true;
        }
        self.changed.notify_all();
    }

    fn load(&self) -> MutexGuard<'_, QueueState<T, E>> {
        // What a thread that panicked held was whole: pieces come and go as one.
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the belt when it goes.
struct CloseOnDrop<'b, T: Send, E: Send>(&'b BoundedQueue<T, E>);

impl<T: Send, E: Send> Drop for CloseOnDrop<'_, T, E> {
    fn drop(&mut self) {
        self.0.load().ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn everything_is_worked_on_within_the_bound() {
        let (held, most_held, sum) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let work = |_: &mut (), weight: u64| {
            sum.fetch_add(weight, Ordering::SeqCst);
            held.fetch_sub(weight, Ordering::SeqCst);
            Ok::<_, ()>(())
        };
        let read = |belt: &BoundedQueue<u64, ()>| {
            for weight in [3, 4, 5, 20, 1, 2].repeat(50) {
                let now = held.fetch_add(weight, Ordering::SeqCst) + weight;
                most_held.fetch_max(now, Ordering::SeqCst);
                belt.put(weight, weight).map_err(drop)?;
            }
            Ok(())
        };
        assert_eq!(BoundedQueue::run(10, || (), work, read), Ok(()));
        assert_eq!(sum.into_inner(), 35 * 50);
        // What has not yet been put counts here as well, and what was worked on until it is told.
        assert!(most_held.into_inner() <= 10 + 20 + 20);
    }

    #[test]
    fn a_failure_stops_reader_and_workers() {
        let work = |_: &mut (), piece: u32| if piece == 7 { Err("seven") } else { Ok(()) };
        let read = |belt: &BoundedQueue<u32, &str>| {
            (0..).try_for_each(|piece| belt.put(piece, 1)).map_err(|QueueClosed| "stopped")
        };
        assert_eq!(BoundedQueue::run(4, || (), work, read), Err("seven"));
        let read = |belt: &BoundedQueue<u32, &str>| {
            belt.put(1, 1).map_err(|QueueClosed| "stopped").and(Err("unread"))
        };
        assert_eq!(BoundedQueue::run(4, || (), work, read), Err("unread"));
    }

    #[test]
    fn what_waits_for_the_belt_to_be_empty_finds_everything_done() {
        let done = AtomicU64::new(0);
        let work = |_: &mut (), _: u32| {
            thread::yield_now();
            done.fetch_add(1, Ordering::SeqCst);
            Ok::<_, ()>(())
        };
        let read = |belt: &BoundedQueue<u32, ()>| {
            (0..100)
                .try_for_each(|piece| belt.put(piece, 1))
                .and_then(|()| belt.drain())
                .map_err(drop)?;
            assert_eq!(done.load(Ordering::SeqCst), 100);
            Ok(())
        };
        assert_eq!(BoundedQueue::run(1000, || (), work, read), Ok(()));
    }
}
