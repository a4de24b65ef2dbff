//! Failures to supply contents from the frames of archives, and their wording.

use std::io;
use std::sync::Arc;

use crate::catalog::RepoPath;
use crate::diff_archive::content_index::IndexError;
use crate::diff_archive::{ArchiveError, FrameFault};
use crate::digest::Digest;
use crate::fetch::error::{FetchError, FetchErrorKind, Side};

/// Failure that ends a [`ContentStore::fetch`](super::ContentStore::fetch).
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The server is unreachable, or the spool of this node fails.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The content index cannot be used.
    #[error("{file}: {error}")]
    Index {
        /// The index.
        file: RepoPath,
        /// Its fault.
        error: Box<FrameError>,
    },
    /// The receiver of the contents failed.
    #[error("cannot store content {digest}: {source}")]
    Sink {
        /// Digest of the content.
        digest: Digest,
        /// Failure of the receiver.
        source: io::Error,
    },
}

/// A content that none of its places could supply.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Digest of the content.
    pub digest: Digest,
    /// Failure of the last place.
    pub reason: MissingReason,
}

/// Reason for a missing content.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MissingReason {
    /// No archive is known to hold it.
    #[error("the content index does not name it")]
    NotIndexed,
    /// A block of the content index is damaged, and may name its archive.
    #[error("{file}: a part of the content index is damaged")]
    IndexDamaged {
        /// The index.
        file: RepoPath,
    },
    /// A frame was read and did not supply it.
    #[error("{file} does not supply it")]
    NotSupplied {
        /// The archive.
        file: RepoPath,
    },
    /// A frame could not be read.
    #[error("{file}: {error}")]
    Frame {
        /// The archive.
        file: RepoPath,
        /// Failure of the frame.
        error: Arc<FrameError>,
    },
}

impl MissingReason {
    /// The file of the repository at fault, if one is.
    pub fn file(&self) -> Option<&RepoPath> {
        match self {
            MissingReason::NotIndexed => None,
            MissingReason::IndexDamaged { file }
            | MissingReason::NotSupplied { file }
            | MissingReason::Frame { file, .. } => Some(file),
        }
    }

    /// Whether a frame had another digest than the frame table states.
    pub(super) fn is_wrong_digest(&self) -> bool {
        let MissingReason::Frame { error, .. } = self else { return false };
        matches!(error.cause_of_read(), Some(FrameFault::Digest(_)))
    }
}

/// Whether every other place would fail as well: no server, or a failure of this node.
pub(super) fn is_final(error: &FetchError) -> bool {
    matches!(error.kind, FetchErrorKind::Unreachable | FetchErrorKind::DiskSpace)
        || error.side == Side::Node
}

/// Failure to read contents from one frame of an archive.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The head of the archive could not be read, by this or by an earlier attempt.
    #[error(transparent)]
    Head(Arc<FrameError>),
    /// Several requests in a row have failed, so that no more are made.
    #[error("several requests for parts of the archive have failed")]
    ManyFailures,
    /// The content index is not valid.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The frame could not be decompressed.
    #[error("cannot read the archive: {0}")]
    Read(#[from] io::Error),
    /// The listing or a delta of the archive is invalid.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Two contents of one frame share bytes.
    #[error("the content index names places that overlap")]
    OverlappingPlaces,
    /// The content index names a delta group that the listing does not have.
    #[error("the archive has no delta group {number}")]
    NoDeltaGroup {
        /// Number in the content index.
        number: u64,
    },
    /// The sources of a delta group exceed the memory limit.
    #[error("delta group {number} needs more sources than fit in memory")]
    SourcesTooLarge {
        /// Number of the group.
        number: u64,
    },
    /// A source of a delta group is missing.
    #[error("source {digest} of delta group {number} is missing: {reason}")]
    SourceMissing {
        /// Number of the group.
        number: u64,
        /// Digest of the source.
        digest: Digest,
        /// Why it is missing.
        reason: MissingReason,
    },
    /// The head of the archive, or one of its frames, cannot be used.
    #[error("cannot read the archive: {0}")]
    Frames(#[from] FrameFault),
    /// The content index names a frame that the archive does not have.
    #[error("the content index names a frame that the archive does not have")]
    NoFrame,
    /// The archive's name has no known suffix.
    #[error("the suffix of its name names no known compression")]
    UnknownCompression,
    /// A content in the frame is invalid.
    #[error(transparent)]
    Content(#[from] ContentFault),
    /// A failure that no other place can repair.
    #[error(transparent)]
    Final(ContentError),
}

impl FrameError {
    /// Returns the request that has failed while the frames were read, if one has.
    pub(super) fn into_failed_request(self) -> Self {
        match self.cause_of_read::<FetchError>() {
            Some(error) => FrameError::Fetch(error.clone()),
            None => self,
        }
    }

    /// The error of this type that a failed read holds.
    fn cause_of_read<E: std::error::Error + 'static>(&self) -> Option<&E> {
        let source = match self {
            FrameError::Read(source) => source,
            FrameError::Content(ContentFault::Read(source)) => source,
            _ => return None,
        };
        source.get_ref()?.downcast_ref()
    }
}

/// Fault of one content inside a frame.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ContentFault {
    /// The bytes do not have the expected digest.
    #[error("content {digest} has another digest")]
    WrongDigest {
        /// The expected digest.
        digest: Digest,
    },
    /// The frame ends inside the content.
    #[error("the frame is truncated")]
    Truncated,
    /// The frame could not be decompressed.
    #[error("{0}")]
    Read(Arc<io::Error>),
}

impl From<ContentFault> for io::Error {
    fn from(fault: ContentFault) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, fault)
    }
}
