//! Failures of a full sync, with the side at fault and their wording.

use std::fmt;

use crate::image::Layer;
use crate::manifest::ManifestError;
use crate::root::RootError;
use crate::rsync::RsyncError;
use crate::scan::ScanError;
use crate::tree_path::TreePath;

/// Number of paths that a message names.
const MAX_NAMED_PATHS: usize = 10;

/// Failure to receive an image or an override.
#[derive(Debug, thiserror::Error)]
pub enum FullSyncError {
    /// A system call on this node's trees failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A filesystem of this node is full.
    #[error("{0}")]
    DiskSpace(RsyncReport),
    /// This node has no rsync program.
    #[error("the rsync program is not installed on this node")]
    NotInstalled,
    /// Another failure of this node.
    #[error(transparent)]
    Node(NodeFault),
    /// The server has no such image or override.
    #[error("the server has no {}: {}", .0.layer, .0)]
    NotFound(RsyncReport),
    /// No rsync server answers, or it refuses.
    #[error("{0}")]
    Unavailable(RsyncReport),
    /// Some files could not be read on the server, or vanished meanwhile.
    #[error("rsync could not transfer all files: {0}")]
    Partial(RsyncReport),
    /// Some files could not be written on this node.
    #[error("rsync could not write all files: {0}")]
    PartialHere(RsyncReport),
    /// Another failure of the server or the network.
    #[error(transparent)]
    Server(ServerFault),
}

/// Failure of this node during a full sync.
#[derive(Debug, thiserror::Error)]
pub enum NodeFault {
    /// rsync could not be started or watched.
    #[error(transparent)]
    Run(RsyncError),
    /// rsync failed on this node.
    #[error("{0}")]
    Rsync(RsyncReport),
    /// The live tree or the receive directory could not be read.
    #[error(transparent)]
    Scan(ScanError),
    /// A file of this node, or of the receive directory, changed during the transfer.
    #[error("{path} changed while the {layer} was received; run again")]
    Changed {
        /// The first such path.
        path: TreePath,
        /// The image or override.
        layer: Layer,
    },
}

/// Failure of the server or the network during a full sync.
#[derive(Debug, thiserror::Error)]
pub enum ServerFault {
    /// The time limit has passed.
    #[error("rsync exceeded its time limit and was killed; raise full_sync_timeout")]
    TimedOut,
    /// The connection was lost, or rsync failed for another reason.
    #[error("{0}")]
    Rsync(RsyncReport),
    /// rsync printed a line of unknown form.
    #[error("cannot parse a line of rsync: {}", String::from_utf8_lossy(line).escape_debug())]
    UnknownLine {
        /// The line.
        line: Vec<u8>,
    },
    /// The module exceeds the limit of paths.
    #[error("the module has more than {limit} paths")]
    TooManyPaths {
        /// The limit.
        limit: usize,
    },
    /// Files on the server changed during the transfer.
    #[error("the {layer} changed while it was received: {names}; run again")]
    Changed {
        /// The image or override.
        layer: Layer,
        /// Names of the changed files.
        names: ChangedNames,
    },
    /// The received tree has something that a manifest cannot hold.
    #[error(transparent)]
    Manifest(ManifestError),
}

/// Message of rsync, with the layer and the address to which it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RsyncReport {
    /// The image or override.
    pub layer: Layer,
    /// Address of its module.
    pub address: String,
    /// First line of rsync's error output, else its exit status.
    pub reason: String,
}

/// Names of changed files. The first few are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedNames(pub Vec<String>);

impl FullSyncError {
    pub(super) fn unknown_line(line: &[u8]) -> Self {
        FullSyncError::Server(ServerFault::UnknownLine { line: line.to_owned() })
    }
}

impl From<RsyncError> for FullSyncError {
    fn from(error: RsyncError) -> Self {
        match error {
            RsyncError::Cancelled => FullSyncError::Cancelled,
            RsyncError::NotInstalled => FullSyncError::NotInstalled,
            RsyncError::TimedOut => FullSyncError::Server(ServerFault::TimedOut),
            RsyncError::Run(_) => FullSyncError::Node(NodeFault::Run(error)),
        }
    }
}

impl From<ScanError> for FullSyncError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Tree(error) => FullSyncError::Root(error),
            ScanError::Cancelled => FullSyncError::Cancelled,
            error => FullSyncError::Node(NodeFault::Scan(error)),
        }
    }
}

impl From<ManifestError> for FullSyncError {
    fn from(error: ManifestError) -> Self {
        FullSyncError::Server(ServerFault::Manifest(error))
    }
}

impl fmt::Display for RsyncReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.address)
    }
}

impl fmt::Display for ChangedNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = &self.0[..self.0.len().min(MAX_NAMED_PATHS)];
        f.write_str(&named.join(", "))?;
        match self.0.len() - named.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
