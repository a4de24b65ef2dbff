//! Fills a stage: from the live tree, from the diffs of a chain, and from wherever else content with
//! the right digest is to be had.
//!
//! Every content is checked by its digest while it is staged, wherever it came from. What a source
//! turns out not to have stays wanted, and the next source is asked.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use rayon::prelude::*;

use crate::apply::plan::live_tree::LiveTree;
use crate::apply::stage::sparse_copy::{CopyError, PIECE, copy};
use crate::apply::stage::worker_queue::{BoundedQueue, QueueClosed};
use crate::apply::stage::{FillError, Stage};
use crate::apply::{Untouched, name};
use crate::delta::{Kind, ReadAt};
use crate::diff_archive::{
    ArchiveError, ArchiveMember, DeltaGroup, FrameCompression, Listing, Reader, Sources, Workspace,
};
use crate::digest::Digest;
use crate::fetch::GrowingFile;
use crate::manifest::Manifest;
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// Contents up to this size are staged by the workers; larger ones pass through one buffer.
const SMALL: u64 = 1 << 20;
/// About so many bytes are in memory at a time, unless one group alone has more.
const IN_FLIGHT: u64 = 12 << 20;

/// The contents of a live tree, by digest; none of them is verified until it was read.
pub struct LiveSource<'a> {
    root: &'a Root,
    /// By digest, then in the order of the tree.
    places: Vec<(&'a Digest, &'a TreePath)>,
}

/// An archive of a chain, which may still be on its way.
pub struct ArchiveInput<'a> {
    /// What it says of itself.
    pub listing: &'a Listing,
    /// Its bytes. Their end is told only where all of them were verified.
    pub file: &'a GrowingFile,
    /// So many of them are its first frame, from which its listing was read.
    pub first_frame: u64,
    /// How they are compressed.
    pub compression: FrameCompression,
    /// Its name, for messages.
    pub name: &'a str,
}

impl<'a> LiveSource<'a> {
    /// What the tree should hold by the manifest of what it is.
    pub fn new(root: &'a Root, base: Option<&'a Manifest>) -> Self {
        let entries = base.map(Manifest::entries).unwrap_or_default();
        LiveSource::of(
            root,
            entries.iter().filter_map(|entry| Some((entry.digest()?, &entry.path))),
        )
    }

    /// What was read on the tree in this run.
    pub fn seen(root: &'a Root, live: &'a LiveTree) -> Self {
        LiveSource::of(root, live.digests.iter().map(|(path, digest)| (digest, path)))
    }

    fn of(root: &'a Root, places: impl Iterator<Item = (&'a Digest, &'a TreePath)>) -> Self {
        let mut places: Vec<_> = places.collect();
        places.par_sort_unstable();
        LiveSource { root, places }
    }

    /// Whether the manifest has this content anywhere.
    pub fn has(&self, digest: &Digest) -> bool {
        !self.places(digest).is_empty()
    }

    fn places(&self, digest: &Digest) -> &[(&'a Digest, &'a TreePath)] {
        let from = self.places.partition_point(|(other, _)| *other < digest);
        let here = self.places[from..].iter().take_while(|(other, _)| *other == digest).count();
        &self.places[from..from + here]
    }

    fn open(&self, path: &TreePath, size: u64) -> Option<File> {
        let file = self.root.open_file(path).ok()?;
        file.metadata().is_ok_and(|meta| meta.len() == size).then_some(file)
    }
}

impl Sources for LiveSource<'_> {
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        Ok(self.append(digest, size, path, &mut bytes)?.then_some(bytes))
    }

    fn append(
        &self,
        digest: &Digest,
        size: u64,
        _: &TreePath,
        to: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let (places, before) = (self.places(digest), to.len());
        for (_, path) in places {
            let Some(file) = self.open(path, size) else { continue };
            to.truncate(before);
            // With a single place the caller's own check is enough.
            if append_exactly(file, size, to)
                && (places.len() == 1 || Digest::of(&to[before..]) == *digest)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        _: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        let places = self.places(digest);
        for (_, path) in places {
            let Some(file) = LiveSource::open(self, path, size) else { continue };
            if places.len() == 1 || Digest::of_reader(&file)? == (*digest, size) {
                return Ok(Some(Box::new(file)));
            }
        }
        Ok(None)
    }
}

/// Stages what the live tree has already: renamed files, and those whose metadata alone changes.
pub fn from_live(stage: &Stage, live: &LiveSource) -> Result<(), Untouched> {
    let wanted: Vec<(Digest, u64)> =
        stage.wanted().into_iter().filter(|(digest, _)| live.has(digest)).collect();
    wanted.par_iter().try_for_each(|(digest, size)| {
        for (_, path) in live.places(digest) {
            if let Some(file) = live.open(path, *size)
                && taken(stage.fill(digest, &mut BufReader::with_capacity(PIECE, file)))?
            {
                return Ok(());
            }
        }
        Ok(())
    })
}

/// Stages what a chain of diffs brings, first to last.
///
/// Where this succeeds, all of it has come and was verified.
pub fn from_chain(
    stage: &Stage,
    live: &LiveSource,
    chain: &[ArchiveInput],
) -> Result<(), ChainError> {
    let needs = required_contents(stage, live, chain);
    let scratch = stage.scratch()?;
    for (delivery, need) in chain.iter().zip(&needs) {
        let run = Unpacker { stage, live, scratch, need };
        run.deliver(delivery).map_err(|error| match error {
            DeliverError::Archive(source) => {
                ChainError::Archive { name: delivery.name.to_owned(), source }
            }
            DeliverError::Untouched(error) => ChainError::Untouched(error),
        })?;
    }
    Ok(())
}

/// Why a chain could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// An archive is not what its catalog promised.
    #[error("{name}: {source}")]
    Archive {
        /// The archive.
        name: String,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// This node.
    #[error(transparent)]
    Untouched(#[from] Untouched),
}

/// What is needed of one archive.
#[derive(Default)]
struct Required {
    /// Contents that are staged, or that a later patch needs.
    contents: HashSet<Digest>,
    /// Those of them that a later patch needs.
    intermediates: HashSet<Digest>,
}

/// Goes through the chain from its end: what a patch needs and the tree does not have must come out of
/// an earlier archive or, where it copies, out of the same one.
fn required_contents(stage: &Stage, live: &LiveSource, chain: &[ArchiveInput]) -> Vec<Required> {
    let mut open: HashSet<Digest> = stage.wanted().into_keys().collect();
    // What is staged anyway can be read there.
    let staged = open.clone();
    let mut between: HashSet<Digest> = HashSet::new();
    let mut needs = Vec::with_capacity(chain.len());
    for delivery in chain.iter().rev() {
        let mut need = Required::default();
        let (copying, making) = delivery
            .listing
            .groups()
            .iter()
            .partition::<Vec<&DeltaGroup>, _>(|g| g.kind == Kind::Copies);
        let lacked = |need: &mut Required, groups: &[&DeltaGroup], open: &HashSet<Digest>| {
            let mut sources = HashSet::new();
            for group in groups {
                let wanted = group
                    .targets
                    .iter()
                    .map(|target| target.digest)
                    .filter(|digest| open.contains(digest));
                let before = need.contents.len();
                need.contents.extend(wanted);
                if need.contents.len() > before {
                    sources.extend(
                        group.sources.iter().map(|s| s.digest).filter(|digest| !live.has(digest)),
                    );
                }
            }
            sources
        };
        let pieces = lacked(&mut need, &copying, &open);
        between.extend(pieces.difference(&staged));
        open.extend(pieces);
        let whole =
            delivery.listing.whole().filter_map(|entry| entry.file()).map(|(_, digest)| digest);
        need.contents.extend(whole.filter(|digest| open.contains(digest)));
        let sources = lacked(&mut need, &making, &open);
        need.intermediates = between.intersection(&need.contents).copied().collect();
        open.retain(|digest| !need.contents.contains(digest));
        between.extend(sources.difference(&staged));
        open.extend(sources);
        needs.push(need);
    }
    needs.reverse();
    needs
}

/// The unpacking of one archive.
struct Unpacker<'a> {
    stage: &'a Stage<'a>,
    live: &'a LiveSource<'a>,
    scratch: &'a Root,
    need: &'a Required,
}

enum UnpackJob {
    Whole(Digest, Vec<u8>),
    Patch(DeltaGroup, Vec<u8>),
}

enum DeliverError {
    Archive(ArchiveError),
    Untouched(Untouched),
}

impl From<ArchiveError> for DeliverError {
    fn from(error: ArchiveError) -> Self {
        DeliverError::Archive(error)
    }
}

impl From<Untouched> for DeliverError {
    fn from(error: Untouched) -> Self {
        DeliverError::Untouched(error)
    }
}

/// What was kept aside, then the tree, then what is staged already. The digest is not checked: what a wrong
/// source makes is found out by its own.
impl Sources for Unpacker<'_> {
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        Ok(self.append(digest, size, path, &mut bytes)?.then_some(bytes))
    }

    fn append(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
        to: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let before = to.len();
        let whole = |file: File, to: &mut Vec<u8>| {
            to.truncate(before);
            append_exactly(file, size, to)
        };
        Ok(kept_aside(self.scratch, digest).is_some_and(|file| whole(file, to))
            || self.live.append(digest, size, path, to)?
            || self.stage.staged(digest).is_some_and(|file| whole(file, to)))
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        // What is staged was checked a moment ago.
        if let Some(file) = kept_aside(self.scratch, digest).or_else(|| self.stage.staged(digest)) {
            return Ok(Some(Box::new(file)));
        }
        Sources::open(self.live, digest, size, path)
    }
}

impl Unpacker<'_> {
    fn deliver(&self, delivery: &ArchiveInput) -> Result<(), DeliverError> {
        let work = |workspace: &mut Workspace, piece| match piece {
            UnpackJob::Whole(digest, bytes) => {
                self.take(&digest, bytes.len() as u64, &mut &bytes[..])
            }
            UnpackJob::Patch(group, patch) => self.patch(&group, &patch, workspace),
        };
        BoundedQueue::run(IN_FLIGHT, Workspace::default, work, |belt| self.unpack(delivery, belt))
    }

    /// Puts on the belt what the archive brings and is needed.
    fn unpack(
        &self,
        delivery: &ArchiveInput,
        belt: &BoundedQueue<UnpackJob, DeliverError>,
    ) -> Result<(), DeliverError> {
        let ArchiveInput { listing, file, first_frame, compression, .. } = *delivery;
        let bytes = BufReader::with_capacity(PIECE, file.reader(first_frame));
        let mut reader = Reader::after(listing, bytes, compression)?;
        while let Some(member) = reader.next_member()? {
            let put = match member {
                ArchiveMember::Plain(_) => continue,
                ArchiveMember::Whole(entry, mut content) => {
                    let Some((size, digest)) =
                        entry.file().filter(|(_, d)| self.need.contents.contains(d))
                    else {
                        continue;
                    };
                    if size > SMALL {
                        self.take(&digest, size, &mut BufReader::with_capacity(PIECE, content))?;
                        continue;
                    }
                    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
                    content.read_to_end(&mut bytes).map_err(ArchiveError::from)?;
                    belt.put(UnpackJob::Whole(digest, bytes), size)
                }
                ArchiveMember::Patch(group, patch) => {
                    if !group
                        .targets
                        .iter()
                        .any(|target| self.need.contents.contains(&target.digest))
                    {
                        continue;
                    }
                    // The files that it copies from may still be on the belt.
                    let drained = if group.kind == Kind::Copies { belt.drain() } else { Ok(()) };
                    let weight = group.weight(&patch);
                    drained.and_then(|()| belt.put(UnpackJob::Patch(group.clone(), patch), weight))
                }
            };
            if let Err(QueueClosed) = put {
                // Its reason is told in place of what is returned here.
                break;
            }
        }
        Ok(())
    }

    /// A source that drifted is no fault of the archive: what it would have made stays wanted.
    fn patch(
        &self,
        group: &DeltaGroup,
        patch: &[u8],
        workspace: &mut Workspace,
    ) -> Result<(), DeliverError> {
        let made = group.make(patch, self, workspace, |target, content| {
            match self.need.contents.contains(&target.digest) {
                true => self.take(&target.digest, target.size, content),
                false => Ok(()),
            }
        });
        match made {
            Err(DeliverError::Archive(_)) => Ok(()),
            made => made,
        }
    }

    fn take(
        &self,
        digest: &Digest,
        size: u64,
        content: &mut dyn BufRead,
    ) -> Result<(), DeliverError> {
        if !self.need.intermediates.contains(digest) {
            return self.fill(digest, content);
        }
        let file = match kept_aside(self.scratch, digest) {
            Some(file) => file,
            None => keep_aside(self.scratch, digest, size, content)?,
        };
        self.fill(digest, &mut BufReader::with_capacity(PIECE, file))
    }

    fn fill(&self, digest: &Digest, content: &mut dyn BufRead) -> Result<(), DeliverError> {
        match self.stage.fill(digest, content) {
            Ok(()) => Ok(()),
            Err(FillError::Untouched(error)) => Err(DeliverError::Untouched(error)),
            Err(FillError::Source(error)) => Err(DeliverError::Archive(error.into())),
            Err(FillError::OtherContent(path)) => {
                let why = format!("what it holds for {path} is not the content that it lists");
                Err(DeliverError::Archive(ArchiveError::Listing(why)))
            }
        }
    }
}

/// Whether the stage took the content; a source that is not what it seemed is passed over.
fn taken(result: Result<(), FillError>) -> Result<bool, Untouched> {
    match result {
        Ok(()) => Ok(true),
        Err(FillError::OtherContent(_) | FillError::Source(_)) => Ok(false),
        Err(FillError::Untouched(error)) => Err(error),
    }
}

/// Appends all of `file`, if it has exactly `size` bytes; patches have a limit, so this has one.
fn append_exactly(file: File, size: u64, to: &mut Vec<u8>) -> bool {
    let before = to.len();
    to.reserve_exact(usize::try_from(size.min(crate::delta::MAX_CONTENT)).unwrap_or(0));
    file.take(size + 1).read_to_end(to).is_ok_and(|_| (to.len() - before) as u64 == size)
}

/// Keeps content that is needed only on the way, in the stage itself.
fn keep_aside(
    scratch: &Root,
    digest: &Digest,
    size: u64,
    content: &mut dyn BufRead,
) -> Result<File, DeliverError> {
    let place = name(&format!("between-{digest}"));
    let file = scratch.create_file(&place).map_err(Untouched::from_root)?;
    let copied = copy(content, &file, size).map_err(|error| match error {
        CopyError::Read(error) => DeliverError::Archive(error.into()),
        CopyError::Write(source) => {
            let path = scratch.show(&place);
            DeliverError::Untouched(Untouched::from_root(RootError { what: "write", path, source }))
        }
    });
    let copied = copied.and_then(|found| match found == *digest {
        true => Ok(()),
        false => Err(ArchiveError::Listing(format!(
            "what it holds is not content {digest}, which it lists"
        ))
        .into()),
    });
    if let Err(error) = copied {
        // The archive may come anew, and be read once more.
        scratch.unlink(&place).map_err(Untouched::from_root)?;
        return Err(error);
    }
    kept_aside(scratch, digest)
        .ok_or_else(|| Untouched::Refused("what was staged has gone".to_owned()).into())
}

/// Reads what [`keep_aside`] kept.
fn kept_aside(scratch: &Root, digest: &Digest) -> Option<File> {
    scratch.open_file(&name(&format!("between-{digest}"))).ok()
}
