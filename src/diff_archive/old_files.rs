//! The compressed sources of a delta group whose decisions its decision stream uses.

use std::collections::BTreeMap;
use std::io::{Read, Take};

use super::error::{ArchiveError, PatchFault};
use super::group_contents::{Container, GroupSource, PlainForm};
use super::similarity::SequentialReader;
use super::sources::Sources;
use crate::delta::ReadAt;
use crate::replay::file::{OldFile, OpenLimits, PlainReader};

/// Largest plain form of a source that is held in memory, with its decisions, for the whole group.
///
/// A larger one is decompressed once for the patch, and again for each target.
const MAX_HELD: u64 = 8 << 20;
/// Largest dictionary of a replayed file.
pub const MAX_DICTIONARY: u64 = 64 << 20;

/// Opens the replayed sources of a group.
pub(super) struct OldFiles<'s> {
    /// Number of the group, and the sources that it lists.
    group: (u64, &'s [GroupSource]),
    sources: &'s dyn Sources,
    held: BTreeMap<u32, OldFile<'s>>,
}

impl<'s> OldFiles<'s> {
    pub fn new(group: (u64, &'s [GroupSource]), sources: &'s dyn Sources) -> Self {
        OldFiles { group, sources, held: BTreeMap::new() }
    }

    /// The source of a number, ready for the next target.
    pub fn get(&mut self, number: u32) -> Result<&mut OldFile<'s>, ArchiveError> {
        let is_held = self.held.get(&number).is_some_and(OldFile::is_complete);
        if !is_held {
            let (source, plain) = self.listed(number)?;
            let file = OldFile::new(Box::new(self.open(source)?), limits(plain));
            self.held.insert(number, file);
        }

        let unlisted = self.unusable(PatchFault::UnlistedSource);
        let file = self.held.get_mut(&number).ok_or(unlisted)?;
        if is_held {
            file.rewind();
        }
        Ok(file)
    }

    /// Appends the plain form of a source to `to`, and holds a small one for [`get`](Self::get).
    pub fn append_plain(&mut self, number: u32, to: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let (source, plain) = self.listed(number)?;
        let bytes = Box::new(self.open(source)?);
        if plain.length > MAX_HELD {
            return PlainReader::new(bytes, limits(plain))
                .read_to_end(to)
                .map(drop)
                .map_err(|error| self.unusable(error.into()));
        }

        let file = OldFile::read(bytes, limits(plain))
            .map_err(|error| self.unusable(PatchFault::Replay(error.into())))?;
        to.extend_from_slice(file.plain());
        self.held.insert(number, file);
        Ok(())
    }

    fn listed(&self, number: u32) -> Result<(&'s GroupSource, PlainForm), ArchiveError> {
        let source = usize::try_from(number).ok().and_then(|at| self.group.1.get(at));
        let plain = source.and_then(|source| source.plain);
        source
            .zip(plain)
            .filter(|(_, plain)| plain.container != Container::Gzip)
            .ok_or_else(|| self.unusable(PatchFault::UnlistedSource))
    }

    fn unusable(&self, fault: PatchFault) -> ArchiveError {
        ArchiveError::Patch { group: self.group.0, fault }
    }

    fn open(&self, source: &'s GroupSource) -> Result<SourceReader<'s>, ArchiveError> {
        let GroupSource { digest, size, path, .. } = source;
        let file = self.sources.open(digest, *size, path)?;
        let file = file.ok_or_else(|| self.unusable(PatchFault::MissingSource(path.clone())))?;
        Ok(SequentialReader { file, at: 0 }.take(*size))
    }
}

type SourceReader<'s> = Take<SequentialReader<Box<dyn ReadAt + 's>>>;

fn limits(plain: PlainForm) -> OpenLimits {
    OpenLimits { dictionary: MAX_DICTIONARY, plain: plain.length }
}
