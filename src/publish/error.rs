//! Errors of a publish, and of reading a repository on this machine.

use std::fmt;
use std::io;

use jiff::Timestamp;

use crate::catalog::{CatalogError, MAX_SERIAL_STEP, RepoPath};
use crate::diff_archive::{ArchiveError, WriteError};
use crate::host::{BadFile, KeysError};
use crate::image::Layer;
use crate::manifest::ManifestError;
use crate::report::units::Number;
use crate::scan::ScanError;
use crate::signature::SignatureError;
use crate::signing::SigningError;

/// Reason that a file of the repository is not the one that the catalog names.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    #[error("it is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("its size is {actual} bytes; the catalog says {expected}")]
    Size { actual: u64, expected: u64 },
    #[error("its digest does not match the catalog")]
    Digest,
    #[error("it is the manifest of another generation")]
    OtherGeneration,
    #[error("its name has no known extension")]
    UnknownExtension,
}

impl From<FileFault> for io::Error {
    fn from(fault: FileFault) -> Self {
        io::Error::other(fault)
    }
}

/// One of the two signed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedPart {
    Head,
    Catalog,
}

/// A failure to publish an image, or to read a repository.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// An operation on a file of the repository failed.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// The operation, as a verb.
        operation: &'static str,
        /// The path of the file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The catalog is invalid.
    #[error("{path}: {source}")]
    Catalog {
        /// The path of the catalog.
        path: String,
        /// The violated rule.
        source: CatalogError,
    },
    /// Signature blocks are malformed.
    #[error("{path}: {source}")]
    Signature {
        /// The path of the file.
        path: String,
        /// The violated rule.
        source: SignatureError,
    },
    /// A catalog or a head cannot be signed.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The public keys in the image cannot be used.
    #[error(transparent)]
    ImageKeys(#[from] KeysError),
    /// The repository is signed, and no key was given.
    #[error(
        "cannot write {directory} without a key: its catalog is signed, and nodes would refuse one \
         without a signature; pass --sign-key or --sign-command"
    )]
    KeyNeeded {
        /// Directory of the layer.
        directory: String,
    },
    /// The present head or catalog is signed by none of the publisher's keys.
    #[error("cannot continue the {part} of {layer}: {}", HowToAccept(.source))]
    NotAccepted {
        layer: Layer,
        /// The file concerned.
        part: SignedPart,
        /// The failure of the verification.
        source: SignatureError,
    },
    /// The catalog would have no signature, and its head one.
    #[error(
        "cannot sign only the head of {0}: nodes with a key need a signature of the catalog as \
         well; pass --sign-key or --sign-command"
    )]
    HeadKeyAlone(Layer),
    /// A new head would have expired.
    #[error(
        "cannot issue a head of {layer} that is valid until {end:.0}: that time has passed; pass a \
         later one as --expires"
    )]
    EndInPast { layer: Layer, end: Timestamp },
    /// The wanted serial is not larger than the present one.
    #[error("cannot publish serial {wanted} of {layer}: its serial is {present} already")]
    SmallSerial { layer: Layer, wanted: u64, present: u64 },
    /// The wanted serial is far above the present one.
    #[error(
        "cannot publish serial {wanted} of {layer}: its serial is {present}, and nodes refuse a \
         step of more than {}; publish a smaller one",
        Number(MAX_SERIAL_STEP)
    )]
    LargeSerial { layer: Layer, wanted: u64, present: u64 },
    /// No larger serial exists.
    #[error(
        "cannot publish {layer}: its serial is the largest number; move its directory away, and \
         publish with --serial"
    )]
    LastSerial { layer: Layer },
    /// The directory was written by a program before format 2.
    #[error(
        "{directory} has repository format 1, which this program cannot read: move it away, and \
         publish it again with 'si_tardiff publish {}'", .layer.publish_option()
    )]
    OldFormat {
        /// Directory of the layer.
        directory: String,
        layer: Layer,
    },
    /// A manifest is invalid.
    #[error("{path}: {source}")]
    Manifest {
        /// The path of the manifest.
        path: String,
        /// The violated rule.
        source: ManifestError,
    },
    /// Another process holds the lock.
    #[error("cannot lock {0}: another publish or prune of it is running")]
    Busy(Layer),
    /// The name belongs to another module of an image server.
    #[error("{0} cannot be published: an image server uses this name itself; choose another name")]
    ReservedName(Layer),
    /// The repository has no catalog of this image.
    #[error("nothing is published of {0}")]
    NothingPublished(Layer),
    /// The repository has no catalog at all.
    #[error("nothing is published in {repository}")]
    Empty {
        /// The path of the repository.
        repository: String,
    },
    /// An archive cannot be written.
    #[error("cannot write {file}: {source}")]
    Write {
        /// The archive.
        file: String,
        /// The failure.
        source: WriteError,
    },
    /// An archive differs after it was written.
    #[error("cannot verify {file} after writing it: {source}")]
    ReadBack {
        /// The archive.
        file: String,
        /// The first difference.
        source: ArchiveError,
    },
    /// An archive of the repository is invalid.
    #[error("{file}: {source}")]
    Archive {
        /// The archive.
        file: RepoPath,
        /// The violated rule.
        source: ArchiveError,
    },
    /// The image cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// No node could read the file for a cluster.
    #[error("cannot publish {0}")]
    ClusterFile(#[from] BadFile),
    /// The head would have a file that no archive can produce.
    #[error("cannot publish: no archive of the repository yields the content of {path}")]
    Unreachable {
        /// The first such file.
        path: String,
    },
}

impl PublishError {
    /// A failed operation on a file.
    pub(super) fn file(
        operation: &'static str,
        path: &std::path::Path,
        source: io::Error,
    ) -> PublishError {
        PublishError::File { operation, path: path.display().to_string(), source }
    }
}

impl fmt::Display for SignedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SignedPart::Head => "head",
            SignedPart::Catalog => "catalog",
        })
    }
}

/// A failed verification, with the command or the option that helps.
struct HowToAccept<'e>(&'e SignatureError);

impl fmt::Display for HowToAccept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HowToAccept(source) = self;
        match source {
            SignatureError::Unsigned => write!(
                f,
                "{source}; look at the repository, then run 'si_tardiff sign' without --trusted-key"
            ),
            SignatureError::Wrong { .. } | SignatureError::BadForm { .. } => {
                write!(
                    f,
                    "{source}; restore the directory from a backup, or move it away and publish \
                     with --serial"
                )
            }
            _ => write!(
                f,
                "{source}; if that key is right, name its public key by --trusted-key, or by \
                 --sign-public if it is that of --sign-command"
            ),
        }
    }
}
