//! A file of the repository while it comes: read as far as it is here, waited for where it is not yet.

#![allow(
    clippy::disallowed_methods,
    reason = "files of the spool, which are private to this program"
)]

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A file that is being fetched, or is here.
///
/// One thread fetches it by [`Repository::file_into`](crate::fetch::Repository::file_into), others read it meanwhile.
/// What they read is verified only when it has come to its end: whoever uses it before has to check it
/// by itself, and must not rely on it for good until the end was read.
#[derive(Debug, Default)]
pub struct GrowingFile {
    state: Mutex<GrowthState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GrowthState {
    file: Option<Arc<File>>,
    /// So many bytes from its beginning are here.
    held: u64,
    /// How often it began anew, since what had come was wrong.
    turn: u32,
    end: Option<End>,
    unwanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Verified,
    Failed,
}

/// Reads a file that is arriving; its end is told only where all of it was verified.
#[derive(Debug)]
pub struct GrowingReader<'a> {
    arriving: &'a GrowingFile,
    turn: u32,
    next: u64,
}

/// Tells the readers that no more comes, however the fetching ended.
pub(in crate::fetch) struct DownloadGuard<'a>(&'a GrowingFile);

impl GrowingFile {
    /// Reads it from `offset` on.
    pub fn reader(&self, offset: u64) -> GrowingReader<'_> {
        GrowingReader { arriving: self, turn: self.state().turn, next: offset }
    }

    /// Nobody waits for it any more: the fetching ends at the next bytes that come.
    pub fn cancelled(&self) {
        self.state().unwanted = true;
    }

    /// Nothing more of it comes, unless it is here.
    pub fn given_up(&self) {
        self.change(|state| state.end = state.end.or(Some(End::Failed)));
    }

    pub(in crate::fetch) fn is_cancelled(&self) -> bool {
        self.state().unwanted
    }

    /// It is fetched from now on.
    pub(in crate::fetch) fn fetching(&self) -> DownloadGuard<'_> {
        DownloadGuard(self)
    }

    /// The file in which it lies, of which `held` bytes are here.
    pub(in crate::fetch) fn begins(&self, file: File, held: u64) {
        self.change(|state| (state.file, state.held) = (Some(Arc::new(file)), held));
    }

    /// So many bytes are here by now.
    pub(in crate::fetch) fn has(&self, held: u64) {
        self.change(|state| state.held = held);
    }

    /// What was here is here no more.
    pub(in crate::fetch) fn begins_anew(&self) {
        self.change(|state| (state.held, state.turn) = (0, state.turn + 1));
    }

    /// All of it, so many bytes, is here, and is what it should be.
    pub(in crate::fetch) fn verified(&self, size: u64) {
        self.change(|state| (state.held, state.end) = (size, Some(End::Verified)));
    }

    fn change(&self, change: impl FnOnce(&mut GrowthState)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, GrowthState> {
        // Whatever a thread that panicked had changed was whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DownloadGuard<'_> {
    fn drop(&mut self) {
        self.0.given_up();
    }
}

impl Read for GrowingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waits = |state: &mut GrowthState| {
            state.turn == self.turn && state.held <= self.next && state.end.is_none()
        };
        let state = self.arriving.changed.wait_while(self.arriving.state(), waits);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if state.turn != self.turn {
            return Err(io::Error::other("what came was wrong, and comes anew"));
        }
        let left = state.held.saturating_sub(self.next);
        let file = match (left, state.end, &state.file) {
            (0, Some(End::Verified), _) => return Ok(0),
            (0, ..) | (_, _, None) => return Err(io::Error::other("no more of it comes")),
            (_, _, Some(file)) => Arc::clone(file),
        };
        drop(state);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let n = file.read_at(&mut buffer[..want], self.next)?;
        if n == 0 && want > 0 {
            // It begins anew at this moment.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.next += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("room");
        file.rewind().expect("seeks");
        file
    }

    #[test]
    fn a_reader_waits_for_what_is_not_here_and_for_the_verdict() {
        let arriving = GrowingFile::default();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut read = Vec::new();
                arriving.reader(2).read_to_end(&mut read).map(|_| read)
            });
            let fetching = arriving.fetching();
            arriving.begins(file(b"0123456789"), 1);
            for held in 2..=10 {
                thread::sleep(Duration::from_millis(2));
                arriving.has(held);
            }
            thread::sleep(Duration::from_millis(20));
            assert!(!reader.is_finished(), "the end is told once it is verified");
            arriving.verified(10);
            drop(fetching);
            assert_eq!(reader.join().expect("no panic").expect("reads"), b"23456789");
        });
        let mut again = String::new();
        arriving.reader(8).read_to_string(&mut again).expect("it stays");
        assert_eq!(again, "89");
    }

    #[test]
    fn who_fails_to_fetch_it_leaves_no_reader_behind() {
        for begun in [false, true] {
            let arriving = GrowingFile::default();
            thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    arriving.reader(0).read_to_end(&mut Vec::new()).map_err(|e| e.to_string())
                });
                let fetching = arriving.fetching();
                if begun {
                    arriving.begins(file(b"0123456789"), 5);
                }
                drop(fetching);
                assert_eq!(reader.join().expect("no panic"), Err("no more of it comes".to_owned()));
            });
        }
    }

    #[test]
    fn what_comes_anew_is_not_mixed_with_what_came() {
        let arriving = GrowingFile::default();
        arriving.begins(file(b"0123456789"), 4);
        let mut before = arriving.reader(0);
        let mut buffer = [0; 8];
        assert_eq!(before.read(&mut buffer).expect("reads"), 4);
        arriving.begins_anew();
        arriving.has(10);
        arriving.verified(10);
        assert_eq!(
            before.read(&mut buffer).expect_err("is lost").to_string(),
            "what came was wrong, and comes anew"
        );
        let mut read = Vec::new();
        arriving.reader(0).read_to_end(&mut read).expect("reads");
        assert_eq!(read, b"0123456789");
    }
}
