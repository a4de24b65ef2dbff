//! What of a diff travels how: known, as a patch, or whole.

#![allow(clippy::disallowed_methods, reason = "the patches are kept in a scratch file of the server's")]

mod encode;
mod streams;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use super::Content;
use super::group::Group;
use super::listing::Known;
use super::member::link_target;
use super::write::{Deltas, WriteError};
use crate::delta::{self, Kind};
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
pub(super) fn known(base: &Manifest, changed: &[Entry], deltas: bool) -> Vec<Known> {
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
            known.insert(digest, Known { digest, size, path: entry.path.clone() });
        }
    }
    known.into_values().collect()
}

/// The groups whose patch is worth it; patch N lies in the spool at offset N of what is returned.
pub(super) fn patches(
    base: &Manifest,
    target: &Manifest,
    content: &dyn Content,
    deltas: &Deltas<'_>,
    monitor: &dyn Monitor,
) -> Result<(Vec<Group>, Vec<u64>), WriteError> {
    let pairs = deltas.pairs;
    let planner = Planner { target, content, deltas, monitor };
    let left = deltas.opening.plain();
    let mut kept = Kept { spool: deltas.spool, groups: Vec::new(), offsets: Vec::new(), end: 0, left };
    for window in windows(&pairs.groups) {
        let made: Vec<_> = window.par_iter().map(|pair| planner.pair(pair)).collect::<Result<_, _>>()?;
        made.into_iter().flatten().try_for_each(|(group, patch)| kept.add(group, &patch))?;
    }
    let large = pairs.large.par_iter().map(|(from, to)| planner.large(from, to));
    let mut large: Vec<(Group, Vec<u8>)> = large.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    let made = kept.groups.iter().chain(large.iter().map(|(group, _)| group));
    let files = streams::Files::new(base, target, made, &pairs.archives, deltas);
    let archives = pairs.archives.par_iter().map(|archive| planner.archive(archive, &files));
    large.extend(archives.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?);
    // Those that copy come last.
    large.sort_by_key(|(group, _)| group.kind == Kind::Copies);
    large.into_iter().try_for_each(|(group, patch)| kept.add(group, &patch))?;
    Ok((kept.groups, kept.offsets))
}

/// Makes patches.
struct Planner<'p> {
    target: &'p Manifest,
    content: &'p dyn Content,
    deltas: &'p Deltas<'p>,
    monitor: &'p dyn Monitor,
}

/// A group and its patch; nothing where the contents are better sent whole.
type Patched = Option<(Group, Vec<u8>)>;

/// The patches that were worth it.
struct Kept<'k> {
    spool: &'k File,
    groups: Vec<Group>,
    offsets: Vec<u64>,
    end: u64,
    /// So many bytes of what is inside compressed files a node may still be asked to compress again.
    left: u64,
}

impl Kept<'_> {
    /// Keeps a patch, unless it would cost a node more than it may: its targets travel whole then.
    fn add(&mut self, group: Group, patch: &[u8]) -> Result<(), WriteError> {
        let insides = group.targets.iter().filter_map(|target| target.inside);
        let Some(left) = self.left.checked_sub(insides.map(|inside| inside.plain).sum()) else { return Ok(()) };
        self.left = left;
        self.spool.write_all_at(patch, self.end).map_err(WriteError::Spool)?;
        self.groups.push(Group { number: self.groups.len() as u64, ..group });
        self.offsets.push(self.end);
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
fn windows<'p, 'm>(mut pairs: &'p [delta::Group<'m>]) -> impl Iterator<Item = &'p [delta::Group<'m>]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |pair: &&delta::Group<'_>| {
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
