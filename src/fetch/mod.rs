//! Fetching: brings files of a repository to this node and vouches for their bytes.
//!
//! The transports (http, file, rsync) have one thing in common: each makes a part file of the spool
//! hold bytes, and none verifies. [`Repository::file`] does, for all of them, and is the only place
//! that makes a [`Verified`].

pub mod content;
mod error;
mod spool;
mod url;
mod verified;

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use crate::catalog::{FileRef, Frame};
use crate::image::ImageName;
use crate::report::Monitor;

pub use content::Ranges;
pub use error::{FetchError, FetchErrorKind, Side};
pub use spool::Spool;
pub use url::{BadRepoUrl, RepoUrl};
pub use verified::Verified;

/// How patient a run is, and whom it trusts.
#[derive(Clone, Debug)]
pub struct Options {
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

/// The files of one image in a repository.
pub struct Repository {
    spool: Spool,
}

impl Repository {
    /// Prepares to fetch files of `image` from the repository at `url`; asks the server nothing yet.
    ///
    /// Without a spool of the caller's a temporary one is made, and removed in the end.
    pub fn open(url: &RepoUrl, image: &ImageName, options: &Options, spool: Option<Spool>) -> Result<Self, FetchError> {
        let _ = (url, image, options);
        Ok(Repository { spool: spool.ok_or_else(unfinished)? })
    }

    /// The catalog, by one request that names the etag of the one that is `known`.
    pub fn catalog(&self, known: Option<&str>) -> Result<CatalogAnswer, FetchError> {
        let _ = known;
        Err(unfinished())
    }

    /// Fetches `file` whole, resuming what an earlier run left, and verifies it.
    pub fn file(&self, file: &FileRef, monitor: &dyn Monitor) -> Result<Verified, FetchError> {
        let _ = (file, monitor);
        Err(unfinished())
    }

    /// The first frame of `file`, verified.
    pub fn frame(&self, file: &FileRef, frame: &Frame) -> Result<Vec<u8>, FetchError> {
        let _ = (file, frame);
        Err(unfinished())
    }

    /// The verified bytes of `file`, which must not be larger than `cap`.
    pub fn small(&self, file: &FileRef, cap: u64) -> Result<Vec<u8>, FetchError> {
        let _ = (file, cap);
        Err(unfinished())
    }

    /// Where files are kept.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }
}

impl Ranges for Repository {
    fn range(&self, file: &FileRef, offset: u64, length: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        let _ = (file, offset, length);
        Err(unfinished())
    }
}

fn unfinished() -> FetchError {
    FetchError::new(FetchErrorKind::Other, Side::Node, "", "fetching is not built yet")
}

impl Default for Options {
    fn default() -> Self {
        Options {
            attempts: 5,
            base_delay: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            minimum_speed: 1024,
            speed_window: Duration::from_secs(60),
            ca_file: None,
        }
    }
}
