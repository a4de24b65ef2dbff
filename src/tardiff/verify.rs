//! Verifies a repository: all that the catalog names exists and is as it says.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::list::layers;
use super::notice::TardiffNotice;
use super::prune::{is_written_by_publish, listed_files};
use crate::catalog::{Archive, ArchiveKind, Catalog, FileRef, Publish};
use crate::diff_archive::content_index::ContentIndex;
use crate::diff_archive::{ArchiveLimits, FramedFile, Sources, verify_diff, verify_full};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::fetch::content::{ContentStore, VerifyingReader};
use crate::generation::GenerationId;
use crate::host::HostAssignment;
use crate::image::Layer;
use crate::manifest::Manifest;
use crate::publish::{NoContents, PublishError, Published, SpooledContents, Store, compression};
use crate::report::Monitor;
use crate::signature::KeySet;

/// Result of a verification.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Number of manifests that were read.
    pub manifests: usize,
    /// Number of archives that were read to their end.
    pub archives: usize,
    /// Number of contents of the head that the repository supplied by digest; 1 for a cluster.
    pub contents: usize,
    /// Heads and catalogs, with the keys that their signatures name.
    pub heads: Vec<Published>,
    /// One sentence per fault.
    pub faults: Vec<String>,
}

/// Verifies all layers of `repo`; each fault begins with the name of its layer.
///
/// Signatures are verified only if `keys` are given.
pub fn verify_all(
    repo: &Path,
    keys: Option<&KeySet>,
    monitor: &dyn Monitor,
) -> Result<Findings, PublishError> {
    let mut all = Findings::default();
    let mut is_empty = true;
    for layer in layers(repo)? {
        let findings = match verify(repo, &layer, keys, monitor) {
            Ok(findings) => findings,
            Err(PublishError::NothingPublished(_)) => continue,
            Err(error) => Findings { faults: vec![error.to_string()], ..Findings::default() },
        };
        is_empty = false;
        all.add(&layer, findings);
    }

    if is_empty {
        return Err(PublishError::Empty { repository: repo.display().to_string() });
    }
    Ok(all)
}

/// Verifies one layer: sizes, digests, heads, frames, all contents of all archives.
///
/// Also each diff has to turn its base into its target, and the repository has to supply each
/// content of the head. Signatures are verified only if `keys` are given.
pub fn verify(
    repo: &Path,
    layer: &Layer,
    keys: Option<&KeySet>,
    monitor: &dyn Monitor,
) -> Result<Findings, PublishError> {
    let store = Store::open(repo, layer);
    let published =
        store.published()?.ok_or_else(|| PublishError::NothingPublished(layer.clone()))?;
    let catalog = &published.catalog;
    let mut findings = Findings::default();
    match keys {
        Some(keys) => {
            let faults = store.verify_signatures(&published, keys);
            findings.faults.extend(faults.iter().map(PublishError::to_string));
            findings.faults.extend(find_expiry(&published));
        }
        None => findings.faults.extend(find_half_signature(&published)),
    }
    if let Some(file) = &catalog.cluster_file {
        report_unlisted_files(&store, &published, monitor)?;
        match verify_cluster(&store, file) {
            Ok(()) => findings.contents = 1,
            Err(error) => findings.faults.push(error.to_string()),
        }
        findings.heads.push(published);
        return Ok(findings);
    }
    let index = store.index(catalog).unwrap_or_else(|error| {
        findings.faults.push(error.to_string());
        ContentIndex::default()
    });
    let verification = Verification { store: &store, catalog, index: &index, monitor };

    for publish in &catalog.publishes {
        match verification.verify_manifest(publish) {
            Ok(()) => findings.manifests += 1,
            Err(error) => findings.faults.push(error.to_string()),
        }
    }
    for archive in &catalog.archives {
        match verification.verify_archive(archive) {
            Ok(()) => findings.archives += 1,
            Err(error) => findings.faults.push(format!("{}: {error}", archive.file.file)),
        }
    }
    match verification.verify_head() {
        Ok((contents, missing)) => {
            findings.contents = contents;
            findings.faults.extend(missing);
        }
        Err(error) => findings.faults.push(error.to_string()),
    }

    report_unlisted_files(&store, &published, monitor)?;
    findings.heads.push(published);
    Ok(findings)
}

impl Findings {
    fn add(&mut self, layer: &Layer, other: Findings) {
        self.manifests += other.manifests;
        self.archives += other.archives;
        self.contents += other.contents;
        self.heads.extend(other.heads);
        self.faults.extend(other.faults.into_iter().map(|fault| format!("{layer}: {fault}")));
    }
}

/// Reason that something is at fault; it is only printed.
type VerifyFault = Box<dyn std::error::Error>;

/// The parts of a repository that refer to each other.
struct Verification<'v> {
    store: &'v Store,
    catalog: &'v Catalog,
    index: &'v ContentIndex,
    monitor: &'v dyn Monitor,
}

impl Verification<'_> {
    fn verify_manifest(&self, publish: &Publish) -> Result<(), VerifyFault> {
        let manifest = self.store.manifest(publish)?;
        let counts = (manifest.len() as u64, manifest.bytes());
        if counts != (publish.entries, publish.bytes) {
            let file = &publish.manifest.file;
            return Err(format!("{file}: its counts differ from those of the catalog").into());
        }
        Ok(())
    }

    fn verify_archive(&self, archive: &Archive) -> Result<(), VerifyFault> {
        let file = FramedFile {
            bytes: self.store.read_checked(&archive.file)?,
            size: archive.file.size,
            compression: compression(archive)?,
            head: Some(archive.first_frame),
        };

        match archive.kind {
            ArchiveKind::Full { target } => {
                Ok(verify_full(file, &self.manifest(target)?, self.monitor)?)
            }
            ArchiveKind::Diff { base, .. } => {
                let base = self.manifest(base)?;
                let sources = self.delta_sources(archive)?;
                let sources = sources.as_ref().map(|sources| sources as &dyn Sources);
                let limits = ArchiveLimits::default();
                let listing = verify_diff(file, &limits, sources, self.monitor)?;
                listing.target_of(&base)?;
                Ok(())
            }
        }
    }

    /// The sources of the deltas; `None` if the repository does not have all of them.
    fn delta_sources(&self, archive: &Archive) -> Result<Option<SpooledContents>, VerifyFault> {
        let listing = self.store.listing(archive)?;
        let wanted: HashSet<(Digest, u64)> = listing
            .groups()
            .iter()
            .flat_map(|group| &group.sources)
            .map(|source| (source.digest, source.size))
            .collect();

        let mut spooled = SpooledContents::new(unnamed_file()?);
        let missing = spooled.extract(wanted, &self.contents(), |_| true)?;
        if missing.is_empty() {
            return Ok(Some(spooled));
        }
        self.monitor.note(TardiffNotice::DeltasNotVerified { file: &archive.file.file });
        Ok(None)
    }

    fn manifest(&self, generation: GenerationId) -> Result<Manifest, VerifyFault> {
        let publish = self.catalog.publish_of(generation).ok_or_else(|| {
            format!("the catalog does not list generation {}", generation.short())
        })?;
        Ok(self.store.manifest(publish)?)
    }

    fn contents(&self) -> ContentStore<'_> {
        ContentStore::new(self.index, &self.catalog.archives, self.store, &NoContents)
    }

    /// Reads each content of the head from the repository; returns their number, and the faults.
    fn verify_head(&self) -> Result<(usize, Vec<String>), VerifyFault> {
        let head = self.manifest(self.catalog.head().generation)?;
        let wanted = contents_of(&head);
        let sink =
            |content: &mut VerifyingReader<'_>| io::copy(content, &mut io::sink()).map(|_| ());
        let missing = self.contents().fetch(&wanted, &sink)?;
        let faults = missing
            .iter()
            .map(|content| format!("content {}: {}", content.digest, content.reason))
            .collect();
        Ok((wanted.len() - missing.len(), faults))
    }
}

/// The fault of a head that nodes refuse by their clock.
fn find_expiry(published: &Published) -> Option<String> {
    let end = published.head.expires.filter(|end| *end < Timestamp::now())?;
    Some(format!("the head has expired at {end:.0}; run 'si_tardiff refresh'"))
}

/// The fault of a head and a catalog of which only one is signed.
fn find_half_signature(published: &Published) -> Option<String> {
    match (published.head_keys.is_empty(), published.catalog_keys.is_empty()) {
        (true, false) => Some("the catalog is signed, and its head is not".to_owned()),
        (false, true) => Some("the head is signed, and its catalog is not".to_owned()),
        (true, true) | (false, false) => None,
    }
}

/// Verifies the file of a cluster, which each node has to be able to read.
fn verify_cluster(store: &Store, file: &FileRef) -> Result<(), VerifyFault> {
    let mut content = Vec::new();
    store.read_checked(file)?.take(file.size).read_to_end(&mut content)?;
    Ok(HostAssignment::check_all(file.file.as_str(), &content)?)
}

/// Reports files that neither this catalog nor an earlier one names.
fn report_unlisted_files(
    store: &Store,
    published: &Published,
    monitor: &dyn Monitor,
) -> Result<(), PublishError> {
    let mut named: HashSet<_> = listed_files(published).collect();
    named.extend(store.files_named_since(published, Timestamp::MIN));
    for file in store.files()? {
        if is_written_by_publish(&file) && !named.contains(&file) {
            monitor.note(TardiffNotice::NotInCatalog { file: &file });
        }
    }
    Ok(())
}

/// Digests and sizes of all contents, each once.
fn contents_of(manifest: &Manifest) -> Vec<(Digest, u64)> {
    let files = manifest.entries().iter().filter_map(Entry::file);
    let mut wanted: Vec<(Digest, u64)> = files.map(|(size, digest)| (digest, size)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// A file without a name, in a temporary directory: the repository may be read-only.
fn unnamed_file() -> io::Result<File> {
    let place = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(Path::new(&place), flags, mode) {
        // Before Linux 3.11, and on filesystems without such files, a name is removed at once.
        Err(Errno::ISDIR | Errno::OPNOTSUPP) => {
            let path = Path::new(&place).join(format!(".si_tardiff.{}", std::process::id()));
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let file = rustix::fs::open(&path, flags, mode)?;
            std::fs::remove_file(path)?;
            Ok(file.into())
        }
        opened => Ok(opened?.into()),
    }
}
