//! Common parts of the computation of patches: inputs, checked reads, and the proof of each patch.

use std::fs::File;
use std::io::Read;

use crate::delta::{self, Effort, Kind, MAX_PATCH, MatchedPairs, RebuildLimit};
use crate::diff_archive::error::{ArchiveError, WriteError};
use crate::diff_archive::group::{DeltaGroup, Workspace};
use crate::diff_archive::sources::{BaseAndTarget, ContentProvider, Sources};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::ExcludedContents;
use crate::manifest::Manifest;
use crate::report::{Event, Job, Monitor};

/// A patch below this part of its output is accepted without comparing it with the compressed
/// output.
///
/// Whole files rarely compress that far, and if they do, both are small.
pub(in crate::diff_archive::delta_plan) const CLEAR_GAIN: usize = 8;
/// Part of the whole files that a patch has to save, because it needs a source without drift.
pub(in crate::diff_archive::delta_plan) const LEAST_GAIN: usize = 16;

/// Sources and limits of the deltas of a diff.
#[derive(Clone, Copy)]
pub struct Deltas<'d> {
    /// The contents of the base.
    pub sources: &'d dyn Sources,
    /// An empty scratch file for the patches, best without a name.
    pub spool: &'d File,
    /// The pairs of base and target, the generations of the diff.
    pub pairs: &'d MatchedPairs<'d>,
    /// Work for the patches; the compression of the archive is independent of it.
    pub effort: Effort,
    /// Limit on the rebuild time of gzip files.
    pub rebuild_limit: RebuildLimit,
    /// Contents that nodes lack, or do not need.
    pub excluded: &'d ExcludedContents,
    /// Delta depth of a content of the base; a content at the limit is no source.
    pub depth: &'d (dyn Fn(&Digest) -> u32 + Sync),
}

/// Inputs of all patches of a diff.
pub(in crate::diff_archive::delta_plan) struct Planner<'p> {
    pub target: &'p Manifest,
    pub content: &'p dyn ContentProvider,
    pub deltas: &'p Deltas<'p>,
    pub monitor: &'p dyn Monitor,
}

/// A group with its patch.
pub(in crate::diff_archive::delta_plan) struct Patch {
    pub group: DeltaGroup,
    pub patch: Vec<u8>,
    /// [Cost](crate::delta::gzip::Decomposition::cost) of rebuilding its gzip files.
    pub cost: u64,
}

impl Patch {
    /// Sets the length of the patch in its group; `None` if there is no patch.
    pub fn new(mut group: DeltaGroup, patch: Option<Vec<u8>>, cost: u64) -> Option<Self> {
        let patch = patch?;
        group.patch_length = patch.len() as u64;
        Some(Patch { group, patch, cost })
    }
}

impl Planner<'_> {
    /// Reports progress by the sizes of `targets`.
    pub fn report_progress(&self, targets: &[&Entry]) {
        self.monitor.event(Event::Advanced { job: Job::Write, by: sum_of_sizes(targets) });
    }

    /// An empty group of a kind; it gets its number when its patch is accepted.
    pub fn new_group(&self, kind: Kind) -> DeltaGroup {
        DeltaGroup {
            number: 0,
            kind,
            patch_length: 0,
            decisions: 0,
            sources: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Encodes a patch that is built in memory, and decodes it as a proof.
    ///
    /// `None` if the patch is larger than [`MAX_PATCH`].
    pub fn encode(
        &self,
        group: &mut DeltaGroup,
        source: &[u8],
        output: &[u8],
    ) -> Result<Option<Vec<u8>>, WriteError> {
        let patch = delta::encode(group.kind, source, output, self.deltas.effort)
            .map_err(WriteError::Compress)?;

        let mut decoded = Vec::new();
        let result = delta::decode(group.kind, source, &patch, output.len() as u64, &mut decoded);
        if result.is_err() || decoded != output {
            return Err(wrong_patch(group));
        }

        group.patch_length = patch.len() as u64;
        Ok(Some(patch).filter(|patch| patch.len() as u64 <= MAX_PATCH))
    }

    /// Applies a streamed patch as a node does, and compares the digests of its targets.
    pub fn prove(&self, group: &DeltaGroup, patch: &[u8]) -> Result<(), WriteError> {
        let sources =
            BaseAndTarget { base: self.deltas.sources, target: self.target, content: self.content };
        group
            .build_targets(patch, &sources, &mut Workspace::default(), |target, content| {
                if Digest::of_reader(content)? == (target.digest, target.size) {
                    Ok(())
                } else {
                    Err(ArchiveError::Content(target.digest))
                }
            })
            .map_err(|_| wrong_patch(group))
    }

    /// Whether `patch` is smaller than its compressed output by [`LEAST_GAIN`].
    pub fn saves_enough(&self, patch: &[u8], output: &[u8]) -> Result<bool, WriteError> {
        if patch.len() <= output.len() / CLEAR_GAIN {
            return Ok(true);
        }
        let whole = zstd::bulk::compress(output, self.deltas.effort.whole_level())
            .map_err(WriteError::Compress)?;
        Ok(patch.len() + patch.len() / LEAST_GAIN < whole.len())
    }

    /// Reads a content of the target; fails unless it is as in the manifest.
    pub fn read_target(
        &self,
        entry: &Entry,
        size: u64,
        digest: &Digest,
    ) -> Result<Vec<u8>, WriteError> {
        let failed = |source| WriteError::Content { path: entry.path.clone(), source };
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        // One byte more than listed shows a file that has grown.
        self.content
            .open(entry)
            .map_err(failed)?
            .take(size + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;

        if bytes.len() as u64 == size && Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        Err(WriteError::Changed(entry.path.clone()))
    }

    /// Reads a content of the base; `None` if it was lost or changed since it was recorded.
    pub fn read_source(
        &self,
        entry: &Entry,
        size: u64,
        digest: &Digest,
    ) -> Result<Option<Vec<u8>>, WriteError> {
        let bytes = self
            .deltas
            .sources
            .read(digest, size, &entry.path)
            .map_err(|source| WriteError::Source { path: entry.path.clone(), source })?;
        Ok(bytes.filter(|bytes| bytes.len() as u64 == size && Digest::of(bytes) == *digest))
    }
}

/// Sum of the sizes of files, in bytes.
pub(in crate::diff_archive::delta_plan) fn sum_of_sizes(entries: &[&Entry]) -> u64 {
    entries.iter().filter_map(|entry| entry.file()).map(|(size, _)| size).sum()
}

fn wrong_patch(group: &DeltaGroup) -> WriteError {
    WriteError::WrongPatch(group.targets.iter().map(|target| target.digest).collect())
}
