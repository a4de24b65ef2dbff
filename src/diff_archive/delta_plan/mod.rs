//! Plan of a diff: which contents are known, which are built by patches, and which are sent whole.

#![allow(
    clippy::disallowed_methods,
    reason = "the patches are stored in a scratch file of the server"
)]

mod in_memory;
mod planner;
mod replayed;
mod streams;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use crate::delta::{Kind, PairGroup};
use crate::diff_archive::changes::{DeltaMode, KnownContent};
use crate::diff_archive::error::WriteError;
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::member::link_target;
use crate::diff_archive::sources::ContentProvider;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::ExcludedContents;
use crate::manifest::Manifest;
use crate::report::Monitor;
use planner::{Patch, Planner, sum_of_sizes};

pub use planner::Deltas;

/// Bytes of all groups that are in memory at a time.
const WINDOW: u64 = 128 << 20;

/// The contents of `changed` that the base has, by digest.
///
/// Without deltas `tar` must be able to unpack the archive, so only a link to an unchanged file is
/// left out. With deltas, a content that nodes need and lack by `excluded` is not known.
pub(super) fn find_known_contents(
    base: &Manifest,
    changed: &[Entry],
    mode: DeltaMode,
    excluded: Option<&ExcludedContents>,
) -> Vec<KnownContent> {
    let mut available: HashMap<Digest, &Entry> = HashMap::new();
    for entry in base.entries() {
        if let Some((_, digest)) = entry.file() {
            available.entry(digest).or_insert(entry);
        }
    }

    let carried: HashSet<Digest> = match mode {
        DeltaMode::WithDeltas => HashSet::new(),
        DeltaMode::WithoutDeltas => changed
            .iter()
            .filter(|entry| link_target(entry).is_none())
            .filter_map(Entry::file)
            .map(|(_, digest)| digest)
            .collect(),
    };

    let mut known = BTreeMap::new();
    for (size, digest) in changed.iter().filter_map(Entry::file) {
        if let Some(entry) = available.get(&digest)
            && !carried.contains(&digest)
            && excluded.is_none_or(|excluded| excluded.is_known(&digest))
        {
            known.insert(digest, KnownContent { digest, size, path: entry.path.clone() });
        }
    }
    known.into_values().collect()
}

/// The groups whose patch saves enough.
#[derive(Default)]
pub(super) struct AcceptedPatches {
    pub groups: Vec<DeltaGroup>,
    /// Offset of each group's patch in the scratch file.
    pub offsets: Vec<u64>,
    /// Sum of the [rebuild costs](crate::delta::gzip::Decomposition::cost).
    pub cost: u64,
}

/// Computes the patches of all pairs, and writes those that save enough to the scratch file.
pub(super) fn compute_patches(
    base: &Manifest,
    target: &Manifest,
    content: &dyn ContentProvider,
    deltas: &Deltas<'_>,
    monitor: &dyn Monitor,
) -> Result<AcceptedPatches, WriteError> {
    let pairs = deltas.pairs;
    let planner = Planner { target, content, deltas, monitor };
    let mut store = PatchStore { deltas, accepted: AcceptedPatches::default(), end: 0 };

    for window in cut_into_windows(&pairs.groups) {
        let patches: Vec<_> = window
            .par_iter()
            .map(|pair| in_memory::compute_group(&planner, pair))
            .collect::<Result<_, _>>()?;
        patches.into_iter().flatten().try_for_each(|patch| store.add(patch))?;
    }

    let mut large: Vec<Patch> = pairs
        .large
        .par_iter()
        .map(|(from, to)| streams::compute_large(&planner, from, to))
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;

    // Large gzip files may copy from files of the target, unless those have too many deltas.
    let groups = store.accepted.groups.iter().chain(large.iter().map(|patch| &patch.group));
    let files = streams::CopySources::new(base, target, groups, &pairs.compressed, deltas);
    let compressed = pairs
        .compressed
        .par_iter()
        .map(|pair| streams::compute_compressed(&planner, pair, &files))
        .filter_map(Result::transpose)
        .collect::<Result<Vec<_>, _>>()?;
    large.extend(compressed);

    // Clause 7: groups that copy are last.
    large.sort_by_key(|patch| patch.group.kind == Kind::Copies);
    large.into_iter().try_for_each(|patch| store.add(patch))?;
    Ok(store.accepted)
}

/// Scratch file of the accepted patches.
struct PatchStore<'k> {
    deltas: &'k Deltas<'k>,
    accepted: AcceptedPatches,
    /// Number of bytes in the scratch file.
    end: u64,
}

impl PatchStore<'_> {
    /// Stores a patch; its targets are sent whole if it would exceed the limit on rebuild time.
    fn add(&mut self, Patch { group, patch, cost }: Patch) -> Result<(), WriteError> {
        let AcceptedPatches { groups, offsets, cost: so_far } = &mut self.accepted;
        let sum = so_far.saturating_add(cost);
        if cost > 0 && sum > self.deltas.rebuild_limit.max_cost() {
            return Ok(());
        }
        *so_far = sum;

        self.deltas.spool.write_all_at(&patch, self.end).map_err(WriteError::Spool)?;
        groups.push(DeltaGroup { number: groups.len() as u64, ..group });
        offsets.push(self.end);
        self.end += patch.len() as u64;
        Ok(())
    }
}

/// Cuts `pairs` into windows of at most [`WINDOW`] bytes, or of one group.
fn cut_into_windows<'p, 'm>(
    mut pairs: &'p [PairGroup<'m>],
) -> impl Iterator<Item = &'p [PairGroup<'m>]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let count = pairs
            .iter()
            .take_while(|pair| {
                sum += sum_of_sizes(&pair.sources) + sum_of_sizes(&pair.targets);
                sum <= WINDOW
            })
            .count()
            .max(1)
            .min(pairs.len());
        let (window, rest) = pairs.split_at(count);
        pairs = rest;
        (!window.is_empty()).then_some(window)
    })
}
