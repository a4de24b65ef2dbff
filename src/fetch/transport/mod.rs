//! What the transports have in common.

pub(super) mod certificates;
pub(super) mod file;
pub(super) mod http;
pub(super) mod rsync;
pub(super) mod url;

use std::time::Duration;

use crate::fetch::CatalogAnswer;
use crate::fetch::cancel::Cancelled;
use crate::fetch::download::partial_file::PartialFile;
use crate::fetch::download::spool::Spool;
use crate::fetch::error::FetchError;

/// A way to the files of one image in a repository. It makes one attempt, and verifies nothing.
pub(super) trait Transport: Send + Sync {
    /// Where `file` is, as it may be printed.
    fn address(&self, file: &str) -> String;

    /// Adds to `part` what it lacks of `file`; keeps what came when it fails.
    ///
    /// The part may hold more than it needs afterwards.
    fn fill(&self, file: &str, part: &mut PartialFile<'_>) -> Result<(), TransportError>;

    /// Fetches a file whose size nobody has named, of at most `cap` bytes, unless its etag is `known`.
    fn unsized_file(
        &self,
        file: &str,
        known: Option<&str>,
        cap: u64,
        spool: &Spool,
    ) -> Result<CatalogAnswer, TransportError>;
}

/// Why one attempt failed.
#[derive(Debug)]
pub(super) enum TransportError {
    /// It would fail again.
    Permanent(FetchError),
    /// It may pass.
    Transient {
        /// What it was.
        error: FetchError,
        /// The server wants to be left alone for so long.
        pause: Option<Duration>,
    },
    /// Parts cannot be had from there, only whole files.
    WholeFilesOnly,
}

impl TransportError {
    /// TransportError that may pass.
    pub fn transient(error: FetchError) -> Self {
        TransportError::Transient { error, pause: None }
    }
}

impl From<Cancelled> for TransportError {
    fn from(stopped: Cancelled) -> Self {
        TransportError::Permanent(stopped.into())
    }
}

impl From<FetchError> for TransportError {
    /// What is wrong with this node's own files stays wrong.
    fn from(error: FetchError) -> Self {
        TransportError::Permanent(error)
    }
}
