//! Contents straight out of the frames of published archives: many threads at a time, and nothing is
//! written to the disk first.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::{Archive, RepoPath};
use crate::delta::{MAX_DEPTH, ReadAt};
use crate::diff_archive::content_index::{ContentIndex, ContentLocation};
use crate::diff_archive::{Decoder, Sources};
use crate::digest::Digest;
use crate::fetch::Ranges;
use crate::publish::DeltaDepth;
use crate::publish::content_sources::SpooledContents;
use crate::publish::snapshot::Snapshot;
use crate::publish::store::{Store, compression};
use crate::tree_path::TreePath;

/// A larger content is alone in its frame, and is better spooled than held.
const SMALL: u64 = 1 << 20;
/// What a frame of small contents holds at most: frames are filled up to 1 MiB, headers included.
const FRAME: u64 = 4 << 20;
/// Neighbours of the tree are neighbours in a frame, so that each thread comes back to its last ones.
const RECENT: usize = 8;

type Recent = VecDeque<((RepoPath, u64), Arc<Vec<u8>>)>;

/// The contents of earlier generations: clones of the head's files, where there are any; of other small ones the
/// frame is read when they are asked for; everything else was spooled.
pub(super) struct Earlier<'e> {
    snapshot: &'e Snapshot,
    reach: &'e DeltaDepth,
    store: &'e Store,
    index: &'e ContentIndex,
    archives: HashMap<&'e RepoPath, &'e Archive>,
    spooled: &'e SpooledContents,
    recent: Mutex<Recent>,
}

impl<'e> Earlier<'e> {
    pub fn new(
        store: &'e Store,
        index: &'e ContentIndex,
        archives: &'e [Archive],
        (snapshot, reach): (&'e Snapshot, &'e DeltaDepth),
        spooled: &'e SpooledContents,
    ) -> Self {
        let archives = archives.iter().map(|archive| (&archive.file.file, archive)).collect();
        Earlier { snapshot, reach, store, index, archives, spooled, recent: Mutex::default() }
    }

    /// A place where a small content stands whole.
    fn place(&self, digest: &Digest, size: u64) -> Option<(&'e Archive, ContentLocation)> {
        place(self.index, &self.archives, digest, size)
    }

    /// Whether a clone may serve: not where what is made of it would be behind too many deltas.
    fn may_serve(&self, digest: &Digest) -> bool {
        self.reach.depth(digest).is_none_or(|depth| depth < MAX_DEPTH)
    }

    fn frame(&self, archive: &Archive, place: &ContentLocation) -> io::Result<Arc<Vec<u8>>> {
        let key = (archive.file.file.clone(), place.frame_offset);
        let held = self
            .recent()
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, frame)| Arc::clone(frame));
        if let Some(frame) = held {
            return Ok(frame);
        }
        let range = self.store.range(&archive.file, place.frame_offset, place.frame_length);
        let range = BufReader::with_capacity(128 << 10, range.map_err(io::Error::other)?);
        let mut raw = Vec::new();
        Decoder::new(compression(archive)?, range)?.take(FRAME).read_to_end(&mut raw)?;
        let frame = Arc::new(raw);
        let mut recent = self.recent();
        recent.truncate(RECENT - 1);
        recent.push_front((key, Arc::clone(&frame)));
        Ok(frame)
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        // Frames come and go as one.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digest is for the caller to check, as always.
impl Sources for Earlier<'_> {
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        if self.may_serve(digest)
            && let Some(bytes) = self.snapshot.read(digest, size, path)?
        {
            return Ok(Some(bytes));
        }
        let Some((archive, place)) = self.place(digest, size) else {
            return self.spooled.read(digest, size, path);
        };
        // A frame that is damaged does without its contents: they are sent whole.
        let Ok(frame) = self.frame(archive, &place) else { return Ok(None) };
        let from = usize::try_from(place.offset).ok();
        let content = from.and_then(|from| frame.get(from..)?.get(..usize::try_from(size).ok()?));
        Ok(content.map(<[u8]>::to_vec))
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        if self.may_serve(digest)
            && let Some(file) = self.snapshot.open(digest, size, path)?
        {
            return Ok(Some(file));
        }
        match self.place(digest, size) {
            Some(_) => Ok(self.read(digest, size, path)?.map(|bytes| Box::new(bytes) as _)),
            None => self.spooled.open(digest, size, path),
        }
    }
}

/// Those of `wanted` that have to be spooled.
pub(super) fn to_be_spooled(
    wanted: Vec<(Digest, u64)>,
    index: &ContentIndex,
    archives: &[Archive],
    snapshot: &Snapshot,
) -> impl Iterator<Item = (Digest, u64)> {
    let archives: HashMap<_, _> =
        archives.iter().map(|archive| (&archive.file.file, archive)).collect();
    wanted.into_iter().filter(move |(digest, size)| {
        place(index, &archives, digest, *size).is_none() && !snapshot.has(digest, *size)
    })
}

fn place<'e>(
    index: &'e ContentIndex,
    archives: &HashMap<&'e RepoPath, &'e Archive>,
    digest: &Digest,
    size: u64,
) -> Option<(&'e Archive, ContentLocation)> {
    if size > SMALL {
        return None;
    }
    index.places(digest).find_map(|(file, record)| {
        let whole = record.place.group.is_none() && record.size == size;
        let archive = archives.get(file).filter(|_| whole)?;
        Some((*archive, record.place))
    })
}
