//! Errors of the jobs of the image server, and their wording.

use std::io;
use std::net::SocketAddr;

use super::image_tar::TarError;
use crate::diff_archive::{ArchiveError, WriteError};
use crate::manifest::ManifestError;
use crate::scan::ScanError;

/// Reason that a file is neither a manifest, nor an archive of an image, nor a diff.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Reading failed.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The text of the manifest is invalid.
    #[error("cannot read the manifest {path}: {source}")]
    Manifest {
        /// The file.
        path: String,
        /// The cause.
        source: ManifestError,
    },
    /// The file is not an archive of an image.
    #[error("cannot read {path} as an archive of an image: {source}")]
    Tar {
        /// The file.
        path: String,
        /// The cause.
        source: TarError,
    },
    /// The diff is invalid.
    #[error("cannot read the diff {path}: {source}")]
    Diff {
        /// The file.
        path: String,
        /// The cause.
        source: ArchiveError,
    },
}

/// Reason that no diff was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The base or the image cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The base cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The base is a diff.
    #[error(
        "cannot use {path} as a base: it is a diff; name a directory, an archive of a whole image, \
         or a manifest"
    )]
    BaseIsDiff {
        /// The file.
        path: String,
    },
    /// Deltas need the contents of the base.
    #[error(
        "cannot build deltas from {path}: it is not a directory, and deltas are built from the \
         files of the base"
    )]
    NoContents {
        /// The file.
        path: String,
    },
    /// The name of the output does not determine a format.
    #[error("cannot write {path}: its name ends neither in .tar.zst nor in .tar.gz")]
    Extension {
        /// The file.
        path: String,
    },
    /// The output is a device, a directory or the like.
    #[error("cannot replace {path}: it exists and is not a regular file")]
    Occupied {
        /// The file.
        path: String,
    },
    /// The output is the base.
    #[error("cannot replace {path}: it is the base")]
    OutputIsBase {
        /// The file.
        path: String,
    },
    /// The name of the directory is no image name.
    #[error("cannot take the image's name from {path}; pass --image")]
    NoName {
        /// The file.
        path: String,
    },
    /// A system call on the output failed.
    #[error("cannot {operation} {path}: {source}")]
    Output {
        /// The operation, as a verb.
        operation: &'static str,
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// The cause.
        source: WriteError,
    },
    /// The written archive is damaged.
    #[error("cannot verify {path} after writing: {source}")]
    ReadBack {
        /// The file.
        path: String,
        /// The cause.
        source: ArchiveError,
    },
    /// The base with completed times is no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Reason that the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no such repository.
    #[error("cannot serve {path}: it is not a directory")]
    NotADirectory {
        /// The file.
        path: String,
    },
    /// Files are sent by links in `/proc`.
    #[error("cannot serve: /proc is not mounted; run mount -t proc proc /proc")]
    NoProc,
    /// The address is not available.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A resource of the system is missing.
    #[error("cannot serve: {0}")]
    System(#[from] io::Error),
}
