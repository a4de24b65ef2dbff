//! Fetching: brings files of a repository to this node and vouches for their bytes.
//!
//! The transports (http, file, rsync) have one thing in common: each makes a part file of the spool
//! hold bytes, and none verifies. [`Repository::file`] does, for all of them, and is the only place
//! that makes a [`Verified`].

mod cancel;
pub mod content;
mod download;
mod error;
mod transport;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::catalog::{FileRef, FirstFrame, MAX_CATALOG};
use crate::digest::Digest;
use crate::image::Layer;
use crate::report::Monitor;

use download::partial_file::PartialFile;
use download::retry::RetryPolicy;
use download::{FileRange, Filled};
use transport::file::FileTransport;
use transport::http::HttpTransport;
use transport::rsync::RsyncTransport;
use transport::url::UrlTarget;
use transport::{Transport, TransportError};

pub use content::Ranges;
pub use download::Verified;
pub use download::growing_file::{GrowingFile, GrowingReader};
pub use download::spool::Spool;
pub use error::{FetchError, FetchErrorKind, Side};
pub use transport::url::{BadRepoUrl, RepoUrl};

/// The name of the catalog in the directory of an image or an override.
const CATALOG: &str = "catalog.toml";
/// A first frame that claims to be larger is not fetched: it holds a listing, and goes into memory.
pub const MAX_FRAME: u64 = 64 << 20;

/// How patient a run is, and whom it trusts.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// A file is tried so often in a row without getting on, at least once.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each further one, up to half a minute.
    pub base_delay: Duration,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a connection may be silent.
    pub idle_timeout: Duration,
    /// Bytes a second that have to arrive on average over each `speed_window`.
    pub minimum_speed: u64,
    /// See `minimum_speed`.
    pub speed_window: Duration,
    /// When an rsync daemon is given up, however it answers.
    pub deadline: Option<Instant>,
    /// Whether the run was asked to stop: then nothing is waited for any more.
    pub stopped: fn() -> bool,
    /// The certificates that vouch for https servers, in PEM; without it the system's bundle.
    pub ca_file: Option<PathBuf>,
}

/// What the server says of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogAnswer {
    /// It is still the one that the caller knows.
    NotModified,
    /// Another one.
    Fetched {
        /// As they came; nothing is verified yet.
        bytes: Vec<u8>,
        /// What to ask with the next time.
        etag: Option<String>,
    },
}

/// The files of one image, or of one override, in a repository.
///
/// All requests of a run go through one of these, and over one connection where the server keeps it.
pub struct Repository {
    transport: Box<dyn Transport>,
    options: FetchOptions,
    spool: Spool,
    downloading: Mutex<()>,
    /// Files that were verified, for reading ranges.
    opened: Mutex<HashMap<Digest, Arc<File>>>,
}

impl Repository {
    /// Prepares to fetch files of `layer` from the repository at `url`; asks the server nothing yet.
    ///
    /// Without a spool of the caller's a temporary one is made, and removed in the end.
    pub fn open(
        url: &RepoUrl,
        layer: &Layer,
        options: &FetchOptions,
        spool: Option<Spool>,
    ) -> Result<Self, FetchError> {
        let (below, url_through) = (layer.place(), url.through());
        let transport: Box<dyn Transport> = match url.place() {
            UrlTarget::Http(url) => {
                let mut base = url.clone();
                base.set_path(&format!("{}{below}/", url.path()));
                Box::new(HttpTransport::new(&base, url_through, options.clone())?)
            }
            UrlTarget::File(path) => {
                Box::new(FileTransport::new(path.join(below), options.stopped))
            }
            UrlTarget::Rsync(url) => {
                let base = format!("{url}{below}/");
                Box::new(RsyncTransport::new(base.clone(), base, options.clone()))
            }
        };
        let spool = spool.map_or_else(Spool::temporary, Ok)?;
        let (downloading, opened) = (Mutex::new(()), Mutex::new(HashMap::new()));
        Ok(Repository { transport, options: options.clone(), spool, downloading, opened })
    }

    /// Prepares to fetch single files from the rsync module, or the directory in one, at `address`, which is known
    /// as `shown`; both end with a slash.
    pub fn of_module(
        address: String,
        shown: String,
        options: &FetchOptions,
    ) -> Result<Self, FetchError> {
        let transport = Box::new(RsyncTransport::new(address, shown, options.clone()));
        let (downloading, opened) = (Mutex::new(()), Mutex::new(HashMap::new()));
        Ok(Repository {
            transport,
            options: options.clone(),
            spool: Spool::temporary()?,
            downloading,
            opened,
        })
    }

    /// The catalog, by one request that names the etag of the one that is `known`.
    ///
    /// An rsync daemon knows no etags: there the catalog always comes.
    pub fn catalog(&self, known: Option<&str>) -> Result<CatalogAnswer, FetchError> {
        self.unsized_file(CATALOG, known, MAX_CATALOG)
    }

    /// The bytes of a file that nothing vouches for, of which `cap` are the most.
    pub fn unverified(&self, file: &str, cap: u64) -> Result<Vec<u8>, FetchError> {
        match self.unsized_file(file, None, cap)? {
            CatalogAnswer::Fetched { bytes, .. } => Ok(bytes),
            CatalogAnswer::NotModified => Ok(Vec::new()),
        }
    }

    fn unsized_file(
        &self,
        file: &str,
        known: Option<&str>,
        cap: u64,
    ) -> Result<CatalogAnswer, FetchError> {
        let address = self.transport.address(file);
        let mut patience = RetryPolicy::new(&self.options);
        loop {
            let (error, asked) = match self.transport.unsized_file(file, known, cap, &self.spool) {
                Ok(answer) => return Ok(answer),
                Err(TransportError::Transient { error, pause }) => (error, pause),
                Err(TransportError::Permanent(error)) => return Err(error.about(&address)),
                Err(TransportError::WholeFilesOnly) => {
                    let why = "it sends a part of a file that was asked for whole";
                    return Err(FetchError::new(FetchErrorKind::Other, Side::Server, address, why));
                }
            };
            match patience.pause(0, asked) {
                Some(pause) => cancel::sleep(self.options.stopped, pause)?,
                None => return Err(error.about(&address).after(patience.failures())),
            }
        }
    }

    /// Fetches `file` whole, resuming what an earlier run left, and verifies it.
    ///
    /// What the spool holds already is verified again, and not fetched. Says how it gets on as
    /// [`Job::Download`](crate::report::Job::Download); begins that anew where the file has to be.
    pub fn file(&self, file: &FileRef, monitor: &dyn Monitor) -> Result<Verified, FetchError> {
        self.download(file, None, Some(monitor)).map_err(|e| self.about(file, e))
    }

    /// The same, while others read it from `readers`.
    ///
    /// These see it from the moment at which it begins to come, and its end once it was verified; where this
    /// fails, they fail.
    pub fn file_into(
        &self,
        readers: &GrowingFile,
        file: &FileRef,
        monitor: &dyn Monitor,
    ) -> Result<(), FetchError> {
        let _fetching = readers.fetching();
        self.download(file, Some(readers), Some(monitor)).map_err(|e| self.about(file, e))?;
        readers.verified(file.size);
        Ok(())
    }

    /// The first frame of `file`, verified.
    ///
    /// It stays in the spool as the beginning of the file: its bytes travel once.
    pub fn frame(&self, file: &FileRef, frame: &FirstFrame) -> Result<Vec<u8>, FetchError> {
        self.memory(file, frame.length, MAX_FRAME, frame.sha256)
    }

    /// How many bytes of `file` are still to be fetched, if what the spool holds of it is right.
    pub fn left(&self, file: &FileRef) -> u64 {
        if self.spool.size(&file.sha256.to_string()) == file.size {
            return 0;
        }
        file.size.saturating_sub(self.spool.size(&download::spool::part_name(file.sha256)))
    }

    /// The verified bytes of `file`, which must not be larger than `cap`.
    pub fn small(&self, file: &FileRef, cap: u64) -> Result<Vec<u8>, FetchError> {
        self.memory(file, file.size, cap, file.sha256)
    }

    /// Where files are kept.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    fn memory(
        &self,
        file: &FileRef,
        length: u64,
        cap: u64,
        sha256: Digest,
    ) -> Result<Vec<u8>, FetchError> {
        if length > cap.min(file.size) {
            let why = format!("it claims {length} bytes where {} are the most", cap.min(file.size));
            let address = self.transport.address(file.file.as_str());
            return Err(FetchError::new(FetchErrorKind::Corrupt, Side::Server, address, why));
        }
        self.beginning(file, length, sha256).map_err(|e| self.about(file, e))
    }

    fn about(&self, file: &FileRef, error: FetchError) -> FetchError {
        error.about(&self.transport.address(file.file.as_str()))
    }

    /// A file that was verified, as one that many may read at once.
    fn shared(&self, file: &FileRef) -> Result<Arc<File>, FetchError> {
        let verified = Arc::new(self.download(file, None, None)?.into_file());
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.insert(file.sha256, Arc::clone(&verified));
        Ok(verified)
    }

    fn stretch(&self, file: &FileRef, offset: u64, length: u64) -> Result<FileRange, FetchError> {
        let opened =
            self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(&file.sha256).cloned();
        if let Some(opened) = opened {
            return Ok(FileRange::new(opened, offset, length));
        }
        if self.spool.verified(file.sha256)?.is_none() {
            let mut part = PartialFile::of_range(&self.spool, file, offset, offset + length)?;
            self.spool.check_room(length)?;
            if let Filled::Yes = self.download_into(file, &mut part, None)? {
                return Ok(FileRange::new(Arc::new(part.into_file()), 0, length));
            }
        }
        Ok(FileRange::new(self.shared(file)?, offset, length))
    }
}

impl Ranges for Repository {
    /// The bytes are all here before the first one is read: no reader breaks off because of the network.
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        if offset.checked_add(length).is_none_or(|end| end > file.size) {
            let why = format!(
                "bytes {offset} to {offset}+{length} are asked for, the file has {}",
                file.size
            );
            let address = self.transport.address(file.file.as_str());
            return Err(FetchError::new(FetchErrorKind::Corrupt, Side::Server, address, why));
        }
        if length == 0 {
            return Ok(Box::new(io::empty()));
        }
        let stretch = self.stretch(file, offset, length).map_err(|e| self.about(file, e))?;
        Ok(Box::new(stretch))
    }
}

impl Default for FetchOptions {
    fn default() -> Self {
        FetchOptions {
            attempts: 5,
            base_delay: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            minimum_speed: 1024,
            speed_window: Duration::from_secs(60),
            deadline: None,
            stopped: || false,
            ca_file: None,
        }
    }
}
