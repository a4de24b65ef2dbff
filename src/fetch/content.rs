//! Contents by digest, read from the frames of archives that the content index names.
//!
//! The head of an archive is fetched once; its digest is in the catalog. Adjacent and near frames are
//! fetched by one range, and each is compared with the frame table before it is decompressed. A
//! content is passed on through a reader that checks its digest at the end, so a wrong index is
//! noticed. If a place fails, the next one in the index is tried.
//!
//! Several threads fetch, decompress and pass on contents, each one range at a time. So the time of a
//! request to the server is hidden by the work of the others, and memory is bounded by the ranges.

mod archive_heads;
mod error;
mod frame_run;
mod group_sources;
mod locking;
mod patches;
mod place_choice;
mod published_index;
mod range_pieces;
mod ranges;
mod searched_index;
mod verifying_reader;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::Read;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use self::archive_heads::ArchiveHeads;
use self::error::{FrameError, MissingReason, is_final};
use self::frame_run::{FrameRun, RunAttempt, RunKind, WantedContent, join_near};
use self::locking::lock;
use self::place_choice::PlaceChoice;
use self::published_index::PublishedIndex;
use self::searched_index::SearchedIndex;
use self::verifying_reader::pass_on;
use crate::catalog::{Archive, FileRef, IndexFile, RepoPath};
use crate::diff_archive::content_index::{ContentIndex, ContentLocation};
use crate::diff_archive::{Sources, VerifiedFrames};
use crate::digest::Digest;

pub use self::error::{ContentError, Missing};
pub use self::ranges::Ranges;
pub use self::verifying_reader::{Sink, VerifyingReader};

/// Frames that may fail before no more places are tried: sources of deltas have places as well, so
/// that the places of one content multiply with each depth.
const MAX_FAILED_FRAMES: u32 = 10_000;
/// Threads that fetch; more requests at a time would crowd out those of other nodes.
const MAX_THREADS: usize = 6;

/// The contents that a repository publishes, by digest.
pub struct ContentStore<'s> {
    index: Mutex<SearchedIndex<'s>>,
    heads: ArchiveHeads<'s>,
    local: &'s dyn Sources,
    /// Frames that have failed.
    failures: AtomicU32,
    /// Held while a delta group with many fetched sources is built.
    many_sources: Mutex<()>,
}

/// Transfer that a fetch of contents needs, as far as the index shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentEstimate {
    /// Bytes of the frames and of the heads of their archives.
    pub bytes: u64,
    /// Contents that no archive has.
    pub missing: Vec<Digest>,
}

/// A content that was not supplied yet.
struct PendingContent {
    size: u64,
    /// Failure of the last place.
    reason: MissingReason,
}

/// Contents of a run that were supplied, and reasons of the others.
#[derive(Default)]
struct RunResult {
    supplied: HashSet<Digest>,
    failed: Vec<(Digest, MissingReason)>,
}

impl<'s> ContentStore<'s> {
    /// Reads `archives` by `index`; sources of deltas are first searched in `local`.
    pub fn new(
        index: &'s ContentIndex,
        archives: &'s [Archive],
        ranges: &'s dyn Ranges,
        local: &'s dyn Sources,
    ) -> Self {
        ContentStore::of_index(SearchedIndex::Whole(index), archives, ranges, local)
    }

    /// Like [`new`](Self::new), but fetches the needed blocks of the published `index`.
    ///
    /// Fails with [`ContentError::Index`] if the index is not valid.
    pub fn open(
        index: &'s IndexFile,
        archives: &'s [Archive],
        ranges: &'s dyn Ranges,
        local: &'s dyn Sources,
    ) -> Result<Self, ContentError> {
        let file = &index.file.file;
        match PublishedIndex::open(index, ranges) {
            Ok(index) => {
                let index = SearchedIndex::Published(Box::new(index));
                Ok(ContentStore::of_index(index, archives, ranges, local))
            }
            Err(FrameError::Fetch(error)) => Err(error.into()),
            Err(error) => Err(ContentError::Index { file: file.clone(), error: error.into() }),
        }
    }

    fn of_index(
        index: SearchedIndex<'s>,
        archives: &'s [Archive],
        ranges: &'s dyn Ranges,
        local: &'s dyn Sources,
    ) -> Self {
        ContentStore {
            index: Mutex::new(index),
            heads: ArchiveHeads::new(archives, ranges),
            local,
            failures: AtomicU32::new(0),
            many_sources: Mutex::default(),
        }
    }

    /// Passes each of the `wanted` contents (digest and size) to `sink`, in no particular order.
    ///
    /// Near frames are fetched by one request. If a place fails, the next one is tried; contents
    /// without a working place are returned. An unreachable server, a full disk of this node, and
    /// a failure of the sink end it.
    pub fn fetch(
        &self,
        wanted: &[(Digest, u64)],
        sink: &Sink<'_>,
    ) -> Result<Vec<Missing>, ContentError> {
        self.fetch_at_depth(wanted, 0, sink)
    }

    /// Fetches contents, or the sources of a delta at `depth` deltas below them.
    fn fetch_at_depth(
        &self,
        wanted: &[(Digest, u64)],
        depth: u32,
        sink: &Sink<'_>,
    ) -> Result<Vec<Missing>, ContentError> {
        let places = self.choose_places(wanted, depth)?;
        let mut pending = pending_contents(wanted);
        if let Some(index) = lock(&self.index).damaged() {
            let reason = MissingReason::IndexDamaged { file: index.file.clone() };
            pending.values_mut().for_each(|content| content.reason = reason.clone());
        }

        // In each round, every pending content is searched in its next place.
        for round in 0.. {
            let runs = self.runs_of(&pending, &places, round)?;
            if runs.is_empty() {
                break;
            }
            for result in self.read_runs(runs, depth, sink)? {
                for digest in &result.supplied {
                    pending.remove(digest);
                }
                for (digest, reason) in result.failed {
                    if let Some(content) = pending.get_mut(&digest) {
                        content.reason = reason;
                    }
                }
            }
        }

        let missing = pending.into_iter();
        Ok(missing.map(|(digest, content)| Missing { digest, reason: content.reason }).collect())
    }

    /// Searches contents in the index, and orders their places.
    fn choose_places(
        &self,
        wanted: &[(Digest, u64)],
        depth: u32,
    ) -> Result<PlaceChoice<'s>, ContentError> {
        let mut index = lock(&self.index);
        index.search(wanted)?;
        let contents = wanted.iter().map(|(digest, size)| (digest, *size));
        let mut places = PlaceChoice::new(&index, &self.heads, contents, depth);
        drop(index);

        if depth == 0 {
            places.prefer_deltas(&self.heads, self.local)?;
        }
        Ok(places)
    }

    /// Reads runs on several threads; those of sources on this one.
    fn read_runs(
        &self,
        runs: Vec<FrameRun<'s>>,
        depth: u32,
        sink: &Sink<'_>,
    ) -> Result<Vec<RunResult>, ContentError> {
        let threads = if depth == 0 { MAX_THREADS.min(runs.len()) } else { 1 };
        if threads == 1 {
            return runs.into_iter().map(|run| self.read_repeatedly(run, depth, sink)).collect();
        }

        let queue = Mutex::new(VecDeque::from(runs));
        let results = Mutex::new(Ok(Vec::new()));
        let work = || {
            while let Some(run) = { lock(&queue).pop_front() } {
                let result = self.read_repeatedly(run, depth, sink);
                let mut results = lock(&results);
                match (result, &mut *results) {
                    (Ok(result), Ok(results)) => results.push(result),
                    (Err(error), Ok(_)) => {
                        *results = Err(error);
                        lock(&queue).clear();
                    }
                    (_, Err(_)) => {}
                }
            }
        };
        thread::scope(|scope| {
            (0..threads).for_each(|_| drop(scope.spawn(work)));
        });
        results.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a run; if frames of it fail, each by itself; if a cache damaged one, past the cache.
    fn read_repeatedly(
        &self,
        run: FrameRun<'s>,
        depth: u32,
        sink: &Sink<'_>,
    ) -> Result<RunResult, ContentError> {
        let mut result = RunResult::default();
        let mut runs = VecDeque::from([run]);
        while let Some(run) = runs.pop_front() {
            let Some(archive) = self.heads.get(run.file) else { continue };
            if self.failures.load(Ordering::Relaxed) > MAX_FAILED_FRAMES {
                break;
            }
            let supplied = Mutex::new(HashSet::new());
            let outcome = self.read_run(archive, &run, depth, &|content| {
                sink(content)?;
                lock(&supplied).insert(content.digest());
                Ok(())
            });
            let supplied = supplied.into_inner().unwrap_or_else(PoisonError::into_inner);
            result.supplied.extend(&supplied);

            let file = run.file;
            let error = match outcome.map_err(FrameError::into_failed_request) {
                Ok(()) if supplied.len() == run.contents.len() => continue,
                Ok(()) => None,
                Err(FrameError::Final(error)) => return Err(error),
                Err(FrameError::Fetch(error)) if is_final(&error) => return Err(error.into()),
                Err(error) => Some(error),
            };
            let is_head = matches!(error, Some(FrameError::Head(_)));
            let reason = match error {
                None => MissingReason::NotSupplied { file: file.clone() },
                Some(error) => MissingReason::Frame { file: file.clone(), error: Arc::new(error) },
            };

            // One bad frame must not hide those after it: each is read by itself.
            self.failures.fetch_add(1, Ordering::Relaxed);
            let (is_divisible, attempt) = (run.is_divisible() && !is_head, run.attempt);
            let opened = self.heads.open(archive).ok();
            let groups = opened.as_ref().map_or(&[][..], |opened| &opened.groups);
            let left = run.contents.into_iter();
            let left = left.filter(|content| !supplied.contains(&content.digest));
            if is_divisible {
                let singles = FrameRun::singles(file, groups, left).into_iter().rev();
                singles.for_each(|single| runs.push_front(single));
            } else if attempt == RunAttempt::First && reason.is_wrong_digest() {
                let again = FrameRun::single(file, groups, left.collect());
                let attempt = RunAttempt::BypassingCaches;
                runs.extend(again.map(|run| FrameRun { attempt, ..run }));
            } else {
                result.failed.extend(left.map(|content| (content.digest, reason.clone())));
            }
        }
        Ok(result)
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
    ) -> Result<ContentEstimate, ContentError> {
        let frames = self.estimate_at_depth(wanted, 0, cost)?;
        let missing = self.choose_places(wanted, 0)?.without_place();
        let index = lock(&self.index).transfer().map_or(0, |(file, bytes)| cost(file, bytes));
        Ok(ContentEstimate { bytes: frames.saturating_add(index), missing })
    }

    fn estimate_at_depth(
        &self,
        wanted: &[(Digest, u64)],
        depth: u32,
        cost: &mut dyn FnMut(&FileRef, u64) -> u64,
    ) -> Result<u64, ContentError> {
        let known = self.heads.known();
        let places = self.choose_places(wanted, depth)?;
        let runs = self.runs_of(&pending_contents(wanted), &places, 0)?;

        let mut bytes = 0u64;
        for file in self.heads.known().difference(&known) {
            let head = self.heads.get(file);
            let head = head.map_or(0, |head| cost(&head.file, head.first_frame.length));
            bytes = bytes.saturating_add(head);
        }
        for run in runs {
            let Some(archive) = self.heads.get(run.file) else { continue };
            // A head that cannot be read leaves its contents out.
            let Ok(opened) = self.heads.open(archive) else { continue };
            bytes = bytes.saturating_add(cost(&archive.file, opened.stored_bytes(&run.frames)));
            let patches = patches::patches_of(self, &opened, &run).unwrap_or_default();
            let absent: HashSet<_> = patches.into_iter().flat_map(|patch| patch.absent).collect();
            let absent: Vec<(Digest, u64)> = absent.into_iter().collect();
            if !absent.is_empty() {
                bytes = bytes.saturating_add(self.estimate_at_depth(&absent, depth + 1, cost)?);
            }
        }
        Ok(bytes)
    }

    /// Runs of frames with place number `round` of each pending content, in their order.
    fn runs_of(
        &self,
        pending: &BTreeMap<Digest, PendingContent>,
        places: &PlaceChoice<'s>,
        round: usize,
    ) -> Result<Vec<FrameRun<'s>>, ContentError> {
        let mut files: BTreeMap<(RunKind, &'s RepoPath), Vec<WantedContent>> = BTreeMap::new();
        for (&digest, &PendingContent { size, .. }) in pending {
            if let Some((file, place)) = places.place(&digest, round) {
                let kind = if place.group.is_some() { RunKind::Patches } else { RunKind::Whole };
                files.entry((kind, file)).or_default().push(WantedContent { digest, size, place });
            }
        }

        let mut runs = Vec::new();
        for ((_, file), contents) in files {
            let Some(archive) = self.heads.get(file) else { continue };
            match self.heads.open(archive) {
                Ok(opened) => {
                    let singles = FrameRun::singles(file, &opened.groups, contents.into_iter());
                    runs.extend(join_near(singles, &opened.table));
                }
                Err(FrameError::Fetch(error)) => return Err(error.into()),
                // One run is enough to get the reason.
                Err(_) => runs.extend(FrameRun::single(file, &[], contents)),
            }
        }
        Ok(runs)
    }

    /// Passes the contents of `run` to `sink`; a group makes them from one patch.
    fn read_run(
        &self,
        archive: &'s Archive,
        run: &FrameRun<'_>,
        depth: u32,
        sink: &Sink<'_>,
    ) -> Result<(), FrameError> {
        match run.kind {
            RunKind::Whole => self.read_whole(archive, run, sink),
            RunKind::Patches => patches::read_patches(self, archive, run, depth, sink),
        }
    }

    /// Passes on contents that adjacent frames hold whole.
    fn read_whole(
        &self,
        archive: &'s Archive,
        run: &FrameRun<'_>,
        sink: &Sink<'_>,
    ) -> Result<(), FrameError> {
        let opened = self.heads.open(archive)?;
        let mut frames = opened.fetch(&run.frames, run.attempt)?;
        for WantedContent { digest, size, place } in &run.contents {
            move_to(&mut frames, place)?;
            pass_on(*digest, *size, &mut frames, sink)?;
        }
        Ok(())
    }
}

fn move_to(
    frames: &mut VerifiedFrames<impl Read>,
    place: &ContentLocation,
) -> Result<(), FrameError> {
    let number = usize::try_from(place.frame).map_err(|_| FrameError::NoFrame)?;
    if frames.move_to(number, place.offset)? { Ok(()) } else { Err(FrameError::OverlappingPlaces) }
}

fn total_size(contents: &[(Digest, u64)]) -> u64 {
    contents.iter().fold(0, |sum, (_, size)| sum.saturating_add(*size))
}

fn pending_contents(wanted: &[(Digest, u64)]) -> BTreeMap<Digest, PendingContent> {
    let pending = |size| PendingContent { size, reason: MissingReason::NotIndexed };
    wanted.iter().map(|&(digest, size)| (digest, pending(size))).collect()
}

#[cfg(test)]
mod tests;
