//! Notices of downloads, with their wording.

use std::fmt;
use std::time::Duration;

use super::error::FetchError;
use crate::catalog::RepoPath;

/// Event of a download that the administrator may want to know.
pub(super) enum FetchNotice<'a> {
    /// An attempt failed and will be repeated.
    Retry {
        /// Failure of the attempt.
        error: &'a FetchError,
        /// Time until the next attempt.
        pause: Duration,
    },
    /// A complete download has the wrong digest and will be repeated once.
    WrongDigest {
        /// The file in the repository.
        file: &'a RepoPath,
    },
}

impl fmt::Display for FetchNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchNotice::Retry { error, pause } => {
                write!(f, "{error}; retrying in {:.1} s", pause.as_secs_f64())
            }
            FetchNotice::WrongDigest { file } => write!(
                f,
                "the server sent {file} with another digest than the catalog names; \
                 downloading it again"
            ),
        }
    }
}
