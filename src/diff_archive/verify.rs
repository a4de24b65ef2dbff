//! Reading an archive back: every digest, every patch.

use std::io::{BufRead, Read};

use super::frames::Compression;
use super::group::Group;
use super::listing::Listing;
use super::read::{FullReader, Member, Reader};
use super::{ArchiveError, Limits, Sources};
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
    group.make(patch, sources, |target, content| {
        if Digest::of_reader(content)? == (target.digest, target.size) {
            return Ok(());
        }
        let why = format!("it does not make content {}", target.digest);
        Err(ArchiveError::Patch { group: group.number, why })
    })
}
