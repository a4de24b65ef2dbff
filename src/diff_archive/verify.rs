//! Verification of archives: reads an archive to its end, and checks every digest and every patch.

use std::io::Read;

use rayon::prelude::*;

use super::error::{ArchiveError, PatchFault};
use super::frame_head::FramedFile;
use super::group::{DeltaGroup, Workspace};
use super::limits::ArchiveLimits;
use super::listing::Listing;
use super::read::{ArchiveMember, FullReader, Reader};
use super::sources::Sources;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::report::{Event, Job, Monitor};

/// Largest content that is read into memory; a larger one is checked while it is read.
const SMALL: u64 = 4 << 20;
/// Bytes in memory at a time, unless one group alone has more.
const IN_FLIGHT: u64 = 48 << 20;

/// Reads a diff to its end and checks every content.
///
/// Patches are applied to `sources`. Without sources only their order and length are checked.
pub fn verify_diff(
    file: FramedFile<impl Read>,
    limits: &ArchiveLimits,
    sources: Option<&dyn Sources>,
    monitor: &dyn Monitor,
) -> Result<Listing, ArchiveError> {
    let mut reader = Reader::open(file, limits)?;
    let header = reader.listing().header();
    let total = header.whole_bytes.saturating_add(header.patch_bytes);
    monitor.event(Event::Started { job: Job::Verify, total });

    let (mut batch, mut memory) = (Vec::new(), 0);
    while let Some(member) = reader.next_member()? {
        // A large content is checked at once, everything else later on all processors.
        let (job, needed) = match (member, sources) {
            (ArchiveMember::Patch(group, patch), Some(_)) => {
                let needed = group.memory_needed(&patch);
                (VerifyJob::Patch(group.clone(), patch), needed)
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
                check_member(member, monitor)?;
                continue;
            }
        };

        if memory + needed > IN_FLIGHT {
            check_batch(std::mem::take(&mut batch), sources, monitor)?;
            memory = 0;
        }
        memory += needed;
        batch.push(job);
    }
    check_batch(batch, sources, monitor)?;

    monitor.event(Event::Finished { job: Job::Verify });
    Ok(reader.into_listing())
}

/// Reads the full archive of `manifest` to its end and checks every content.
pub fn verify_full(
    file: FramedFile<impl Read>,
    manifest: &Manifest,
    monitor: &dyn Monitor,
) -> Result<(), ArchiveError> {
    let mut reader = FullReader::open(file, manifest)?;
    monitor.event(Event::Started { job: Job::Verify, total: manifest.bytes() });
    while let Some(member) = reader.next_member()? {
        check_member(member, monitor)?;
    }
    monitor.event(Event::Finished { job: Job::Verify });
    Ok(())
}

/// A member in memory that is not checked yet.
enum VerifyJob {
    Whole(Entry, Vec<u8>),
    Patch(DeltaGroup, Vec<u8>),
}

fn check_batch(
    batch: Vec<VerifyJob>,
    sources: Option<&dyn Sources>,
    monitor: &dyn Monitor,
) -> Result<(), ArchiveError> {
    batch.into_par_iter().try_for_each(|job| {
        let by = match job {
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

fn check_member(member: ArchiveMember<'_>, monitor: &dyn Monitor) -> Result<(), ArchiveError> {
    let by = match member {
        ArchiveMember::Plain(_) => return Ok(()),
        ArchiveMember::Whole(entry, content) => check_whole(entry, content)?,
        ArchiveMember::Patch(_, patch) => patch.len() as u64,
    };
    monitor.event(Event::Advanced { job: Job::Verify, by });
    Ok(())
}

fn check_whole(entry: &Entry, content: impl Read) -> Result<u64, ArchiveError> {
    let digest_and_size = Digest::of_reader(content)?;
    match entry.file() {
        Some((size, digest)) if (digest, size) == digest_and_size => Ok(size),
        _ => Err(ArchiveError::Digest(entry.path.clone())),
    }
}

fn check_patch(
    group: &DeltaGroup,
    patch: &[u8],
    sources: &dyn Sources,
) -> Result<(), ArchiveError> {
    group.build_targets(patch, sources, &mut Workspace::default(), |target, content| {
        if Digest::of_reader(content)? == (target.digest, target.size) {
            return Ok(());
        }
        Err(group.unusable(PatchFault::OtherTarget(target.digest)))
    })
}
