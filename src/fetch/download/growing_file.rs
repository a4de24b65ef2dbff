//! A file that is read while it downloads: readers wait for bytes that are still missing.

#![allow(
    clippy::disallowed_methods,
    reason = "files of the spool, which are private to this program"
)]

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::fetch::error::GrowingFileError;

/// A file that is downloaded, or will be, or was.
///
/// One thread downloads it by [`Repository::fetch_into`](crate::fetch::Repository::fetch_into),
/// others read it meanwhile. Its digest is checked at the end. A reader that uses bytes before it
/// has read the end must check them by other means, and must be able to discard its result.
#[derive(Debug, Default)]
pub struct GrowingFile {
    state: Mutex<GrowthState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GrowthState {
    file: Option<Arc<File>>,
    /// Number of bytes that are present.
    length: u64,
    /// Number of restarts of the download. Bytes of two generations must not be mixed.
    generation: u32,
    end: Option<DownloadEnd>,
    is_cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DownloadEnd {
    Verified,
    Failed,
}

/// Reader of a [`GrowingFile`]; it reports the end only after the file was verified.
#[derive(Debug)]
pub struct GrowingReader<'a> {
    source: &'a GrowingFile,
    generation: u32,
    offset: u64,
}

/// Fails the readers on drop, unless the file was verified.
#[must_use]
pub(in crate::fetch) struct DownloadGuard<'a>(&'a GrowingFile);

impl GrowingFile {
    /// Reads the file from `offset`.
    pub fn reader(&self, offset: u64) -> GrowingReader<'_> {
        GrowingReader { source: self, generation: self.state().generation, offset }
    }

    /// Cancels the download: it fails with the next bytes that arrive.
    pub fn cancel(&self) {
        self.state().is_cancelled = true;
    }

    /// Fails all readers, unless the file was verified.
    pub fn fail(&self) {
        self.update(|state| state.end = state.end.or(Some(DownloadEnd::Failed)));
    }

    pub(in crate::fetch) fn is_cancelled(&self) -> bool {
        self.state().is_cancelled
    }

    /// Starts a download; its end without verification fails the readers.
    pub(in crate::fetch) fn guard_download(&self) -> DownloadGuard<'_> {
        DownloadGuard(self)
    }

    /// Sets the file to read, of which `length` bytes are present.
    pub(in crate::fetch) fn start(&self, file: File, length: u64) {
        self.update(|state| {
            state.file = Some(Arc::new(file));
            state.length = length;
        });
    }

    /// Sets the number of bytes that are present.
    pub(in crate::fetch) fn grow(&self, length: u64) {
        self.update(|state| state.length = length);
    }

    /// Discards all bytes: current readers fail, later ones read the next generation.
    pub(in crate::fetch) fn restart(&self) {
        self.update(|state| {
            state.length = 0;
            state.generation += 1;
        });
    }

    /// Ends the download: all `size` bytes are present and verified.
    pub(in crate::fetch) fn finish_verified(&self, size: u64) {
        self.update(|state| {
            state.length = size;
            state.end = Some(DownloadEnd::Verified);
        });
    }

    fn update(&self, change: impl FnOnce(&mut GrowthState)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, GrowthState> {
        // Each change is complete before a panic could happen, so a poisoned state is valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DownloadGuard<'_> {
    fn drop(&mut self) {
        self.0.fail();
    }
}

impl Read for GrowingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state =
            self.source.changed.wait_while(self.source.state(), |state: &mut GrowthState| {
                state.generation == self.generation
                    && state.length <= self.offset
                    && state.end.is_none()
            });
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if state.generation != self.generation {
            return Err(GrowingFileError::Restarted.into());
        }

        let available = state.length.saturating_sub(self.offset);
        let file = match (available, state.end, &state.file) {
            (0, Some(DownloadEnd::Verified), _) => return Ok(0),
            (0, ..) | (_, _, None) => return Err(GrowingFileError::Failed.into()),
            (_, _, Some(file)) => Arc::clone(file),
        };
        drop(state);

        let wanted = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read_at(&mut buffer[..wanted], self.offset)?;
        if count == 0 && wanted > 0 {
            // The file was truncated for a restart after the lock was released.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::diff_archive::tests::{TreeBuilder, build_full, meta, noise};
    use crate::diff_archive::{FrameCompression, FrameHead, VerifiedFrames, decoded_frames};

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("writes");
        file.rewind().expect("seeks");
        file
    }

    #[test]
    fn reader_waits_for_bytes_and_for_verification() {
        let growing = GrowingFile::default();

        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut bytes = Vec::new();
                growing.reader(2).read_to_end(&mut bytes).map(|_| bytes)
            });
            let guard = growing.guard_download();
            growing.start(file(b"0123456789"), 1);
            for length in 2..=10 {
                thread::sleep(Duration::from_millis(2));
                growing.grow(length);
            }

            thread::sleep(Duration::from_millis(20));
            assert!(!reader.is_finished(), "the end is reported before the verification");
            growing.finish_verified(10);
            drop(guard);
            assert_eq!(reader.join().expect("no panic").expect("reads"), b"23456789");
        });

        let mut later = String::new();
        growing.reader(8).read_to_string(&mut later).expect("reads again");
        assert_eq!(later, "89");
    }

    #[test]
    fn failed_download_fails_its_readers() {
        for has_started in [false, true] {
            let growing = GrowingFile::default();

            thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    growing.reader(0).read_to_end(&mut Vec::new()).map_err(|e| e.to_string())
                });
                let guard = growing.guard_download();
                if has_started {
                    growing.start(file(b"0123456789"), 5);
                }
                drop(guard);

                let error = GrowingFileError::Failed.to_string();
                assert_eq!(reader.join().expect("no panic"), Err(error));
            });
        }
    }

    #[test]
    fn restart_fails_current_readers_and_serves_later_ones() {
        let growing = GrowingFile::default();
        growing.start(file(b"0123456789"), 4);
        let mut current = growing.reader(0);
        let mut buffer = [0; 8];
        assert_eq!(current.read(&mut buffer).expect("reads"), 4);

        growing.restart();
        growing.grow(10);
        growing.finish_verified(10);

        let error = current.read(&mut buffer).expect_err("fails").to_string();
        assert_eq!(error, GrowingFileError::Restarted.to_string());
        let mut bytes = Vec::new();
        growing.reader(0).read_to_end(&mut bytes).expect("reads");
        assert_eq!(bytes, b"0123456789");
    }

    /// Reads the frames of a file that grows; returns how many were decoded, and the result.
    fn read_while_it_grows(bytes: &[u8], head: &FrameHead) -> (u64, io::Result<u64>) {
        let growing = GrowingFile::default();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let stored = growing.reader(head.table().head_length());
                let table = Arc::clone(head.table());
                let mut frames = VerifiedFrames::new(stored, table, FrameCompression::Zstd);
                let result = io::copy(&mut frames, &mut io::sink());
                (decoded_frames(), result)
            });
            let guard = growing.guard_download();
            growing.start(file(bytes), 0);
            for length in (0..bytes.len() as u64).step_by(5000) {
                growing.grow(length);
            }
            growing.grow(bytes.len() as u64);

            growing.finish_verified(bytes.len() as u64);
            drop(guard);
            reader.join().expect("no panic")
        })
    }

    #[test]
    fn wrong_frame_of_growing_file_is_not_decoded() {
        let mut builder = TreeBuilder::default();
        for number in 0..6u32 {
            let name = format!("file-{number}");
            builder.file(name.as_bytes(), meta(0o644, 1, 0), &noise(number + 1, 90_000));
        }
        let (bytes, written) = build_full(&builder.tree(), FrameCompression::Zstd);
        let head = bytes[..written.first_frame.length as usize].to_vec();
        let head = FrameHead::from_verified(head, written.size, FrameCompression::Zstd);
        let head = head.expect("reads");

        let (decoded, result) = read_while_it_grows(&bytes, &head);
        assert_eq!(decoded, head.table().count() as u64);
        assert!(result.is_ok(), "{result:?}");

        let mut damaged = bytes;
        let (offset, _) = head.table().range(3..4).expect("a frame");
        damaged[offset as usize..].fill(0x55);
        let (decoded, result) = read_while_it_grows(&damaged, &head);
        assert_eq!(decoded, 3);
        assert!(result.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData));
    }
}
