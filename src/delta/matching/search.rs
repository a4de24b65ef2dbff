//! Similarity search: the contents that are compared, the limits on reading, and the choice of a
//! source.
//!
//! The contents to read are chosen from sizes alone, before any byte is read, so that they can be
//! fetched together:
//!
//! 1. New contents of at least [`LEAST`] bytes, the largest first, at most [`BUDGET`] bytes in all.
//! 2. Contents of the base whose size differs from one of these at most by the factor [`RATIO`].
//!    First those that the target no longer has and that are no source yet, since moved files are
//!    among them; then the others. In both parts the closest sizes are first. Their sum is limited
//!    to a multiple of the bytes of the new contents, given by the caller, and to [`BUDGET`].
//!
//! Memory: at most [`MOST`] contents of each side, with 128 bytes of sketch for each, and an index
//! of twice that for the base: 20 MB.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use crate::delta::matching::pairs::size_of;
use crate::delta::sketch::{FEATURES, Sketch};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// Smallest content in bytes that is worth the search.
const LEAST: u64 = 4 << 10;
/// Largest number of bytes to read of the target, and of the base.
const BUDGET: u64 = 512 << 20;
/// Largest number of contents to compare on each side.
const MOST: usize = 1 << 15;
/// Largest ratio of sizes of source and target.
///
/// A much smaller source has little in common; a much larger one costs the node more than it saves.
const RATIO: u64 = 4;
/// Unit of a ratio: ratios are integers in parts of this.
const PARTS: u64 = 1024;
/// Least number of common features; fewer are chance, or a licence text at the head of a file.
const LEAST_COMMON: usize = 2;
/// Largest number of candidates that count for one feature; more of them are a family of files.
const CROWD: usize = 64;

/// The contents to compare.
#[derive(Clone, Debug, Default)]
pub(super) struct SketchSearch<'m> {
    wanted: Vec<&'m Entry>,
    candidates: Vec<&'m Entry>,
}

/// Features of the candidates, sorted, each with the number of its candidate.
struct FeatureIndex(Vec<(u64, u32)>);

impl<'m> SketchSearch<'m> {
    /// Chooses new contents of `wanted`, and candidates of `base` for which `can_be_source` holds.
    ///
    /// Each wanted entry has a budget in multiples of its size. Contents in `used` are candidates
    /// after all others.
    pub fn new(
        base: &'m Manifest,
        mut wanted: Vec<(&'m Entry, u64)>,
        used: &HashSet<Digest>,
        can_be_source: impl Fn(&Entry) -> bool,
    ) -> Self {
        wanted.retain(|(entry, _)| size_of(entry) >= LEAST);
        wanted.sort_by_key(|(entry, _)| Reverse(size_of(entry)));
        let budgets: HashMap<&TreePath, u64> =
            wanted.iter().map(|(entry, budget)| (&entry.path, *budget)).collect();
        let wanted = limit_to_budget(BUDGET, wanted.into_iter().map(|(entry, _)| entry).collect());
        let budget = wanted
            .iter()
            .map(|entry| {
                size_of(entry).saturating_mul(budgets.get(&entry.path).copied().unwrap_or(0))
            })
            .fold(0u64, u64::saturating_add);

        let sizes = WantedSizes::new(&wanted);
        let mut digests = HashSet::new();
        let mut candidates = Vec::new();
        for entry in base.entries() {
            let Some((size, digest)) = entry.file() else { continue };
            let Some(ratio) = sizes.ratio_to(size).filter(|ratio| *ratio <= RATIO * PARTS) else {
                continue;
            };
            if can_be_source(entry) && digests.insert(digest) {
                candidates.push(((used.contains(&digest), ratio), entry));
            }
        }

        // The sort is stable: equal candidates stay in the order of the tree.
        candidates.sort_by_key(|(order, _)| *order);
        let candidates = candidates.into_iter().map(|(_, entry)| entry).collect();
        let candidates = limit_to_budget(BUDGET.min(budget), candidates);

        // Neighbours of the tree are neighbours on the disk and in the frames of an archive.
        let [wanted, candidates] = [wanted, candidates].map(|mut entries| {
            entries.sort_by_key(|entry| &entry.path);
            entries
        });
        SketchSearch { wanted, candidates }
    }

    /// The contents of the base that the search reads.
    pub fn candidates(&self) -> &[&'m Entry] {
        &self.candidates
    }

    /// Compares, and returns the pairs of source and target.
    pub fn run(
        &self,
        old: impl Fn(&Entry) -> Option<Sketch> + Sync,
        new: impl Fn(&Entry) -> Option<Sketch> + Sync,
    ) -> Vec<(&'m Entry, &'m Entry)> {
        if self.candidates.is_empty() {
            return Vec::new();
        }

        let wanted: Vec<Option<Sketch>> = self.wanted.par_iter().map(|entry| new(entry)).collect();
        let candidates: Vec<Option<Sketch>> =
            self.candidates.par_iter().map(|entry| old(entry)).collect();
        let index = FeatureIndex::new(&candidates);

        let pairs = self.wanted.par_iter().zip(wanted).map(|(entry, sketch)| {
            let source = self.best(entry, &index.count_common(&sketch?))?;
            Some((source, *entry))
        });
        pairs.flatten_iter().collect()
    }

    /// The candidate with the most features in common, then the closest size, then the first path.
    fn best(&self, entry: &Entry, common: &HashMap<u32, usize>) -> Option<&'m Entry> {
        let size = size_of(entry);
        common
            .iter()
            .filter(|(_, common)| **common >= LEAST_COMMON)
            .filter_map(|(number, common)| Some((*self.candidates.get(*number as usize)?, *common)))
            .min_by_key(|&(candidate, common)| {
                (Reverse(common), size_of(candidate).abs_diff(size), &candidate.path)
            })
            .map(|(candidate, _)| candidate)
    }
}

impl FeatureIndex {
    fn new(candidates: &[Option<Sketch>]) -> Self {
        let mut features = Vec::with_capacity(candidates.len() * FEATURES);
        for (number, sketch) in (0..).zip(candidates) {
            features
                .extend(sketch.iter().flat_map(Sketch::features).map(|feature| (*feature, number)));
        }
        features.sort_unstable();
        FeatureIndex(features)
    }

    /// Number of features that each candidate has in common with `sketch`.
    fn count_common(&self, sketch: &Sketch) -> HashMap<u32, usize> {
        let mut common = HashMap::new();
        for feature in sketch.features() {
            // One index serves all features: the smallest number in one order is rarely the
            // smallest in another.
            let from = self.0.partition_point(|(known, _)| known < feature);
            let equal = self.0[from..].iter().take_while(|(known, _)| known == feature);
            equal.take(CROWD).for_each(|(_, number)| *common.entry(*number).or_default() += 1);
        }
        common
    }
}

/// The sizes of the wanted contents, sorted.
struct WantedSizes(Vec<u64>);

impl WantedSizes {
    fn new(wanted: &[&Entry]) -> Self {
        let mut sizes: Vec<u64> = wanted.iter().map(|entry| size_of(entry)).collect();
        sizes.sort_unstable();
        WantedSizes(sizes)
    }

    /// Ratio, at least 1, of `size` to the nearest wanted size, in [`PARTS`].
    ///
    /// `None` if nothing is wanted or the smaller of both is 0.
    fn ratio_to(&self, size: u64) -> Option<u64> {
        let at = self.0.partition_point(|wanted| *wanted < size);
        let below = at.checked_sub(1).and_then(|at| self.0.get(at));
        self.0
            .get(at)
            .into_iter()
            .chain(below)
            .filter_map(|wanted| {
                size.max(*wanted).saturating_mul(PARTS).checked_div(size.min(*wanted))
            })
            .min()
    }
}

/// The first entries that fit into `budget` bytes; one that does not fit is skipped for smaller
/// ones.
fn limit_to_budget(budget: u64, entries: Vec<&Entry>) -> Vec<&Entry> {
    let mut left = budget;
    entries
        .into_iter()
        .filter(|entry| left.checked_sub(size_of(entry)).inspect(|rest| left = *rest).is_some())
        .take(MOST)
        .collect()
}
