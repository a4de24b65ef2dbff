//! Delta groups: their sources and targets, and building the targets by a patch.

use std::io::{self, BufRead, BufReader, Read};

use super::error::{ArchiveError, GroupDefect, PatchFault};
use super::rebuild_reader::RebuildReader;
use super::sources::Sources;
use crate::delta::gzip;
use crate::delta::{self, Copies, Kind, MAX_GROUP, MAX_PATCH, ReadAt, Segments};
use crate::digest::Digest;
use crate::tree_path::TreePath;

/// Contents that one patch builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaGroup {
    /// Number within the archive, from 0.
    pub number: u64,
    /// Kind of the patch.
    pub kind: Kind,
    /// Length of the patch in bytes.
    pub patch_length: u64,
    /// Contents that the patch needs: of the base; for the kind `copies`, of base or target.
    pub sources: Vec<GroupSource>,
    /// Contents that the patch yields, in the order of its output.
    pub targets: Vec<GroupTarget>,
}

/// A content that a patch needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSource {
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Probable path; a hint, the digest decides.
    pub path: TreePath,
    /// Length of the plain form, if the patch needs that.
    pub plain: Option<u64>,
}

/// A content that a patch yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupTarget {
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Set if the patch yields the parts of a gzip file, which is rebuilt from them.
    pub gzip: Option<GzipParts>,
}

/// Lengths of the parts of a gzip file in the output of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GzipParts {
    /// Length of the corrections, which are first.
    pub corrections: u64,
    /// Length of the plain form.
    pub plain: u64,
}

/// Buffers for building groups, reused from one group to the next.
#[derive(Default)]
pub struct Workspace {
    source: Vec<u8>,
    output: Vec<u8>,
}

/// Size of the read buffer for copied pieces.
const COPY_BUFFER: usize = 64 << 10;
/// Capacity that a workspace retains: enough for usual groups.
const RETAINED: usize = 3 << 20;

impl Workspace {
    /// Frees memory that only an unusual group needs.
    fn shrink(&mut self) {
        for buffer in [&mut self.source, &mut self.output] {
            buffer.clear();
            buffer.shrink_to(RETAINED);
        }
    }
}

impl GroupSource {
    /// Length of the form that the patch needs.
    pub fn length(&self) -> u64 {
        self.plain.unwrap_or(self.size)
    }
}

impl GroupTarget {
    /// Length of the form that the patch yields.
    pub fn length(&self) -> u64 {
        self.gzip.map_or(self.size, |gzip| gzip.corrections.saturating_add(gzip.plain))
    }
}

impl DeltaGroup {
    /// The first contradiction of the group to the format, if any.
    pub(super) fn defect(&self) -> Option<GroupDefect> {
        if self.targets.is_empty() || self.sources.is_empty() {
            return Some(GroupDefect::Empty);
        }

        let output = self.targets.iter().map(GroupTarget::length).try_fold(0, u64::checked_add);
        let source = self.sources.iter().map(GroupSource::length).try_fold(0, u64::checked_add);
        let has_long_corrections = self.targets.iter().any(|target| {
            target.gzip.is_some_and(|gzip| gzip.corrections > gzip::MAX_CORRECTIONS as u64)
        });
        if self.patch_length > MAX_PATCH || output.is_none() || has_long_corrections {
            return Some(GroupDefect::TooLarge);
        }

        if self.kind.is_streamed() {
            let has_plain = self.sources.iter().any(|source| source.plain.is_some());
            if self.targets.len() > 1 || has_plain {
                return Some(GroupDefect::NotStreamable);
            }
            if self.kind == Kind::Segments && self.sources.len() > 1 {
                return Some(GroupDefect::SeveralSources);
            }
            return None;
        }

        let fits = |sum: Option<u64>| sum.is_some_and(|sum| sum <= MAX_GROUP);
        (!fits(output) || !fits(source)).then_some(GroupDefect::TooLarge)
    }

    /// Memory in bytes for decoding `patch`, including the patch.
    pub fn memory_needed(&self, patch: &[u8]) -> u64 {
        let buffers = match self.kind {
            Kind::Copies => 0,
            Kind::Segments => delta::segments_memory(patch),
            Kind::Prefix | Kind::Operations => self
                .sources
                .iter()
                .map(GroupSource::length)
                .chain(self.targets.iter().map(GroupTarget::length))
                .sum(),
        };
        (patch.len() as u64).saturating_add(buffers)
    }

    /// Decodes `patch` and passes each target's content to `take`, in order.
    ///
    /// Digests are not checked, neither of the sources nor of the targets: with a wrong source the
    /// targets are other contents than listed, or an error. The caller checks the targets.
    pub fn build_targets<E: From<ArchiveError>>(
        &self,
        patch: &[u8],
        sources: &dyn Sources,
        workspace: &mut Workspace,
        take: impl FnMut(&GroupTarget, &mut dyn BufRead) -> Result<(), E>,
    ) -> Result<(), E> {
        let result = if self.kind.is_streamed() {
            self.build_streamed(patch, sources, workspace, take)
        } else {
            self.build_in_memory(patch, sources, workspace, take)
        };
        workspace.shrink();
        result
    }

    fn build_in_memory<E: From<ArchiveError>>(
        &self,
        patch: &[u8],
        sources: &dyn Sources,
        workspace: &mut Workspace,
        mut take: impl FnMut(&GroupTarget, &mut dyn BufRead) -> Result<(), E>,
    ) -> Result<(), E> {
        let Workspace { source, output } = workspace;
        self.read_sources(sources, source)?;
        let length = self.targets.iter().map(GroupTarget::length).sum();
        delta::decode(self.kind, source, patch, length, output)
            .map_err(|error| self.unusable(error))?;

        // A large source is freed before the targets are written.
        if source.capacity() > RETAINED {
            *source = Vec::new();
        }

        // The output has exactly the length of all targets.
        let mut rest = &output[..];
        for target in &self.targets {
            let length = usize::try_from(target.length()).unwrap_or(usize::MAX).min(rest.len());
            let (form, after) = rest.split_at(length);
            rest = after;
            self.pass_target(target, form, &mut take)?;
        }
        Ok(())
    }

    fn build_streamed<E: From<ArchiveError>>(
        &self,
        patch: &[u8],
        sources: &dyn Sources,
        workspace: &mut Workspace,
        mut take: impl FnMut(&GroupTarget, &mut dyn BufRead) -> Result<(), E>,
    ) -> Result<(), E> {
        for target in &self.targets {
            if self.kind == Kind::Segments {
                let old = self.open_source(sources, 0).map_err(|error| self.unusable(error))?;
                let buffers = (&mut workspace.source, &mut workspace.output);
                let segments = Segments::new(patch, target.length(), old, buffers);
                self.pass_target(target, segments, &mut take)?;
            } else {
                let copies =
                    Copies::new(patch, target.length(), |number| self.open_source(sources, number))
                        .map_err(|error| self.unusable(error))?;
                let form = BufReader::with_capacity(COPY_BUFFER, copies);
                self.pass_target(target, form, &mut take)?;
            }
        }
        Ok(())
    }

    /// Passes one target's content, made of its `form`, to `take`.
    fn pass_target<E: From<ArchiveError>>(
        &self,
        target: &GroupTarget,
        mut form: impl BufRead,
        take: &mut impl FnMut(&GroupTarget, &mut dyn BufRead) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(GzipParts { corrections: length, .. }) = target.gzip else {
            return take(target, &mut form);
        };

        let mut corrections = Vec::new();
        form.by_ref()
            .take(length.min(gzip::MAX_CORRECTIONS as u64))
            .read_to_end(&mut corrections)
            .map_err(|error| self.unusable(error))?;
        let mut rebuilt =
            RebuildReader::new(&corrections, form).map_err(|error| self.unusable(error))?;
        take(target, &mut rebuilt)
    }

    fn open_source<'s>(
        &self,
        sources: &'s dyn Sources,
        number: usize,
    ) -> io::Result<Box<dyn ReadAt + 's>> {
        let source =
            self.sources.get(number).ok_or_else(|| io::Error::other(PatchFault::UnlistedSource))?;
        sources
            .open(&source.digest, source.size, &source.path)?
            .ok_or_else(|| io::Error::other(PatchFault::MissingSource(source.path.clone())))
    }

    /// Replaces `all` by the forms of the sources, concatenated (clause 2 of the delta format).
    fn read_sources(&self, sources: &dyn Sources, all: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let length: u64 = self.sources.iter().map(GroupSource::length).sum();
        all.clear();
        // The listing was checked: a larger group was refused.
        all.reserve_exact(usize::try_from(length.min(MAX_GROUP)).unwrap_or(0));

        for source in &self.sources {
            let GroupSource { digest, size, path, plain } = source;
            let missing = || self.unusable(PatchFault::MissingSource(path.clone()));
            let before = all.len() as u64;

            let Some(length) = plain else {
                if !sources.append(digest, *size, path, all)? || all.len() as u64 - before != *size
                {
                    return Err(missing());
                }
                continue;
            };

            let bytes = sources
                .read(digest, *size, path)?
                .filter(|bytes| bytes.len() as u64 == *size)
                .ok_or_else(missing)?;
            gzip::gunzip(&bytes[..], *length)
                .read_to_end(all)
                .map_err(|error| self.unusable(error))?;
            if all.len() as u64 - before != *length {
                return Err(self.unusable(PatchFault::OtherSource(path.clone())));
            }
        }
        Ok(())
    }

    /// An error that names this group.
    pub(super) fn unusable(&self, fault: impl Into<PatchFault>) -> ArchiveError {
        ArchiveError::Patch { group: self.number, fault: fault.into() }
    }
}
