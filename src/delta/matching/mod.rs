//! Matching of old files to new ones: by names and sizes, then by similarity of content.
//!
//! A [`Matching`] is made once for a diff. [`Matching::sources`] lists the contents that have to be
//! fetched before deltas are computed; [`Matching::into_pairs`] gives the groups of which patches
//! are made.

mod groups;
mod names;
mod pairs;
mod search;

use std::collections::{HashMap, HashSet};

use crate::delta::effort::{Effort, RebuildLimit};
use crate::delta::sketch::Sketch;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::ExcludedContents;
use crate::manifest::Manifest;

use groups::GroupBuilder;
use names::{NameIndex, is_gzip_name, is_initrd_name};
use pairs::size_of;
use search::SketchSearch;

pub use names::{is_compressed_name, is_replayed_name};
pub use pairs::{CompressedPair, ContentClass, MatchedPairs, PairGroup};

/// Largest compressed file that is opened in a group; a larger one is opened by itself.
const DECOMPOSED_IN_GROUP: u64 = 1 << 20;
/// Largest compressed file that is tried in a group, because most find nothing in an old one.
const COMPRESSED_IN_GROUP: u64 = 1 << 20;
/// Search budget for a file of a numbered series, in multiples of its size.
///
/// If the whole series has moved on by one, the contents of the series are about as large.
const SERIES_BUDGET: u64 = 2;

/// Sources of each content that is new in a target.
#[derive(Clone, Debug)]
pub struct Matching<'m> {
    effort: Effort,
    compressed: Vec<CompressedPair<'m>>,
    /// In the order of the tree.
    new_contents: Vec<NewContent<'m>>,
    search: SketchSearch<'m>,
    /// Source and target of each pair of the similarity search.
    similar: Vec<(&'m Entry, &'m Entry)>,
}

/// A new content with its source.
#[derive(Clone, Debug)]
struct NewContent<'m> {
    entry: &'m Entry,
    class: ContentClass,
    source: Option<&'m Entry>,
    /// Whether the similarity search may find a better source.
    uncertain: bool,
    /// Whether only excluded paths have the content; it shares no group with others.
    is_excluded: bool,
}

impl<'m> Matching<'m> {
    /// Matches the contents that `target` has and `base` lacks to contents of `base`, by name and
    /// size.
    ///
    /// The source of a file is, in this order: the file of the same path; one of the same name in
    /// the same directory apart from version numbers (so the modules of a new kernel match the old
    /// ones); one of the same path apart from version numbers; one of the same name apart from
    /// version numbers. Of several the one with the closest size is taken. Gzip files are
    /// decomposed from the smallest on, as far as `limit` permits.
    ///
    /// A content of the base in `excluded` is a source only of contents that are excluded as well.
    /// Those are matched by name alone, and not decomposed.
    pub fn by_names(
        base: &'m Manifest,
        target: &'m Manifest,
        effort: Effort,
        limit: &RebuildLimit,
        excluded: &ExcludedContents,
    ) -> Self {
        let digests = base.entries().iter().filter_map(Entry::digest).copied();
        let mut seen: HashSet<Digest> =
            digests.filter(|digest| excluded.is_known(digest)).collect();
        let (excluded_entries, new_entries): (Vec<&Entry>, Vec<&Entry>) = target
            .entries()
            .iter()
            .filter(|entry| entry.file().is_some_and(|(_, digest)| seen.insert(digest)))
            .filter(|entry| size_of(entry) > 0)
            .partition(|entry| excluded.is_target_excluded(entry));

        let names = NameIndex::new(base, &new_entries, |entry| !excluded.is_source_excluded(entry));
        let decomposed = choose_decomposed(&new_entries, limit);
        let mut matching = Matching {
            effort,
            compressed: Vec::new(),
            new_contents: Vec::new(),
            search: SketchSearch::default(),
            similar: Vec::new(),
        };

        for entry in new_entries {
            let source = names.source_of(entry, size_of(entry));
            let is_decomposed =
                entry.file().is_some_and(|(_, digest)| decomposed.contains(&digest));
            // An initrd may hold files of the target as they are, so it is tried at any effort.
            let is_single = is_decomposed || is_initrd_name(entry.path.name());
            if is_single && size_of(entry) > DECOMPOSED_IN_GROUP {
                matching.compressed.push(CompressedPair { source, entry });
                continue;
            }

            let class = match is_decomposed {
                true if is_replayed_name(entry.path.name()) => ContentClass::Replayed,
                true => ContentClass::Decomposed,
                false => class_by_name(entry),
            };
            let uncertain = class == ContentClass::Plain && names.is_numbered_series(entry);
            let new = NewContent { entry, class, source, uncertain, is_excluded: false };
            matching.new_contents.push(new);
        }

        matching.search = matching.plan_search(base, target, excluded);
        matching.add_excluded(base, excluded_entries);
        matching
    }

    /// Adds the contents that only excluded paths have.
    fn add_excluded(&mut self, base: &'m Manifest, entries: Vec<&'m Entry>) {
        let names = NameIndex::new(base, &entries, |_| true);
        self.new_contents.extend(entries.into_iter().map(|entry| NewContent {
            entry,
            class: class_by_name(entry),
            source: names.source_of(entry, size_of(entry)),
            uncertain: false,
            is_excluded: true,
        }));
    }

    /// Plans the search for contents without a source, or with an uncertain one.
    ///
    /// Compressed contents are left out, because they have little in common with others.
    fn plan_search(
        &self,
        base: &'m Manifest,
        target: &Manifest,
        excluded: &ExcludedContents,
    ) -> SketchSearch<'m> {
        let budget = self.effort.search_budget();
        let wanted: Vec<(&Entry, u64)> = self
            .new_contents
            .iter()
            .filter(|new| {
                new.class == ContentClass::Plain && (new.source.is_none() || new.uncertain)
            })
            .map(|new| (new.entry, if new.uncertain { budget.min(SERIES_BUDGET) } else { budget }))
            .collect();
        if wanted.is_empty() || budget == 0 {
            return SketchSearch::default();
        }

        let sources =
            self.new_contents.iter().filter(|new| !new.uncertain).filter_map(|new| new.source);
        let used = target
            .entries()
            .iter()
            .chain(sources)
            .filter_map(Entry::file)
            .map(|(_, digest)| digest)
            .collect();
        SketchSearch::new(base, wanted, &used, |entry| {
            !is_compressed_name(entry.path.name()) && !excluded.is_source_excluded(entry)
        })
    }

    /// Searches similar contents for files that no name matches, within a budget of the effort.
    ///
    /// `old` and `new` return the sketch of a content of base and target, or `None` if they cannot
    /// read it; such a content is not a source.
    pub fn by_content(
        mut self,
        old: impl Fn(&Entry) -> Option<Sketch> + Sync,
        new: impl Fn(&Entry) -> Option<Sketch> + Sync,
    ) -> Self {
        let mut similar: HashMap<Digest, &Entry> = self
            .search
            .run(old, new)
            .into_iter()
            .filter_map(|(source, entry)| Some((entry.file()?.1, source)))
            .collect();

        for content in &mut self.new_contents {
            let Some(source) = content.entry.file().and_then(|(_, digest)| similar.remove(&digest))
            else {
                continue;
            };
            match content.source {
                Some(_) => content.source = Some(source),
                None => self.similar.push((source, content.entry)),
            }
        }
        self
    }

    /// Contents of the base that must be available, each once: digest and size in bytes.
    ///
    /// These are the sources by name, and the candidates that [`Matching::by_content`] reads.
    pub fn sources(&self) -> Vec<(Digest, u64)> {
        let mut seen = HashSet::new();
        self.new_contents
            .iter()
            .map(|new| new.source)
            .chain(self.compressed.iter().map(|pair| pair.source))
            .flatten()
            .chain(self.search.candidates().iter().copied())
            .filter_map(Entry::file)
            .filter(|(_, digest)| seen.insert(*digest))
            .map(|(size, digest)| (digest, size))
            .collect()
    }

    /// Sorts the contents with a source into groups and single pairs.
    pub fn into_pairs(self) -> MatchedPairs<'m> {
        let mut plain = GroupBuilder::new(ContentClass::Plain);
        let mut compressed = GroupBuilder::new(ContentClass::Compressed);
        let mut decomposed = GroupBuilder::new(ContentClass::Decomposed);
        let mut replayed = GroupBuilder::new(ContentClass::Replayed);
        // Similarity is less certain than a name. A wrong match must not enlarge other patches.
        let mut similar = GroupBuilder::new(ContentClass::Plain);
        // Nodes may lack the sources of excluded contents, and a group needs all of its sources.
        let mut excluded_plain = GroupBuilder::new(ContentClass::Plain);
        let mut excluded_compressed = GroupBuilder::new(ContentClass::Compressed);
        let mut large = Vec::new();
        let max_in_memory = self.effort.max_in_memory();

        for NewContent { entry, class, source, is_excluded, .. } in self.new_contents {
            let Some(source) = source else { continue };
            let size = size_of(source).max(size_of(entry));
            match class {
                ContentClass::Plain if size > max_in_memory => large.push((source, entry)),
                ContentClass::Plain if is_excluded => excluded_plain.add(source, entry),
                ContentClass::Plain => plain.add(source, entry),
                ContentClass::Compressed if size > COMPRESSED_IN_GROUP => {
                    large.push((source, entry))
                }
                ContentClass::Compressed if is_excluded => excluded_compressed.add(source, entry),
                ContentClass::Compressed => compressed.add(source, entry),
                ContentClass::Decomposed => decomposed.add(source, entry),
                ContentClass::Replayed => replayed.add(source, entry),
            }
        }
        for (source, entry) in self.similar {
            if size_of(source).max(size_of(entry)) > max_in_memory {
                large.push((source, entry));
            } else {
                similar.add(source, entry);
            }
        }

        let groups =
            [plain, similar, compressed, decomposed, replayed, excluded_plain, excluded_compressed]
                .into_iter()
                .flat_map(GroupBuilder::finish)
                .collect();
        MatchedPairs { groups, compressed: self.compressed, large }
    }
}

/// The class of a content that is not decomposed.
fn class_by_name(entry: &Entry) -> ContentClass {
    if is_compressed_name(entry.path.name()) {
        ContentClass::Compressed
    } else {
        ContentClass::Plain
    }
}

/// The compressed files to open: the smallest first, as long as the rebuild time permits.
fn choose_decomposed(new_entries: &[&Entry], limit: &RebuildLimit) -> HashSet<Digest> {
    let mut files: Vec<(u64, u64, Digest)> = new_entries
        .iter()
        .filter_map(|entry| {
            let (size, digest) = entry.file()?;
            let name = entry.path.name();
            let cost = match () {
                () if is_replayed_name(name) => RebuildLimit::expected_replay_cost(size),
                () if is_gzip_name(name) => RebuildLimit::expected_gzip_cost(size),
                () => return None,
            };
            Some((size, cost, digest))
        })
        .collect();
    files.sort_unstable();

    let mut left = limit.max_cost();
    files
        .into_iter()
        .take_while(|(_, cost, _)| left.checked_sub(*cost).inspect(|rest| left = *rest).is_some())
        .map(|(.., digest)| digest)
        .collect()
}

#[cfg(test)]
mod tests;
