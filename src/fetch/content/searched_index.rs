//! A content index of which contents are searched: one in memory, or a published one.

use crate::catalog::{FileRef, RepoPath};
use crate::diff_archive::content_index::{ContentIndex, IndexRecord};
use crate::digest::Digest;
use crate::fetch::content::published_index::PublishedIndex;
use crate::fetch::error::FetchError;

/// A content index of which contents are searched.
pub(super) enum SearchedIndex<'s> {
    /// One in memory.
    Whole(&'s ContentIndex),
    /// One of which the needed blocks are fetched.
    Published(Box<PublishedIndex<'s>>),
}

impl<'s> SearchedIndex<'s> {
    /// Fetches the parts that are needed for `wanted`.
    pub fn search(&mut self, wanted: &[(Digest, u64)]) -> Result<(), FetchError> {
        match self {
            SearchedIndex::Whole(_) => Ok(()),
            SearchedIndex::Published(index) => {
                index.search(wanted.iter().map(|(digest, _)| *digest))
            }
        }
    }

    /// All locations of a content that was searched, the best first.
    pub fn places(&self, digest: &Digest) -> impl Iterator<Item = (&RepoPath, &IndexRecord)> {
        match self {
            SearchedIndex::Whole(index) => index.places(digest),
            SearchedIndex::Published(index) => index.found().places(digest),
        }
    }

    /// The file of a published index of which a block that was searched is damaged.
    pub fn damaged(&self) -> Option<&'s FileRef> {
        match self {
            SearchedIndex::Published(index) if index.is_damaged() => Some(index.file()),
            _ => None,
        }
    }

    /// The file of a published index, and the bytes of it that were fetched.
    pub fn transfer(&self) -> Option<(&'s FileRef, u64)> {
        match self {
            SearchedIndex::Whole(_) => None,
            SearchedIndex::Published(index) => Some((index.file(), index.fetched_bytes())),
        }
    }
}
