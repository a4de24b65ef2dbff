//! The archives of a chain: what they say of themselves, and how they come.

use std::collections::HashSet;

use crate::apply::stage::unpack::ArchiveInput;
use crate::catalog::Archive;
use crate::diff_archive::{
    ArchiveError, ArchiveLimits, FrameCompression, Header, Listing, read_listing,
};
use crate::digest::Digest;
use crate::fetch::{FetchError, FetchErrorKind, GrowingFile, Repository};
use crate::manifest::{Manifest, gone};
use crate::report::Monitor;
use crate::tree_path::TreePath;
use crate::update::UpdateError;

/// An archive of a chain, with what is known of it.
pub(in crate::update) struct ChainArchive<'a> {
    pub archive: &'a Archive,
    pub listing: Listing,
    repository: &'a Repository,
    compression: FrameCompression,
    /// The archive itself, as far as it is here.
    bytes: GrowingFile,
}

/// An archive that could not be fetched, and why.
pub(in crate::update) type Unfetched<'a> = (&'a Archive, FetchError);

pub(in crate::update) enum OpenArchiveError<'l> {
    Broken(&'l Archive, String),
    Failed(UpdateError),
}

impl<'a> ChainArchive<'a> {
    /// Fetches the listing of an archive and finds out what it makes of `base`.
    fn of(
        repository: &'a Repository,
        archive: &'a Archive,
        base: &Manifest,
    ) -> Result<(ChainArchive<'a>, Manifest), OpenArchiveError<'a>> {
        let broken = |why: String| OpenArchiveError::Broken(archive, why);
        let Some(compression) = FrameCompression::from_name(archive.file.file.as_str()) else {
            return Err(broken("its name tells no compression that this program knows".to_owned()));
        };
        let frame = match repository.fetch_frame(&archive.file, &archive.first_frame) {
            Err(error) if is_broken(&error) => return Err(broken(error.to_string())),
            answer => answer.map_err(|e| OpenArchiveError::Failed(e.into()))?,
        };
        let fault = |error: ArchiveError| broken(error.to_string());
        let listing =
            read_listing(&frame, compression, &ArchiveLimits::default()).map_err(fault)?;
        let target = listing.target_of(base).map_err(fault)?;
        if target.id() != archive.kind.target() {
            return Err(broken("it leads to another generation than the catalog says".to_owned()));
        }
        Ok((
            ChainArchive {
                archive,
                listing,
                repository,
                compression,
                bytes: GrowingFile::default(),
            },
            target,
        ))
    }

    /// Fetches the archive, and verifies it.
    fn fetch(&self, monitor: &dyn Monitor) -> Result<(), Unfetched<'a>> {
        let fetched = self.repository.fetch_into(&self.bytes, &self.archive.file, monitor);
        fetched.map_err(|error| (self.archive, error))
    }

    /// What is to be unpacked, also while it comes.
    pub fn delivery(&self) -> ArchiveInput<'_> {
        ArchiveInput {
            listing: &self.listing,
            file: &self.bytes,
            first_frame: self.archive.first_frame.length,
            compression: self.compression,
            name: self.archive.file.file.as_str(),
        }
    }
}

/// Fetches the listings of a chain and finds out what it makes of `base`.
pub(in crate::update) fn link<'l>(
    repository: &'l Repository,
    chain: impl Iterator<Item = &'l Archive>,
    base: &Manifest,
) -> Result<(Vec<ChainArchive<'l>>, Manifest), OpenArchiveError<'l>> {
    let (mut links, mut manifest) = (Vec::new(), base.clone());
    for archive in chain {
        let (link, next) = ChainArchive::of(repository, archive, &manifest)?;
        links.push(link);
        manifest = next;
    }
    Ok((links, manifest))
}

/// Fetches all of `links`, one after the other.
pub(in crate::update) fn fetch<'l>(
    links: &[ChainArchive<'l>],
    monitor: &dyn Monitor,
) -> Result<(), Unfetched<'l>> {
    // Whoever waits for one that is not begun any more is told as well.
    let _given_up = FailOnDrop(links);
    links.iter().try_for_each(|link| link.fetch(monitor))
}

struct FailOnDrop<'f, 'l>(&'f [ChainArchive<'l>]);

impl Drop for FailOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|link| link.bytes.fail());
    }
}

/// Nobody waits for `links` any more.
pub(in crate::update) fn unwanted(links: &[ChainArchive<'_>]) {
    links.iter().for_each(|link| link.bytes.cancel());
}

/// Whether the server lacks the file or holds another one, so that another way may lead there.
pub(in crate::update) fn is_broken(error: &FetchError) -> bool {
    matches!(error.kind, FetchErrorKind::NotFound | FetchErrorKind::Corrupt)
}

/// Says what compressed files cost that come as what is inside them.
pub(in crate::update) fn tell_rebuilding(links: &[ChainArchive<'_>], monitor: &dyn Monitor) {
    let headers = || links.iter().map(|link| link.listing.header());
    let files: u64 = headers().map(|header| header.rebuilt).sum();
    let bytes = headers().fold(0u64, |sum, header| sum.saturating_add(header.rebuilt_bytes));
    if files > 0 {
        let seconds = headers().map(Header::rebuild_seconds).sum::<f64>();
        monitor.note(format!(
            "{files} compressed files are made again of {bytes} bytes of what is inside them: about {seconds:.1} s of one processor"
        ));
    }
}

/// Paths that go and whose content, or its successor, comes elsewhere: renames do not count as
/// deletions, nor do the directories that only held what was renamed.
pub(in crate::update) fn renamed(
    base: &Manifest,
    target: &Manifest,
    links: &[ChainArchive<'_>],
) -> usize {
    let reused = links.iter().flat_map(|link| {
        let sources = link
            .listing
            .groups()
            .iter()
            .flat_map(|group| &group.sources)
            .map(|source| source.digest);
        sources.chain(link.listing.known().iter().map(|known| known.digest))
    });
    let reused: HashSet<Digest> = reused.collect();
    let mut paths: HashSet<TreePath> = HashSet::new();
    for entry in gone(base, target) {
        if !entry.file().is_some_and(|(_, digest)| reused.contains(&digest)) {
            continue;
        }
        let mut at = Some(entry.path.clone());
        while let Some(path) = at.filter(|path| target.get(path).is_none()) {
            at = path.parent();
            if !paths.insert(path) {
                break;
            }
        }
    }
    paths.len()
}
