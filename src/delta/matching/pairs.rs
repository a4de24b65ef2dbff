//! Result of the matching: which contents are built from which others.

use crate::entry::Entry;

/// Largest gzip file whose plain form is built in memory from that of an old one.
const DECOMPOSED_IN_MEMORY: u64 = 16 << 20;

/// New contents with their sources.
#[derive(Clone, Debug, Default)]
pub struct MatchedPairs<'m> {
    /// Groups of contents that one patch builds in memory.
    pub groups: Vec<PairGroup<'m>>,
    /// Large compressed files, each of which is opened by itself.
    pub compressed: Vec<CompressedPair<'m>>,
    /// Source and target of contents that are too large for a group, or that are compressed and too
    /// large to be tried together with others.
    pub large: Vec<(&'m Entry, &'m Entry)>,
}

/// A large compressed file: an archive of files of the target, or similar to an old file.
#[derive(Clone, Copy, Debug)]
pub struct CompressedPair<'m> {
    /// The old file, if one matches.
    pub source: Option<&'m Entry>,
    /// The file of the target.
    pub entry: &'m Entry,
}

impl CompressedPair<'_> {
    /// Whether the plain forms of both are small enough for memory.
    pub fn fits_memory(&self) -> bool {
        self.source
            .into_iter()
            .chain([self.entry])
            .all(|file| size_of(file) <= DECOMPOSED_IN_MEMORY)
    }
}

/// New contents that one patch builds from old ones.
#[derive(Clone, Debug, Default)]
pub struct PairGroup<'m> {
    /// Class of all its contents.
    pub class: ContentClass,
    /// Files of the base with distinct contents.
    pub sources: Vec<&'m Entry>,
    /// Files of the target with distinct contents, none of which the base has.
    pub targets: Vec<&'m Entry>,
    /// Index of the source of each target.
    pub origins: Vec<usize>,
}

/// Class of the contents of a group.
///
/// Classes are separate, because compressed contents gain little and would enlarge the patch of
/// others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentClass {
    /// Not compressed.
    #[default]
    Plain,
    /// Compressed, and used as it is.
    Compressed,
    /// Gzip files, used in plain form.
    Decomposed,
    /// Files with parts of xz or zstd, used in plain form with their decisions.
    Replayed,
}

/// Size of a file in bytes; 0 for any other entry.
pub(super) fn size_of(entry: &Entry) -> u64 {
    entry.file().map_or(0, |(size, _)| size)
}
