//! Downloads from a repository, verified against its catalog.
//!
//! A [`Repository`] serves the files of one image or override. The transports (HTTP, rsync, local
//! file) only move bytes into the spool. The downloader checks size and SHA-256 of every file; it
//! alone creates a [`Verified`], so code that needs trusted bytes cannot receive others. Files
//! without a digest in the catalog (the head, lists of a module) are returned as plain
//! bytes, for the caller to check.

pub mod content;
mod download;
mod downloader;
mod error;
mod notice;
mod options;
mod tls_pin;
mod transport;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::{FileRef, FirstFrame, HEAD_FILE, MAX_HEAD};
use crate::diff_archive::MAX_FRAME_HEAD;
use crate::digest::Digest;
use crate::image::Layer;
use crate::report::Monitor;
use crate::rsync::Relay;

use download::partial_file::CacheUse;
use download::spool::partial_name;
use downloader::{Downloader, FileRange};
use error::FetchProblem;
use transport::Transport;
use transport::file::FileTransport;
use transport::http::HttpTransport;
use transport::rsync::RsyncTransport;
use transport::url::UrlTarget;

pub use content::Ranges;
pub use download::growing_file::{GrowingFile, GrowingReader};
pub use download::spool::Spool;
pub use downloader::Verified;
pub use error::{FetchError, FetchErrorKind, Side};
pub use options::{ClientCertificate, FetchOptions};
pub use tls_pin::{BadTlsPin, TlsPin};
pub use transport::HeadAnswer;
pub use transport::names::leave_system_resolver;
pub use transport::url::{BadRepoUrl, RepoUrl};

/// The files of one image or override in a repository.
///
/// All requests for them use one object, and one connection if the server keeps it open.
pub struct Repository {
    downloader: Downloader,
    /// Verified files, for reading ranges.
    opened: Mutex<HashMap<Digest, Arc<File>>>,
    /// Bytes transferred for ranges until now.
    range_bytes: AtomicU64,
    range_cost: RangeCost,
}

/// Bytes that a repository transfers for a range of a file, as far as its address shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeCost {
    /// Those of the range.
    Range,
    /// Those of the whole file, once.
    WholeFile,
}

impl Repository {
    /// Prepares downloads of `layer` from the repository at `url`; sends no request.
    ///
    /// Without a `spool`, a temporary one is created and removed on drop.
    pub fn open(
        url: &RepoUrl,
        layer: &Layer,
        options: &FetchOptions,
        spool: Option<Spool>,
    ) -> Result<Self, FetchError> {
        let directory = layer.repository_path();
        let transport: Box<dyn Transport> = match url.target() {
            UrlTarget::Http(base) => {
                let base = base.join(&directory);
                Box::new(HttpTransport::new(&base, url.tunnel(), options.clone())?)
            }
            UrlTarget::File(path) => {
                Box::new(FileTransport::new(path.join(directory), options.is_cancelled))
            }
            UrlTarget::Rsync(base) => {
                let base = format!("{base}{directory}/");
                Box::new(RsyncTransport::new(base, None, options.clone()))
            }
        };

        let range_cost = match url.target() {
            UrlTarget::Http(_) | UrlTarget::File(_) => RangeCost::Range,
            UrlTarget::Rsync(_) => RangeCost::WholeFile,
        };

        let spool = spool.map_or_else(Spool::create_temporary, Ok)?;
        Ok(Repository { range_cost, ..Repository::new(transport, options, spool) })
    }

    /// Prepares downloads of single files from an rsync module or a directory in it.
    ///
    /// `address` ends with a slash. A tunnel leads there by `relay`.
    pub fn open_module(
        address: String,
        relay: Option<Relay>,
        options: &FetchOptions,
    ) -> Result<Self, FetchError> {
        let transport = Box::new(RsyncTransport::new(address, relay, options.clone()));
        Ok(Repository::new(transport, options, Spool::create_temporary()?))
    }

    fn new(transport: Box<dyn Transport>, options: &FetchOptions, spool: Spool) -> Self {
        Repository {
            downloader: Downloader::new(transport, options.clone(), spool),
            opened: Mutex::new(HashMap::new()),
            range_bytes: AtomicU64::new(0),
            range_cost: RangeCost::WholeFile,
        }
    }

    /// Fetches the head, unless its etag is still `known_etag`. Its bytes are not verified.
    ///
    /// An rsync daemon has no etags, so it always sends the head.
    pub fn fetch_head(&self, known_etag: Option<&str>) -> Result<HeadAnswer, FetchError> {
        self.downloader.download_unsized(HEAD_FILE, known_etag, MAX_HEAD)
    }

    /// Fetches a file of at most `limit` bytes that no catalog names. Its bytes are not verified.
    pub fn fetch_unverified(&self, file: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        match self.downloader.download_unsized(file, None, limit)? {
            HeadAnswer::Fetched { bytes, .. } => Ok(bytes),
            HeadAnswer::NotModified => Ok(Vec::new()),
        }
    }

    /// Fetches a whole file and verifies it; resumes a partial file of an earlier run.
    ///
    /// A complete file in the spool is verified again and not downloaded. Progress is reported as
    /// [`Job::Download`](crate::report::Job::Download), which starts again if the download does.
    pub fn fetch(&self, file: &FileRef, monitor: &dyn Monitor) -> Result<Verified, FetchError> {
        let result = self.downloader.download(file, None, Some(monitor));
        result.map_err(|error| self.with_address(file, error))
    }

    /// Like [`fetch`](Self::fetch), while others read the file through `readers`.
    ///
    /// They see its end only after the verification, and fail if this fails.
    pub fn fetch_into(
        &self,
        readers: &GrowingFile,
        file: &FileRef,
        monitor: &dyn Monitor,
    ) -> Result<(), FetchError> {
        let _guard = readers.guard_download();
        let result = self.downloader.download(file, Some(readers), Some(monitor));
        result.map_err(|error| self.with_address(file, error))?;
        readers.finish_verified(file.size);
        Ok(())
    }

    /// Fetches and verifies the head of `file`, an archive.
    ///
    /// It remains in the spool as the beginning of the file, and is not transferred twice.
    pub fn fetch_frame(&self, file: &FileRef, frame: &FirstFrame) -> Result<Vec<u8>, FetchError> {
        self.check_claim(file, frame.length, MAX_FRAME_HEAD)?;
        self.fetch_prefix(file, frame.length, frame.sha256)
    }

    /// Fetches and verifies a file of at most `limit` bytes, into memory.
    pub fn fetch_small(&self, file: &FileRef, limit: u64) -> Result<Vec<u8>, FetchError> {
        self.check_claim(file, file.size, limit)?;
        self.fetch_prefix(file, file.size, file.sha256)
    }

    /// Removes a file from the spool that the caller has in memory and needs no more.
    pub fn discard(&self, file: &FileRef) -> Result<(), FetchError> {
        self.spool().discard(file.sha256)
    }

    /// Number of bytes of `file` that the spool does not have; assumes that the others are right.
    pub fn missing_bytes(&self, file: &FileRef) -> u64 {
        let spool = self.spool();
        if spool.size(&file.sha256.to_string()) == file.size {
            return 0;
        }
        file.size.saturating_sub(spool.size(&partial_name(file.sha256)))
    }

    /// Bytes that are transferred for a range of a file.
    pub fn range_cost(&self) -> RangeCost {
        self.range_cost
    }

    /// Number of bytes transferred for ranges until now; other downloads report their own.
    pub fn range_bytes(&self) -> u64 {
        self.range_bytes.load(Ordering::Relaxed)
    }

    /// The directory of the downloads.
    pub fn spool(&self) -> &Spool {
        self.downloader.spool()
    }

    /// Refuses a length that exceeds the file or the limit, before memory is allocated for it.
    fn check_claim(&self, file: &FileRef, length: u64, limit: u64) -> Result<(), FetchError> {
        let limit = limit.min(file.size);
        if length <= limit {
            return Ok(());
        }
        let address = self.downloader.address(file.file.as_str());
        Err(FetchProblem::ClaimTooLarge { claimed: length, limit }.at(address))
    }

    fn fetch_prefix(
        &self,
        file: &FileRef,
        length: u64,
        sha256: Digest,
    ) -> Result<Vec<u8>, FetchError> {
        let result = self.downloader.download_prefix(file, length, sha256);
        result.map_err(|error| self.with_address(file, error))
    }

    fn read_range(
        &self,
        file: &FileRef,
        (offset, length): (u64, u64),
        caches: CacheUse,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        if offset.checked_add(length).is_none_or(|end| end > file.size) {
            let address = self.downloader.address(file.file.as_str());
            return Err(FetchProblem::OutsideFile { offset, length, size: file.size }.at(address));
        }
        if length == 0 {
            return Ok(Box::new(io::empty()));
        }

        let range = self.fetch_range(file, (offset, length), caches);
        Ok(Box::new(range.map_err(|error| self.with_address(file, error))?))
    }

    /// Reads a range from a verified file, else fetches it, else fetches the whole file.
    fn fetch_range(
        &self,
        file: &FileRef,
        (offset, length): (u64, u64),
        caches: CacheUse,
    ) -> Result<FileRange, FetchError> {
        let opened =
            self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(&file.sha256).cloned();
        if let Some(opened) = opened {
            return Ok(FileRange::new(opened, offset, length));
        }

        let is_complete = self.spool().open_complete(file.sha256)?.is_some();
        if !is_complete
            && let Some(range) = self.downloader.download_range(file, (offset, length), caches)?
        {
            self.range_bytes.fetch_add(length, Ordering::Relaxed);
            return Ok(range);
        }

        // Held meanwhile, so that several readers of a file download and verify it once.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = opened.get(&file.sha256) {
            return Ok(FileRange::new(Arc::clone(opened), offset, length));
        }
        self.range_bytes.fetch_add(self.missing_bytes(file), Ordering::Relaxed);
        let verified = Arc::new(self.downloader.download(file, None, None)?.into_file());
        opened.insert(file.sha256, Arc::clone(&verified));
        Ok(FileRange::new(verified, offset, length))
    }

    fn with_address(&self, file: &FileRef, error: FetchError) -> FetchError {
        error.with_target(&self.downloader.address(file.file.as_str()))
    }
}

impl Ranges for Repository {
    /// All bytes are present before this returns: the reader does not depend on the network.
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        self.read_range(file, (offset, length), CacheUse::Allowed)
    }

    fn range_again(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        self.read_range(file, (offset, length), CacheUse::Bypassed)
    }
}
