//! Contents by digest, read from the frames of archives that the content index names.
//!
//! The head of an archive is fetched once; its digest is in the catalog. Adjacent frames are fetched
//! by one range, and each is compared with the frame table before it is decompressed. A content is
//! passed on through a reader that checks its digest at the end, so a wrong index is noticed. If a
//! place fails, the next one in the index is tried.

mod error;
mod group_sources;
mod verifying_reader;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::Read;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use self::error::{FrameError, MissingReason};
use self::group_sources::GroupSources;
use self::verifying_reader::pass_on;
use super::error::{FetchError, FetchErrorKind, Side};
use crate::catalog::{Archive, FileRef, RepoPath};
use crate::delta::{MAX_DEPTH, MAX_PATCH};
use crate::diff_archive::content_index::{ContentIndex, ContentLocation, IndexRecord};
use crate::diff_archive::{
    ArchiveLimits, DeltaGroup, FrameCompression, FrameFault, FrameHead, FrameTable, FramedFile,
    GroupSource, MAX_FRAME_HEAD, Sources, VerifiedFrames, Workspace, read_listing,
};
use crate::digest::Digest;

pub use self::error::{ContentError, Missing};
pub use self::verifying_reader::Sink;

/// Limit of the fetched sources of one delta group: they are held in memory.
const MAX_FETCHED_SOURCES: u64 = 256 << 20;
/// Places of one content that are tried. Each costs a request, and an index may name a million.
const MAX_PLACES: usize = 64;
/// Frames that may fail before no more places are tried: sources of deltas have places as well, so
/// that the places of one content multiply with each depth.
const MAX_FAILED_FRAMES: u32 = 10_000;
/// Adjacent frames that one request fetches: it bounds the space of a range in the spool.
const MAX_RUN: u64 = 64;

/// Access to ranges of a repository's files.
pub trait Ranges {
    /// Reads `length` bytes of `file` from `offset`, unverified: the caller knows their digest.
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError>;

    /// Like [`range`](Self::range), for bytes that were wrong: caches on the way are bypassed.
    fn range_again(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        self.range(file, offset, length)
    }
}

/// The contents that a repository publishes, by digest.
pub struct ContentStore<'s> {
    index: &'s ContentIndex,
    archives: HashMap<&'s RepoPath, &'s Archive>,
    ranges: &'s dyn Ranges,
    local: &'s dyn Sources,
    limits: ArchiveLimits,
    /// Archives whose heads were read.
    opened: RefCell<HashMap<&'s RepoPath, Rc<OpenedArchive>>>,
    /// Frames that have failed.
    failures: Cell<u32>,
}

/// Parts of the verified head of an archive.
struct OpenedArchive {
    table: Arc<FrameTable>,
    groups: Vec<DeltaGroup>,
    compression: FrameCompression,
}

/// Transfer that a fetch of contents needs, as far as the index shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentEstimate {
    /// Bytes of the frames and of the heads of their archives.
    pub bytes: u64,
    /// Contents that no archive has.
    pub missing: Vec<Digest>,
}

#[derive(Clone, Copy)]
struct WantedContent {
    digest: Digest,
    size: u64,
    place: ContentLocation,
}

/// A content that was not supplied yet.
struct PendingContent {
    size: u64,
    /// Failure of the last place.
    reason: MissingReason,
}

/// Frame of an archive, by its number, with the delta group that begins in it.
type FrameKey<'s> = (&'s RepoPath, u64, Option<u64>);

/// Contents in adjacent frames of one archive, or those that one delta group yields.
struct FrameRun<'s> {
    file: &'s RepoPath,
    group: Option<u64>,
    /// Frames of the contents; of a group only the first one is known.
    frames: Range<u64>,
    /// In the order of their places.
    contents: Vec<WantedContent>,
    attempt: RunAttempt,
}

/// Whether a run is read for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunAttempt {
    First,
    /// The bytes had another digest: a cache may have damaged them.
    BypassingCaches,
}

impl FrameRun<'_> {
    /// Whether contents of several frames are read by one request.
    fn is_divisible(&self) -> bool {
        self.contents.windows(2).any(|pair| pair[0].place.frame != pair[1].place.frame)
    }
}

impl<'s> ContentStore<'s> {
    /// Reads `archives` by `index`; sources of deltas are first searched in `local`.
    pub fn new(
        index: &'s ContentIndex,
        archives: &'s [Archive],
        ranges: &'s dyn Ranges,
        local: &'s dyn Sources,
    ) -> Self {
        let archives = archives.iter().map(|archive| (&archive.file.file, archive)).collect();
        ContentStore {
            index,
            archives,
            ranges,
            local,
            limits: ArchiveLimits::default(),
            opened: RefCell::default(),
            failures: Cell::new(0),
        }
    }

    /// Passes each of the `wanted` contents (digest and size) to `sink`, in no particular order.
    ///
    /// Adjacent frames are fetched by one request. If a place fails, the next one is tried; contents
    /// without a working place are returned. An unreachable server, a full disk of this node, and
    /// a failure of the sink end it.
    pub fn fetch(
        &self,
        wanted: &[(Digest, u64)],
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Missing>, ContentError> {
        self.fetch_at_depth(wanted, 0, sink)
    }

    /// Fetches contents, or the sources of a delta at `depth` deltas below them.
    fn fetch_at_depth(
        &self,
        wanted: &[(Digest, u64)],
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Missing>, ContentError> {
        let mut pending = pending_contents(wanted);

        // In each round, every pending content is searched in its next place.
        for round in 0.. {
            let mut runs = VecDeque::from(self.runs_of(&pending, round, depth));
            if runs.is_empty() {
                break;
            }

            while let Some(run) = runs.pop_front() {
                let Some(archive) = self.archives.get(run.file) else { continue };
                if self.failures.get() > MAX_FAILED_FRAMES {
                    break;
                }
                let mut supplied = HashSet::new();
                let result = self.read_run(archive, &run, depth, &mut |digest, content| {
                    sink(digest, content)?;
                    supplied.insert(digest);
                    Ok(())
                });

                let file = run.file.clone();
                let reason = match result {
                    Ok(()) => MissingReason::NotSupplied { file },
                    Err(FrameError::Final(error)) => return Err(error),
                    Err(FrameError::Fetch(error)) if is_final(&error) => return Err(error.into()),
                    Err(error) => MissingReason::Frame { file, error: Arc::new(error) },
                };
                pending.retain(|digest, _| !supplied.contains(digest));
                if supplied.len() == run.contents.len() {
                    continue;
                }

                // One bad frame must not hide those after it: each is read by itself.
                self.failures.set(self.failures.get() + 1);
                let (is_divisible, attempt) = (run.is_divisible(), run.attempt);
                let (file, group) = (run.file, run.group);
                let left = run.contents.into_iter();
                let left = left.filter(|content| !supplied.contains(&content.digest));
                if is_divisible {
                    let singles = single_runs(file, left).into_iter().rev();
                    singles.for_each(|single| runs.push_front(single));
                    continue;
                }
                if attempt == RunAttempt::First && reason.is_wrong_digest() {
                    let again = frame_run(file, group, left.collect());
                    let attempt = RunAttempt::BypassingCaches;
                    runs.extend(again.map(|run| FrameRun { attempt, ..run }));
                    continue;
                }
                for WantedContent { digest, .. } in left {
                    if let Some(content) = pending.get_mut(&digest) {
                        content.reason = reason.clone();
                    }
                }
            }
        }

        let missing = pending.into_iter();
        Ok(missing.map(|(digest, content)| Missing { digest, reason: content.reason }).collect())
    }

    /// Estimates the bytes that [`fetch`](Self::fetch) transfers if the first place of each content
    /// works.
    ///
    /// `cost` returns the bytes that a read of a file's range of this length transfers. Listings
    /// that are needed for the sources of deltas are read.
    pub fn estimate(
        &self,
        wanted: &[(Digest, u64)],
        cost: &mut dyn FnMut(&FileRef, u64) -> u64,
    ) -> ContentEstimate {
        let has_place = |(digest, size): &&(Digest, u64)| {
            let mut places = self.index.places(digest).take(MAX_PLACES);
            places.any(|(file, record)| self.is_usable(file, record, *size, 0))
        };
        let missing = wanted.iter().filter(|content| !has_place(content));
        let missing = missing.map(|(digest, _)| *digest).collect();
        ContentEstimate { bytes: self.estimate_at_depth(wanted, 0, cost), missing }
    }

    fn estimate_at_depth(
        &self,
        wanted: &[(Digest, u64)],
        depth: u32,
        cost: &mut dyn FnMut(&FileRef, u64) -> u64,
    ) -> u64 {
        let mut bytes = 0u64;
        for run in self.runs_of(&pending_contents(wanted), 0, depth) {
            let Some(archive) = self.archives.get(run.file) else { continue };
            if !self.opened.borrow().contains_key(run.file) {
                bytes = bytes.saturating_add(cost(&archive.file, archive.first_frame.length));
            }
            // A head that cannot be read leaves its contents out.
            let Ok(opened) = self.open_archive(archive) else { continue };
            let group = run.group.and_then(|number| opened.group(number));
            let frames = match (run.group, group, run.contents.first()) {
                (Some(_), Some(group), Some(first)) => frames_of_patch(group, &first.place),
                _ => run.frames.clone(),
            };
            if let Ok((_, length)) = opened.range(&frames) {
                bytes = bytes.saturating_add(cost(&archive.file, length));
            }

            let absent = group.map(|group| self.absent_sources(group)).unwrap_or_default();
            bytes = bytes.saturating_add(self.estimate_at_depth(&absent, depth + 1, cost));
        }
        bytes
    }

    /// The frames with place number `round` of each pending content, in their order.
    fn runs_of(
        &self,
        pending: &BTreeMap<Digest, PendingContent>,
        round: usize,
        depth: u32,
    ) -> Vec<FrameRun<'s>> {
        let mut frames: BTreeMap<FrameKey<'s>, Vec<WantedContent>> = BTreeMap::new();
        for (&digest, &PendingContent { size, .. }) in pending {
            let place = self
                .index
                .places(&digest)
                .take(MAX_PLACES)
                .filter(|(file, record)| self.is_usable(file, record, size, depth))
                .nth(round);
            if let Some((file, record)) = place {
                let place = record.place;
                let frame = (file, place.frame, place.group);
                frames.entry(frame).or_default().push(WantedContent { digest, size, place });
            }
        }

        let mut runs: Vec<FrameRun<'s>> = Vec::new();
        for ((file, _, group), contents) in frames {
            let Some(run) = frame_run(file, group, contents) else { continue };
            let last = runs.last_mut().filter(|last| {
                let is_same = last.file == file && last.group.is_none() && group.is_none();
                let is_short = run.frames.end.saturating_sub(last.frames.start) <= MAX_RUN;
                is_same && is_short && run.frames.start <= last.frames.end
            });
            match last {
                Some(last) => {
                    last.frames.end = last.frames.end.max(run.frames.end);
                    last.contents.extend(run.contents);
                }
                None => runs.push(run),
            }
        }
        runs
    }

    fn is_usable(&self, file: &RepoPath, record: &IndexRecord, size: u64, depth: u32) -> bool {
        let is_too_deep = record.place.group.is_some() && depth >= MAX_DEPTH;
        record.size == size && !is_too_deep && self.archives.contains_key(file)
    }

    /// Passes the contents of `run` to `sink`; a group makes them from one patch.
    fn read_run(
        &self,
        archive: &'s Archive,
        run: &FrameRun<'_>,
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), FrameError> {
        match run.group {
            None => self.read_whole(archive, run, sink),
            Some(number) => self.read_delta((archive, number), run, depth, sink),
        }
    }

    /// Fetches adjacent frames of an archive.
    fn fetch_frames(
        &self,
        archive: &Archive,
        opened: &OpenedArchive,
        (frames, attempt): (&Range<u64>, RunAttempt),
    ) -> Result<VerifiedFrames<Box<dyn Read + '_>>, FrameError> {
        let (offset, length) = opened.range(frames)?;
        let range = match attempt {
            RunAttempt::First => self.ranges.range(&archive.file, offset, length)?,
            RunAttempt::BypassingCaches => {
                self.ranges.range_again(&archive.file, offset, length)?
            }
        };
        let numbers = frame_numbers(frames)?;
        let table = Arc::clone(&opened.table);
        Ok(VerifiedFrames::part(range, table, numbers, opened.compression))
    }

    /// Passes on contents that adjacent frames hold whole.
    fn read_whole(
        &self,
        archive: &'s Archive,
        run: &FrameRun<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), FrameError> {
        let opened = self.open_archive(archive)?;
        let mut frames = self.fetch_frames(archive, &opened, (&run.frames, run.attempt))?;
        for WantedContent { digest, size, place } in &run.contents {
            move_to(&mut frames, place)?;
            pass_on(*digest, *size, &mut frames, sink)?;
        }
        Ok(())
    }

    /// Passes on contents that one patch makes.
    fn read_delta(
        &self,
        (archive, number): (&'s Archive, u64),
        run: &FrameRun<'_>,
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), FrameError> {
        let Some(first) = run.contents.first() else { return Ok(()) };
        let opened = self.open_archive(archive)?;
        let group = opened.group(number).ok_or(FrameError::NoDeltaGroup { number })?;
        let sources = self.fetch_sources(group, depth)?;

        let frames = frames_of_patch(group, &first.place);
        let mut frames = self.fetch_frames(archive, &opened, (&frames, run.attempt))?;
        move_to(&mut frames, &first.place)?;
        let mut patch = Vec::new();
        frames.take(group.patch_length.min(MAX_PATCH)).read_to_end(&mut patch)?;

        let wanted: HashSet<Digest> = run.contents.iter().map(|wanted| wanted.digest).collect();
        group.build_targets(&patch, &sources, &mut Workspace::default(), |target, content| {
            if wanted.contains(&target.digest) {
                pass_on(target.digest, target.size, content, sink)
            } else {
                Ok(())
            }
        })
    }

    /// Fetches the sources of a group that are not available locally.
    fn fetch_sources(
        &self,
        group: &DeltaGroup,
        depth: u32,
    ) -> Result<GroupSources<'s>, FrameError> {
        let number = group.number;
        let absent = self.absent_sources(group);
        let total_size = absent.iter().fold(0u64, |sum, (_, size)| sum.saturating_add(*size));
        if total_size > MAX_FETCHED_SOURCES {
            return Err(FrameError::SourcesTooLarge { number });
        }

        let mut fetched = HashMap::new();
        let missing = self
            .fetch_at_depth(&absent, depth + 1, &mut |digest, content| {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes)?;
                fetched.insert(digest, bytes);
                Ok(())
            })
            .map_err(FrameError::Final)?;

        match missing.into_iter().next() {
            None => Ok(GroupSources { local: self.local, fetched }),
            Some(Missing { digest, reason }) => {
                Err(FrameError::SourceMissing { number, digest, reason })
            }
        }
    }

    /// The sources of a group that are not available locally.
    fn absent_sources(&self, group: &DeltaGroup) -> Vec<(Digest, u64)> {
        let mut absent = Vec::new();
        let mut seen = HashSet::new();
        for GroupSource { digest, size, path, .. } in &group.sources {
            // A source that cannot be read here may be in the repository.
            let local = self.local.read(digest, *size, path).unwrap_or(None);
            if seen.insert(*digest) && local.is_none_or(|bytes| Digest::of(&bytes) != *digest) {
                absent.push((*digest, *size));
            }
        }
        absent
    }

    /// The frame table and the delta groups of an archive, from its head.
    fn open_archive(&self, archive: &'s Archive) -> Result<Rc<OpenedArchive>, FrameError> {
        if let Some(opened) = self.opened.borrow().get(&archive.file.file) {
            return Ok(Rc::clone(opened));
        }

        let compression = compression_of(archive)?;
        let head = archive.first_frame;
        if head.length > MAX_FRAME_HEAD {
            return Err(FrameFault::HeadTooLong.into());
        }
        let size = archive.file.size;
        let read =
            |bytes| FrameHead::read(&mut FramedFile { bytes, size, compression, head: Some(head) });
        let head = match read(self.ranges.range(&archive.file, 0, head.length)?) {
            Err(FrameFault::OtherHead) => {
                read(self.ranges.range_again(&archive.file, 0, head.length)?)?
            }
            result => result?,
        };

        let groups = if head.has_frames() {
            read_listing(&head, &self.limits)?.groups().to_vec()
        } else {
            Vec::new()
        };
        let opened = OpenedArchive { table: Arc::clone(head.table()), groups, compression };
        let opened = Rc::new(opened);
        self.opened.borrow_mut().insert(&archive.file.file, Rc::clone(&opened));
        Ok(opened)
    }
}

impl OpenedArchive {
    fn group(&self, number: u64) -> Option<&DeltaGroup> {
        usize::try_from(number).ok().and_then(|index| self.groups.get(index))
    }

    /// Offset and length of adjacent frames in the file.
    fn range(&self, frames: &Range<u64>) -> Result<(u64, u64), FrameError> {
        self.table.range(frame_numbers(frames)?).ok_or(FrameError::NoFrame)
    }
}

fn frame_numbers(frames: &Range<u64>) -> Result<Range<usize>, FrameError> {
    let number = |frame: u64| usize::try_from(frame).map_err(|_| FrameError::NoFrame);
    Ok(number(frames.start)?..number(frames.end)?)
}

/// The frames of the patch that is at `place`.
fn frames_of_patch(group: &DeltaGroup, place: &ContentLocation) -> Range<u64> {
    place.frame..place.frame.saturating_add(place.frame_count(group.patch_length))
}

/// The contents that begin in one frame; `None` without any.
fn frame_run(
    file: &RepoPath,
    group: Option<u64>,
    mut contents: Vec<WantedContent>,
) -> Option<FrameRun<'_>> {
    contents.sort_by_key(|wanted| wanted.place.offset);
    let start = contents.first()?.place.frame;
    let counts = contents.iter().map(|wanted| wanted.place.frame_count(wanted.size));
    let end = start.saturating_add(counts.max()?);
    let attempt = RunAttempt::First;
    Some(FrameRun { file, group, frames: start..end, contents, attempt })
}

/// A run for each frame in which one of `contents` begins; they are in the order of their places.
fn single_runs(
    file: &RepoPath,
    contents: impl Iterator<Item = WantedContent>,
) -> Vec<FrameRun<'_>> {
    let mut frames: BTreeMap<u64, Vec<WantedContent>> = BTreeMap::new();
    for content in contents {
        frames.entry(content.place.frame).or_default().push(content);
    }
    frames.into_values().filter_map(|contents| frame_run(file, None, contents)).collect()
}

fn move_to(
    frames: &mut VerifiedFrames<impl Read>,
    place: &ContentLocation,
) -> Result<(), FrameError> {
    let number = usize::try_from(place.frame).map_err(|_| FrameError::NoFrame)?;
    if frames.move_to(number, place.offset)? { Ok(()) } else { Err(FrameError::OverlappingPlaces) }
}

fn pending_contents(wanted: &[(Digest, u64)]) -> BTreeMap<Digest, PendingContent> {
    let pending = |size| PendingContent { size, reason: MissingReason::NotIndexed };
    wanted.iter().map(|&(digest, size)| (digest, pending(size))).collect()
}

/// Whether every other place would fail as well: no server, or a failure of this node.
fn is_final(error: &FetchError) -> bool {
    matches!(error.kind, FetchErrorKind::Unreachable | FetchErrorKind::DiskSpace)
        || error.side == Side::Node
}

fn compression_of(archive: &Archive) -> Result<FrameCompression, FrameError> {
    FrameCompression::from_name(archive.file.file.as_str()).ok_or(FrameError::UnknownCompression)
}

#[cfg(test)]
mod tests;
