//! Delta groups: their sources and targets, and building the targets by a patch.

use std::io::{self, BufRead, BufReader, Read};

use super::error::{ArchiveError, GroupDefect, PatchFault};
use super::group_contents::{
    Container, GroupSource, GroupTarget, GzipParts, PlainForm, RebuiltParts,
};
use super::old_files::OldFiles;
use super::rebuild_reader::RebuildReader;
use super::sources::Sources;
use crate::delta::gzip;
use crate::delta::{self, Copies, Kind, MAX_GROUP, MAX_PATCH, ReadAt, Segments};
use crate::replay::file::{DecisionReader, Forms, NewText};

/// Contents that one patch builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaGroup {
    /// Number within the archive, from 0.
    pub number: u64,
    /// Kind of the patch.
    pub kind: Kind,
    /// Length of the patch in bytes, with its decision stream.
    pub patch_length: u64,
    /// Length of the decision stream at the end of the patch; 0 if there is none.
    pub decisions: u64,
    /// Contents that the patch needs: of the base; for the kind `copies`, of base or target.
    pub sources: Vec<GroupSource>,
    /// Contents that the patch yields, in the order of its output.
    pub targets: Vec<GroupTarget>,
}

/// Buffers for building groups, reused from one group to the next.
#[derive(Default)]
pub struct Workspace {
    source: Vec<u8>,
    output: Vec<u8>,
}

/// The output of a patch for one target.
enum PatchOutput<'f> {
    Held(&'f [u8]),
    Streamed(Box<dyn BufRead + 'f>),
}

impl<'f> PatchOutput<'f> {
    fn into_reader(self) -> Box<dyn BufRead + 'f> {
        match self {
            PatchOutput::Held(bytes) => Box::new(bytes),
            PatchOutput::Streamed(reader) => reader,
        }
    }
}

/// Size of the read buffer for copied pieces.
const COPY_BUFFER: usize = 64 << 10;
/// Capacity that a workspace retains: enough for usual groups.
const RETAINED: usize = 3 << 20;
/// Limit of a plain form: offsets in it have 32 bits.
const MAX_TEXT: u64 = 1 << 32;
/// Memory in bytes for decisions of a large file: windows, match finder and probabilities.
const REPLAY_MEMORY: u64 = 32 << 20;

impl Workspace {
    /// Frees memory that only an unusual group needs.
    fn shrink(&mut self) {
        for buffer in [&mut self.source, &mut self.output] {
            buffer.clear();
            buffer.shrink_to(RETAINED);
        }
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
            matches!(target.rebuilt, Some(RebuiltParts::Gzip(gzip))
                if gzip.corrections > gzip::MAX_CORRECTIONS as u64)
        });
        let replayed = self.targets.iter().filter_map(GroupTarget::replayed);
        let opened = self.sources.iter().filter_map(|source| source.plain).chain(replayed);
        let has_long_text = opened.map(|plain| plain.length).any(|length| length >= MAX_TEXT);
        let is_too_large = self.patch_length > MAX_PATCH || output.is_none();
        if is_too_large || has_long_corrections || has_long_text {
            return Some(GroupDefect::TooLarge);
        }
        let has_replayed = self.targets.iter().any(|target| target.replayed().is_some());
        if self.decisions > self.patch_length || has_replayed != (self.decisions > 0) {
            return Some(GroupDefect::Decisions);
        }

        if self.kind.is_streamed() {
            // Plain forms of replayed files serve the decision stream alone.
            let needs_plain = self
                .sources
                .iter()
                .filter_map(|source| source.plain)
                .any(|plain| plain.container == Container::Gzip || !has_replayed);
            if self.targets.len() > 1 || needs_plain {
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
        let replay = match self.decisions {
            0 => 0,
            _ => self.sources.iter().map(|source| source.length() * 2).sum::<u64>(),
        };
        (patch.len() as u64).saturating_add(buffers).saturating_add(replay.min(REPLAY_MEMORY))
    }

    /// Forms of its files that a decision stream replays.
    pub fn replayed_forms(&self) -> Forms {
        let plain_forms = self.targets.iter().filter_map(GroupTarget::replayed);
        plain_forms.fold(Forms::default(), |forms, plain| match plain.container {
            Container::Replayed(more) => forms.union(more),
            Container::Gzip => forms,
        })
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
        let (patch, mut stream) = self.split_decisions(patch)?;
        let mut old_files = OldFiles::new((self.number, &self.sources), sources);
        self.read_sources(sources, source, &mut old_files)?;
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
            let form = PatchOutput::Held(form);
            self.pass_target(target, form, (&mut stream, &mut old_files), &mut take)?;
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
        let (patch, mut stream) = self.split_decisions(patch)?;
        let mut old_files = OldFiles::new((self.number, &self.sources), sources);
        for target in &self.targets {
            let replay = (&mut stream, &mut old_files);
            if self.kind == Kind::Segments {
                let old = self.open_source(sources, 0).map_err(|error| self.unusable(error))?;
                let buffers = (&mut workspace.source, &mut workspace.output);
                let segments = Segments::new(patch, target.length(), old, buffers);
                let form = PatchOutput::Streamed(Box::new(segments));
                self.pass_target(target, form, replay, &mut take)?;
            } else {
                let copies =
                    Copies::new(patch, target.length(), |number| self.open_source(sources, number))
                        .map_err(|error| self.unusable(error))?;
                let form = BufReader::with_capacity(COPY_BUFFER, copies);
                let form = PatchOutput::Streamed(Box::new(form));
                self.pass_target(target, form, replay, &mut take)?;
            }
        }
        Ok(())
    }

    /// The patch without its decision stream, and a reader of that.
    fn split_decisions<'p>(
        &self,
        patch: &'p [u8],
    ) -> Result<(&'p [u8], Option<DecisionReader<'p>>), ArchiveError> {
        let decisions = usize::try_from(self.decisions).unwrap_or(usize::MAX);
        let at = patch.len().checked_sub(decisions).ok_or(ArchiveError::CutOff)?;
        let (patch, decisions) = patch.split_at(at);
        let stream = (!decisions.is_empty()).then(|| DecisionReader::new(decisions)).transpose();
        Ok((patch, stream.map_err(|error| self.unusable(error))?))
    }

    /// Passes one target's content, made of its `form`, to `take`.
    fn pass_target<E: From<ArchiveError>>(
        &self,
        target: &GroupTarget,
        form: PatchOutput<'_>,
        (stream, old_files): (&mut Option<DecisionReader<'_>>, &mut OldFiles<'_>),
        take: &mut impl FnMut(&GroupTarget, &mut dyn BufRead) -> Result<(), E>,
    ) -> Result<(), E> {
        let GzipParts { corrections: length, .. } = match target.rebuilt {
            None => return take(target, &mut *form.into_reader()),
            Some(RebuiltParts::Gzip(parts)) => parts,
            Some(RebuiltParts::Replayed(PlainForm { length, .. })) => {
                let Some(stream) = stream else { return Err(ArchiveError::CutOff.into()) };
                let old = stream.old_file().map(|number| old_files.get(number)).transpose()?;
                let plain = match form {
                    PatchOutput::Held(plain) => NewText::Held(plain),
                    PatchOutput::Streamed(plain) => NewText::read(plain, length),
                };
                let mut rebuilt = stream.rebuild(plain, old, target.size);
                take(target, &mut rebuilt)?;

                // The decisions of the next target follow the last ones of this one.
                io::copy(&mut rebuilt, &mut io::sink()).map_err(|error| self.unusable(error))?;
                return Ok(());
            }
        };

        let mut form = form.into_reader();
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
    ///
    /// Decisions of replayed sources are added to `old_files`.
    fn read_sources(
        &self,
        sources: &dyn Sources,
        all: &mut Vec<u8>,
        old_files: &mut OldFiles<'_>,
    ) -> Result<(), ArchiveError> {
        let length: u64 = self.sources.iter().map(GroupSource::length).sum();
        all.clear();
        // The listing was checked: a larger group was refused.
        all.reserve_exact(usize::try_from(length.min(MAX_GROUP)).unwrap_or(0));

        for (number, source) in (0..).zip(&self.sources) {
            let GroupSource { digest, size, path, plain } = source;
            let missing = || self.unusable(PatchFault::MissingSource(path.clone()));
            let before = all.len() as u64;

            let Some(PlainForm { length, container }) = plain else {
                if !sources.append(digest, *size, path, all)? || all.len() as u64 - before != *size
                {
                    return Err(missing());
                }
                continue;
            };

            match container {
                Container::Replayed(_) => old_files.append_plain(number, all)?,
                Container::Gzip => {
                    let bytes = sources
                        .read(digest, *size, path)?
                        .filter(|bytes| bytes.len() as u64 == *size)
                        .ok_or_else(missing)?;
                    gzip::gunzip(&bytes[..], *length)
                        .read_to_end(all)
                        .map_err(|error| self.unusable(error))?;
                }
            }
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
