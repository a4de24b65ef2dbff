//! Contents read directly from the frames of published archives.
//!
//! Many threads ask at once, each for neighbouring files. Decoding frames on demand and caching the
//! last few saves writing all small sources to the disk first.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::{Archive, RepoPath};
use crate::delta::{MAX_DEPTH, ReadAt};
use crate::diff_archive::content_index::{ContentIndex, ContentLocation};
use crate::diff_archive::{FrameTable, Sources, VerifiedFrames};
use crate::digest::Digest;
use crate::fetch::Ranges;
use crate::publish::DeltaDepth;
use crate::publish::content_sources::SpooledContents;
use crate::publish::head_clones::HeadClones;
use crate::publish::store::{Store, compression};
use crate::tree_path::TreePath;

/// Largest content read from frames, in bytes. A larger one is spooled.
const SMALL: u64 = 1 << 20;
/// Decoded contents of frames in the cache. Neighbours in the tree are neighbours in a frame.
const CACHED_FRAMES: usize = 16;

/// Archive, number and count of frames.
type FrameKey = (RepoPath, u64, u64);

/// Contents of earlier generations: clones of the head's files, then frames, then the spool.
pub(super) struct ArchivedContents<'e> {
    clones: &'e HeadClones,
    depths: &'e DeltaDepth,
    store: &'e Store,
    index: &'e ContentIndex,
    archives: HashMap<&'e RepoPath, &'e Archive>,
    spooled: &'e SpooledContents,
    cache: Mutex<FrameCache>,
}

/// Frame tables of archives, and the raw bytes of the frames that were read last.
#[derive(Default)]
struct FrameCache {
    tables: HashMap<RepoPath, Arc<FrameTable>>,
    frames: VecDeque<(FrameKey, Arc<Vec<u8>>)>,
}

impl<'e> ArchivedContents<'e> {
    pub fn new(
        store: &'e Store,
        index: &'e ContentIndex,
        archives: &'e [Archive],
        (clones, depths): (&'e HeadClones, &'e DeltaDepth),
        spooled: &'e SpooledContents,
    ) -> Self {
        let archives = archives.iter().map(|archive| (&archive.file.file, archive)).collect();
        let cache = Mutex::default();
        ArchivedContents { clones, depths, store, index, archives, spooled, cache }
    }

    /// Whether a clone may be a source: not at the maximum depth, which no delta may exceed.
    fn may_serve(&self, digest: &Digest) -> bool {
        self.depths.get(digest).is_none_or(|depth| depth < MAX_DEPTH)
    }

    /// The raw bytes of the `count` frames at `location`, from the cache if possible.
    fn frames(
        &self,
        archive: &Archive,
        location: &ContentLocation,
        count: u64,
    ) -> io::Result<Arc<Vec<u8>>> {
        let key = (archive.file.file.clone(), location.frame, count);
        let cached = self.cache().frames.iter().find(|(known, _)| *known == key).cloned();
        if let Some((_, frames)) = cached {
            return Ok(frames);
        }

        let table = self.table(archive)?;
        let number = |frame: u64| usize::try_from(frame).map_err(io::Error::other);
        let numbers = number(location.frame)?..number(location.frame.saturating_add(count))?;
        let range = table.range(numbers.clone());
        let (offset, length) = range.ok_or_else(|| io::Error::other("it has no such frame"))?;
        let range = self.store.range(&archive.file, offset, length).map_err(io::Error::other)?;
        let mut raw = Vec::new();
        VerifiedFrames::part(range, table, numbers, compression(archive)?).read_to_end(&mut raw)?;

        let frames = Arc::new(raw);
        let mut cache = self.cache();
        cache.frames.truncate(CACHED_FRAMES - 1);
        cache.frames.push_front((key, Arc::clone(&frames)));
        Ok(frames)
    }

    fn table(&self, archive: &Archive) -> io::Result<Arc<FrameTable>> {
        if let Some(table) = self.cache().tables.get(&archive.file.file) {
            return Ok(Arc::clone(table));
        }
        let head = self.store.frame_head(archive).map_err(io::Error::other)?;
        let table = Arc::clone(head.table());
        self.cache().tables.insert(archive.file.file.clone(), Arc::clone(&table));
        Ok(table)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, FrameCache> {
        // A panic of another thread leaves whole tables and frames only.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caller verifies the digest, as with all sources.
impl Sources for ArchivedContents<'_> {
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        if self.may_serve(digest)
            && let Some(bytes) = self.clones.read(digest, size, path)?
        {
            return Ok(Some(bytes));
        }
        let Some((archive, location)) = locate(self.index, &self.archives, digest, size) else {
            return self.spooled.read(digest, size, path);
        };

        // Without a readable frame the content is no source, and its dependants are sent whole.
        let count = location.frame_count(size);
        let Ok(frames) = self.frames(archive, &location, count) else { return Ok(None) };
        let (Ok(start), Ok(size)) = (usize::try_from(location.offset), usize::try_from(size))
        else {
            return Ok(None);
        };
        let content = frames.get(start..).and_then(|rest| rest.get(..size));
        Ok(content.map(<[u8]>::to_vec))
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        if self.may_serve(digest)
            && let Some(file) = self.clones.open(digest, size, path)?
        {
            return Ok(Some(file));
        }

        match locate(self.index, &self.archives, digest, size) {
            Some(_) => Ok(self.read(digest, size, path)?.map(|bytes| Box::new(bytes) as _)),
            None => self.spooled.open(digest, size, path),
        }
    }
}

/// The contents among `wanted` that neither a frame nor a clone provides.
pub(super) fn contents_to_spool(
    wanted: Vec<(Digest, u64)>,
    index: &ContentIndex,
    archives: &[Archive],
    clones: &HeadClones,
) -> impl Iterator<Item = (Digest, u64)> {
    let archives: HashMap<_, _> =
        archives.iter().map(|archive| (&archive.file.file, archive)).collect();
    wanted.into_iter().filter(move |(digest, size)| {
        locate(index, &archives, digest, *size).is_none() && !clones.has(digest, *size)
    })
}

/// An archive that holds a small content whole, and its location there.
fn locate<'e>(
    index: &'e ContentIndex,
    archives: &HashMap<&'e RepoPath, &'e Archive>,
    digest: &Digest,
    size: u64,
) -> Option<(&'e Archive, ContentLocation)> {
    if size > SMALL {
        return None;
    }
    index.places(digest).find_map(|(file, record)| {
        let is_whole = record.place.group.is_none() && record.size == size;
        let archive = archives.get(file).filter(|_| is_whole)?;
        Some((*archive, record.place))
    })
}
