//! A partial file: the beginning of a download, or one range of a file.

#![allow(
    clippy::disallowed_methods,
    reason = "the spool is private, and each mutation of it passes the fault point"
)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

use super::growing_file::GrowingFile;
use super::spool::{Spool, spool_error};
use crate::catalog::FileRef;
use crate::digest::{Digest, Hasher};
use crate::fetch::error::{FetchError, FetchProblem};
use crate::fetch::notice::FetchNotice;
use crate::report::{Event, Job, Monitor};
use crate::root::fault::change;

/// Longest range in bytes that is held in memory.
const MAX_IN_MEMORY: u64 = 8 << 20;

/// Bytes `start..end` of a file of the repository, of which the first `length` are present.
///
/// It never grows beyond `end`, even if a server sends more.
pub(in crate::fetch) struct PartialFile<'a> {
    file: File,
    spool: &'a Spool,
    /// Digest of the whole file, if this is its partial file in the spool.
    digest_in_spool: Option<Digest>,
    start: u64,
    end: u64,
    /// Size of the whole file.
    file_size: u64,
    length: u64,
    etag: Option<String>,
    hasher: Hasher,
    /// Number of bytes that `hasher` has consumed.
    hashed: u64,
    progress: DownloadProgress<'a>,
    /// Readers of the file while it grows.
    readers: Option<&'a GrowingFile>,
    cache_use: CacheUse,
}

/// Whether caches between this node and the server may answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fetch) enum CacheUse {
    Allowed,
    /// Their last answer was wrong.
    Bypassed,
}

impl<'a> PartialFile<'a> {
    /// Opens the partial file of `file` in the spool, to download its first `end` bytes.
    ///
    /// The bytes of an earlier run are kept, unless they are more than the file has.
    pub fn open(
        spool: &'a Spool,
        file: &FileRef,
        end: u64,
        monitor: Option<&'a dyn Monitor>,
    ) -> Result<Self, FetchError> {
        let partial = spool.open_partial(file.sha256)?;
        let length = file_length(&partial)?;

        let mut partial = PartialFile {
            length,
            etag: spool.read_etag(file.sha256),
            digest_in_spool: Some(file.sha256),
            progress: DownloadProgress::new(monitor),
            ..PartialFile::new(partial, spool, 0..end, file.size)
        };
        if length > file.size {
            partial.restart(None)?;
        }
        Ok(partial)
    }

    /// Creates a file without a name for a range of `file`: in memory if the range is short.
    ///
    /// Many short ranges would otherwise cost a directory entry in the spool each. Fails if the
    /// range does not fit.
    pub fn create_for_range(
        spool: &'a Spool,
        file: &FileRef,
        range: std::ops::Range<u64>,
    ) -> Result<Self, FetchError> {
        let length = range.end - range.start;
        let in_memory = (length <= MAX_IN_MEMORY).then(memory_file).flatten();
        let partial = match in_memory {
            Some(partial) => partial,
            None => {
                spool.check_space(length)?;
                spool.create_unnamed()?
            }
        };
        Ok(PartialFile::new(partial, spool, range, file.size))
    }

    fn new(file: File, spool: &'a Spool, range: std::ops::Range<u64>, file_size: u64) -> Self {
        PartialFile {
            file,
            spool,
            digest_in_spool: None,
            start: range.start,
            end: range.end,
            file_size,
            length: 0,
            etag: None,
            hasher: Hasher::new(),
            hashed: 0,
            progress: DownloadProgress::new(None),
            readers: None,
            cache_use: CacheUse::Allowed,
        }
    }

    /// Lets others read the file while it grows.
    pub fn attach_readers(&mut self, readers: &'a GrowingFile) -> Result<(), FetchError> {
        let file = self.file.try_clone().map_err(spool_error("duplicate a file descriptor"))?;
        readers.start(file, self.length);
        self.readers = Some(readers);
        Ok(())
    }

    /// Offset of the next missing byte in the repository's file.
    pub fn offset(&self) -> u64 {
        self.start + self.length
    }

    /// Offset of the end of the range in the repository's file.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Size that the catalog names for the repository's file.
    pub fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Number of bytes that are present.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Number of bytes that are missing.
    pub fn missing(&self) -> u64 {
        (self.end - self.start).saturating_sub(self.length)
    }

    /// Whether the range starts at the beginning of the repository's file.
    pub fn is_prefix(&self) -> bool {
        self.start == 0
    }

    /// Strong etag of the bytes that are present.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// The spool that holds the file.
    pub fn spool(&self) -> &'a Spool {
        self.spool
    }

    /// Digest of the whole file, if this is its partial file in the spool.
    pub fn digest_in_spool(&self) -> Option<Digest> {
        self.digest_in_spool
    }

    /// Whether caches may answer a request.
    pub fn cache_use(&self) -> CacheUse {
        self.cache_use
    }

    /// Reports the start of the download, with the bytes that are present.
    pub fn report_start(&mut self) {
        self.progress.start(self.end - self.start, self.length);
    }

    /// Reports the end of the download.
    pub fn report_end(&mut self) {
        self.progress.flush();
        self.progress.send(Event::Finished { job: Job::Download });
    }

    /// Reports a notice.
    pub fn note(&self, notice: &FetchNotice<'_>) {
        if let Some(monitor) = self.progress.monitor {
            monitor.note(notice);
        }
    }

    /// Discards all bytes, which were wrong; from now on caches are bypassed.
    pub fn restart_without_caches(&mut self) -> Result<(), FetchError> {
        self.cache_use = CacheUse::Bypassed;
        self.restart(None)
    }

    /// Discards all bytes; those that follow belong to `etag`, which has to be strong.
    ///
    /// The old etag is removed before the bytes, and the new one is stored after them: a crash
    /// in between must not leave bytes with the etag of others.
    pub fn restart(&mut self, etag: Option<String>) -> Result<(), FetchError> {
        self.etag = None;
        if let Some(digest) = self.digest_in_spool {
            self.spool.write_etag(digest, None)?;
        }

        let had_bytes = self.length > 0;
        if had_bytes && let Some(readers) = self.readers {
            readers.restart();
        }
        change(|| self.file.set_len(0)).map_err(spool_error("truncate a file in the spool"))?;
        self.length = 0;
        self.hashed = 0;
        self.hasher = Hasher::new();
        if had_bytes {
            self.report_start();
        }

        if let (Some(digest), Some(etag)) = (self.digest_in_spool, &etag) {
            self.spool.write_etag(digest, Some(etag))?;
        }
        self.etag = etag;
        Ok(())
    }

    /// Appends bytes; refuses all of them if they exceed the range.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        if bytes.len() as u64 > self.missing() {
            return Err(FetchProblem::TooLong { expected: self.file_size }.into());
        }
        if self.readers.is_some_and(GrowingFile::is_cancelled) {
            return Err(FetchProblem::NoReaders.into());
        }

        change(|| self.file.write_all_at(bytes, self.length))
            .map_err(spool_error("write to the spool"))?;
        if self.hashed == self.length {
            self.hasher.update(bytes);
            self.hashed += bytes.len() as u64;
        }
        self.length += bytes.len() as u64;

        if let Some(readers) = self.readers {
            readers.grow(self.length);
        }
        self.progress.advance(bytes.len() as u64);
        Ok(())
    }

    /// Updates the length after another program wrote to the file; false if it is too long.
    pub fn refresh_length(&mut self) -> Result<bool, FetchError> {
        let length = file_length(&self.file)?;
        if length > self.file_size {
            return Ok(false);
        }

        self.progress.advance(length.saturating_sub(self.length));
        self.length = length;
        Ok(true)
    }

    /// Digest of the bytes that are present; hashes only those that were not hashed before.
    pub fn digest(&mut self) -> Result<Digest, FetchError> {
        let mut buffer = vec![0; 128 << 10];
        while self.hashed < self.length {
            let wanted =
                usize::try_from(self.length - self.hashed).unwrap_or(usize::MAX).min(buffer.len());
            let count = read_at(&self.file, &mut buffer[..wanted], self.hashed)
                .map_err(spool_error("read a file in the spool"))?;
            if count == 0 {
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(spool_error("read a file in the spool")(error));
            }
            self.hasher.update(&buffer[..count]);
            self.hashed += count as u64;
        }
        Ok(self.hasher.clone().finish())
    }

    /// The first `length` bytes, which must be present.
    pub fn read_prefix(&self, length: usize) -> Result<Vec<u8>, FetchError> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, 0).map_err(spool_error("read a file in the spool"))?;
        Ok(bytes)
    }

    /// The file that holds the bytes.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Progress reports of a download: at most one per MiB or per 100 ms.
struct DownloadProgress<'a> {
    monitor: Option<&'a dyn Monitor>,
    unreported: u64,
    last_report: Instant,
}

impl<'a> DownloadProgress<'a> {
    fn new(monitor: Option<&'a dyn Monitor>) -> Self {
        DownloadProgress { monitor, unreported: 0, last_report: Instant::now() }
    }

    fn start(&mut self, total: u64, present: u64) {
        self.send(Event::Started { job: Job::Download, total });
        self.unreported = present;
        self.flush();
    }

    fn advance(&mut self, bytes: u64) {
        self.unreported += bytes;
        if self.unreported >= 1 << 20 || self.last_report.elapsed() >= Duration::from_millis(100) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.unreported > 0 {
            let by = std::mem::take(&mut self.unreported);
            self.last_report = Instant::now();
            self.send(Event::Advanced { job: Job::Download, by });
        }
    }

    fn send(&self, event: Event) {
        if let Some(monitor) = self.monitor {
            monitor.event(event);
        }
    }
}

/// A file in memory; `None` if the kernel, before 3.17, has none.
fn memory_file() -> Option<File> {
    rustix::fs::memfd_create("si-range", MemfdFlags::CLOEXEC).ok().map(File::from)
}

fn file_length(file: &File) -> Result<u64, FetchError> {
    let metadata = file.metadata().map_err(spool_error("stat a file in the spool"))?;
    Ok(metadata.len())
}

/// Reads some bytes at `offset`; 0 at the end.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
