//! Archives of a chain: their listings, their download, and the stage filled from them.

use std::collections::HashSet;
use std::sync::Arc;

use crate::apply::stage::Stage;
use crate::apply::stage::fill;
use crate::apply::stage::unpack::ArchiveInput;
use crate::catalog::{Archive, FileRef};
use crate::diff_archive::{
    ArchiveError, ArchiveLimits, FrameCompression, FrameHead, FrameTable, Header, Listing,
    read_listing,
};
use crate::digest::Digest;
use crate::fetch::{FetchError, GrowingFile, Repository};
use crate::manifest::{Manifest, removed_entries};
use crate::plan::{self, UpdatePlan};
use crate::report::Monitor;
use crate::tree_path::TreePath;
use crate::update::error::ArchiveFault;
use crate::update::notice::TransactionNotice;
use crate::update::run::Run;
use crate::update::source::published::{PublishedImage, is_unusable};
use crate::update::strategy::fetch_by_digest;
use crate::update::strategy::head_update::HeadUpdate;
use crate::update::transaction::error::TransactionError;

/// An archive of a chain, with its listing.
pub(super) struct ChainArchive<'a> {
    archive: &'a Archive,
    listing: Listing,
    table: Arc<FrameTable>,
    repository: &'a Repository,
    compression: FrameCompression,
    /// The archive itself, as far as it is downloaded.
    file: GrowingFile,
}

/// Marks unfinished downloads as failed on drop.
///
/// Also wakes readers of downloads that will never start.
struct FailOnDrop<'d, 'a>(&'d [ChainArchive<'a>]);

impl<'a> ChainArchive<'a> {
    /// Fetches the listing of an archive; returns the target to which it leads from `base`.
    fn open(
        repository: &'a Repository,
        archive: &'a Archive,
        base: &Manifest,
    ) -> Result<(ChainArchive<'a>, Manifest), TransactionError> {
        let name = archive.file.file.as_str();
        let unusable = |fault: ArchiveFault| TransactionError::ArchiveUnusable {
            name: name.to_owned(),
            fault,
        };
        let compression = FrameCompression::from_name(name)
            .ok_or_else(|| unusable(ArchiveFault::UnknownCompression))?;
        let head = repository
            .fetch_frame(&archive.file, &archive.first_frame)
            .map_err(|error| download_error(archive, error))?;

        let head = FrameHead::from_verified(head, archive.file.size, compression)
            .map_err(|fault| unusable(ArchiveError::from(fault).into()))?;
        let listing = read_listing(&head, &ArchiveLimits::default())
            .map_err(|error| unusable(error.into()))?;
        let target = listing.target_of(base).map_err(|error| unusable(error.into()))?;
        if target.id() != archive.kind.target() {
            return Err(unusable(ArchiveFault::OtherTarget));
        }

        let (table, file) = (Arc::clone(head.table()), GrowingFile::default());
        Ok((ChainArchive { archive, listing, table, repository, compression, file }, target))
    }

    /// Returns the listing, and the file in the repository.
    pub fn listed_file(&self) -> (&Listing, &FileRef) {
        (&self.listing, &self.archive.file)
    }

    /// Returns the archive as input of the unpacker, which may read it while it downloads.
    pub fn input(&self) -> ArchiveInput<'_> {
        ArchiveInput {
            listing: &self.listing,
            file: &self.file,
            table: &self.table,
            compression: self.compression,
            name: self.archive.file.file.as_str(),
        }
    }
}

/// Converts a download error: a file that the server lacks or damaged allows another chain.
pub(super) fn download_error(archive: &Archive, error: FetchError) -> TransactionError {
    if is_unusable(&error) {
        let name = archive.file.file.to_string();
        return TransactionError::ArchiveUnusable { name, fault: error.into() };
    }
    error.into()
}

/// Fetches the listings of a chain; returns the target to which it leads from `base`.
pub(super) fn open_chain<'a>(
    repository: &'a Repository,
    chain: impl Iterator<Item = &'a Archive>,
    base: &Manifest,
) -> Result<(Vec<ChainArchive<'a>>, Manifest), TransactionError> {
    let mut archives = Vec::new();
    let mut manifest = base.clone();
    for archive in chain {
        let (opened, target) = ChainArchive::open(repository, archive, &manifest)?;
        archives.push(opened);
        manifest = target;
    }
    Ok((archives, manifest))
}

/// Downloads and verifies all archives, one after the other; returns the first that failed.
pub(super) fn download_chain<'a>(
    archives: &[ChainArchive<'a>],
    monitor: &dyn Monitor,
) -> Result<(), (&'a Archive, FetchError)> {
    let _fail = FailOnDrop(archives);
    for archive in archives {
        archive
            .repository
            .fetch_into(&archive.file, &archive.archive.file, monitor)
            .map_err(|error| (archive.archive, error))?;
    }
    Ok(())
}

/// Cancels unfinished downloads.
pub(super) fn cancel_downloads(archives: &[ChainArchive<'_>]) {
    archives.iter().for_each(|archive| archive.file.cancel());
}

/// Downloads the chains from the recorded overrides to the published ones.
///
/// Archives that cannot be used are reported, and their contents are fetched by digest instead.
pub(super) fn fetch_override_chains<'a>(
    update: &HeadUpdate<'a>,
) -> Result<Vec<ChainArchive<'a>>, TransactionError> {
    let monitor = update.run().monitor;
    let warn = |name: &str, fault: &ArchiveFault| {
        monitor.warn(TransactionNotice::ArchiveUnusable { name, fault });
    };

    let mut downloaded = Vec::new();
    for layer in update.transaction.overrides {
        let (Some(published), Some(recorded)) = (layer.published(), &layer.recorded) else {
            continue;
        };
        let Some(chain) = choose_chain(published, recorded) else { continue };
        let archives = match open_chain(&published.repository, chain.into_iter(), recorded) {
            Ok((archives, _)) => archives,
            Err(TransactionError::ArchiveUnusable { name, fault }) => {
                warn(&name, &fault);
                continue;
            }
            Err(error) => return Err(error),
        };
        match download_chain(&archives, monitor) {
            Ok(()) => downloaded.extend(archives),
            Err((archive, error)) => warn(archive.file.file.as_str(), &error.into()),
        }
    }
    Ok(downloaded)
}

/// Returns the archives that lead from `recorded` to the head of `published`.
fn choose_chain<'a>(
    published: &'a PublishedImage,
    recorded: &Manifest,
) -> Option<Vec<&'a Archive>> {
    let catalog = &published.catalog;
    let plan = plan::choose(Some(recorded.id()), catalog, &HashSet::new());
    let UpdatePlan::Diffs(chain) = plan else { return None };
    chain
        .diffs()
        .iter()
        .map(|diff: &Archive| catalog.archives.iter().find(|archive| archive.file == diff.file))
        .collect()
}

/// Fills a stage from the tree, from complete archives, then from the repository by digest.
pub(super) fn fill_from_archives<'d, 'a: 'd>(
    update: &HeadUpdate<'_>,
    stage: &Stage<'_>,
    archives: impl Iterator<Item = &'d ChainArchive<'a>>,
) -> Result<(), TransactionError> {
    let live = update.recorded_contents();
    fill::from_live(stage, &live)?;
    let inputs: Vec<_> = archives.map(ChainArchive::input).collect();
    fill::from_chain(stage, &live, &inputs, update.run().request.rebuild_jobs)?;
    fetch_by_digest::fill_missing(update, stage, &live)
}

/// Reports the time that recompression will take.
pub(super) fn report_recompression(archives: &[ChainArchive<'_>], run: &Run<'_>) {
    let headers = || archives.iter().map(|archive| archive.listing.header());
    let files: u64 = headers().map(|header| header.rebuilt).sum();
    if files > 0 {
        let bytes = headers().fold(0u64, |sum, header| sum.saturating_add(header.rebuilt_bytes));
        let seconds = headers().map(Header::rebuild_seconds).sum();
        let jobs = run.request.rebuild_jobs;
        run.monitor.note(TransactionNotice::Recompression { files, bytes, seconds, jobs });
    }
}

/// Counts the removed paths whose content, or its successor, is at another path of the target.
///
/// Renames do not count as deletions, nor do directories that only held renamed files.
pub(super) fn count_renamed(
    installed: &Manifest,
    target: &Manifest,
    archives: &[ChainArchive<'_>],
) -> usize {
    let mut reused: HashSet<Digest> = HashSet::new();
    for archive in archives {
        let sources = archive.listing.groups().iter().flat_map(|group| &group.sources);
        reused.extend(sources.map(|source| source.digest));
        reused.extend(archive.listing.known().iter().map(|known| known.digest));
    }

    let mut renamed: HashSet<TreePath> = HashSet::new();
    for entry in removed_entries(installed, target) {
        if !entry.file().is_some_and(|(_, digest)| reused.contains(&digest)) {
            continue;
        }
        let mut current = Some(entry.path.clone());
        while let Some(path) = current.filter(|path| target.get(path).is_none()) {
            current = path.parent();
            if !renamed.insert(path) {
                break;
            }
        }
    }
    renamed.len()
}

impl Drop for FailOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|archive| archive.file.fail());
    }
}
