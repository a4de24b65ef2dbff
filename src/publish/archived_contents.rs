//! Contents read directly from the frames of published archives.
//!
//! Many threads ask at once, each for neighbouring files. Decoding a frame on demand and caching
//! the last few saves writing all small sources to the disk first.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::{Archive, RepoPath};
use crate::delta::{MAX_DEPTH, ReadAt};
use crate::diff_archive::content_index::{ContentIndex, ContentLocation};
use crate::diff_archive::{FrameDecoder, Sources};
use crate::digest::Digest;
use crate::fetch::Ranges;
use crate::publish::DeltaDepth;
use crate::publish::content_sources::SpooledContents;
use crate::publish::head_clones::HeadClones;
use crate::publish::store::{Store, compression};
use crate::tree_path::TreePath;

/// Largest content read from a frame, in bytes. A larger one fills its frame alone and is spooled.
const SMALL: u64 = 1 << 20;
/// Limit of a decoded frame, in bytes. Frames of small contents hold 1 MiB plus headers.
const MAX_FRAME: u64 = 4 << 20;
/// Decoded frames in the cache. Neighbours in the tree are neighbours in a frame.
const CACHED_FRAMES: usize = 8;

type FrameCache = VecDeque<((RepoPath, u64), Arc<Vec<u8>>)>;

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

    /// The decoded frame at `location`, from the cache if possible.
    fn frame(&self, archive: &Archive, location: &ContentLocation) -> io::Result<Arc<Vec<u8>>> {
        let key = (archive.file.file.clone(), location.frame_offset);
        let cached = self.cache().iter().find(|(known, _)| *known == key).cloned();
        if let Some((_, frame)) = cached {
            return Ok(frame);
        }

        let range = self.store.range(&archive.file, location.frame_offset, location.frame_length);
        let range = BufReader::with_capacity(128 << 10, range.map_err(io::Error::other)?);
        let mut raw = Vec::new();
        FrameDecoder::new(compression(archive)?, range)?.take(MAX_FRAME).read_to_end(&mut raw)?;

        let frame = Arc::new(raw);
        let mut cache = self.cache();
        cache.truncate(CACHED_FRAMES - 1);
        cache.push_front((key, Arc::clone(&frame)));
        Ok(frame)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, FrameCache> {
        // A panic of another thread leaves whole frames only.
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
        let Ok(frame) = self.frame(archive, &location) else { return Ok(None) };
        let (Ok(start), Ok(size)) = (usize::try_from(location.offset), usize::try_from(size))
        else {
            return Ok(None);
        };
        let content = frame.get(start..).and_then(|rest| rest.get(..size));
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
