//! Cancellation: long reads and waits that end soon after a request to stop.
//!
//! A signal sets a flag, and long operations poll it. A read of a local file polls before each
//! block, by a [`CancelReader`]. A call that may wait for a server has a thread of its own, by
//! [`cancellable`] or a [`ChannelReader`]. After a cancellation that thread is abandoned: it owns
//! nothing except the connection, and ends with the connection or with the process. If the calling
//! thread blocked instead, Ctrl-C would have to wait for the network's time limit.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::report::Monitor;

/// Interval at which the cancellation is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes of one read.
const CHUNK_SIZE: usize = 128 << 10;
/// Chunks that may be queued for a [`ChannelReader`].
const QUEUED_CHUNKS: usize = 4;

/// Whether the run was cancelled.
pub type CancelCheck = fn() -> bool;

/// The run was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

/// Fails if the run was cancelled.
pub fn check_cancelled(monitor: &dyn Monitor) -> Result<(), Cancelled> {
    if monitor.is_cancelled() { Err(Cancelled) } else { Ok(()) }
}

/// Reader that fails after a cancellation.
pub struct CancelReader<'a, R> {
    /// The reader that it wraps.
    pub from: R,
    /// Polled before each read.
    pub monitor: &'a dyn Monitor,
}

impl<R> CancelReader<'_, R> {
    fn check(&self) -> io::Result<()> {
        check_cancelled(self.monitor).map_err(|Cancelled| io::Error::other("cancelled"))
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

/// Runs `work` in a thread and returns its result, unless the run is cancelled.
pub fn cancellable<T: Send + 'static>(
    is_cancelled: CancelCheck,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Cancelled> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        // Fails if the receiver was dropped after a cancellation.
        let _ = sender.send(work());
    });
    receive(is_cancelled, &receiver)?.ok_or(Cancelled)
}

/// Sleeps for `time`, unless the run is cancelled.
pub fn sleep(is_cancelled: CancelCheck, time: Duration) -> Result<(), Cancelled> {
    let end = Instant::now() + time;
    while !is_cancelled() {
        match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return Ok(()),
            remaining => thread::sleep(remaining.min(POLL_INTERVAL)),
        }
    }
    Err(Cancelled)
}

/// Reader of a body through a thread, so that each wait for a chunk can be cancelled.
pub struct ChannelReader {
    receiver: Receiver<io::Result<Vec<u8>>>,
    is_cancelled: CancelCheck,
}

impl ChannelReader {
    /// Starts to read `body`.
    pub fn new(body: impl Read + Send + 'static, is_cancelled: CancelCheck) -> Self {
        let (sender, receiver) = sync_channel(QUEUED_CHUNKS);
        thread::spawn(move || read_chunks(body, &sender));
        ChannelReader { receiver, is_cancelled }
    }

    /// The next chunk; `None` at the end.
    pub fn next_chunk(&mut self) -> Result<io::Result<Option<Vec<u8>>>, Cancelled> {
        Ok(receive(self.is_cancelled, &self.receiver)?.transpose())
    }
}

fn read_chunks(mut body: impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    let mut buffer = vec![0; CHUNK_SIZE];
    loop {
        let chunk = match body.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => Ok(buffer[..length].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };

        let is_last = chunk.is_err();
        if sender.send(chunk).is_err() || is_last {
            return;
        }
    }
}

/// The next message; `None` if the sender has ended.
fn receive<T>(is_cancelled: CancelCheck, receiver: &Receiver<T>) -> Result<Option<T>, Cancelled> {
    loop {
        if is_cancelled() {
            return Err(Cancelled);
        }
        match receiver.recv_timeout(POLL_INTERVAL) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_arrive_complete_and_in_order() {
        let bytes: Vec<u8> = (0..3 * CHUNK_SIZE + 5).map(|at| (at % 251) as u8).collect();
        let mut reader = ChannelReader::new(io::Cursor::new(bytes.clone()), || false);

        let mut received = Vec::new();
        while let Some(chunk) = reader.next_chunk().expect("not cancelled").expect("reads") {
            received.extend(chunk);
        }

        assert!(received == bytes);
    }

    #[test]
    fn cancellation_ends_every_wait_at_once() {
        let start = Instant::now();

        assert!(cancellable(|| true, || thread::sleep(Duration::from_secs(60))).is_err());
        assert!(sleep(|| true, Duration::from_secs(60)).is_err());
        assert!(ChannelReader::new(io::repeat(0), || true).next_chunk().is_err());

        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn panicking_work_counts_as_cancelled() {
        let result = cancellable(|| false, || -> u32 { panic!("expected by this test") });

        assert!(result.is_err());
    }
}
