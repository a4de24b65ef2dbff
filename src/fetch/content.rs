//! Contents by digest, read from the frames of archives that the content index names.
//!
//! Each frame is fetched by range and decompressed alone. A content is passed on through a reader
//! that checks its digest at the end, so a wrong index or a damaged archive is noticed, and the
//! next place in the index is tried.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufReader, Read};
use std::rc::Rc;
use std::sync::Arc;

use super::error::{ContentFault, FetchError, FetchErrorKind, FrameError, MissingReason, Side};
use crate::catalog::{Archive, FileRef, RepoPath};
use crate::delta::{MAX_DEPTH, MAX_PATCH, ReadAt};
use crate::diff_archive::content_index::{ContentIndex, ContentLocation, IndexRecord};
use crate::diff_archive::{
    ArchiveLimits, DeltaGroup, FrameCompression, FrameDecoder, GroupSource, Sources, Workspace,
    read_listing,
};
use crate::digest::{Digest, Hasher};
use crate::tree_path::TreePath;

pub use super::error::{ContentError, Missing};

/// Limit of the fetched sources of one delta group: they are held in memory.
const MAX_FETCHED_SOURCES: u64 = 256 << 20;
/// Places of one content that are tried. Each costs a request, and an index may name a million.
const MAX_PLACES: usize = 64;
/// Frames that may fail before no more places are tried: sources of deltas have places as well, so
/// that the places of one content multiply with each depth.
const MAX_FAILED_FRAMES: u32 = 10_000;

/// Access to ranges of a repository's files.
pub trait Ranges {
    /// Reads `length` bytes of `file` from `offset`, unverified: the caller knows their digest.
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError>;
}

/// Receiver of a content, which is valid only if its reader reaches the end without an error.
///
/// After an error it may be called again for the same content, and has to discard the first bytes.
pub type Sink<'f> = dyn FnMut(Digest, &mut dyn Read) -> io::Result<()> + 'f;

/// The contents that a repository publishes, by digest.
pub struct ContentStore<'s> {
    index: &'s ContentIndex,
    archives: HashMap<&'s RepoPath, &'s Archive>,
    ranges: &'s dyn Ranges,
    local: &'s dyn Sources,
    limits: ArchiveLimits,
    /// Delta groups of the archives whose listings were read.
    groups: RefCell<HashMap<&'s RepoPath, Rc<[DeltaGroup]>>>,
    /// Frames that have failed.
    failures: Cell<u32>,
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

/// Frame of an archive, by its offset, with the delta group in it.
type FrameKey<'s> = (&'s RepoPath, u64, Option<u64>);

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
            groups: RefCell::default(),
            failures: Cell::new(0),
        }
    }

    /// Passes each of the `wanted` contents (digest and size) to `sink`, in no particular order.
    ///
    /// Each frame is fetched by one request. If a place fails, the next one is tried; contents
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
            let frames = self.frames_of(&pending, round, depth);
            if frames.is_empty() {
                break;
            }

            for ((file, _, group), contents) in frames {
                let Some(archive) = self.archives.get(file) else { continue };
                if self.failures.get() > MAX_FAILED_FRAMES {
                    break;
                }
                let mut supplied = HashSet::new();
                let result =
                    self.read_frame((archive, group), &contents, depth, &mut |digest, content| {
                        sink(digest, content)?;
                        supplied.insert(digest);
                        Ok(())
                    });

                let file = file.clone();
                let reason = match result {
                    Ok(()) => MissingReason::NotSupplied { file },
                    Err(FrameError::Final(error)) => return Err(error),
                    Err(FrameError::Fetch(error)) if is_final(&error) => return Err(error.into()),
                    Err(error) => MissingReason::Frame { file, error: Arc::new(error) },
                };
                if supplied.len() < contents.len() {
                    self.failures.set(self.failures.get() + 1);
                }
                for WantedContent { digest, .. } in contents {
                    if supplied.contains(&digest) {
                        pending.remove(&digest);
                    } else if let Some(content) = pending.get_mut(&digest) {
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
    ) -> u64 {
        self.estimate_at_depth(wanted, 0, cost)
    }

    fn estimate_at_depth(
        &self,
        wanted: &[(Digest, u64)],
        depth: u32,
        cost: &mut dyn FnMut(&FileRef, u64) -> u64,
    ) -> u64 {
        let mut bytes = 0u64;
        for ((file, _, group), contents) in self.frames_of(&pending_contents(wanted), 0, depth) {
            let (Some(archive), Some(first)) = (self.archives.get(file), contents.first()) else {
                continue;
            };
            bytes = bytes.saturating_add(cost(&archive.file, first.place.frame_length));

            let Some(number) = group else { continue };
            if !self.groups.borrow().contains_key(file) {
                bytes = bytes.saturating_add(cost(&archive.file, archive.first_frame.length));
            }
            // A listing that cannot be read leaves the sources of its groups out.
            let Ok(groups) = self.groups_of(archive) else { continue };
            let group = usize::try_from(number).ok().and_then(|index| groups.get(index));
            let absent = group.map(|group| self.absent_sources(group)).unwrap_or_default();
            bytes = bytes.saturating_add(self.estimate_at_depth(&absent, depth + 1, cost));
        }
        bytes
    }

    /// The frames with place number `round` of each pending content, in the order of the frames.
    fn frames_of(
        &self,
        pending: &BTreeMap<Digest, PendingContent>,
        round: usize,
        depth: u32,
    ) -> BTreeMap<FrameKey<'s>, Vec<WantedContent>> {
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
                let frame = (file, place.frame_offset, place.group);
                frames.entry(frame).or_default().push(WantedContent { digest, size, place });
            }
        }

        for contents in frames.values_mut() {
            contents.sort_by_key(|wanted| wanted.place.offset);
        }
        frames
    }

    fn is_usable(&self, file: &RepoPath, record: &IndexRecord, size: u64, depth: u32) -> bool {
        let is_too_deep = record.place.group.is_some() && depth >= MAX_DEPTH;
        record.size == size && !is_too_deep && self.archives.contains_key(file)
    }

    /// Passes the `contents` of one frame to `sink`; a group makes them from one patch.
    fn read_frame(
        &self,
        (archive, group): (&'s Archive, Option<u64>),
        contents: &[WantedContent],
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), FrameError> {
        match group {
            None => self.read_whole(archive, contents, sink),
            Some(number) => self.read_delta((archive, number), contents, depth, sink),
        }
    }

    fn open_frame(
        &self,
        archive: &Archive,
        place: &ContentLocation,
    ) -> Result<FrameDecoder<BufReader<Box<dyn Read + '_>>>, FrameError> {
        let range = self.ranges.range(&archive.file, place.frame_offset, place.frame_length)?;
        let range = BufReader::with_capacity(128 << 10, range);
        Ok(FrameDecoder::new(compression_of(archive)?, range)?)
    }

    /// Passes on contents that one frame holds whole.
    fn read_whole(
        &self,
        archive: &Archive,
        contents: &[WantedContent],
        sink: &mut Sink<'_>,
    ) -> Result<(), FrameError> {
        let Some(first) = contents.first() else { return Ok(()) };
        let mut frame = self.open_frame(archive, &first.place)?;

        let mut position = 0;
        for wanted in contents {
            let Some(gap) = wanted.place.offset.checked_sub(position) else {
                return Err(FrameError::OverlappingPlaces);
            };
            skip(&mut frame, gap)?;
            pass_on(wanted.digest, wanted.size, &mut frame, sink)?;
            position = wanted.place.offset.saturating_add(wanted.size);
        }
        Ok(())
    }

    /// Passes on contents that one patch makes.
    fn read_delta(
        &self,
        (archive, number): (&'s Archive, u64),
        contents: &[WantedContent],
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), FrameError> {
        let Some(first) = contents.first() else { return Ok(()) };
        let groups = self.groups_of(archive)?;
        let group = usize::try_from(number).ok().and_then(|index| groups.get(index));
        let group = group.ok_or(FrameError::NoDeltaGroup { number })?;
        let sources = self.fetch_sources(group, depth)?;

        let mut frame = self.open_frame(archive, &first.place)?;
        skip(&mut frame, first.place.offset)?;
        let mut patch = Vec::new();
        frame.take(group.patch_length.min(MAX_PATCH)).read_to_end(&mut patch)?;

        let wanted: HashSet<Digest> = contents.iter().map(|wanted| wanted.digest).collect();
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

    /// The delta groups of an archive, from its listing.
    fn groups_of(&self, archive: &'s Archive) -> Result<Rc<[DeltaGroup]>, FrameError> {
        if let Some(groups) = self.groups.borrow().get(&archive.file.file) {
            return Ok(Rc::clone(groups));
        }

        let frame = &archive.first_frame;
        let mut bytes = Vec::new();
        self.ranges
            .range(&archive.file, 0, frame.length)?
            .take(frame.length)
            .read_to_end(&mut bytes)?;
        if Digest::of(&bytes) != frame.sha256 {
            return Err(FrameError::WrongFirstFrame);
        }

        let listing = read_listing(&bytes, compression_of(archive)?, &self.limits)?;
        let groups: Rc<[DeltaGroup]> = listing.groups().into();
        self.groups.borrow_mut().insert(&archive.file.file, Rc::clone(&groups));
        Ok(groups)
    }
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

fn skip(frame: &mut impl Read, length: u64) -> Result<(), FrameError> {
    if io::copy(&mut frame.take(length), &mut io::sink())? == length {
        return Ok(());
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

/// Passes one content to `sink`; distinguishes a fault of the frame from a failure of the sink.
fn pass_on(
    digest: Digest,
    size: u64,
    frame: &mut dyn Read,
    sink: &mut Sink<'_>,
) -> Result<(), FrameError> {
    let mut content = VerifyingReader {
        source: frame,
        remaining: size,
        hasher: Some(Hasher::new()),
        digest,
        fault: None,
    };

    match (sink(digest, &mut content), content.fault.clone()) {
        (Ok(()), _) => {
            // A fault in bytes that the sink did not read: it has accepted a wrong content.
            let rest = io::copy(&mut content, &mut io::sink());
            match (rest, content.fault) {
                (Err(_), Some(fault)) => Err(sink_error(digest, fault.into())),
                _ => Ok(()),
            }
        }
        (Err(_), Some(fault)) => Err(fault.into()),
        (Err(error), None) => Err(sink_error(digest, error)),
    }
}

fn sink_error(digest: Digest, source: io::Error) -> FrameError {
    FrameError::Final(ContentError::Sink { digest, source })
}

/// Sources of a delta group: fetched ones, then local ones.
struct GroupSources<'g> {
    local: &'g dyn Sources,
    fetched: HashMap<Digest, Vec<u8>>,
}

impl Sources for GroupSources<'_> {
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        match self.fetched.get(digest) {
            Some(bytes) => Ok(Some(bytes.clone())),
            None => self.local.read(digest, size, path),
        }
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        match self.fetched.get(digest) {
            Some(bytes) => Ok(Some(Box::new(&bytes[..]))),
            None => self.local.open(digest, size, path),
        }
    }
}

/// Reader of a content that reports the end only if the digest is right.
struct VerifyingReader<'r> {
    source: &'r mut dyn Read,
    remaining: u64,
    /// `None` after the digest was checked.
    hasher: Option<Hasher>,
    digest: Digest,
    fault: Option<ContentFault>,
}

impl VerifyingReader<'_> {
    fn fail(&mut self, fault: ContentFault) -> io::Error {
        self.fault = Some(fault.clone());
        fault.into()
    }
}

impl Read for VerifyingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone().into());
        }

        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            let is_wrong = self.remaining == 0
                && self.hasher.take().is_some_and(|hasher| hasher.finish() != self.digest);
            if is_wrong {
                return Err(self.fail(ContentFault::WrongDigest { digest: self.digest }));
            }
            return Ok(0);
        }

        match self.source.read(&mut buffer[..wanted]) {
            Ok(0) => Err(self.fail(ContentFault::Truncated)),
            Ok(count) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&buffer[..count]);
                }
                self.remaining -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.fail(ContentFault::Read(Arc::new(error)))),
        }
    }
}

#[cfg(test)]
mod tests;
