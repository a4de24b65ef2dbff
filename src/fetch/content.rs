//! Content by digest: out of the frame of an archive that the content index names, fetched by range.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use crate::catalog::{Archive, FileRef, RepoPath};
use crate::delta::{MAX_DEPTH, MAX_PATCH, ReadAt};
use crate::diff_archive::content_index::{ContentIndex, ContentLocation};
use crate::diff_archive::{
    ArchiveError, ArchiveLimits, Decoder, DeltaGroup, FrameCompression, GroupSource, Sources,
    Workspace, read_listing,
};
use crate::digest::{Digest, Hasher};
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::tree_path::TreePath;

/// Reads parts of a repository's files.
pub trait Ranges {
    /// The `length` bytes of `file` from `offset` on. They are not verified: the caller knows their digest.
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError>;
}

/// The sources of a group that are fetched are held in memory: the files of an archive that copies them.
const MAX_GATHERED: u64 = 256 << 20;

/// The contents that a repository publishes, by digest.
pub struct ContentStore<'s> {
    index: &'s ContentIndex,
    archives: HashMap<&'s RepoPath, &'s Archive>,
    ranges: &'s dyn Ranges,
    local: &'s dyn Sources,
    limits: ArchiveLimits,
    groups: RefCell<HashMap<&'s RepoPath, Rc<[DeltaGroup]>>>,
}

/// Takes a content, which it may believe once the reader has come to its end without an error.
///
/// It may be called again for a content whose reader has failed, and has to discard what it had of it.
pub type Sink<'f> = dyn FnMut(Digest, &mut dyn Read) -> io::Result<()> + 'f;

/// A content that could not be had from any of its places.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Of the content.
    pub digest: Digest,
    /// Why the last place did not give it.
    pub why: String,
}

/// Why fetching contents was given up.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The server cannot be reached, or this node cannot keep what comes.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Whoever takes the contents failed.
    #[error("cannot take content {digest}: {source}")]
    Sink {
        /// Of the content.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
}

/// The sources of a group: at hand, or fetched.
struct Gathered<'g> {
    local: &'g dyn Sources,
    fetched: HashMap<Digest, Vec<u8>>,
}

impl Sources for Gathered<'_> {
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

/// Why one frame did not give what it should.
#[derive(Debug, thiserror::Error)]
enum FrameError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the archive cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{0}")]
    Other(String),
    #[error(transparent)]
    GivenUp(ContentError),
}

#[derive(Clone, Copy)]
struct WantedContents {
    digest: Digest,
    size: u64,
    place: ContentLocation,
}

/// WantedContents contents by the frame that holds them, and by delta group.
type Frames<'s> = BTreeMap<(&'s RepoPath, u64, Option<u64>), Vec<WantedContents>>;

impl<'s> ContentStore<'s> {
    /// Reads `archives` as `index` says; `local` is asked first for the sources of deltas.
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
        }
    }

    /// Gives each of the `wanted` contents (digest and size) to `sink`, in no particular order, and
    /// returns those that could not be had.
    ///
    /// Each frame is fetched by one request. Where a place fails the next one is tried; a server that
    /// cannot be reached, a disk that fails here, and a sink that fails, end it.
    pub fn fetch(
        &self,
        wanted: &[(Digest, u64)],
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Missing>, ContentError> {
        self.gather(wanted, 0, sink)
    }

    fn gather(
        &self,
        wanted: &[(Digest, u64)],
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Missing>, ContentError> {
        let mut pending: BTreeMap<Digest, (u64, String)> = wanted
            .iter()
            .map(|(digest, size)| {
                (*digest, (*size, "the content index does not name it".to_owned()))
            })
            .collect();
        for turn in 0.. {
            let frames = self.frames(&pending, turn, depth);
            if frames.is_empty() {
                break;
            }
            for ((file, _, group), contents) in frames {
                let Some(archive) = self.archives.get(file) else { continue };
                let mut given = HashSet::new();
                let mut counting = |digest: Digest, content: &mut dyn Read| {
                    sink(digest, content)?;
                    given.insert(digest);
                    Ok(())
                };
                let result = match group {
                    None => self.whole(archive, &contents, &mut counting),
                    Some(number) => self.delta(archive, number, &contents, depth, &mut counting),
                };
                let why = match result {
                    Ok(()) => String::new(),
                    Err(FrameError::GivenUp(error)) => return Err(error),
                    Err(FrameError::Fetch(error)) if is_final(&error) => return Err(error.into()),
                    Err(error) => format!("{file}: {error}"),
                };
                for WantedContents { digest, .. } in contents {
                    if given.contains(&digest) {
                        pending.remove(&digest);
                    } else if let Some((_, last)) = pending.get_mut(&digest) {
                        last.clone_from(&why);
                    }
                }
            }
        }
        Ok(pending.into_iter().map(|(digest, (_, why))| Missing { digest, why }).collect())
    }

    /// The frames that hold place number `turn` of each pending content, each in the order of the frame.
    fn frames(
        &self,
        pending: &BTreeMap<Digest, (u64, String)>,
        turn: usize,
        depth: u32,
    ) -> Frames<'s> {
        let mut frames = Frames::new();
        for (digest, (size, _)) in pending {
            let usable = |(file, record): &(
                &'s RepoPath,
                &'s crate::diff_archive::content_index::IndexRecord,
            )| {
                let deep = record.place.group.is_some() && depth >= MAX_DEPTH;
                record.size == *size && !deep && self.archives.contains_key(*file)
            };
            if let Some((file, record)) = self.index.places(digest).filter(usable).nth(turn) {
                let place = record.place;
                let frame = (file, place.frame_offset, place.group);
                frames.entry(frame).or_default().push(WantedContents {
                    digest: *digest,
                    size: *size,
                    place,
                });
            }
        }
        for contents in frames.values_mut() {
            contents.sort_by_key(|wanted| wanted.place.offset);
        }
        frames
    }

    fn open(
        &self,
        archive: &Archive,
        place: &ContentLocation,
    ) -> Result<Decoder<BufReader<Box<dyn Read + '_>>>, FrameError> {
        let range = self.ranges.range(&archive.file, place.frame_offset, place.frame_length)?;
        let range = BufReader::with_capacity(128 << 10, range);
        Ok(Decoder::new(compression(archive)?, range)?)
    }

    /// Gives contents that stand whole in one frame.
    fn whole(
        &self,
        archive: &Archive,
        contents: &[WantedContents],
        sink: &mut Sink<'_>,
    ) -> Result<(), FrameError> {
        let Some(first) = contents.first() else { return Ok(()) };
        let mut frame = self.open(archive, &first.place)?;
        let mut at = 0;
        for wanted in contents {
            let Some(gap) = wanted.place.offset.checked_sub(at) else {
                return Err(FrameError::Other(
                    "the content index names places that overlap".to_owned(),
                ));
            };
            skip(&mut frame, gap)?;
            give(wanted.digest, wanted.size, &mut frame, sink)?;
            at = wanted.place.offset.saturating_add(wanted.size);
        }
        Ok(())
    }

    /// Gives contents that one patch makes.
    fn delta(
        &self,
        archive: &'s Archive,
        number: u64,
        contents: &[WantedContents],
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), FrameError> {
        let Some(first) = contents.first() else { return Ok(()) };
        let groups = self.groups_of(archive)?;
        let group = usize::try_from(number).ok().and_then(|at| groups.get(at));
        let Some(group) = group else {
            return Err(FrameError::Other(format!("the archive has no delta group {number}")));
        };
        let sources = self.sources(group, depth)?;
        let mut frame = self.open(archive, &first.place)?;
        skip(&mut frame, first.place.offset)?;
        let mut patch = Vec::new();
        frame.take(group.patch_length.min(MAX_PATCH)).read_to_end(&mut patch)?;
        let wanted: HashSet<Digest> = contents.iter().map(|wanted| wanted.digest).collect();
        group.make(&patch, &sources, &mut Workspace::default(), |target, content| {
            match wanted.contains(&target.digest) {
                true => give(target.digest, target.size, content, sink),
                false => Ok(()),
            }
        })
    }

    /// The sources of a group that are not at hand: fetched.
    fn sources(&self, group: &DeltaGroup, depth: u32) -> Result<Gathered<'s>, FrameError> {
        let (mut absent, mut seen, mut weight) = (Vec::new(), HashSet::new(), 0u64);
        for GroupSource { digest, size, path, .. } in &group.sources {
            // What cannot be read here may be had from there.
            let local = self.local.read(digest, *size, path).unwrap_or(None);
            if seen.insert(*digest) && local.is_none_or(|bytes| Digest::of(&bytes) != *digest) {
                absent.push((*digest, *size));
                weight = weight.saturating_add(*size);
            }
        }
        if weight > MAX_GATHERED {
            return Err(FrameError::Other(format!(
                "delta group {} needs too much that is not here",
                group.number
            )));
        }
        let mut gathered = Gathered { local: self.local, fetched: HashMap::new() };
        let mut keep = |digest, content: &mut dyn Read| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            gathered.fetched.insert(digest, bytes);
            Ok(())
        };
        let missing = self.gather(&absent, depth + 1, &mut keep).map_err(FrameError::GivenUp)?;
        match missing.first() {
            None => Ok(gathered),
            Some(Missing { digest, why }) => Err(FrameError::Other(format!(
                "source {digest} of delta group {} is missing: {why}",
                group.number
            ))),
        }
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
            return Err(FrameError::Other(
                "its first frame is not the one that the catalog names".to_owned(),
            ));
        }
        let listing = read_listing(&bytes, compression(archive)?, &self.limits)?;
        let groups: Rc<[DeltaGroup]> = listing.groups().into();
        self.groups.borrow_mut().insert(&archive.file.file, Rc::clone(&groups));
        Ok(groups)
    }
}

/// Whether another place would fail for the same reason: also where it is this node's own disk.
fn is_final(error: &FetchError) -> bool {
    matches!(error.kind, FetchErrorKind::Unreachable | FetchErrorKind::NoRoom)
        || error.side == Side::Node
}

fn compression(archive: &Archive) -> Result<FrameCompression, FrameError> {
    let name = archive.file.file.as_str();
    FrameCompression::of_name(name)
        .ok_or_else(|| FrameError::Other("its name does not tell how it is compressed".to_owned()))
}

fn skip(frame: &mut impl Read, length: u64) -> Result<(), FrameError> {
    if io::copy(&mut frame.take(length), &mut io::sink())? == length {
        return Ok(());
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

fn given_up(digest: Digest, source: io::Error) -> FrameError {
    FrameError::GivenUp(ContentError::Sink { digest, source })
}

/// Gives one content to `sink`, and tells a failure of the frame from one of the sink.
fn give(
    digest: Digest,
    size: u64,
    frame: &mut dyn Read,
    sink: &mut Sink<'_>,
) -> Result<(), FrameError> {
    let mut content = VerifyingReader {
        from: frame,
        left: size,
        hasher: Some(Hasher::new()),
        digest,
        fault: None,
    };
    let taken = sink(digest, &mut content);
    if taken.is_ok() {
        // What the sink has left unread counts as well.
        let rest = io::copy(&mut content, &mut io::sink());
        if let (Err(_), Some(fault)) = (rest, content.fault.take()) {
            return Err(given_up(digest, io::Error::other(fault)));
        }
        return Ok(());
    }
    match (taken, content.fault) {
        (Err(_), Some(fault)) => Err(FrameError::Other(fault)),
        (Err(error), None) => Err(given_up(digest, error)),
        (Ok(()), _) => Ok(()),
    }
}

/// A content whose end can be read only if its digest is right.
struct VerifyingReader<'r> {
    from: &'r mut dyn Read,
    left: u64,
    hasher: Option<Hasher>,
    digest: Digest,
    fault: Option<String>,
}

impl VerifyingReader<'_> {
    fn fail(&mut self, why: String) -> io::Error {
        self.fault = Some(why.clone());
        io::Error::new(io::ErrorKind::InvalidData, why)
    }
}

impl Read for VerifyingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(fault) = &self.fault {
            return Err(io::Error::new(io::ErrorKind::InvalidData, fault.clone()));
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            let ended = self.left == 0
                && self.hasher.take().is_some_and(|hasher| hasher.finish() != self.digest);
            return if ended {
                Err(self.fail(format!("content {} has another digest", self.digest)))
            } else {
                Ok(0)
            };
        }
        match self.from.read(&mut buffer[..most]) {
            Ok(0) => Err(self.fail("the frame is cut off".to_owned())),
            Ok(n) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&buffer[..n]);
                }
                self.left -= n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => Err(self.fail(e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
