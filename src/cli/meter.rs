//! A monitor that counts downloaded bytes, for the summary of a run.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::report::{Event, Job, Monitor};

/// Counts downloaded bytes and passes all events on.
pub struct DownloadMeter<'m> {
    monitor: Box<dyn Monitor + 'm>,
    bytes: AtomicU64,
}

impl<'m> DownloadMeter<'m> {
    /// Passes events on to `monitor`.
    pub fn new(monitor: Box<dyn Monitor + 'm>) -> Self {
        DownloadMeter { monitor, bytes: AtomicU64::new(0) }
    }

    /// Number of bytes downloaded until now, with those of resumed downloads.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Monitor for DownloadMeter<'_> {
    fn event(&self, event: Event) {
        if let Event::Advanced { job: Job::Download, by } = event {
            self.bytes.fetch_add(by, Ordering::Relaxed);
        }
        self.monitor.event(event);
    }

    fn is_cancelled(&self) -> bool {
        self.monitor.is_cancelled()
    }
}
