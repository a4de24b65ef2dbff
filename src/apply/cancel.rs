//! Long reads that heed a stop.

use std::io::{self, BufRead, Read};

use crate::apply::Untouched;
use crate::report::Monitor;
use crate::root::RootError;

/// A reader that fails once the run was asked to stop.
pub(super) struct CancelReader<'a, R> {
    pub from: R,
    pub monitor: &'a dyn Monitor,
}

impl<R> CancelReader<'_, R> {
    fn check(&self) -> io::Result<()> {
        if self.monitor.is_stopped() { Err(io::Error::other("stopped on request")) } else { Ok(()) }
    }
}

impl<R: Read> Read for CancelReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.from.read(buffer)
    }
}

impl<R: BufRead> BufRead for CancelReader<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        self.from.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.from.consume(amount);
    }
}

/// Fails where the run was asked to stop.
pub(super) fn check_cancelled(monitor: &dyn Monitor) -> Result<(), Untouched> {
    if monitor.is_stopped() { Err(Untouched::Stopped) } else { Ok(()) }
}

/// A failure of something that read by [`CancelReader`]: after a stop it is the stop.
pub(super) fn cancelled_or(monitor: &dyn Monitor, error: RootError) -> Untouched {
    if monitor.is_stopped() { Untouched::Stopped } else { Untouched::from(error) }
}
