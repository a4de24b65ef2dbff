//! Delta groups: which contents are made out of which others, and the making.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use super::{ArchiveError, Sources};
use crate::delta::gzip::{self, Rebuild};
use crate::delta::{self, Copies, Kind, MAX_GROUP, MAX_PATCH, SEGMENTS_WEIGHT, Segments};
use crate::digest::Digest;
use crate::tree_path::TreePath;

/// Contents that travel as one patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Counted from 0.
    pub number: u64,
    /// How the patch tells what it makes.
    pub kind: Kind,
    /// Of the patch, in bytes.
    pub patch_length: u64,
    /// What the patch needs: contents of the base; where it copies pieces, of base or target.
    pub sources: Vec<Source>,
    /// What the patch makes, in the order of their concatenation.
    pub targets: Vec<Target>,
}

/// A content that a patch needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
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
pub struct Target {
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

impl Source {
    /// The length of what the patch needs of it.
    pub fn length(&self) -> u64 {
        self.plain.unwrap_or(self.size)
    }
}

impl Target {
    /// The length of what the patch makes for it.
    pub fn length(&self) -> u64 {
        self.inside.map_or(self.size, |inside| inside.corrections.saturating_add(inside.plain))
    }
}

impl Group {
    /// What is wrong with the group by itself, if anything.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let output = self.targets.iter().map(Target::length).try_fold(0, u64::checked_add);
        let source = self.sources.iter().map(Source::length).try_fold(0, u64::checked_add);
        let small = |sum: Option<u64>| sum.is_some_and(|sum| sum <= MAX_GROUP);
        let many_corrections =
            self.targets.iter().any(|t| t.inside.is_some_and(|i| i.corrections > gzip::MAX_CORRECTIONS as u64));
        let streamed = self.kind.is_streamed();
        if self.targets.is_empty() || self.sources.is_empty() {
            Some("is empty")
        } else if self.patch_length > MAX_PATCH || output.is_none() || many_corrections {
            Some("is larger than the format allows")
        } else if streamed && (self.targets.len() > 1 || self.sources.iter().any(|source| source.plain.is_some())) {
            Some("makes a stream of what is none")
        } else if self.kind == Kind::Segments && self.sources.len() > 1 {
            Some("has more than one source")
        } else if !streamed && (!small(output) || !small(source)) {
            Some("is larger than the format allows")
        } else {
            None
        }
    }

    /// The bytes that have to be in memory to undo the patch.
    pub fn weight(&self) -> u64 {
        let output = match self.kind {
            Kind::Copies => 0,
            Kind::Segments => SEGMENTS_WEIGHT,
            Kind::Prefix | Kind::Operations => {
                self.sources.iter().map(Source::length).chain(self.targets.iter().map(Target::length)).sum()
            }
        };
        self.patch_length.saturating_add(output)
    }

    /// Undoes `patch` and gives each target's content to `take`, in order.
    ///
    /// Digests are not checked, neither of the sources nor of what comes: a source that is not what it
    /// should be makes other contents than listed, or none.
    pub fn make<E: From<ArchiveError>>(
        &self,
        patch: &[u8],
        sources: &dyn Sources,
        mut take: impl FnMut(&Target, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let (Kind::Prefix | Kind::Operations) = self.kind else { return self.stream(patch, sources, take) };
        let source = self.source(sources)?;
        let length = self.targets.iter().map(Target::length).sum();
        let output = delta::decode(self.kind, &source, patch, length);
        drop(source);
        let output = output.map_err(|error| self.unusable(error))?;
        let mut rest = &output[..];
        for target in &self.targets {
            // The sum of all lengths is that of the output.
            let (part, after) = rest.split_at(usize::try_from(target.length()).unwrap_or(usize::MAX).min(rest.len()));
            rest = after;
            self.give(target, part, &mut take)?;
        }
        Ok(())
    }

    fn stream<E: From<ArchiveError>>(
        &self,
        patch: &[u8],
        sources: &dyn Sources,
        mut take: impl FnMut(&Target, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let open = |number: usize| {
            let source = self.sources.get(number).ok_or_else(|| io::Error::other("it copies from no source"))?;
            let opened = sources.open(&source.digest, source.size, &source.path)?;
            opened.ok_or_else(|| io::Error::other(format!("its source {} is missing", source.path)))
        };
        for target in &self.targets {
            if self.kind == Kind::Segments {
                let old = open(0).map_err(|error| self.unusable(error))?;
                self.give(target, Segments::new(patch, target.length(), old), &mut take)?;
            } else {
                let copies = Copies::new(patch, target.length(), open).map_err(|error| self.unusable(error))?;
                self.give(target, copies, &mut take)?;
            }
        }
        Ok(())
    }

    /// Gives one target's content, made of `form`.
    fn give<E: From<ArchiveError>>(
        &self,
        target: &Target,
        mut form: impl Read,
        take: &mut impl FnMut(&Target, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(Inside { corrections: length, .. }) = target.inside else { return take(target, &mut form) };
        let mut corrections = Vec::new();
        let read = form.by_ref().take(length.min(gzip::MAX_CORRECTIONS as u64)).read_to_end(&mut corrections);
        read.map_err(|error| self.unusable(error))?;
        let mut rebuilding = Rebuilding::new(&corrections, form).map_err(|error| self.unusable(error))?;
        take(target, &mut rebuilding)
    }

    /// What the patch needs, one after the other.
    fn source(&self, sources: &dyn Sources) -> Result<Vec<u8>, ArchiveError> {
        let mut all = Vec::new();
        for Source { digest, size, path, plain } in &self.sources {
            let read = sources.read(digest, *size, path)?.filter(|bytes| bytes.len() as u64 == *size);
            let bytes = read.ok_or_else(|| self.unusable(format!("its source {path} is missing")))?;
            match plain {
                Some(length) => {
                    let before = all.len() as u64;
                    let inside = gzip::gunzip(&bytes[..], *length).read_to_end(&mut all);
                    inside.map_err(|error| self.unusable(error))?;
                    if all.len() as u64 - before != *length {
                        return Err(self.unusable(format!("its source {path} is not what it should be")));
                    }
                }
                // The first is not copied: a large source is alone in its group.
                None if all.is_empty() => all = bytes,
                None => all.extend_from_slice(&bytes),
            }
        }
        Ok(all)
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
        Ok(Rebuilding { plain, rebuild, made, given: 0 })
    }
}

impl<R: Read> Read for Rebuilding<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut plain = [0; 32 << 10];
        loop {
            let mut made = self.made.0.borrow_mut();
            if self.given < made.len() {
                let n = buffer.len().min(made.len() - self.given);
                buffer[..n].copy_from_slice(&made[self.given..self.given + n]);
                self.given += n;
                return Ok(n);
            }
            made.clear();
            drop(made);
            self.given = 0;
            let Some(mut rebuild) = self.rebuild.take() else { return Ok(0) };
            let length = self.plain.read(&mut plain)?;
            let wrong = |error: gzip::RebuildError| io::Error::new(io::ErrorKind::InvalidData, error);
            if length == 0 {
                rebuild.finish().map_err(wrong)?;
            } else {
                rebuild.write(&plain[..length]).map_err(wrong)?;
                self.rebuild = Some(rebuild);
            }
        }
    }
}
