//! Bound of the compressed files that are rebuilt at a time.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::process::priority::LoweredThread;

/// Permissions to rebuild a compressed file, which takes seconds of a processor.
pub(super) struct RebuildSlots {
    free: Mutex<usize>,
    returned: Condvar,
    number: usize,
}

/// A permission that is in use; its thread has the lowest priority.
pub(super) struct RebuildSlot<'s> {
    slots: &'s RebuildSlots,
    _priority: LoweredThread,
}

impl RebuildSlots {
    pub fn new(number: usize) -> Self {
        let number = number.max(1);
        RebuildSlots { free: Mutex::new(number), returned: Condvar::new(), number }
    }

    pub fn number(&self) -> usize {
        self.number
    }

    /// Waits for a permission.
    pub fn take(&self) -> RebuildSlot<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .returned
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        RebuildSlot { slots: self, _priority: LoweredThread::begin() }
    }
}

impl Drop for RebuildSlot<'_> {
    fn drop(&mut self) {
        *self.slots.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.slots.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_slots_are_in_use_than_there_are() {
        let slots = RebuildSlots::new(2);
        let (used, most) = (AtomicUsize::new(0), AtomicUsize::new(0));

        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let _slot = slots.take();
                    most.fetch_max(used.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(10));
                    used.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });

        assert_eq!(most.into_inner(), 2);
    }
}
