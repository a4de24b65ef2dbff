//! Long reads that heed a stop.

use std::io::{self, Read};

use crate::report::Monitor;
use crate::root::RootError;

use super::Untouched;

/// A reader that fails once the run was asked to stop.
pub(super) struct Heeding<'a, R> {
    pub from: R,
    pub monitor: &'a dyn Monitor,
}

impl<R: Read> Read for Heeding<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.monitor.is_stopped() {
            return Err(io::Error::other("stopped on request"));
        }
        self.from.read(buffer)
    }
}

/// Fails where the run was asked to stop.
pub(super) fn go_on(monitor: &dyn Monitor) -> Result<(), Untouched> {
    if monitor.is_stopped() { Err(Untouched::Stopped) } else { Ok(()) }
}

/// A failure of something that read by [`Heeding`]: after a stop it is the stop.
pub(super) fn failed(monitor: &dyn Monitor, error: RootError) -> Untouched {
    if monitor.is_stopped() { Untouched::Stopped } else { Untouched::from(error) }
}
