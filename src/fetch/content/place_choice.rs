//! Order in which the places of a content are tried.
//!
//! Archives that hold most of the contents whole are first: their frames then have few gaps, and no
//! frame is fetched for one content only. A delta is chosen instead if its sources are at hand and
//! its patch is clearly smaller.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use crate::catalog::RepoPath;
use crate::delta::MAX_DEPTH;
use crate::diff_archive::content_index::ContentLocation;
use crate::diff_archive::{DeltaGroup, Sources};
use crate::digest::Digest;
use crate::fetch::content::archive_heads::ArchiveHeads;
use crate::fetch::content::error::FrameError;
use crate::fetch::content::frame_run::frames_of_patch;
use crate::fetch::content::searched_index::SearchedIndex;
use crate::fetch::error::FetchError;

/// Places of one content that are tried. Each costs a request, and an index may name a million.
pub(super) const MAX_PLACES: usize = 64;
/// Factor by which a patch has to be smaller: other contents may need the same frames anyway.
const CLEARLY: u64 = 2;
/// Factor by which whole contents have to exceed the head of an archive that is read for its deltas.
const WORTH_A_HEAD: u64 = 4;

/// A location in an archive.
pub(super) type Place<'s> = (&'s RepoPath, ContentLocation);

/// A delta group that yields contents which are also whole in an archive.
struct GroupCandidate {
    number: u64,
    /// Location of its patch.
    place: ContentLocation,
    /// Stored bytes of the frames of the whole contents.
    whole_bytes: u64,
}

/// Order of the places of each wanted content.
pub(super) struct PlaceChoice<'s> {
    /// Size and places of each.
    contents: HashMap<Digest, (u64, Vec<Place<'s>>)>,
}

impl<'s> PlaceChoice<'s> {
    /// Orders the places of `wanted`, contents that are `depth` deltas below those of the run.
    pub fn new<'w>(
        index: &SearchedIndex<'_>,
        heads: &ArchiveHeads<'s>,
        wanted: impl Iterator<Item = (&'w Digest, u64)>,
        depth: u32,
    ) -> Self {
        let mut contents: HashMap<Digest, (u64, Vec<Place<'s>>)> = HashMap::new();
        let mut ranks: HashMap<&'s RepoPath, u64> = HashMap::new();
        for (digest, size) in wanted {
            let usable = index.places(digest).take(MAX_PLACES).filter_map(|(file, record)| {
                let is_too_deep = record.place.group.is_some() && depth >= MAX_DEPTH;
                let archive = heads.get(file)?;
                (record.size == size && !is_too_deep).then_some((&archive.file.file, record.place))
            });
            let usable: Vec<Place<'s>> = usable.collect();
            for (file, place) in &usable {
                if place.group.is_none() {
                    *ranks.entry(file).or_default() += size;
                }
            }
            contents.insert(*digest, (size, usable));
        }

        for (_, places) in contents.values_mut() {
            places.sort_by_key(|(file, place)| (place.group.is_some(), Reverse(ranks.get(file))));
        }
        PlaceChoice { contents }
    }

    /// The place that is tried after `round` others.
    pub fn place(&self, digest: &Digest, round: usize) -> Option<Place<'s>> {
        self.contents.get(digest)?.1.get(round).copied()
    }

    /// Contents without a place.
    pub fn without_place(&self) -> Vec<Digest> {
        let without = self.contents.iter().filter(|(_, (_, places))| places.is_empty());
        without.map(|(digest, _)| *digest).collect()
    }

    /// Prefers the delta groups that are clearly smaller than the whole contents that they yield,
    /// and whose sources `local` has.
    pub fn prefer_deltas(
        &mut self,
        heads: &ArchiveHeads<'s>,
        local: &dyn Sources,
    ) -> Result<(), FetchError> {
        let mut of_archives: BTreeMap<&'s RepoPath, Vec<GroupCandidate>> = BTreeMap::new();
        for (file, candidate) in self.list_candidates(heads)? {
            of_archives.entry(file).or_default().push(candidate);
        }

        let mut preferred: HashSet<(&'s RepoPath, u64)> = HashSet::new();
        for (file, candidates) in of_archives {
            let Some(archive) = heads.get(file) else { continue };
            let total: u64 = candidates.iter().map(|candidate| candidate.whole_bytes).sum();
            if !heads.known().contains(file) && total < archive.first_frame.length * WORTH_A_HEAD {
                continue;
            }
            // An archive that cannot be read has no cheaper place.
            let Ok(opened) = heads.open(archive) else { continue };
            for GroupCandidate { number, place, whole_bytes } in candidates {
                let Some(group) = opened.group(number) else { continue };
                let patch = opened.stored_bytes(&frames_of_patch(group, &place));
                if patch.saturating_mul(CLEARLY) < whole_bytes && has_sources(group, local) {
                    preferred.insert((file, number));
                }
            }
        }

        for (_, places) in self.contents.values_mut() {
            places.sort_by_key(|(file, place)| {
                !place.group.is_some_and(|group| preferred.contains(&(*file, group)))
            });
        }
        Ok(())
    }

    /// Lists the delta groups of contents that an archive holds whole as well.
    fn list_candidates(
        &self,
        heads: &ArchiveHeads<'s>,
    ) -> Result<Vec<(&'s RepoPath, GroupCandidate)>, FetchError> {
        type WholeFrames<'s> = HashSet<(&'s RepoPath, Range<u64>)>;
        let mut groups: BTreeMap<(&'s RepoPath, u64), (ContentLocation, WholeFrames<'s>)> =
            BTreeMap::new();
        for (size, places) in self.contents.values() {
            let whole = places.first().filter(|(_, place)| place.group.is_none());
            let Some((whole_file, whole)) = whole else { continue };
            let frames = whole.frame..whole.frame.saturating_add(whole.frame_count(*size));
            for (file, place) in places {
                if let Some(group) = place.group {
                    let group = groups.entry((file, group)).or_insert((*place, HashSet::new()));
                    group.1.insert((whole_file, frames.clone()));
                }
            }
        }

        let mut candidates = Vec::new();
        for ((file, number), (place, whole)) in groups {
            let mut whole_bytes = 0u64;
            for (file, frames) in whole {
                let Some(archive) = heads.get(file) else { continue };
                match heads.open(archive) {
                    Ok(opened) => whole_bytes += opened.stored_bytes(&frames),
                    Err(FrameError::Fetch(error)) => return Err(error),
                    Err(_) => {}
                }
            }
            candidates.push((file, GroupCandidate { number, place, whole_bytes }));
        }
        Ok(candidates)
    }
}

/// Whether all sources of a group are at hand.
fn has_sources(group: &DeltaGroup, local: &dyn Sources) -> bool {
    group
        .sources
        .iter()
        .all(|source| matches!(local.open(&source.digest, source.size, &source.path), Ok(Some(_))))
}
