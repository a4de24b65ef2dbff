//! Warnings of a full sync, with their wording.

use std::fmt;

use super::error::FullSyncError;
use crate::tree_path::TreePath;

/// Event of a full sync that the administrator should know.
pub(super) enum FullSyncNotice<'a> {
    /// Some files were not transferred; they are fetched from the repository, if possible.
    Partial { error: &'a FullSyncError },
    /// A socket has no content and is not received.
    SocketOmitted { path: &'a TreePath },
}

impl fmt::Display for FullSyncNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FullSyncNotice::Partial { error } => write!(f, "{error}"),
            FullSyncNotice::SocketOmitted { path } => {
                write!(f, "{path} is a socket on the server and is left out")
            }
        }
    }
}
