//! Runs of frames: the parts of an archive that one request fetches.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::catalog::RepoPath;
use crate::diff_archive::content_index::ContentLocation;
use crate::diff_archive::{DeltaGroup, FrameTable};
use crate::digest::Digest;

/// Bytes of one request; several threads hold the bytes of one in memory.
pub(super) const MAX_RANGE: u64 = 4 << 20;
/// Bytes between two needed frames that cost less than a further request.
const MAX_GAP: u64 = 64 << 10;
/// Part of the needed bytes that may be fetched between them.
const GAP_SHARE: u64 = 25;

#[derive(Clone, Copy)]
pub(super) struct WantedContent {
    pub digest: Digest,
    pub size: u64,
    pub place: ContentLocation,
}

/// Contents in near frames of one archive.
pub(super) struct FrameRun<'s> {
    pub file: &'s RepoPath,
    pub kind: RunKind,
    /// Frames of the contents, or of the patches that make them, and those between them.
    pub frames: Range<u64>,
    /// In the order of their places.
    pub contents: Vec<WantedContent>,
    pub attempt: RunAttempt,
}

/// Content of the frames of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RunKind {
    Whole,
    /// Patches of delta groups.
    Patches,
}

/// Whether a run is read for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunAttempt {
    First,
    /// The bytes had another digest: a cache may have damaged them.
    BypassingCaches,
}

impl<'s> FrameRun<'s> {
    /// The contents that begin in one frame, or those of one delta group; `None` without any.
    ///
    /// `groups` has the delta groups of the archive.
    pub fn single(
        file: &'s RepoPath,
        groups: &[DeltaGroup],
        mut contents: Vec<WantedContent>,
    ) -> Option<Self> {
        contents.sort_by_key(|wanted| wanted.place.offset);
        let first = contents.first()?.place;
        let (kind, count) = match first.group {
            None => {
                let counts = contents.iter().map(|wanted| wanted.place.frame_count(wanted.size));
                (RunKind::Whole, counts.max()?)
            }
            Some(number) => {
                let length = find_group(groups, number).map_or(0, |group| group.patch_length);
                (RunKind::Patches, first.frame_count(length))
            }
        };
        let frames = first.frame..first.frame.saturating_add(count);
        Some(FrameRun { file, kind, frames, contents, attempt: RunAttempt::First })
    }

    /// Whether several frames, or patches, are read by one request.
    pub fn is_divisible(&self) -> bool {
        self.contents.windows(2).any(|pair| key(&pair[0].place) != key(&pair[1].place))
    }

    /// Divides contents into runs that fail independently, in the order of their frames.
    pub fn singles(
        file: &'s RepoPath,
        groups: &[DeltaGroup],
        contents: impl Iterator<Item = WantedContent>,
    ) -> Vec<Self> {
        let mut parts: BTreeMap<_, Vec<WantedContent>> = BTreeMap::new();
        for content in contents {
            parts.entry(key(&content.place)).or_default().push(content);
        }
        let mut runs: Vec<Self> = parts
            .into_values()
            .filter_map(|contents| FrameRun::single(file, groups, contents))
            .collect();
        runs.sort_by_key(|run| {
            run.contents.first().map(|first| (first.place.frame, first.place.offset))
        });
        runs
    }
}

/// Part of an archive that is read, or fails, by itself.
fn key(place: &ContentLocation) -> (u64, Option<u64>) {
    (place.frame, place.group)
}

/// The delta group with this number.
pub(super) fn find_group(groups: &[DeltaGroup], number: u64) -> Option<&DeltaGroup> {
    usize::try_from(number).ok().and_then(|index| groups.get(index))
}

/// Offset and length of adjacent frames in their file.
pub(super) fn range_of(table: &FrameTable, frames: &Range<u64>) -> Option<(u64, u64)> {
    table.range(usize::try_from(frames.start).ok()?..usize::try_from(frames.end).ok()?)
}

/// The frames of the patch that is at `place`.
pub(super) fn frames_of_patch(group: &DeltaGroup, place: &ContentLocation) -> Range<u64> {
    place.frame..place.frame.saturating_add(place.frame_count(group.patch_length))
}

/// Joins runs of one archive, in the order of their frames, that one request fetches.
///
/// Adjacent frames are joined, and frames with small gaps, as long as all gaps together are a small
/// part of the needed bytes.
pub(super) fn join_near<'s>(runs: Vec<FrameRun<'s>>, table: &FrameTable) -> Vec<FrameRun<'s>> {
    let bytes = |frames: Range<u64>| range_of(table, &frames).map(|(_, length)| length);
    let gap = |last: &FrameRun<'_>, next: &FrameRun<'_>| match last.frames.end {
        end if next.frames.start <= end => Some(0),
        end => bytes(end..next.frames.start),
    };
    let needed: u64 = runs.iter().filter_map(|run| bytes(run.frames.clone())).sum();
    let mut gaps: Vec<u64> = runs.windows(2).filter_map(|pair| gap(&pair[0], &pair[1])).collect();
    gaps.sort_unstable();
    let mut total = 0;
    let affordable = gaps.into_iter().take_while(|gap| {
        total += gap;
        *gap <= MAX_GAP && total <= needed / GAP_SHARE
    });
    let largest = affordable.last().unwrap_or(0);

    let mut joined: Vec<FrameRun<'s>> = Vec::new();
    for run in runs {
        let last = joined.last_mut().filter(|last| {
            let end = last.frames.end.max(run.frames.end);
            let is_near = gap(last, &run).is_some_and(|gap| gap <= largest);
            is_near && bytes(last.frames.start..end).is_some_and(|length| length <= MAX_RANGE)
        });
        match last {
            Some(last) => {
                last.frames.end = last.frames.end.max(run.frames.end);
                last.contents.extend(run.contents);
            }
            None => joined.push(run),
        }
    }
    joined
}
