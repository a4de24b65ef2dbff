//! What of a diff travels how: known, as a patch, or whole.

#![allow(
    clippy::disallowed_methods,
    reason = "the patches are kept in a scratch file of the server's"
)]

mod encode;
mod streams;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use crate::delta::{self, Kind};
use crate::diff_archive::ContentProvider;
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::listing::KnownContent;
use crate::diff_archive::member::link_target;
use crate::diff_archive::write::{Deltas, WriteError};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::report::{Event, Job, Monitor};

/// Groups of this many bytes are in memory at a time.
const WINDOW: u64 = 128 << 20;

/// The contents of `changed` that need not travel, by digest.
///
/// Without deltas `tar` has to be able to unpack the archive, so only a link to an unchanged file
/// brings nothing along.
pub(super) fn known(base: &Manifest, changed: &[Entry], deltas: bool) -> Vec<KnownContent> {
    let mut held: HashMap<Digest, &Entry> = HashMap::new();
    for entry in base.entries() {
        if let Some((_, digest)) = entry.file() {
            held.entry(digest).or_insert(entry);
        }
    }
    let itself = |entry: &&Entry| !deltas && link_target(entry).is_none();
    let digest_of = |entry: &Entry| entry.file().map(|(_, digest)| digest);
    let carried: HashSet<Digest> = changed.iter().filter(itself).filter_map(digest_of).collect();
    let mut known = BTreeMap::new();
    for (size, digest) in changed.iter().filter_map(Entry::file) {
        if let Some(entry) = held.get(&digest)
            && !carried.contains(&digest)
        {
            known.insert(digest, KnownContent { digest, size, path: entry.path.clone() });
        }
    }
    known.into_values().collect()
}

/// The groups whose patch is worth it.
#[derive(Default)]
pub(super) struct Patches {
    pub groups: Vec<DeltaGroup>,
    /// Where in the spool the patch of each group lies.
    pub offsets: Vec<u64>,
    /// What the rebuilding of compressed files costs, as [`Parts::cost`](delta::gzip::Parts::cost) counts it.
    pub cost: u64,
}

/// Makes the groups whose patch is worth it.
pub(super) fn patches(
    base: &Manifest,
    target: &Manifest,
    content: &dyn ContentProvider,
    deltas: &Deltas<'_>,
    monitor: &dyn Monitor,
) -> Result<Patches, WriteError> {
    let pairs = deltas.pairs;
    let planner = Planner { target, content, deltas, monitor };
    let mut kept = AcceptedPatches {
        spool: deltas.spool,
        patches: Patches::default(),
        end: 0,
        most: deltas.opening.most(),
    };
    for window in windows(&pairs.groups) {
        let made: Vec<_> =
            window.par_iter().map(|pair| planner.pair(pair)).collect::<Result<_, _>>()?;
        made.into_iter().flatten().try_for_each(|patched| kept.add(patched))?;
    }
    let large = pairs.large.par_iter().map(|(from, to)| planner.large(from, to));
    let mut large: Vec<Patched> = large.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    let made = kept.patches.groups.iter().chain(large.iter().map(|patched| &patched.group));
    let files = streams::StreamCandidates::new(base, target, made, &pairs.archives, deltas);
    let archives = pairs.archives.par_iter().map(|archive| planner.archive(archive, &files));
    large.extend(archives.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?);
    // Those that copy come last.
    large.sort_by_key(|patched| patched.group.kind == Kind::Copies);
    large.into_iter().try_for_each(|patched| kept.add(patched))?;
    Ok(kept.patches)
}

/// Makes patches.
struct Planner<'p> {
    target: &'p Manifest,
    content: &'p dyn ContentProvider,
    deltas: &'p Deltas<'p>,
    monitor: &'p dyn Monitor,
}

/// A group and its patch.
struct Patched {
    group: DeltaGroup,
    patch: Vec<u8>,
    /// What the rebuilding of its compressed files costs.
    cost: u64,
}

impl Patched {
    /// One without compressed files.
    fn plain(group: DeltaGroup, patch: Vec<u8>) -> Self {
        Patched { group, patch, cost: 0 }
    }
}

/// The patches that were worth it.
struct AcceptedPatches<'k> {
    spool: &'k File,
    patches: Patches,
    end: u64,
    /// What the rebuilding of compressed files may cost.
    most: u64,
}

impl AcceptedPatches<'_> {
    /// Keeps a patch, unless it would cost a node more than it may: its targets travel whole then.
    fn add(&mut self, Patched { group, patch, cost }: Patched) -> Result<(), WriteError> {
        let Patches { groups, offsets, cost: so_far } = &mut self.patches;
        let sum = so_far.saturating_add(cost);
        if cost > 0 && sum > self.most {
            return Ok(());
        }
        *so_far = sum;
        self.spool.write_all_at(&patch, self.end).map_err(WriteError::Spool)?;
        groups.push(DeltaGroup { number: groups.len() as u64, ..group });
        offsets.push(self.end);
        self.end += patch.len() as u64;
        Ok(())
    }
}

impl Planner<'_> {
    fn advanced(&self, targets: &[&Entry]) {
        self.monitor.event(Event::Advanced { job: Job::Write, by: bytes(targets) });
    }
}

/// Cuts `pairs` into runs that fit into memory together.
fn windows<'p, 'm>(
    mut pairs: &'p [delta::PairGroup<'m>],
) -> impl Iterator<Item = &'p [delta::PairGroup<'m>]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |pair: &&delta::PairGroup<'_>| {
            sum += bytes(&pair.sources) + bytes(&pair.targets);
            sum <= WINDOW
        };
        let count = pairs.iter().take_while(fits).count().max(1).min(pairs.len());
        let (window, rest) = pairs.split_at(count);
        pairs = rest;
        (!window.is_empty()).then_some(window)
    })
}

fn bytes(entries: &[&Entry]) -> u64 {
    entries.iter().filter_map(|entry| entry.file()).map(|(size, _)| size).sum()
}
