//! The search for sources by content: what is compared, within which bounds, and what wins.
//!
//! What may be read is decided before a byte is read, from sizes alone, so that it can be fetched together:
//!
//! 1. New contents of at least [`LEAST`] bytes, the largest first, [`BUDGET`] bytes of them.
//! 2. Contents of the base that are at most [`RATIO`] times as large as one of these, or as small: first those
//!    that the target has lost and nothing is made of, for whatever was moved is among them; then those that it
//!    still has or that are the source of something. Of either the nearest sizes come first, in all as many
//!    times the bytes of each new one as is said for it, and [`BUDGET`] at most.
//!
//! Memory: of either no more than [`MOST`], with a sketch of 128 bytes each, and an index of twice that for those of
//! the base: 20 MB.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use crate::delta::matching::size_of;
use crate::delta::sketch::{FEATURES, Sketch};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// A smaller content is not worth the search.
const LEAST: u64 = 4 << 10;
/// So many bytes of the target are read at most, and as many of the base.
const BUDGET: u64 = 512 << 20;
/// So many contents of either are compared.
const MOST: usize = 1 << 15;
/// A source that is smaller by more holds little of what is wanted; one that is larger costs the node more
/// than it helps.
const RATIO: u64 = 4;
/// Ratios of sizes are counted in parts.
const PARTS: u64 = 1024;
/// Less in common than this is chance, or a licence at the head of a file.
const LEAST_COMMON: usize = 2;
/// Of the candidates that agree in a feature so many count: where they are more, they are of one kind.
const CROWD: usize = 64;

/// What is compared.
#[derive(Clone, Debug, Default)]
pub(super) struct SketchSearch<'m> {
    wanting: Vec<&'m Entry>,
    candidates: Vec<&'m Entry>,
}

/// The features of candidates, in order, each with the number of its candidate.
struct Index(Vec<(u64, u32)>);

impl<'m> SketchSearch<'m> {
    /// Decides what of `wanting`, new contents without a sure source, is compared with what of `base` among all that
    /// `serves`: so many `times` their bytes. What is in `used` comes later.
    pub fn new(
        base: &'m Manifest,
        mut wanting: Vec<(&'m Entry, u64)>,
        used: &HashSet<Digest>,
        serves: impl Fn(&Entry) -> bool,
    ) -> Self {
        wanting.retain(|(entry, _)| size_of(entry) >= LEAST);
        wanting.sort_by_key(|(entry, _)| Reverse(size_of(entry)));
        let times: HashMap<&TreePath, u64> =
            wanting.iter().map(|(entry, times)| (&entry.path, *times)).collect();
        let wanting = within(BUDGET, wanting.into_iter().map(|(entry, _)| entry).collect());
        let worth = |entry: &&Entry| {
            size_of(entry).saturating_mul(times.get(&entry.path).copied().unwrap_or(0))
        };
        let worth = wanting.iter().map(worth).fold(0u64, u64::saturating_add);

        let nearest = Nearest::of(&wanting);
        let mut seen = HashSet::new();
        let mut candidates = Vec::new();
        for entry in base.entries() {
            let Some((size, digest)) = entry.file() else { continue };
            let Some(ratio) = nearest.ratio(size).filter(|ratio| *ratio <= RATIO * PARTS) else {
                continue;
            };
            if serves(entry) && seen.insert(digest) {
                candidates.push(((used.contains(&digest), ratio), entry));
            }
        }
        // Equals stay in the order of the tree.
        candidates.sort_by_key(|(order, _)| *order);
        let candidates = candidates.into_iter().map(|(_, entry)| entry).collect();
        let candidates = within(BUDGET.min(worth), candidates);
        // Neighbours of the tree are neighbours on the disk, and in the frames of an archive.
        let [wanting, candidates] = [wanting, candidates].map(|mut entries| {
            entries.sort_by_key(|entry| &entry.path);
            entries
        });
        SketchSearch { wanting, candidates }
    }

    /// The contents of the base that are to be read.
    pub fn candidates(&self) -> &[&'m Entry] {
        &self.candidates
    }

    /// Compares, and gives what is found: source and target.
    pub fn run(
        &self,
        old: impl Fn(&Entry) -> Option<Sketch> + Sync,
        new: impl Fn(&Entry) -> Option<Sketch> + Sync,
    ) -> Vec<(&'m Entry, &'m Entry)> {
        if self.candidates.is_empty() {
            return Vec::new();
        }
        let wanting: Vec<Option<Sketch>> =
            self.wanting.par_iter().map(|entry| new(entry)).collect();
        let candidates: Vec<Option<Sketch>> =
            self.candidates.par_iter().map(|entry| old(entry)).collect();
        let index = Index::of(&candidates);
        let found = self.wanting.par_iter().zip(wanting).map(|(entry, sketch)| {
            let source = self.best(entry, &index.common(&sketch?))?;
            Some((source, *entry))
        });
        found.flatten_iter().collect()
    }

    /// The candidate with the most features in common; of equals the one whose size is closest, then the first.
    fn best(&self, entry: &Entry, common: &HashMap<u32, usize>) -> Option<&'m Entry> {
        let size = size_of(entry);
        let alike = common.iter().filter(|(_, common)| **common >= LEAST_COMMON);
        let alike = alike.filter_map(|(number, common)| {
            Some((*self.candidates.get(*number as usize)?, *common))
        });
        let best = alike.min_by_key(|&(candidate, common)| {
            (Reverse(common), size_of(candidate).abs_diff(size), &candidate.path)
        });
        best.map(|(candidate, _)| candidate)
    }
}

impl Index {
    fn of(candidates: &[Option<Sketch>]) -> Self {
        let mut features = Vec::with_capacity(candidates.len() * FEATURES);
        for (number, sketch) in (0..).zip(candidates) {
            features
                .extend(sketch.iter().flat_map(Sketch::features).map(|feature| (*feature, number)));
        }
        features.sort_unstable();
        Index(features)
    }

    /// In how many features which candidates agree with `sketch`.
    fn common(&self, sketch: &Sketch) -> HashMap<u32, usize> {
        let mut common = HashMap::new();
        for feature in sketch.features() {
            // Orders differ, so a number that is the smallest in one is hardly ever so in another.
            let from = self.0.partition_point(|(known, _)| known < feature);
            let equal = self.0[from..].iter().take_while(|(known, _)| known == feature);
            equal.take(CROWD).for_each(|(_, number)| *common.entry(*number).or_default() += 1);
        }
        common
    }
}

/// The sizes that are wanted.
struct Nearest(Vec<u64>);

impl Nearest {
    fn of(wanting: &[&Entry]) -> Self {
        let mut sizes: Vec<u64> = wanting.iter().map(|entry| size_of(entry)).collect();
        sizes.sort_unstable();
        Nearest(sizes)
    }

    /// The larger by the smaller of `size` and the wanted size that is nearest to it, in parts; `None` where
    /// nothing is wanted or there is nothing.
    fn ratio(&self, size: u64) -> Option<u64> {
        let at = self.0.partition_point(|wanted| *wanted < size);
        let around =
            self.0.get(at).into_iter().chain(at.checked_sub(1).and_then(|at| self.0.get(at)));
        let ratio =
            |wanted: &u64| size.max(*wanted).saturating_mul(PARTS).checked_div(size.min(*wanted));
        around.filter_map(ratio).min()
    }
}

/// Those of `entries` that come to `budget` bytes, in order; one that does not fit makes room for smaller ones.
fn within(budget: u64, entries: Vec<&Entry>) -> Vec<&Entry> {
    let mut left = budget;
    let fits =
        |entry: &&Entry| left.checked_sub(size_of(entry)).inspect(|rest| left = *rest).is_some();
    entries.into_iter().filter(fits).take(MOST).collect()
}
