//! Archives: the diff that turns one generation into another, and the whole image.
//!
//! The listing at the front decides everything that follows: the writer derives each member from it,
//! and the [`Reader`] compares byte by byte, so there is no member to interpret.
//!
#![doc = include_str!("format.md")]

pub mod content_index;
mod delta_plan;
mod frame_writer;
mod frames;
mod group;
mod header;
mod listing;
mod member;
mod read;
mod similarity;
mod tar_input;
mod verify;
mod write;

use std::io;

use crate::delta::ReadAt;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::generation::GenerationId;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

pub use frames::{Decoder, FrameCompression};
pub use group::{DeltaGroup, GroupSource, GroupTarget, Inside, Workspace};
pub use header::{FORMAT, Header, SpaceNeeded};
pub use listing::{KnownContent, Listing};
pub use read::{ArchiveMember, FullReader, Reader, read_listing};
pub use similarity::pair_by_content;
pub use tar_input::MemberContent;
pub use verify::{verify_diff, verify_full};
pub use write::{Deltas, WriteError, WriteOptions, WrittenArchiveInfo, write_diff, write_full};

/// What a reader accepts; everything else follows from the listing, which is held to these.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveLimits {
    /// `header.toml`: 100 bytes for each directory at the top of an image, of which there are dozens.
    pub header: u64,
    /// Each text of the listing: what a manifest may have, about five million entries.
    pub text: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        ArchiveLimits { header: 1 << 20, text: crate::manifest::MAX_TEXT }
    }
}

/// The image's own files, by path.
pub trait ContentProvider: Sync {
    /// Opens the regular file `entry`.
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn io::Read + Send + '_>>;
}

/// Contents that are at hand: the base's on the server, the live tree's on a node.
pub trait Sources: Sync {
    /// The content with `digest`, of `size` bytes, `path` being where it probably is; `None` if it is not
    /// there. The caller checks the digest.
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>>;

    /// The same behind what `to` holds; false where it is not there, and what was appended then means nothing.
    fn append(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
        to: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let read = self.read(digest, size, path)?;
        read.iter().for_each(|bytes| to.extend_from_slice(bytes));
        Ok(read.is_some())
    }

    /// The same, to be read piece by piece.
    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        Ok(self.read(digest, size, path)?.map(|bytes| Box::new(bytes) as Box<dyn ReadAt>))
    }
}

/// What a patch may need while its archive is built: contents of the base, and of the target itself.
pub struct BaseAndTarget<'a> {
    /// The contents of the base.
    pub base: &'a dyn Sources,
    /// What the target holds.
    pub target: &'a Manifest,
    /// Its files.
    pub content: &'a dyn ContentProvider,
}

impl Sources for BaseAndTarget<'_> {
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let Some(entry) = self.named(digest, size, path) else {
            return self.base.read(digest, size, path);
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(self.content.open(entry)?, size), &mut bytes)?;
        Ok(Some(bytes))
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        match self.named(digest, size, path) {
            None => self.base.open(digest, size, path),
            Some(_) => Ok(self.read(digest, size, path)?.map(|bytes| Box::new(bytes) as _)),
        }
    }
}

impl BaseAndTarget<'_> {
    /// The file of the target that a source names.
    fn named(&self, digest: &Digest, size: u64, path: &TreePath) -> Option<&Entry> {
        self.target.get(path).filter(|entry| entry.file() == Some((size, *digest)))
    }
}

/// Why an archive is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It could not be read, or not be decompressed.
    #[error("cannot read the archive: {0}")]
    Io(#[from] io::Error),
    /// It ends too early.
    #[error("the archive is cut off")]
    CutOff,
    /// A newer program wrote it.
    #[error("the archive has format {0}, this program reads format {FORMAT}; update the agent")]
    UnknownFormat(i64),
    /// It is for another generation than the one at hand.
    #[error("the archive applies to generation {}, not to {}", wanted.short(), found.short())]
    OtherBase {
        /// The generation that it applies to.
        wanted: GenerationId,
        /// The generation at hand.
        found: GenerationId,
    },
    /// Its listing contradicts itself or the format.
    #[error("the archive's listing is not valid: {0}")]
    Listing(String),
    /// A member is not the one that has to come.
    #[error("the archive does not hold {name} as it should: {why}")]
    Member {
        /// Which.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is something between its members.
    #[error("the archive has something other than zeros after a member")]
    Padding,
    /// There is something after its end.
    #[error("the archive goes on after its end")]
    Trailing,
    /// A content is not the one listed.
    #[error("the content of {0} in the archive does not have the digest that is listed")]
    Digest(TreePath),
    /// A patch does not give what is listed.
    #[error("delta group {group} of the archive cannot be used: {why}")]
    Patch {
        /// Which.
        group: u64,
        /// What is wrong with it.
        why: String,
    },
}

#[cfg(test)]
pub(crate) mod tests;
