//! Delta groups: which contents are made out of which others, and the making.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::rc::Rc;

use super::{ArchiveError, Sources};
use crate::delta::gzip::{self, Rebuild};
use crate::delta::{self, Copies, Kind, MAX_GROUP, MAX_PATCH, Segments};
use crate::digest::Digest;
use crate::tree_path::TreePath;

/// Contents that travel as one patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaGroup {
    /// Counted from 0.
    pub number: u64,
    /// How the patch tells what it makes.
    pub kind: Kind,
    /// Of the patch, in bytes.
    pub patch_length: u64,
    /// What the patch needs: contents of the base; where it copies pieces, of base or target.
    pub sources: Vec<GroupSource>,
    /// What the patch makes, in the order of their concatenation.
    pub targets: Vec<GroupTarget>,
}

/// A content that a patch needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSource {
    /// Of the content.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Where it is probably; a hint, the digest decides.
    pub path: TreePath,
    /// The length of its plain form, where that is what the patch needs.
    pub plain: Option<u64>,
}

/// A content that a patch makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupTarget {
    /// Of the content.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// The patch makes the parts of a compressed file, which is rebuilt of them.
    pub inside: Option<Inside>,
}

/// A compressed file, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The length of its corrections, which stand first.
    pub corrections: u64,
    /// The length of its plain form.
    pub plain: u64,
}

/// What groups are made in, one after the other: memory that is used again.
#[derive(Default)]
pub struct Workspace {
    source: Vec<u8>,
    output: Vec<u8>,
}

/// A piece that a patch copies is read through so much.
const COPIED: usize = 64 << 10;
/// A workspace keeps no more than what usual groups need.
const KEPT: usize = 3 << 20;

impl Workspace {
    /// Gives back what only an unusual group needs.
    fn settle(&mut self) {
        for buffer in [&mut self.source, &mut self.output] {
            buffer.clear();
            buffer.shrink_to(KEPT);
        }
    }
}

impl GroupSource {
    /// The length of what the patch needs of it.
    pub fn length(&self) -> u64 {
        self.plain.unwrap_or(self.size)
    }
}

impl GroupTarget {
    /// The length of what the patch makes for it.
    pub fn length(&self) -> u64 {
        self.inside.map_or(self.size, |inside| inside.corrections.saturating_add(inside.plain))
    }
}

impl DeltaGroup {
    /// What is wrong with the group by itself, if anything.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let output = self.targets.iter().map(GroupTarget::length).try_fold(0, u64::checked_add);
        let source = self.sources.iter().map(GroupSource::length).try_fold(0, u64::checked_add);
        let small = |sum: Option<u64>| sum.is_some_and(|sum| sum <= MAX_GROUP);
        let many_corrections = self
            .targets
            .iter()
            .any(|t| t.inside.is_some_and(|i| i.corrections > gzip::MAX_CORRECTIONS as u64));
        let streamed = self.kind.is_streamed();
        if self.targets.is_empty() || self.sources.is_empty() {
            Some("is empty")
        } else if self.patch_length > MAX_PATCH || output.is_none() || many_corrections {
            Some("is larger than the format allows")
        } else if streamed
            && (self.targets.len() > 1 || self.sources.iter().any(|source| source.plain.is_some()))
        {
            Some("makes a stream of what is none")
        } else if self.kind == Kind::Segments && self.sources.len() > 1 {
            Some("has more than one source")
        } else if !streamed && (!small(output) || !small(source)) {
            Some("is larger than the format allows")
        } else {
            None
        }
    }

    /// The bytes that have to be in memory to undo `patch`, with itself.
    pub fn weight(&self, patch: &[u8]) -> u64 {
        let output = match self.kind {
            Kind::Copies => 0,
            Kind::Segments => delta::segments_weight(patch),
            Kind::Prefix | Kind::Operations => self
                .sources
                .iter()
                .map(GroupSource::length)
                .chain(self.targets.iter().map(GroupTarget::length))
                .sum(),
        };
        (patch.len() as u64).saturating_add(output)
    }

    /// Undoes `patch` and gives each target's content to `take`, in order.
    ///
    /// Digests are not checked, neither of the sources nor of what comes: a source that is not what it
    /// should be makes other contents than listed, or none.
    pub fn make<E: From<ArchiveError>>(
        &self,
        patch: &[u8],
        sources: &dyn Sources,
        workspace: &mut Workspace,
        take: impl FnMut(&GroupTarget, &mut dyn BufRead) -> Result<(), E>,
    ) -> Result<(), E> {
        let made = match self.kind.is_streamed() {
            true => self.stream(patch, sources, workspace, take),
            false => self.make_in_memory(patch, sources, workspace, take),
        };
        workspace.settle();
        made
    }

    fn make_in_memory<E: From<ArchiveError>>(
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
        // A large one is not held while what it made is written.
        if source.capacity() > KEPT {
            *source = Vec::new();
        }
        let mut rest = &output[..];
        for target in &self.targets {
            // The sum of all lengths is that of the output.
            let (part, after) = rest
                .split_at(usize::try_from(target.length()).unwrap_or(usize::MAX).min(rest.len()));
            rest = after;
            self.give(target, part, &mut take)?;
        }
        Ok(())
    }

    fn stream<E: From<ArchiveError>>(
        &self,
        patch: &[u8],
        sources: &dyn Sources,
        workspace: &mut Workspace,
        mut take: impl FnMut(&GroupTarget, &mut dyn BufRead) -> Result<(), E>,
    ) -> Result<(), E> {
        let open = |number: usize| {
            let source = self
                .sources
                .get(number)
                .ok_or_else(|| io::Error::other("it copies from no source"))?;
            let opened = sources.open(&source.digest, source.size, &source.path)?;
            opened.ok_or_else(|| io::Error::other(format!("its source {} is missing", source.path)))
        };
        for target in &self.targets {
            if self.kind == Kind::Segments {
                let old = open(0).map_err(|error| self.unusable(error))?;
                let buffers = (&mut workspace.source, &mut workspace.output);
                self.give(target, Segments::new(patch, target.length(), old, buffers), &mut take)?;
            } else {
                let copies = Copies::new(patch, target.length(), open)
                    .map_err(|error| self.unusable(error))?;
                self.give(target, BufReader::with_capacity(COPIED, copies), &mut take)?;
            }
        }
        Ok(())
    }

    /// Gives one target's content, made of `form`.
    fn give<E: From<ArchiveError>>(
        &self,
        target: &GroupTarget,
        mut form: impl BufRead,
        take: &mut impl FnMut(&GroupTarget, &mut dyn BufRead) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(Inside { corrections: length, .. }) = target.inside else {
            return take(target, &mut form);
        };
        let mut corrections = Vec::new();
        let read = form
            .by_ref()
            .take(length.min(gzip::MAX_CORRECTIONS as u64))
            .read_to_end(&mut corrections);
        read.map_err(|error| self.unusable(error))?;
        let mut rebuilding =
            Rebuilding::new(&corrections, form).map_err(|error| self.unusable(error))?;
        take(target, &mut rebuilding)
    }

    /// Puts what the patch needs into `all`, one after the other.
    fn read_sources(&self, sources: &dyn Sources, all: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let length: u64 = self.sources.iter().map(GroupSource::length).sum();
        all.clear();
        // A group that lists more than it may was refused before.
        all.reserve_exact(usize::try_from(length.min(MAX_GROUP)).unwrap_or(0));
        for GroupSource { digest, size, path, plain } in &self.sources {
            let missing = || self.unusable(format!("its source {path} is missing"));
            let Some(length) = plain else {
                let before = all.len() as u64;
                if !sources.append(digest, *size, path, all)? || all.len() as u64 - before != *size
                {
                    return Err(missing());
                }
                continue;
            };
            let bytes =
                sources.read(digest, *size, path)?.filter(|bytes| bytes.len() as u64 == *size);
            let before = all.len() as u64;
            let inside = gzip::gunzip(&bytes.ok_or_else(missing)?[..], *length).read_to_end(all);
            inside.map_err(|error| self.unusable(error))?;
            if all.len() as u64 - before != *length {
                return Err(self.unusable(format!("its source {path} is not what it should be")));
            }
        }
        Ok(())
    }

    fn unusable(&self, why: impl ToString) -> ArchiveError {
        ArchiveError::Patch { group: self.number, why: why.to_string() }
    }
}

/// A compressed file as a reader, made of its corrections and a reader of its plain form.
struct Rebuilding<'c, R> {
    plain: R,
    rebuild: Option<Rebuild<'c, Shared>>,
    made: Shared,
    ready: Vec<u8>,
    given: usize,
}

/// What was made and not yet read.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'c, R: Read> Rebuilding<'c, R> {
    fn new(corrections: &'c [u8], plain: R) -> Result<Self, gzip::RebuildError> {
        let made = Shared::default();
        let rebuild = Some(Rebuild::new(corrections, made.clone())?);
        Ok(Rebuilding { plain, rebuild, made, ready: Vec::new(), given: 0 })
    }
}

impl<R: Read> BufRead for Rebuilding<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let mut plain = [0; 32 << 10];
        while self.given == self.ready.len() {
            let Some(mut rebuild) = self.rebuild.take() else { break };
            let length = self.plain.read(&mut plain)?;
            let wrong =
                |error: gzip::RebuildError| io::Error::new(io::ErrorKind::InvalidData, error);
            if length == 0 {
                rebuild.finish().map_err(wrong)?;
            } else {
                rebuild.write(&plain[..length]).map_err(wrong)?;
                self.rebuild = Some(rebuild);
            }
            self.ready.clear();
            self.given = 0;
            std::mem::swap(&mut self.ready, &mut *self.made.0.borrow_mut());
        }
        Ok(&self.ready[self.given..])
    }

    fn consume(&mut self, amount: usize) {
        self.given += amount;
    }
}

impl<R: Read> Read for Rebuilding<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}
