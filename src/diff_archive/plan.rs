//! What of a diff travels how: known, as a patch, or whole.

#![allow(clippy::disallowed_methods, reason = "the patches are kept in a scratch file of the server's")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use super::listing::{Group, Known, Target};
use super::member::link_target;
use super::write::{Deltas, WriteError};
use super::{Content, Sources};
use crate::delta::{self, MAX_PATCH};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::report::{Event, Job, Monitor};

/// Groups of this many bytes are in memory at a time.
const WINDOW: u64 = 128 << 20;
/// A patch that is smaller than this part of what it makes is taken without a look at the alternative:
/// whole files rarely compress that far, and then both are small.
const CLEAR_GAIN: usize = 8;
/// A patch has to save this part of the whole files, for it needs a source that has not drifted.
const LEAST_GAIN: usize = 16;

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
    let pairs = delta::pair(base, target);
    let (mut groups, mut offsets) = (Vec::<Group>::new(), Vec::new());
    let mut end = 0;
    for window in windows(&pairs) {
        let made: Vec<Option<(Group, Vec<u8>)>> = window
            .par_iter()
            .map(|pair| {
                let patch = encode(pair, content, deltas)?;
                monitor.event(Event::Advanced { job: Job::Write, by: bytes(&pair.targets) });
                Ok(patch)
            })
            .collect::<Result<_, WriteError>>()?;
        for (mut group, patch) in made.into_iter().flatten() {
            group.number = groups.len() as u64;
            deltas.spool.write_all_at(&patch, end).map_err(WriteError::Spool)?;
            groups.push(group);
            offsets.push(end);
            end += patch.len() as u64;
        }
    }
    Ok((groups, offsets))
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

/// The patch of a group, unless its contents are better sent whole.
fn encode(
    pair: &delta::Group<'_>,
    content: &dyn Content,
    deltas: &Deltas<'_>,
) -> Result<Option<(Group, Vec<u8>)>, WriteError> {
    let mut group = Group { number: 0, patch_length: 0, sources: Vec::new(), targets: Vec::new() };
    let mut source = Vec::new();
    for entry in &pair.sources {
        let Some((size, digest)) = entry.file() else { continue };
        let Some(bytes) = read_source(deltas.sources, entry, size, &digest)? else { return Ok(None) };
        source.extend_from_slice(&bytes);
        group.sources.push(Known { digest, size, path: entry.path.clone() });
    }
    let mut output = Vec::new();
    for entry in &pair.targets {
        let Some((size, digest)) = entry.file() else { continue };
        let from = output.len();
        let failed = |source| WriteError::Content { path: entry.path.clone(), source };
        // One byte more than it should have shows whether the file has grown.
        content.open(entry).map_err(failed)?.take(size + 1).read_to_end(&mut output).map_err(failed)?;
        if (output.len() - from) as u64 != size || Digest::of(&output[from..]) != digest {
            return Err(WriteError::Changed(entry.path.clone()));
        }
        group.targets.push(Target { digest, size });
    }
    let patch = delta::encode(&source, &output, deltas.level).map_err(WriteError::Compress)?;
    drop(source);
    if patch.len() as u64 > MAX_PATCH {
        return Ok(None);
    }
    if patch.len() > output.len() / CLEAR_GAIN {
        let whole = zstd::bulk::compress(&output, deltas.level).map_err(WriteError::Compress)?;
        if patch.len() + patch.len() / LEAST_GAIN >= whole.len() {
            return Ok(None);
        }
    }
    group.patch_length = patch.len() as u64;
    Ok(Some((group, patch)))
}

/// A source, unless the base has lost it since it was recorded.
fn read_source(
    sources: &dyn Sources,
    entry: &Entry,
    size: u64,
    digest: &Digest,
) -> Result<Option<Vec<u8>>, WriteError> {
    let read = sources.read(digest, size, &entry.path);
    let bytes = read.map_err(|source| WriteError::Source { path: entry.path.clone(), source })?;
    Ok(bytes.filter(|bytes| bytes.len() as u64 == size && Digest::of(bytes) == *digest))
}
