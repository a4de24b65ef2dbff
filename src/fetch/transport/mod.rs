//! Transports: each fills a partial file with bytes of the repository, and verifies nothing.

pub(super) mod certificates;
mod connections;
pub(super) mod file;
pub(super) mod http;
mod name_files;
pub(super) mod names;
#[cfg(any(target_env = "musl", target_feature = "crt-static"))]
mod no_name_service;
mod odd_answer;
mod proxy;
pub(super) mod rsync;
mod tls;
pub(super) mod url;

use std::time::Duration;

use super::download::partial_file::PartialFile;
use super::download::spool::Spool;
use super::error::{FetchError, FetchProblem};
use crate::cancel::Cancelled;

/// Answer to a request for the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadAnswer {
    /// The head is the one that the caller knows.
    NotModified,
    /// Another head.
    Fetched {
        /// Its bytes, unverified.
        bytes: Vec<u8>,
        /// Its etag, for the next request.
        etag: Option<String>,
    },
}

/// Access to the files of one image or override. Each call makes one attempt.
pub(super) trait Transport: Send + Sync {
    /// URL of `file`, for messages.
    fn address(&self, file: &str) -> String;

    /// Adds the missing bytes of `file` to `partial`; a failure keeps the bytes before it.
    ///
    /// The partial file may have more bytes than requested afterwards.
    fn download_into(
        &self,
        file: &str,
        partial: &mut PartialFile<'_>,
    ) -> Result<(), TransportError>;

    /// Downloads a file of unknown size, of at most `limit` bytes, unless its etag is `known_etag`.
    fn download_unsized(
        &self,
        file: &str,
        known_etag: Option<&str>,
        limit: u64,
        spool: &Spool,
    ) -> Result<HeadAnswer, TransportError>;
}

/// Failure of one attempt.
#[derive(Debug)]
pub(super) enum TransportError {
    /// Repeating the attempt is useless.
    Permanent(FetchError),
    /// Repeating the attempt may help.
    Transient {
        /// The failure.
        error: FetchError,
        /// Pause that the server requests.
        pause: Option<Duration>,
    },
    /// The server sends no ranges, only whole files.
    WholeFilesOnly,
}

impl TransportError {
    /// A transient failure without a requested pause.
    pub fn transient(error: FetchError) -> Self {
        TransportError::Transient { error, pause: None }
    }
}

impl From<FetchError> for TransportError {
    /// Failures of this node's own files are permanent.
    fn from(error: FetchError) -> Self {
        TransportError::Permanent(error)
    }
}

impl From<FetchProblem> for TransportError {
    fn from(problem: FetchProblem) -> Self {
        TransportError::Permanent(problem.into())
    }
}

impl From<Cancelled> for TransportError {
    fn from(cancelled: Cancelled) -> Self {
        TransportError::Permanent(cancelled.into())
    }
}
