//! Starts write-back while a stage is filled, so that the last sync takes less time.
//!
//! This is an optimisation: the sync in `Stage::finish` makes the stage durable. But the kernel
//! reports a write error to only one sync of a file descriptor. An error that this thread receives
//! must therefore stop the transaction, or nobody learns that staged content is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::root::{Root, RootError};

/// Number of new bytes after which the filesystems are synced once.
const PERIOD: u64 = 32 << 20;

/// Thread that syncs filesystems while other threads write to them.
pub(in crate::apply) struct BackgroundSync {
    written: AtomicU64,
    wake: SyncSender<()>,
    thread: JoinHandle<Result<(), RootError>>,
}

impl BackgroundSync {
    /// Starts the thread, unless `bytes`, the amount to be written, are too few to gain by it.
    ///
    /// `roots` opens one directory on each filesystem.
    pub fn start(
        roots: impl FnOnce() -> Result<Vec<Root>, RootError>,
        bytes: u64,
    ) -> Result<Option<Self>, RootError> {
        if bytes < 2 * PERIOD {
            return Ok(None);
        }

        let roots = roots()?;
        let (wake, wakeups) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("early-sync".to_owned())
            .spawn(move || sync_on_wakeup(&wakeups, &roots));

        // Without the thread, the last sync writes everything.
        Ok(thread.ok().map(|thread| BackgroundSync { written: AtomicU64::new(0), wake, thread }))
    }

    /// Counts `bytes` that were written, and wakes the thread once per period.
    pub fn add_written(&self, bytes: u64) {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before / PERIOD != (before + bytes) / PERIOD {
            // If the channel is full, the sync that it already asks for is enough.
            let _ = self.wake.try_send(());
        }
    }

    /// Waits for the last sync; returns the first error of all.
    pub fn finish(self) -> Result<(), RootError> {
        drop(self.wake);
        self.thread.join().unwrap_or(Ok(()))
    }
}

fn sync_on_wakeup(wakeups: &Receiver<()>, roots: &[Root]) -> Result<(), RootError> {
    wakeups.iter().try_for_each(|()| roots.iter().try_for_each(Root::sync_filesystem))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::root::fault::{self, Fault};

    fn started(dir: &tempfile::TempDir) -> BackgroundSync {
        let roots = || Ok(vec![Root::open(dir.path())?]);
        BackgroundSync::start(roots, 10 * PERIOD).expect("opens").expect("enough bytes")
    }

    #[test]
    fn failed_background_sync_is_reported_at_the_end() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a scratch directory");
        let healthy = started(&dir);
        healthy.add_written(2 * PERIOD);
        assert!(healthy.finish().is_ok());

        fault::arm(1, Fault::FailOn(Errno::IO));
        let failing = started(&dir);
        failing.add_written(2 * PERIOD);
        let error = failing.finish().expect_err("the sync fails");

        assert!(fault::disarm() && error.operation == "sync the filesystem of", "{error}");
    }

    #[test]
    fn few_bytes_start_no_thread() {
        let roots = || unreachable!("no directory is opened");

        let sync = BackgroundSync::start(roots, PERIOD).expect("no directory is opened");

        assert!(sync.is_none());
    }
}
