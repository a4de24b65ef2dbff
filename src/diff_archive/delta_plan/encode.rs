//! Patches that are made in memory: of files, or of what is inside compressed ones.

use std::io::Read;

use crate::delta::gzip::{self, Decomposed, GzipLimits};
use crate::delta::{self, Class, Kind, MAX_GROUP, MAX_PATCH};
use crate::diff_archive::delta_plan::{Patched, Planner};
use crate::diff_archive::group::{DeltaGroup, GroupSource, GroupTarget, Inside, Workspace};
use crate::diff_archive::write::WriteError;
use crate::diff_archive::{ArchiveError, BaseAndTarget};
use crate::digest::Digest;
use crate::entry::Entry;

/// A patch that is smaller than this part of what it makes is taken without a look at the alternative:
/// whole files rarely compress that far, and then both are small.
pub(super) const CLEAR_GAIN: usize = 8;
/// A patch has to save this part of the whole files, for it needs a source that has not drifted.
pub(super) const LEAST_GAIN: usize = 16;

impl Planner<'_> {
    /// The patch of a group, unless its contents are better sent whole.
    pub(super) fn pair(&self, pair: &delta::PairGroup<'_>) -> Result<Option<Patched>, WriteError> {
        let patched = match pair.class {
            Class::Opened => {
                self.opened(pair)?.map_or_else(|| self.closed(pair), |patched| Ok(Some(patched)))?
            }
            Class::Plain | Class::Packed => self.closed(pair)?,
        };
        self.advanced(&pair.targets);
        Ok(patched)
    }

    fn closed(&self, pair: &delta::PairGroup<'_>) -> Result<Option<Patched>, WriteError> {
        let mut group = self.group(if pair.class == Class::Plain {
            self.deltas.effort.kind()
        } else {
            Kind::Prefix
        });
        let (mut source, mut output) = (Vec::new(), Vec::new());
        for entry in &pair.sources {
            let Some((size, digest)) = entry.file() else { continue };
            let Some(bytes) = self.source(entry, size, &digest)? else { return Ok(None) };
            source.extend_from_slice(&bytes);
            group.sources.push(GroupSource { digest, size, path: entry.path.clone(), plain: None });
        }
        for entry in &pair.targets {
            let Some((size, digest)) = entry.file() else { continue };
            output.extend_from_slice(&self.fresh(entry, size, &digest)?);
            group.targets.push(GroupTarget { digest, size, inside: None });
        }
        let patch = self.encode(&mut group, &source, &output)?;
        let gains = |patch: &[u8]| self.gains(patch, &output);
        Ok(match patch {
            Some(patch) if gains(&patch)? => Some(Patched::plain(group, patch)),
            _ => None,
        })
    }

    /// The patch of what is inside compressed files; what cannot be opened stays as it is.
    pub(super) fn opened(
        &self,
        pair: &delta::PairGroup<'_>,
    ) -> Result<Option<Patched>, WriteError> {
        // Text of which most is the same: the suffix array would not pay.
        let mut group = self.group(Kind::Prefix);
        let (mut source, mut output, mut compressed, mut cost) = (Vec::new(), Vec::new(), 0, 0u64);
        for entry in &pair.targets {
            let Some((size, digest)) = entry.file() else { continue };
            let bytes = self.fresh(entry, size, &digest)?;
            let mut form = Vec::new();
            let taken = gzip::decompose(
                &mut &bytes[..],
                &mut form,
                &GzipLimits { plain: MAX_GROUP, ..GzipLimits::default() },
            );
            let inside = match taken.map_err(WriteError::Compress)? {
                Decomposed::Apart(parts) => {
                    output.extend_from_slice(&parts.corrections);
                    output.extend_from_slice(&form);
                    cost = cost.saturating_add(parts.cost);
                    Some(Inside {
                        corrections: parts.corrections.len() as u64,
                        plain: form.len() as u64,
                    })
                }
                Decomposed::Whole(_) => {
                    output.extend_from_slice(&bytes);
                    None
                }
            };
            compressed += bytes.len() as u64;
            group.targets.push(GroupTarget { digest, size, inside });
        }
        for entry in &pair.sources {
            let Some((size, digest)) = entry.file() else { continue };
            let Some(bytes) = self.source(entry, size, &digest)? else { return Ok(None) };
            let before = source.len();
            // A file that is opened finds little in one that is not.
            let opened = gzip::gunzip(&bytes[..], MAX_GROUP).read_to_end(&mut source).is_ok();
            if !opened {
                source.truncate(before);
                source.extend_from_slice(&bytes);
            }
            let plain = opened.then(|| (source.len() - before) as u64);
            group.sources.push(GroupSource { digest, size, path: entry.path.clone(), plain });
        }
        if source.len() as u64 > MAX_GROUP || output.len() as u64 > MAX_GROUP {
            return Ok(None);
        }
        let Some(patch) = self.encode(&mut group, &source, &output)? else { return Ok(None) };
        let saved = compressed.saturating_sub(group.patch_length);
        let pays = saved >= compressed / LEAST_GAIN as u64 && self.deltas.opening.pays(saved, cost);
        Ok(pays.then_some(Patched { group, patch, cost }))
    }

    pub(super) fn group(&self, kind: Kind) -> DeltaGroup {
        DeltaGroup { number: 0, kind, patch_length: 0, sources: Vec::new(), targets: Vec::new() }
    }

    fn encode(
        &self,
        group: &mut DeltaGroup,
        source: &[u8],
        output: &[u8],
    ) -> Result<Option<Vec<u8>>, WriteError> {
        let patch = delta::encode(group.kind, source, output, self.deltas.effort);
        let patch = patch.map_err(WriteError::Compress)?;
        // What a node would make of it, while both sides are at hand.
        let mut made = Vec::new();
        let decoded = delta::decode(group.kind, source, &patch, output.len() as u64, &mut made);
        if decoded.is_err() || made != output {
            return Err(WriteError::Wrong(self.names(group)));
        }
        group.patch_length = patch.len() as u64;
        Ok(Some(patch).filter(|patch| patch.len() as u64 <= MAX_PATCH))
    }

    /// What a group makes, for messages.
    fn names(&self, group: &DeltaGroup) -> String {
        let digests: Vec<String> =
            group.targets.iter().map(|target| target.digest.short()).collect();
        digests.join(", ")
    }

    /// Carries a patch out as a node would, and compares what it makes.
    pub(super) fn prove(&self, group: &DeltaGroup, patch: &[u8]) -> Result<(), WriteError> {
        let sources =
            BaseAndTarget { base: self.deltas.sources, target: self.target, content: self.content };
        let made = group.make(patch, &sources, &mut Workspace::default(), |target, content| {
            match Digest::of_reader(content)? {
                found if found == (target.digest, target.size) => Ok(()),
                _ => Err(ArchiveError::Listing("another content".to_owned())),
            }
        });
        made.map_err(|_| WriteError::Wrong(self.names(group)))
    }

    /// Whether `patch` is worth more than what it makes, compressed.
    fn gains(&self, patch: &[u8], output: &[u8]) -> Result<bool, WriteError> {
        if patch.len() <= output.len() / CLEAR_GAIN {
            return Ok(true);
        }
        let whole = zstd::bulk::compress(output, self.deltas.effort.whole_level())
            .map_err(WriteError::Compress)?;
        Ok(patch.len() + patch.len() / LEAST_GAIN < whole.len())
    }

    /// A content of the target, which has to be what the manifest says.
    fn fresh(&self, entry: &Entry, size: u64, digest: &Digest) -> Result<Vec<u8>, WriteError> {
        let failed = |source| WriteError::Content { path: entry.path.clone(), source };
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        // One byte more than it should have shows whether the file has grown.
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

    /// A source, unless the base has lost it since it was recorded.
    fn source(
        &self,
        entry: &Entry,
        size: u64,
        digest: &Digest,
    ) -> Result<Option<Vec<u8>>, WriteError> {
        let read = self.deltas.sources.read(digest, size, &entry.path);
        let bytes =
            read.map_err(|source| WriteError::Source { path: entry.path.clone(), source })?;
        Ok(bytes.filter(|bytes| bytes.len() as u64 == size && Digest::of(bytes) == *digest))
    }
}
