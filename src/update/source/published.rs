//! A published image or override: its checked catalog and its repository.

use std::collections::HashSet;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::apply::downloaded::DownloadedUpdate;
use crate::apply::stage::live_source::LiveSource;
use crate::catalog::{Catalog, FileRef, IndexFile, Publish};
use crate::digest::Digest;
use crate::fetch::content::{ContentError, ContentEstimate, ContentStore, Missing, Sink};
use crate::fetch::{FetchError, FetchErrorKind, RangeCost, Ranges, Repository, Side};
use crate::generation::GenerationId;
use crate::image::Layer;
use crate::manifest::{MAX_TEXT, Manifest};
use crate::report::{Event, Job, Monitor};
use crate::state::SeenCatalog;
use crate::update::error::{FreshnessError, Refusal, UpdateError};
use crate::update::notice::TransactionNotice;
use crate::update::request::SignedFiles;
use crate::update::run::Run;

/// Largest compressed manifest that is fetched: ten million entries need less.
const MAX_STORED: u64 = 1 << 30;

/// A catalog that passed its checks, and the repository that it describes.
pub(in crate::update) struct PublishedImage {
    pub repository: Repository,
    pub catalog: Catalog,
    /// Reason that its head may not be the newest.
    pub not_fresh: Option<FreshnessError>,
    /// Head and catalog as they were received.
    pub signed: SignedFiles,
    /// Record of the catalog for the state.
    pub seen: SeenCatalog,
    /// The downloaded update that has its manifest, and in whose place no file is fetched.
    pub downloaded: Option<Arc<DownloadedUpdate>>,
}

impl PublishedImage {
    /// Fetches the manifest of `publish` and checks that it is the generation's.
    pub fn manifest(&self, publish: &Publish) -> Result<Manifest, UpdateError> {
        if let Some(downloaded) = &self.downloaded {
            return read_stored_manifest(downloaded, &self.signed.layer, publish.generation);
        }
        let stored = self.repository.fetch_small(&publish.manifest, MAX_STORED)?;
        let manifest = Manifest::read_published(stored.as_slice(), publish.entries)
            .map_err(|error| corrupt_manifest(publish, &error.to_string()))?;

        if manifest.id() != publish.generation {
            let why = "it is not the manifest of the generation that names it";
            return Err(corrupt_manifest(publish, why).into());
        }
        Ok(manifest)
    }

    /// Returns the content index, if contents may be fetched.
    fn content_index(&self) -> Option<&IndexFile> {
        self.catalog.content.as_ref().filter(|_| self.downloaded.is_none())
    }

    /// Passes to `sink` each content of `wanted` that the repository has.
    ///
    /// Missing or damaged files of the repository are no errors: the caller sees which contents
    /// are still missing.
    pub fn fetch_contents(
        &self,
        run: &Run<'_>,
        live: &LiveSource,
        wanted: &[(Digest, u64)],
        sink: &Sink<'_>,
    ) -> Result<(), UpdateError> {
        let Some(index) = self.content_index() else { return Ok(()) };
        let ranges = MeteredRanges::new(&self.repository, run.monitor);
        run.monitor.event(Event::Started { job: Job::Download, total: 0 });
        let archives = &self.catalog.archives;
        let result = ContentStore::open(index, archives, &ranges, live)
            .and_then(|store| store.fetch(wanted, sink));
        run.monitor.event(Event::Finished { job: Job::Download });

        match result {
            Ok(missing) => warn_of_files(&missing, run.monitor),
            Err(ContentError::Fetch(error)) if !is_unusable(&error) => return Err(error.into()),
            Err(error) => run.monitor.warn(TransactionNotice::RepositoryFileUnusable(&error)),
        }
        Ok(())
    }

    /// Reads a content of a digest and a size; `None` if the repository does not have it.
    pub fn read_content(
        &self,
        run: &Run<'_>,
        live: &LiveSource,
        (digest, size): (Digest, u64),
    ) -> Result<Option<Vec<u8>>, UpdateError> {
        let found = OnceLock::new();
        self.fetch_contents(run, live, &[(digest, size)], &|content| {
            let mut bytes = Vec::new();
            content.take(size + 1).read_to_end(&mut bytes)?;
            if Digest::of(&bytes) == digest {
                found.get_or_init(|| bytes);
            }
            Ok(())
        })?;
        Ok(found.into_inner())
    }

    /// Estimates the bytes that [`fetch_contents`](Self::fetch_contents) transfers.
    ///
    /// Ranges of the files in `downloaded` cost nothing, because the run has them by then.
    pub fn estimate_contents(
        &self,
        live: &LiveSource,
        wanted: &[(Digest, u64)],
        downloaded: &[&FileRef],
    ) -> Result<ContentEstimate, UpdateError> {
        let nothing = || ContentEstimate {
            bytes: 0,
            missing: wanted.iter().map(|(digest, _)| *digest).collect(),
        };
        let Some(index) = self.content_index() else { return Ok(nothing()) };
        let is_ranged = self.repository.range_cost() == RangeCost::Range;
        let index_bytes = self.repository.missing_bytes(&index.file);

        let mut present: HashSet<Digest> = downloaded.iter().map(|file| file.sha256).collect();
        let mut cost = |file: &FileRef, length: u64| {
            if present.contains(&file.sha256) {
                0
            } else if is_ranged {
                length
            } else if file.sha256 == index.file.sha256 {
                index_bytes
            } else {
                present.insert(file.sha256);
                self.repository.missing_bytes(file)
            }
        };
        let archives = &self.catalog.archives;
        let store = ContentStore::open(index, archives, &self.repository, live);
        let estimate = store.and_then(|store| store.estimate(wanted, &mut cost));
        match estimate {
            Err(ContentError::Fetch(error)) if !is_unusable(&error) => Err(error.into()),
            Err(_) => Ok(nothing()),
            Ok(estimate) => Ok(estimate),
        }
    }
}

/// Reads the manifest of a layer of a downloaded update.
pub(in crate::update) fn read_stored_manifest(
    downloaded: &DownloadedUpdate,
    layer: &Layer,
    generation: GenerationId,
) -> Result<Manifest, UpdateError> {
    let mut layers = downloaded.record.layers_of(layer.kind());
    let stored = layers
        .find(|stored| stored.name == *layer.name() && stored.generation == Some(generation))
        .and_then(|stored| stored.manifest)
        .ok_or(Refusal::NotDownloaded { generation })?;
    let bytes = downloaded.read_data(stored, MAX_STORED).map_err(Refusal::Downloaded)?;
    let manifest = Manifest::read_zstd(bytes.as_slice(), MAX_TEXT).ok();
    let manifest = manifest.filter(|manifest| manifest.id() == generation);
    Ok(manifest.ok_or(Refusal::NotDownloaded { generation })?)
}

/// Ranges of a repository, whose transfers are reported as downloads.
struct MeteredRanges<'a> {
    repository: &'a Repository,
    monitor: &'a dyn Monitor,
    /// Transferred bytes that were reported.
    reported: AtomicU64,
}

impl<'a> MeteredRanges<'a> {
    fn new(repository: &'a Repository, monitor: &'a dyn Monitor) -> Self {
        MeteredRanges { repository, monitor, reported: AtomicU64::new(repository.range_bytes()) }
    }

    /// Reports the bytes that `read` transfers.
    fn meter<T>(&self, read: impl FnOnce(&'a Repository) -> T) -> T {
        let range = read(self.repository);
        let transferred = self.repository.range_bytes();
        let reported = self.reported.fetch_max(transferred, Ordering::Relaxed);
        if transferred > reported {
            self.monitor.event(Event::Advanced { job: Job::Download, by: transferred - reported });
        }
        range
    }
}

impl Ranges for MeteredRanges<'_> {
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        self.meter(|repository| repository.range(file, offset, length))
    }

    fn range_again(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        self.meter(|repository| repository.range_again(file, offset, length))
    }
}

/// Names each file that did not supply its contents.
fn warn_of_files(missing: &[Missing], monitor: &dyn Monitor) {
    let mut named = HashSet::new();
    for Missing { reason, .. } in missing {
        if reason.file().is_some_and(|file| named.insert(file)) {
            monitor.warn(TransactionNotice::RepositoryFileUnusable(reason));
        }
    }
}

/// Checks if the server lacks a file or has another one, so that another source may help.
pub(in crate::update) fn is_unusable(error: &FetchError) -> bool {
    matches!(error.kind, FetchErrorKind::NotFound | FetchErrorKind::Corrupt)
}

fn corrupt_manifest(publish: &Publish, why: &str) -> FetchError {
    FetchError::new(FetchErrorKind::Corrupt, Side::Server, publish.manifest.file.as_str(), why)
}
