//! Reading an archive back: every digest, every patch.

use std::io::{BufRead, Read};

use super::frames::Compression;
use super::listing::{Group, Listing};
use super::read::{FullReader, Member, Reader};
use super::{ArchiveError, Limits, Sources};
use crate::delta;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::report::{Event, Job, Monitor};

/// Reads a diff to its end and checks every content; patches are tried against `sources`, without which
/// only their place and length are checked.
pub fn verify_diff(
    from: impl BufRead,
    compression: Compression,
    limits: &Limits,
    sources: Option<&dyn Sources>,
    monitor: &dyn Monitor,
) -> Result<Listing, ArchiveError> {
    let mut reader = Reader::open(from, compression, limits)?;
    let header = reader.listing().header();
    let total = header.whole_bytes.saturating_add(header.patch_bytes);
    monitor.event(Event::Started { job: Job::Verify, total });
    while let Some(member) = reader.next_member()? {
        check(member, sources, monitor)?;
    }
    monitor.event(Event::Finished { job: Job::Verify });
    Ok(reader.into_listing())
}

/// Reads the full archive of `manifest` to its end and checks every content.
pub fn verify_full(
    from: impl BufRead,
    compression: Compression,
    manifest: &Manifest,
    monitor: &dyn Monitor,
) -> Result<(), ArchiveError> {
    let mut reader = FullReader::open(from, compression, manifest)?;
    monitor.event(Event::Started { job: Job::Verify, total: manifest.bytes() });
    while let Some(member) = reader.next_member()? {
        check(member, None, monitor)?;
    }
    monitor.event(Event::Finished { job: Job::Verify });
    Ok(())
}

fn check(member: Member<'_>, sources: Option<&dyn Sources>, monitor: &dyn Monitor) -> Result<(), ArchiveError> {
    let by = match member {
        Member::Plain(_) => return Ok(()),
        Member::Whole(entry, content) => check_whole(entry, content)?,
        Member::Patch(group, patch) => {
            if let Some(sources) = sources {
                check_patch(group, &patch, sources)?;
            }
            patch.len() as u64
        }
    };
    monitor.event(Event::Advanced { job: Job::Verify, by });
    Ok(())
}

fn check_whole(entry: &Entry, content: impl Read) -> Result<u64, ArchiveError> {
    let found = Digest::of_reader(content)?;
    match entry.file() {
        Some((size, digest)) if (digest, size) == found => Ok(size),
        _ => Err(ArchiveError::Digest(entry.path.clone())),
    }
}

fn check_patch(group: &Group, patch: &[u8], sources: &dyn Sources) -> Result<(), ArchiveError> {
    group.contents(patch, |source| Ok(sources.read(&source.digest, source.size, &source.path)?)).map(|_| ())
}

impl Group {
    /// Undoes `patch` with the sources that `read` finds, each of which is checked, and checks each of the
    /// targets; they stand one after the other in what is returned.
    pub fn contents(
        &self,
        patch: &[u8],
        mut read: impl FnMut(&super::Known) -> Result<Option<Vec<u8>>, ArchiveError>,
    ) -> Result<Vec<u8>, ArchiveError> {
        let unusable = |why: String| ArchiveError::Patch { group: self.number, why };
        let mut source = Vec::new();
        for wanted in &self.sources {
            let Some(bytes) = read(wanted)? else {
                return Err(unusable(format!("its source {} is missing", wanted.path)));
            };
            if bytes.len() as u64 != wanted.size || Digest::of(&bytes) != wanted.digest {
                return Err(unusable(format!("its source {} is not what it should be", wanted.path)));
            }
            // The first is not copied: a large source is alone in its group.
            if source.is_empty() {
                source = bytes;
            } else {
                source.extend_from_slice(&bytes);
            }
        }
        let output = delta::decode(&source, patch, self.output_length()).map_err(|e| unusable(e.to_string()))?;
        for (target, bytes) in self.split(&output) {
            if Digest::of(bytes) != target.digest {
                return Err(unusable(format!("it does not make content {}", target.digest)));
            }
        }
        Ok(output)
    }

    /// The length of all targets together.
    pub fn output_length(&self) -> u64 {
        self.targets.iter().fold(0, |sum, target| sum.saturating_add(target.size))
    }

    /// The targets, each with its part of `output`.
    pub fn split<'o>(&self, output: &'o [u8]) -> impl Iterator<Item = (&super::Target, &'o [u8])> {
        let mut rest = output;
        self.targets.iter().map(move |target| {
            let size = usize::try_from(target.size).unwrap_or(usize::MAX).min(rest.len());
            let (bytes, after) = rest.split_at(size);
            rest = after;
            (target, bytes)
        })
    }
}
