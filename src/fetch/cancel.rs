//! Waiting for the network without being deaf: a stop is heeded at once, whatever the other side does.
//!
//! What may wait is done by a thread of its own. After a stop that is left to itself; it has nothing but
//! the connection, and ends with it or with the process.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// A stop is looked for so often.
const TICK: Duration = Duration::from_millis(100);
/// So much is read at once.
const PIECE: usize = 128 << 10;
/// So many pieces may wait to be taken.
const WAITING: usize = 4;

/// Whether the run was asked to stop.
pub(super) type CancelCheck = fn() -> bool;

/// The run was asked to stop.
#[derive(Debug)]
pub(super) struct Cancelled;

/// Does `work`, unless a stop comes first.
pub(super) fn cancellable<T: Send + 'static>(
    stop: CancelCheck,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Cancelled> {
    let (sender, receiver) = sync_channel(1);
    // Nobody may be waiting any more.
    drop(thread::spawn(move || drop(sender.send(work()))));
    receive(stop, &receiver).and_then(|done| done.ok_or(Cancelled))
}

/// Waits, unless a stop comes first.
pub(super) fn sleep(stop: CancelCheck, time: Duration) -> Result<(), Cancelled> {
    let end = Instant::now() + time;
    while !stop() {
        match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return Ok(()),
            left => thread::sleep(left.min(TICK)),
        }
    }
    Err(Cancelled)
}

/// The pieces of a body, as they come.
pub(super) struct ChannelReader {
    receiver: Receiver<io::Result<Vec<u8>>>,
    stop: CancelCheck,
}

impl ChannelReader {
    pub fn of(body: impl Read + Send + 'static, stop: CancelCheck) -> Self {
        let (sender, receiver) = sync_channel(WAITING);
        drop(thread::spawn(move || read(body, &sender)));
        ChannelReader { receiver, stop }
    }

    /// The next piece; nothing at the end.
    pub fn next(&mut self) -> Result<io::Result<Option<Vec<u8>>>, Cancelled> {
        Ok(receive(self.stop, &self.receiver)?.transpose())
    }
}

fn read(mut body: impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match body.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => Ok(buffer[..length].to_vec()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => Err(e),
        };
        let failed = piece.is_err();
        if sender.send(piece).is_err() || failed {
            return;
        }
    }
}

/// What comes next; nothing where nothing will.
fn receive<T>(stop: CancelCheck, receiver: &Receiver<T>) -> Result<Option<T>, Cancelled> {
    loop {
        if stop() {
            return Err(Cancelled);
        }
        match receiver.recv_timeout(TICK) {
            Ok(what) => return Ok(Some(what)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_whole_and_in_order_and_end() {
        let bytes: Vec<u8> = (0..3 * PIECE + 5).map(|at| (at % 251) as u8).collect();
        let mut pieces = ChannelReader::of(io::Cursor::new(bytes.clone()), || false);
        let mut found = Vec::new();
        while let Some(piece) = pieces.next().expect("nobody stops").expect("memory reads") {
            found.extend(piece);
        }
        assert!(found == bytes);
    }

    #[test]
    fn a_stop_does_not_wait() {
        let begin = Instant::now();
        assert!(cancellable(|| true, || thread::sleep(Duration::from_secs(60))).is_err());
        assert!(sleep(|| true, Duration::from_secs(60)).is_err());
        assert!(ChannelReader::of(io::repeat(0), || true).next().is_err());
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn work_that_dies_is_no_answer() {
        let died = cancellable(|| false, || -> u32 { panic!("as it should") });
        assert!(died.is_err());
    }
}
