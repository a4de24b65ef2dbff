//! Has the disk begin while a stage is still being filled, so that little is left to wait for in the end.
//!
//! Nothing relies on it: what makes a stage durable is its own sync, once everything is in it. But an error
//! that a sync tells is told once, so one that comes here has to stop the transaction.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::root::{Root, RootError};

/// After so many new bytes the filesystems are synced once.
const PERIOD: u64 = 32 << 20;

/// Syncs filesystems behind the back of whoever writes to them.
pub(in crate::apply) struct BackgroundSync {
    written: AtomicU64,
    wake: SyncSender<()>,
    thread: JoinHandle<Result<(), RootError>>,
}

impl BackgroundSync {
    /// For the filesystems of `roots`, on which `bytes` are to be written; `None` where it would not pay.
    pub fn start(
        roots: impl FnOnce() -> Result<Vec<Root>, RootError>,
        bytes: u64,
    ) -> Result<Option<Self>, RootError> {
        if bytes < 2 * PERIOD {
            return Ok(None);
        }
        let roots = roots()?;
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("early-sync".to_owned())
            .spawn(move || sync_when(&woken, &roots));
        // Without the thread everything is synced in the end.
        Ok(thread.ok().map(|thread| BackgroundSync { written: AtomicU64::new(0), wake, thread }))
    }

    /// So many bytes more were written.
    pub fn wrote(&self, bytes: u64) {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before / PERIOD != (before + bytes) / PERIOD {
            // Where one is asked for already, that one serves.
            let _ = self.wake.try_send(());
        }
    }

    /// Waits for the last one, and tells what went wrong.
    pub fn end(self) -> Result<(), RootError> {
        drop(self.wake);
        self.thread.join().unwrap_or(Ok(()))
    }
}

fn sync_when(woken: &Receiver<()>, roots: &[Root]) -> Result<(), RootError> {
    woken.iter().try_for_each(|()| roots.iter().try_for_each(Root::sync_filesystem))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::root::fault::{self, Fault};

    fn begun(dir: &tempfile::TempDir) -> BackgroundSync {
        let roots = || Ok(vec![Root::open(dir.path())?]);
        BackgroundSync::start(roots, 10 * PERIOD).expect("opens").expect("it pays")
    }

    #[test]
    fn what_is_synced_early_tells_its_errors_in_the_end() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a scratch directory");
        let early = begun(&dir);
        early.wrote(2 * PERIOD);
        assert!(early.end().is_ok());
        fault::arm(1, Fault::FailOn(Errno::IO));
        let early = begun(&dir);
        early.wrote(2 * PERIOD);
        let error = early.end().expect_err("the disk is bad");
        assert!(fault::disarm() && error.what == "sync the filesystem of", "{error}");
    }

    #[test]
    fn little_is_left_for_the_end() {
        let roots = || unreachable!("none is opened");
        assert!(BackgroundSync::start(roots, PERIOD).expect("nothing to do").is_none());
    }
}
