//! Reading an archive back: every digest, every patch.

use std::io::{BufRead, Read};

use rayon::prelude::*;

use super::frames::FrameCompression;
use super::group::{DeltaGroup, Workspace};
use super::listing::Listing;
use super::read::{ArchiveMember, FullReader, Reader};
use super::{ArchiveError, ArchiveLimits, Sources};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::report::{Event, Job, Monitor};

/// Reads a diff to its end and checks every content; patches are tried against `sources`, without which
/// only their place and length are checked.
pub fn verify_diff(
    from: impl BufRead,
    compression: FrameCompression,
    limits: &ArchiveLimits,
    sources: Option<&dyn Sources>,
    monitor: &dyn Monitor,
) -> Result<Listing, ArchiveError> {
    let mut reader = Reader::open(from, compression, limits)?;
    let header = reader.listing().header();
    let total = header.whole_bytes.saturating_add(header.patch_bytes);
    monitor.event(Event::Started { job: Job::Verify, total });
    let (mut batch, mut weight) = (Vec::new(), 0);
    while let Some(member) = reader.next_member()? {
        // What is large passes through, everything else is checked on all processors.
        let (piece, more) = match (member, sources) {
            (ArchiveMember::Patch(group, patch), Some(_)) => {
                let weight = group.weight(&patch);
                (VerifyJob::Patch(group.clone(), patch), weight)
            }
            (ArchiveMember::Whole(entry, mut content), _)
                if entry.file().is_some_and(|(size, _)| size <= SMALL) =>
            {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes)?;
                let length = bytes.len() as u64;
                (VerifyJob::Whole(entry.clone(), bytes), length)
            }
            (member, _) => {
                check(member, monitor)?;
                continue;
            }
        };
        if weight + more > IN_FLIGHT {
            check_all(std::mem::take(&mut batch), sources, monitor)?;
            weight = 0;
        }
        weight += more;
        batch.push(piece);
    }
    check_all(batch, sources, monitor)?;
    monitor.event(Event::Finished { job: Job::Verify });
    Ok(reader.into_listing())
}

/// A larger content is checked while it is read.
const SMALL: u64 = 4 << 20;
/// About so many bytes are in memory at a time, unless one group alone has more.
const IN_FLIGHT: u64 = 48 << 20;

enum VerifyJob {
    Whole(Entry, Vec<u8>),
    Patch(DeltaGroup, Vec<u8>),
}

fn check_all(
    batch: Vec<VerifyJob>,
    sources: Option<&dyn Sources>,
    monitor: &dyn Monitor,
) -> Result<(), ArchiveError> {
    batch.into_par_iter().try_for_each(|piece| {
        let by = match piece {
            VerifyJob::Whole(entry, bytes) => check_whole(&entry, &bytes[..])?,
            VerifyJob::Patch(group, patch) => {
                sources.map_or(Ok(()), |sources| check_patch(&group, &patch, sources))?;
                patch.len() as u64
            }
        };
        monitor.event(Event::Advanced { job: Job::Verify, by });
        Ok(())
    })
}

/// Reads the full archive of `manifest` to its end and checks every content.
pub fn verify_full(
    from: impl BufRead,
    compression: FrameCompression,
    manifest: &Manifest,
    monitor: &dyn Monitor,
) -> Result<(), ArchiveError> {
    let mut reader = FullReader::open(from, compression, manifest)?;
    monitor.event(Event::Started { job: Job::Verify, total: manifest.bytes() });
    while let Some(member) = reader.next_member()? {
        check(member, monitor)?;
    }
    monitor.event(Event::Finished { job: Job::Verify });
    Ok(())
}

fn check(member: ArchiveMember<'_>, monitor: &dyn Monitor) -> Result<(), ArchiveError> {
    let by = match member {
        ArchiveMember::Plain(_) => return Ok(()),
        ArchiveMember::Whole(entry, content) => check_whole(entry, content)?,
        ArchiveMember::Patch(_, patch) => patch.len() as u64,
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

fn check_patch(
    group: &DeltaGroup,
    patch: &[u8],
    sources: &dyn Sources,
) -> Result<(), ArchiveError> {
    group.make(patch, sources, &mut Workspace::default(), |target, content| {
        if Digest::of_reader(content)? == (target.digest, target.size) {
            return Ok(());
        }
        let why = format!("it does not make content {}", target.digest);
        Err(ArchiveError::Patch { group: group.number, why })
    })
}
