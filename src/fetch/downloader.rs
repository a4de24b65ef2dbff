//! Downloads with retries, and the only verification of downloaded bytes.
//!
//! A [`Transport`](super::transport::Transport) fills a partial file and verifies nothing. The
//! [`Downloader`] compares the digest with the one of the catalog and alone creates a [`Verified`].
//! A wrong digest leads to one more download, which bypasses caches; a second one is an error.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cancel;
use crate::catalog::FileRef;
use crate::digest::Digest;
use crate::fetch::download::growing_file::GrowingFile;
use crate::fetch::download::partial_file::{CacheUse, PartialFile};
use crate::fetch::download::retry::RetryPolicy;
use crate::fetch::download::spool::{Spool, spool_error};
use crate::fetch::error::{FetchError, FetchProblem};
use crate::fetch::notice::FetchNotice;
use crate::fetch::options::FetchOptions;
use crate::fetch::transport::{HeadAnswer, Transport, TransportError};
use crate::report::Monitor;

/// A file with the size and the SHA-256 that the catalog names.
///
/// It is in the spool, which is private, and no part of this program writes to it again.
#[derive(Debug)]
pub struct Verified {
    file: File,
    size: u64,
    sha256: Digest,
}

impl Verified {
    /// The file, at its beginning.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Digest of the whole file.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    fn new(mut file: File, claim: &FileRef) -> Result<Self, FetchError> {
        file.seek(SeekFrom::Start(0)).map_err(spool_error("seek in a file of the spool"))?;
        Ok(Verified { file, size: claim.size, sha256: claim.sha256 })
    }
}

/// Reader of a range of an open file, with a position of its own.
pub(super) struct FileRange {
    file: Arc<File>,
    offset: u64,
    remaining: u64,
}

impl FileRange {
    pub fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        FileRange { file, offset, remaining: length }
    }
}

impl Read for FileRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += count as u64;
        self.remaining -= count as u64;
        Ok(count)
    }
}

/// Downloads files by one transport into one spool.
pub(super) struct Downloader {
    transport: Box<dyn Transport>,
    options: FetchOptions,
    spool: Spool,
    /// Held during a download: two of one file would write to one partial file.
    lock: Mutex<()>,
}

/// Whether a transport can serve a range.
enum RangeSupport {
    Supported,
    WholeFilesOnly,
}

impl Downloader {
    pub(super) fn new(transport: Box<dyn Transport>, options: FetchOptions, spool: Spool) -> Self {
        Downloader { transport, options, spool, lock: Mutex::new(()) }
    }

    pub(super) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// URL of `file`, for messages.
    pub(super) fn address(&self, file: &str) -> String {
        self.transport.address(file)
    }

    /// Downloads a file of unknown size and digest, of at most `limit` bytes, unless its etag is
    /// `known_etag`.
    pub(super) fn download_unsized(
        &self,
        file: &str,
        known_etag: Option<&str>,
        limit: u64,
    ) -> Result<HeadAnswer, FetchError> {
        let address = self.transport.address(file);
        let mut policy = RetryPolicy::new(&self.options);
        loop {
            let result = self.transport.download_unsized(file, known_etag, limit, &self.spool);
            let (error, requested_pause) = match result {
                Ok(answer) => return Ok(answer),
                Err(TransportError::Transient { error, pause }) => (error, pause),
                Err(TransportError::Permanent(error)) => return Err(error.with_target(&address)),
                Err(TransportError::WholeFilesOnly) => {
                    return Err(FetchProblem::PartInsteadOfWhole.at(address));
                }
            };

            match policy.next_pause(0, requested_pause) {
                Some(pause) => cancel::sleep(self.options.is_cancelled, pause)?,
                None => {
                    return Err(error.with_target(&address).after_attempts(policy.failures()));
                }
            }
        }
    }

    /// Downloads `claim` into the spool, unless it is there, and verifies it in both cases.
    ///
    /// `readers` can read the file while it grows.
    pub(super) fn download(
        &self,
        claim: &FileRef,
        readers: Option<&GrowingFile>,
        monitor: Option<&dyn Monitor>,
    ) -> Result<Verified, FetchError> {
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verified) = self.verify_complete(claim)? {
            if let Some(readers) = readers {
                let file = verified.file.try_clone();
                let file = file.map_err(spool_error("duplicate a file descriptor"))?;
                readers.start(file, verified.size);
            }
            return Ok(verified);
        }

        let mut partial = PartialFile::open(&self.spool, claim, claim.size, monitor)?;
        self.spool.check_space(partial.missing())?;
        partial.report_start();
        if let Some(readers) = readers {
            partial.attach_readers(readers)?;
        }

        // The bytes of an earlier run are hashed before the download, and need no second read.
        let mut is_verified = partial.digest()? == claim.sha256 && partial.missing() == 0;
        if !is_verified {
            self.download_missing(claim, &mut partial, monitor)?;
            is_verified = partial.digest()? == claim.sha256;
        }
        if !is_verified {
            partial.note(&FetchNotice::WrongDigest { file: &claim.file });
            partial.restart_without_caches()?;
            self.download_missing(claim, &mut partial, monitor)?;
            is_verified = partial.digest()? == claim.sha256;
        }
        if !is_verified {
            self.spool.discard(claim.sha256)?;
            return Err(self.wrong_digest(claim));
        }

        partial.report_end();
        let file = partial.into_file();
        self.spool.complete(claim.sha256)?;
        Verified::new(file, claim)
    }

    /// The complete file of an earlier run, if it has the right digest; removes any other.
    fn verify_complete(&self, claim: &FileRef) -> Result<Option<Verified>, FetchError> {
        let Some(file) = self.spool.open_complete(claim.sha256)? else { return Ok(None) };

        let digest_and_size =
            Digest::of_reader(&file).map_err(spool_error("read a file in the spool"))?;
        if digest_and_size == (claim.sha256, claim.size) {
            return Verified::new(file, claim).map(Some);
        }
        self.spool.remove(&claim.sha256.to_string())?;
        Ok(None)
    }

    /// Downloads the missing bytes of `partial`, with retries. Verifies nothing.
    fn download_missing(
        &self,
        claim: &FileRef,
        partial: &mut PartialFile<'_>,
        monitor: Option<&dyn Monitor>,
    ) -> Result<RangeSupport, FetchError> {
        let address = self.transport.address(claim.file.as_str());
        let mut policy = RetryPolicy::new(&self.options);
        while partial.missing() > 0 {
            let length_before = partial.length();
            let result = self.transport.download_into(claim.file.as_str(), partial);
            let (error, requested_pause) = match result {
                Ok(()) => continue,
                Err(TransportError::WholeFilesOnly) => return Ok(RangeSupport::WholeFilesOnly),
                Err(TransportError::Permanent(error)) => return Err(error.with_target(&address)),
                Err(TransportError::Transient { error, pause }) => {
                    (error.with_target(&address), pause)
                }
            };

            let received = partial.length().saturating_sub(length_before);
            let Some(pause) = policy.next_pause(received, requested_pause) else {
                return Err(error.after_attempts(policy.failures()));
            };
            if let Some(monitor) = monitor {
                monitor.note(FetchNotice::Retry { error: &error, pause });
            }
            cancel::sleep(self.options.is_cancelled, pause)?;
        }
        Ok(RangeSupport::Supported)
    }

    /// Downloads and verifies the first `length` bytes of `claim`, whose digest is `sha256`.
    ///
    /// They remain in the partial file, so that a download of the whole file continues after them.
    pub(super) fn download_prefix(
        &self,
        claim: &FileRef,
        length: u64,
        sha256: Digest,
    ) -> Result<Vec<u8>, FetchError> {
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);

        if let Some(file) = self.spool.open_complete(claim.sha256)? {
            let mut bytes = Vec::new();
            file.take(length)
                .read_to_end(&mut bytes)
                .map_err(spool_error("read a file in the spool"))?;
            if Digest::of(&bytes) == sha256 {
                return Ok(bytes);
            }
            self.spool.remove(&claim.sha256.to_string())?;
        }

        let mut partial = PartialFile::open(&self.spool, claim, length, None)?;
        self.spool.check_space(partial.missing())?;
        let byte_count = usize::try_from(length).unwrap_or(usize::MAX);

        self.download_missing(claim, &mut partial, None)?;
        let mut bytes = partial.read_prefix(byte_count)?;
        if Digest::of(&bytes) != sha256 {
            partial.restart_without_caches()?;
            self.download_missing(claim, &mut partial, None)?;
            bytes = partial.read_prefix(byte_count)?;
        }
        if Digest::of(&bytes) != sha256 {
            partial.restart(None)?;
            return Err(self.wrong_digest(claim));
        }
        Ok(bytes)
    }

    /// Downloads one range of `claim`, unverified; `None` if whole files are all that can be had.
    pub(super) fn download_range(
        &self,
        claim: &FileRef,
        (offset, length): (u64, u64),
        caches: CacheUse,
    ) -> Result<Option<FileRange>, FetchError> {
        let range = offset..offset + length;
        let mut partial = PartialFile::create_for_range(&self.spool, claim, range)?;
        if caches == CacheUse::Bypassed {
            partial.restart_without_caches()?;
        }

        match self.download_missing(claim, &mut partial, None)? {
            RangeSupport::WholeFilesOnly => Ok(None),
            RangeSupport::Supported => {
                Ok(Some(FileRange::new(Arc::new(partial.into_file()), 0, length)))
            }
        }
    }

    fn wrong_digest(&self, claim: &FileRef) -> FetchError {
        FetchProblem::WrongDigest.at(self.transport.address(claim.file.as_str()))
    }
}
