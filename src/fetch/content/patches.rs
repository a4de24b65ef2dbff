//! Contents that are made by patches of delta groups.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use super::archive_heads::OpenedArchive;
use super::error::{FrameError, Missing};
use super::frame_run::FrameRun;
use super::group_sources::GroupSources;
use super::locking::lock;
use super::verifying_reader::{Sink, pass_on};
use super::{ContentStore, move_to, total_size};
use crate::catalog::Archive;
use crate::delta::MAX_PATCH;
use crate::diff_archive::content_index::ContentLocation;
use crate::diff_archive::{DeltaGroup, GroupSource, Workspace};
use crate::digest::Digest;

/// Limit of the fetched sources of one delta group: they are held in memory.
const MAX_FETCHED_SOURCES: u64 = 256 << 20;
/// Sources of several groups that are fetched together; each thread holds as many in memory.
const MAX_BATCH: u64 = 4 << 20;
/// Sources above which a group is built while no other thread builds one with as many.
const MANY_SOURCES: u64 = 32 << 20;

/// A delta group of which contents are wanted.
pub(super) struct WantedPatch<'o> {
    group: &'o DeltaGroup,
    place: ContentLocation,
    /// Sources that are not at hand.
    pub absent: Vec<(Digest, u64)>,
}

/// Passes on contents that the patches of near frames make.
pub(super) fn read_patches<'s>(
    store: &ContentStore<'s>,
    archive: &'s Archive,
    run: &FrameRun<'_>,
    depth: u32,
    sink: &Sink<'_>,
) -> Result<(), FrameError> {
    let opened = store.heads.open(archive)?;
    let patches = patches_of(store, &opened, run)?;
    let mut frames = opened.fetch(&run.frames, run.attempt)?;
    let wanted: HashSet<Digest> = run.contents.iter().map(|wanted| wanted.digest).collect();

    let mut patches = patches.as_slice();
    while let Some(first) = patches.first() {
        let (batch, rest) = patches.split_at(count_few(patches));
        patches = rest;
        let absent: HashSet<_> = batch.iter().flat_map(|patch| &patch.absent).copied().collect();
        let absent: Vec<(Digest, u64)> = absent.into_iter().collect();
        let has_many = depth == 0 && total_size(&absent) > MANY_SOURCES;
        let _alone = has_many.then(|| lock(&store.many_sources));
        let sources = fetch_sources(store, first.group.number, &absent, depth)?;

        for WantedPatch { group, place, .. } in batch {
            move_to(&mut frames, place)?;
            let mut patch = Vec::new();
            let length = group.patch_length.min(MAX_PATCH);
            frames.by_ref().take(length).read_to_end(&mut patch)?;
            let mut workspace = Workspace::default();
            group.build_targets(&patch, &sources, &mut workspace, |target, content| {
                if wanted.contains(&target.digest) {
                    pass_on(target.digest, target.size, content, sink)
                } else {
                    Ok(())
                }
            })?;
        }
    }
    Ok(())
}

/// Lists the patches of a run in the order of their places; none for contents that are whole.
pub(super) fn patches_of<'o>(
    store: &ContentStore<'_>,
    opened: &'o OpenedArchive<'_>,
    run: &FrameRun<'_>,
) -> Result<Vec<WantedPatch<'o>>, FrameError> {
    let mut patches: Vec<WantedPatch<'o>> = Vec::new();
    for place in run.contents.iter().map(|wanted| wanted.place) {
        let Some(number) = place.group else { continue };
        if patches.last().is_some_and(|last| last.group.number == number) {
            continue;
        }
        let group = opened.group(number).ok_or(FrameError::NoDeltaGroup { number })?;
        patches.push(WantedPatch { group, place, absent: absent_sources(store, group) });
    }
    Ok(patches)
}

/// Fetches the `absent` sources of delta groups, of which `number` is the first.
fn fetch_sources<'s>(
    store: &ContentStore<'s>,
    number: u64,
    absent: &[(Digest, u64)],
    depth: u32,
) -> Result<GroupSources<'s>, FrameError> {
    let total_size = total_size(absent);
    if total_size > MAX_FETCHED_SOURCES {
        return Err(FrameError::SourcesTooLarge { number });
    }

    let fetched = Mutex::new(HashMap::new());
    let missing = store
        .fetch_at_depth(absent, depth + 1, &|content| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            lock(&fetched).insert(content.digest(), bytes);
            Ok(())
        })
        .map_err(FrameError::Final)?;

    let fetched = fetched.into_inner().unwrap_or_else(PoisonError::into_inner);
    match missing.into_iter().next() {
        None => Ok(GroupSources { local: store.local, fetched }),
        Some(Missing { digest, reason }) => {
            Err(FrameError::SourceMissing { number, digest, reason })
        }
    }
}

/// The sources of a group that are not available locally.
fn absent_sources(store: &ContentStore<'_>, group: &DeltaGroup) -> Vec<(Digest, u64)> {
    let mut absent = Vec::new();
    let mut seen = HashSet::new();
    for GroupSource { digest, size, path, .. } in &group.sources {
        // A source that cannot be read here may be in the repository.
        let local = store.local.read(digest, *size, path).unwrap_or(None);
        if seen.insert(*digest) && local.is_none_or(|bytes| Digest::of(&bytes) != *digest) {
            absent.push((*digest, *size));
        }
    }
    absent
}

/// Number of the first patches whose sources are few enough to be fetched together; at least 1.
fn count_few(patches: &[WantedPatch<'_>]) -> usize {
    let mut bytes = 0u64;
    let few = patches.iter().take_while(|patch| {
        bytes = bytes.saturating_add(total_size(&patch.absent));
        bytes <= MAX_BATCH
    });
    few.count().max(1)
}
