//! Errors of a scan, and their wording.

use std::io;

use crate::manifest::ManifestError;
use crate::root::RootError;

/// Reason for which a tree cannot be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error(transparent)]
    Tree(#[from] RootError),
    #[error("cancelled")]
    Cancelled,
    #[error("cannot read the list of mounts below {path}: {source}")]
    Mounts { path: String, source: io::Error },
    /// The kernel's files would be published, or files that exist in memory only.
    #[error(
        "{path} is a mounted {kind} filesystem, whose content does not belong into an image; \
         unmount it and publish again"
    )]
    PseudoMounted { path: String, kind: String },
    /// Another program writes to the tree.
    #[error(
        "{path} changed while the image was read; publish again when nothing writes to the image"
    )]
    Changed { path: String },
    /// An updated node was copied into the image with its state.
    #[error(
        "{path} is a node's own state and does not belong into an image; remove it and publish again"
    )]
    ClientState { path: String },
    /// No manifest can describe the tree.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}
