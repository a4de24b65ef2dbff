//! Unpacks the archives of a chain into a stage.
//!
//! A chain is applied as one transaction, so that only the contents of its target are staged. A
//! patch may also need contents of a generation in the middle of the chain. Such an intermediate
//! content is stored in the stage directory until the chain is unpacked.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use crate::apply::error::{RefusalKind, Untouched};
use crate::apply::on_disk::intermediate_name;
use crate::apply::stage::live_source::{LiveSource, append_exactly};
use crate::apply::stage::rebuild_slots::RebuildSlots;
use crate::apply::stage::sparse_copy::{CHUNK, CopyError, copy_sparse};
use crate::apply::stage::worker_queue::{BoundedQueue, QueueClosed};
use crate::apply::stage::{Stage, StageError};
use crate::delta::{Kind, ReadAt};
use crate::diff_archive::{
    ArchiveError, ArchiveMember, DeltaGroup, FrameCompression, FrameTable, Listing, Reader,
    Sources, VerifiedFrames, Workspace,
};
use crate::digest::Digest;
use crate::fetch::GrowingFile;
use crate::root::{BoundedFile, Root, RootError};
use crate::tree_path::TreePath;

/// Contents up to this size are staged by the workers; the reader streams larger ones itself.
const MAX_QUEUED_CONTENT: u64 = 1 << 20;
/// Bytes in memory at a time, unless one delta group alone has more.
const QUEUE_LIMIT: u64 = 24 << 20;
/// Workers that unpack and store, at least; more wait for the disk, and each holds memory.
const MIN_WORKERS: usize = 2;

/// An archive of a chain, which may still be downloading.
pub struct ArchiveInput<'a> {
    /// Listing in the head.
    pub listing: &'a Listing,
    /// Content of the archive; its reader reports the end only after it has verified all bytes.
    pub file: &'a GrowingFile,
    /// Frames after the head: each is verified before it is decoded.
    pub table: &'a Arc<FrameTable>,
    /// Compression of the frames.
    pub compression: FrameCompression,
    /// File name in the repository, for messages.
    pub name: &'a str,
}

/// Contents that are required of one archive.
#[derive(Default)]
pub(super) struct Required {
    /// Contents that are staged, or that a later patch needs.
    contents: HashSet<Digest>,
    /// Subset of `contents` that a later patch needs and that is not staged.
    intermediates: HashSet<Digest>,
}

/// Computes the contents that are required of each archive of a chain.
///
/// The chain is traversed from its end: a source of a patch that the live tree does not have must
/// be in an earlier archive or, if the patch copies, in the same one.
pub(super) fn required_contents(
    stage: &Stage,
    live: &LiveSource,
    chain: &[ArchiveInput],
) -> Vec<Required> {
    let mut needed: HashSet<Digest> = stage.missing_contents().into_keys().collect();
    // A content that is staged can be read from the stage, so it is no intermediate.
    let staged = needed.clone();
    let mut intermediates: HashSet<Digest> = HashSet::new();
    let mut result = Vec::with_capacity(chain.len());

    for archive in chain.iter().rev() {
        let mut required = Required::default();
        let (copying, rebuilding) = archive
            .listing
            .groups()
            .iter()
            .partition::<Vec<&DeltaGroup>, _>(|group| group.kind == Kind::Copies);

        let copied = required.add_targets(&copying, &needed, live);
        intermediates.extend(copied.difference(&staged));
        needed.extend(copied);

        let whole = archive.listing.whole().filter_map(|entry| entry.digest());
        required.contents.extend(whole.filter(|digest| needed.contains(digest)));

        let sources = required.add_targets(&rebuilding, &needed, live);
        required.intermediates = intermediates.intersection(&required.contents).copied().collect();

        needed.retain(|digest| !required.contents.contains(digest));
        intermediates.extend(sources.difference(&staged));
        needed.extend(sources);
        result.push(required);
    }

    result.reverse();
    result
}

impl Required {
    /// Adds the targets of `groups` that are `needed`.
    ///
    /// Returns the sources of these groups that the live tree does not have.
    fn add_targets(
        &mut self,
        groups: &[&DeltaGroup],
        needed: &HashSet<Digest>,
        live: &LiveSource,
    ) -> HashSet<Digest> {
        let mut sources = HashSet::new();

        for group in groups {
            let targets = group.targets.iter().map(|target| target.digest);
            let count = self.contents.len();
            self.contents.extend(targets.filter(|digest| needed.contains(digest)));
            if self.contents.len() > count {
                let digests = group.sources.iter().map(|source| source.digest);
                sources.extend(digests.filter(|digest| !live.contains(digest)));
            }
        }

        sources
    }

    fn needs_any_target(&self, group: &DeltaGroup) -> bool {
        group.targets.iter().any(|target| self.contents.contains(&target.digest))
    }
}

/// Unpacks one archive of a chain.
pub(super) struct Unpacker<'a> {
    pub stage: &'a Stage<'a>,
    pub live: &'a LiveSource<'a>,
    /// Stage directory on the filesystem of the root, for intermediate contents.
    pub scratch: &'a Root,
    pub archive: &'a ArchiveInput<'a>,
    pub required: &'a Required,
    /// Permissions to rebuild compressed files.
    pub slots: &'a RebuildSlots,
}

/// Work of one worker at a time.
enum UnpackJob {
    /// A content that the archive holds whole.
    Content(Digest, Vec<u8>),
    /// A group with the bytes of its patch.
    Patch(DeltaGroup, Vec<u8>),
}

impl Unpacker<'_> {
    /// Stages the required contents of the archive, and reads the archive to its verified end.
    pub fn run(&self) -> Result<(), StageError> {
        BoundedQueue::run(
            (QUEUE_LIMIT, MIN_WORKERS.max(self.slots.number())),
            Workspace::default,
            |workspace: &mut Workspace, job| match job {
                UnpackJob::Content(digest, bytes) => {
                    self.store(&digest, bytes.len() as u64, &mut &bytes[..])
                }
                UnpackJob::Patch(group, patch) => self.apply_patch(&group, &patch, workspace),
            },
            |queue| self.read_members(queue),
        )
    }

    fn read_members(&self, queue: &BoundedQueue<UnpackJob, StageError>) -> Result<(), StageError> {
        let ArchiveInput { listing, file, table, compression, .. } = *self.archive;
        let stored = file.reader(table.head_length());
        let frames = VerifiedFrames::new(stored, Arc::clone(table), compression);
        let mut reader = Reader::after(listing, frames);

        while let Some(member) = reader.next_member().map_err(|error| self.archive_error(error))? {
            let pushed = match member {
                ArchiveMember::Plain(_) => continue,
                ArchiveMember::Whole(entry, mut content) => {
                    let Some((size, digest)) = entry.file() else { continue };
                    if !self.required.contents.contains(&digest) {
                        continue;
                    }

                    if size > MAX_QUEUED_CONTENT {
                        let mut content = BufReader::with_capacity(CHUNK, content);
                        self.store(&digest, size, &mut content)?;
                        continue;
                    }

                    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
                    content.read_to_end(&mut bytes).map_err(|e| self.archive_error(e.into()))?;
                    queue.push(UnpackJob::Content(digest, bytes), size)
                }
                ArchiveMember::Patch(group, patch) => {
                    if !self.required.needs_any_target(group) {
                        continue;
                    }

                    // The contents that it copies from may still be in the queue.
                    let drained = if group.kind == Kind::Copies { queue.drain() } else { Ok(()) };
                    let weight = group.memory_needed(&patch);
                    drained
                        .and_then(|()| queue.push(UnpackJob::Patch(group.clone(), patch), weight))
                }
            };

            // The queue returns the failure of its worker in place of this result.
            if let Err(QueueClosed) = pushed {
                break;
            }
        }
        Ok(())
    }

    /// Stores the targets of a group; those that cannot be built stay missing.
    ///
    /// A source that drifted on this node is no fault of the archive.
    fn apply_patch(
        &self,
        group: &DeltaGroup,
        patch: &[u8],
        workspace: &mut Workspace,
    ) -> Result<(), StageError> {
        let mut node_failure = None;
        let _slot = (group.decisions > 0).then(|| self.slots.take());

        // The result has no more information: each target is either staged or still missing.
        let _: Result<(), ArchiveError> =
            group.build_targets(patch, self, workspace, |target, content| {
                if !self.required.contents.contains(&target.digest) {
                    return Ok(());
                }
                match self.store(&target.digest, target.size, content) {
                    Ok(()) => Ok(()),
                    Err(StageError::Archive { source, .. }) => Err(source),
                    Err(error) => {
                        node_failure = Some(error);
                        Err(ArchiveError::CutOff)
                    }
                }
            });

        match node_failure {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Stages a content, through the scratch directory if a later patch needs it too.
    fn store(
        &self,
        digest: &Digest,
        size: u64,
        content: &mut dyn BufRead,
    ) -> Result<(), StageError> {
        if !self.required.intermediates.contains(digest) {
            return self.fill_stage(digest, content);
        }

        let file = match self.open_intermediate(digest) {
            Some(file) => file,
            None => self.store_intermediate(digest, size, content)?,
        };
        self.fill_stage(digest, &mut BufReader::with_capacity(CHUNK, file))
    }

    fn fill_stage(&self, digest: &Digest, content: &mut dyn BufRead) -> Result<(), StageError> {
        self.stage.fill(digest, content).map_err(|error| match error {
            StageError::WrongContent { path } => self.archive_error(ArchiveError::Digest(path)),
            StageError::Unreadable(error) => self.archive_error(error.into()),
            error => error,
        })
    }

    fn store_intermediate(
        &self,
        digest: &Digest,
        size: u64,
        content: &mut dyn BufRead,
    ) -> Result<BoundedFile, StageError> {
        let place = intermediate_name(digest);
        let file = self.scratch.create_file(&place).map_err(Untouched::from_root)?;

        let failure = match copy_sparse(content, &file, size) {
            Ok(found) if found == *digest => None,
            Ok(_) => Some(self.archive_error(ArchiveError::Content(*digest))),
            Err(CopyError::Read(error)) => Some(self.archive_error(error.into())),
            Err(CopyError::Write(source)) => {
                let path = self.scratch.show(&place);
                let error = RootError { operation: "write", path, source };
                Some(Untouched::from_root(error).into())
            }
        };

        if let Some(failure) = failure {
            // The archive may be fetched and unpacked once more.
            self.scratch.unlink(&place).map_err(Untouched::from_root)?;
            return Err(failure);
        }
        self.open_intermediate(digest)
            .ok_or_else(|| Untouched::from(RefusalKind::StagedFileMissing).into())
    }

    fn open_intermediate(&self, digest: &Digest) -> Option<BoundedFile> {
        self.scratch.open_file(&intermediate_name(digest)).ok()
    }

    fn archive_error(&self, source: ArchiveError) -> StageError {
        StageError::Archive { name: self.archive.name.to_owned(), source }
    }
}

/// Intermediate contents, then the live tree, then the stage.
///
/// A patch reads its sources unverified: a wrong source produces a target with another digest.
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
        let start = to.len();

        if let Some(file) = self.open_intermediate(digest)
            && append_exactly(file, size, to)
        {
            return Ok(true);
        }

        to.truncate(start);
        if self.live.append(digest, size, path, to)? {
            return Ok(true);
        }

        to.truncate(start);
        Ok(self.stage.open_staged(digest).is_some_and(|file| append_exactly(file, size, to)))
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        // Files of the stage were verified when they were written, files of the live tree were not.
        match self.open_intermediate(digest).or_else(|| self.stage.open_staged(digest)) {
            Some(file) => Ok(Some(Box::new(file))),
            None => self.live.open(digest, size, path),
        }
    }
}
