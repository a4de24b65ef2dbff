//! Which old file is like which new one: decided by names and sizes, then by what is in them.
//!
//! A [`Matching`] is made once for a diff: who has to fetch the sources first asks it for them, and who makes
//! the patches takes the [`MatchedPairs`] out of it.

mod groups;
mod names;
mod search;

use std::collections::{HashMap, HashSet};

use crate::delta::{Effort, Opening, Sketch};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;

use groups::Groups;
use names::{NameIndex, is_gzip};
use search::SketchSearch;

pub use names::is_packed;

/// A compressed file up to this size is taken apart in memory, in a group; a larger one as a stream.
const OPENED_IN_GROUP: u64 = 1 << 20;
/// One that is larger than this, or was, is not made of what was inside the old one: both are held in memory.
const OPENED_ALONE: u64 = 16 << 20;

/// What is compressed seldom finds anything in what was: a larger one is looked at by itself.
const PACKED_TRIED: u64 = 1 << 20;

/// Where all of a row has moved on, its contents are about as large as those that are looked for.
const LOOKED_ALONG: u64 = 2;

/// Which new contents are to be made of what.
#[derive(Clone, Debug, Default)]
pub struct MatchedPairs<'m> {
    /// Contents of the base make contents of the target.
    pub groups: Vec<PairGroup<'m>>,
    /// Compressed files that are opened one by one.
    pub archives: Vec<CompressedPair<'m>>,
    /// Contents that are too large for a group, or compressed and too large to be tried unseen: source and target.
    pub large: Vec<(&'m Entry, &'m Entry)>,
}

/// A large compressed file: it may consist of files of the target, or be like what was inside an old one.
#[derive(Clone, Copy, Debug)]
pub struct CompressedPair<'m> {
    /// The old one.
    pub source: Option<&'m Entry>,
    /// The file of the target.
    pub entry: &'m Entry,
}

impl CompressedPair<'_> {
    /// Whether both are small enough for what is inside them to be held in memory.
    pub fn is_held(&self) -> bool {
        self.source.into_iter().chain([self.entry]).all(|file| size_of(file) <= OPENED_ALONE)
    }
}

/// New contents that are to be made out of old ones together.
#[derive(Clone, Debug, Default)]
pub struct PairGroup<'m> {
    /// What they have in common.
    pub class: Class,
    /// Files of the base with distinct contents.
    pub sources: Vec<&'m Entry>,
    /// Files of the target with distinct contents, none of which the base holds.
    pub targets: Vec<&'m Entry>,
}

/// What the contents of a group have in common: what cannot be helped by a delta must not spoil the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Nothing compressed.
    #[default]
    Plain,
    /// Compressed, and left so.
    Packed,
    /// Compressed with gzip, and opened.
    Opened,
}

/// What each content that is new in a target may be made of.
#[derive(Clone, Debug)]
pub struct Matching<'m> {
    effort: Effort,
    archives: Vec<CompressedPair<'m>>,
    /// In the order of the tree.
    fresh: Vec<NewContent<'m>>,
    search: SketchSearch<'m>,
    /// What the search found: source and target.
    alike: Vec<(&'m Entry, &'m Entry)>,
}

/// A new content, and what was found for it.
#[derive(Clone, Debug)]
struct NewContent<'m> {
    entry: &'m Entry,
    class: Class,
    source: Option<&'m Entry>,
    /// Another source may be better, which only a look at the contents tells.
    doubtful: bool,
}

impl<'m> Matching<'m> {
    /// MatchedPairs the contents that `target` has and `base` has not with contents of `base`, without a look at them.
    ///
    /// The source of a file is the file of the same path; else one of the same name whose directory is the same once
    /// version numbers are taken out (so the modules of a new kernel find those of the old one); else one whose
    /// path is, so taken; else one whose name is; of several the one whose size is closest.
    /// Of the compressed files the small ones are opened first, as far as `opening` goes.
    pub fn by_names(
        base: &'m Manifest,
        target: &'m Manifest,
        effort: Effort,
        opening: &Opening,
    ) -> Self {
        let mut seen: HashSet<Digest> =
            base.entries().iter().filter_map(Entry::file).map(|(_, digest)| digest).collect();
        let fresh = target
            .entries()
            .iter()
            .filter(|entry| entry.file().is_some_and(|(_, digest)| seen.insert(digest)));
        let fresh: Vec<&Entry> = fresh.filter(|entry| size_of(entry) > 0).collect();
        let files = NameIndex::of(base, &fresh);
        let opened = opened(&fresh, opening);
        let mut pairing = Matching {
            effort,
            archives: Vec::new(),
            fresh: Vec::new(),
            search: SketchSearch::default(),
            alike: Vec::new(),
        };
        for entry in fresh {
            let is_opened = entry.file().is_some_and(|(_, digest)| opened.contains(&digest));
            if is_opened && size_of(entry) > OPENED_IN_GROUP {
                let source = files.source_of(entry, size_of(entry));
                pairing.archives.push(CompressedPair { source, entry });
                continue;
            }
            let class = match is_packed(entry.path.name()) {
                _ if is_opened => Class::Opened,
                true => Class::Packed,
                false => Class::Plain,
            };
            let source = files.source_of(entry, size_of(entry));
            let doubtful = class == Class::Plain && files.is_numbered_series(entry);
            pairing.fresh.push(NewContent { entry, class, source, doubtful });
        }
        pairing.search = pairing.search(base, target);
        pairing
    }

    /// What is to be compared for those that found no source, or one that is doubtful. What is compressed has little
    /// in common with anything, and is left out.
    fn search(&self, base: &'m Manifest, target: &Manifest) -> SketchSearch<'m> {
        let times = self.effort.search_budget();
        let wants = |fresh: &&NewContent| {
            fresh.class == Class::Plain && (fresh.source.is_none() || fresh.doubtful)
        };
        let worth = |fresh: &NewContent<'m>| {
            (fresh.entry, if fresh.doubtful { times.min(LOOKED_ALONG) } else { times })
        };
        let wanting: Vec<(&Entry, u64)> = self.fresh.iter().filter(wants).map(worth).collect();
        if wanting.is_empty() || times == 0 {
            return SketchSearch::default();
        }
        let sources =
            self.fresh.iter().filter(|fresh| !fresh.doubtful).filter_map(|fresh| fresh.source);
        let used = target
            .entries()
            .iter()
            .chain(sources)
            .filter_map(Entry::file)
            .map(|(_, digest)| digest)
            .collect();
        SketchSearch::new(base, wanting, &used, |entry| !is_packed(entry.path.name()))
    }

    /// Looks for what is alike by content where names told nothing, within a budget in bytes; not at every effort.
    ///
    /// `old` and `new` give the sketch of a content of base and target. What they cannot read serves nothing.
    pub fn by_content(
        mut self,
        old: impl Fn(&Entry) -> Option<Sketch> + Sync,
        new: impl Fn(&Entry) -> Option<Sketch> + Sync,
    ) -> Self {
        let found = self.search.run(old, new).into_iter();
        let mut found: HashMap<Digest, &Entry> =
            found.filter_map(|(source, entry)| Some((entry.file()?.1, source))).collect();
        for fresh in &mut self.fresh {
            let Some(source) = fresh.entry.file().and_then(|(_, digest)| found.remove(&digest))
            else {
                continue;
            };
            match fresh.source {
                Some(_) => fresh.source = Some(source),
                None => self.alike.push((source, fresh.entry)),
            }
        }
        self
    }

    /// The contents of the base that have to be at hand, each once: digest and size in bytes. These are the sources
    /// that were found, and what [`Matching::by_content`] is going to read.
    pub fn sources(&self) -> Vec<(Digest, u64)> {
        let mut seen = HashSet::new();
        let found = self
            .fresh
            .iter()
            .map(|fresh| fresh.source)
            .chain(self.archives.iter().map(|one| one.source));
        let found = found.flatten();
        let files = found.chain(self.search.candidates().iter().copied()).filter_map(Entry::file);
        files
            .filter(|(_, digest)| seen.insert(*digest))
            .map(|(size, digest)| (digest, size))
            .collect()
    }

    /// What is to be made of what, in groups. What found no source is in none.
    pub fn into_pairs(self) -> MatchedPairs<'m> {
        let (mut plain, mut packed, mut inside) =
            (Groups::of(Class::Plain), Groups::of(Class::Packed), Groups::of(Class::Opened));
        // By themselves, for they are less sure: what turns out to be unlike must not spoil the others.
        let mut alike = Groups::of(Class::Plain);
        let mut large = Vec::new();
        let is_larger = |source, entry, than| size_of(source).max(size_of(entry)) > than;
        let is_large = |source, entry| is_larger(source, entry, self.effort.in_memory());
        for NewContent { entry, class, source, .. } in self.fresh {
            let Some(source) = source else { continue };
            match class {
                Class::Plain if is_large(source, entry) => large.push((source, entry)),
                Class::Plain => plain.add(source, entry),
                Class::Packed if is_larger(source, entry, PACKED_TRIED) => {
                    large.push((source, entry))
                }
                Class::Packed => packed.add(source, entry),
                Class::Opened => inside.add(source, entry),
            }
        }
        for (source, entry) in self.alike {
            match is_large(source, entry) {
                true => large.push((source, entry)),
                false => alike.add(source, entry),
            }
        }
        let groups = [plain, alike, packed, inside].into_iter().flat_map(Groups::finish).collect();
        MatchedPairs { groups, archives: self.archives, large }
    }
}

/// The contents of `fresh` that are to be opened: the smallest first, as long as the node has time for them.
fn opened(fresh: &[&Entry], opening: &Opening) -> HashSet<Digest> {
    let is_gzip = |entry: &&&Entry| is_gzip(entry.path.name());
    let mut files: Vec<(u64, Digest)> =
        fresh.iter().filter(is_gzip).filter_map(|entry| entry.file()).collect();
    files.sort_unstable();
    let mut left = opening.budget();
    let fits =
        |(size, _): &(u64, Digest)| left.checked_sub(*size).inspect(|rest| left = *rest).is_some();
    files.into_iter().take_while(fits).map(|(_, digest)| digest).collect()
}

fn size_of(entry: &Entry) -> u64 {
    entry.file().map_or(0, |(size, _)| size)
}

#[cfg(test)]
mod tests;
