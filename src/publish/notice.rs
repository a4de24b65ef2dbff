//! Notices of a publish and their wording.

use std::fmt;
use std::io;

use crate::digest::Digest;
use crate::generation::GenerationId;

use super::PublishError;

/// An event of a publish that the administrator needs to know.
#[derive(Debug)]
pub(super) enum PublishNotice {
    /// The content index cannot be read; the publish writes a new one.
    IndexUnreadable(PublishError),
    /// An archive is missing or damaged; the new catalog does not list it.
    ArchiveDropped(PublishError),
    /// A manifest cannot be read, so no diff from its generation is written.
    NoDiffFrom { generation: GenerationId, error: PublishError },
    /// A content cannot be read, so it serves no delta as a source.
    NoDeltaFrom { digest: Digest, reason: String },
    /// The same for further contents, counted only.
    NoDeltaFromMore { count: usize },
    /// The exclude file of the image cannot be used; the built-in rules are.
    ExcludesUnusable { file: &'static str, error: io::Error },
}

impl fmt::Display for PublishNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishNotice::IndexUnreadable(error) => write!(f, "{error}; writing a new index"),
            PublishNotice::ArchiveDropped(error) => {
                write!(f, "removing an archive from the catalog: {error}")
            }
            PublishNotice::NoDiffFrom { generation, error } => {
                write!(f, "cannot write a diff from generation {}: {error}", generation.short())
            }
            PublishNotice::NoDeltaFrom { digest, reason } => {
                write!(f, "cannot use content {} as a delta source: {reason}", digest.short())
            }
            PublishNotice::NoDeltaFromMore { count } => {
                write!(f, "cannot use {count} more contents as delta sources")
            }
            PublishNotice::ExcludesUnusable { file, error } => write!(
                f,
                "cannot use {file} of the image: {error}; diffs are made for the built-in excludes"
            ),
        }
    }
}
