//! Publishes a generation of an image, or of an override, into a repository on this machine.
//!
//! What it promises: a reader sees the repository as it was or as it becomes. Everything new is
//! written beside its place, read back and checked, and synced; then renamed, archives and manifest
//! first and the catalog last. Every content of the head can be had from the repository, whole or by at
//! most [`MAX_DEPTH`] deltas; where diffs alone would not do, a full archive is written.

// A repository is the server's own, no target tree.
#![allow(clippy::disallowed_methods)]

mod archives;
mod content_sources;
mod delta_depth;
mod frames;
mod policy;
mod snapshot;
mod store;

use std::io;

use jiff::Timestamp;

use crate::catalog::{Archive, ArchiveKind, Catalog, CatalogError, FileRef, Publish, RepoPath};
use crate::delta::MAX_DEPTH;
use crate::diff_archive::content_index::ContentIndex;
use crate::diff_archive::{ArchiveError, ContentProvider, DeltaGroup, WriteError};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::generation::GenerationId;
use crate::image::Layer;
use crate::manifest::{Manifest, ManifestError};
use crate::report::Monitor;
use crate::scan::ScanError;

use archives::Archives;

pub(crate) use archives::groups_of;
pub(crate) use content_sources::{NoContents, SpooledContents};
pub use delta_depth::DeltaDepth;
pub use policy::PublishPolicy;
pub use snapshot::Snapshot;
pub(crate) use store::compression;
pub use store::{Locked, Store};

/// A generation that is to be published.
#[derive(Clone, Copy)]
pub struct PublishInput<'i> {
    /// What it holds.
    pub manifest: &'i Manifest,
    /// Its files.
    pub content: &'i dyn ContentProvider,
}

/// Everything that a publish needs, written and checked, but not yet visible.
#[must_use = "nothing is published before `commit`"]
pub struct Prepared<'l> {
    locked: &'l Locked,
    catalog: Catalog,
    new: Vec<RepoPath>,
    old_indices: Vec<RepoPath>,
    made: Vec<Archive>,
}

/// What was published.
#[derive(Clone, Debug)]
pub struct PublishResult {
    /// The publish.
    pub publish: Publish,
    /// The archives that were written for it.
    pub made: Vec<Archive>,
}

/// Why an image was not published, or a repository not read.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A file of the repository.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// Which.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Its catalog.
    #[error("{path}: {source}")]
    Catalog {
        /// Where it lies.
        path: String,
        /// What is wrong with it.
        source: CatalogError,
    },
    /// One of its manifests.
    #[error("{path}: {source}")]
    Manifest {
        /// Where it lies.
        path: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// Somebody else is at it.
    #[error("another publish or prune of {0} is running")]
    Busy(Layer),
    /// The name is another module's.
    #[error(
        "{0} cannot be published: an image server uses this name for something else; give the image another"
    )]
    Taken(Layer),
    /// There is nothing to read.
    #[error("nothing is published of {0}")]
    NothingPublished(Layer),
    /// There is nothing to read in the whole repository.
    #[error("nothing is published in {0}")]
    Empty(String),
    /// An archive cannot be written.
    #[error("cannot write {file}: {source}")]
    Write {
        /// Which.
        file: RepoPath,
        /// Why not.
        source: WriteError,
    },
    /// An archive that was written is not what it should be.
    #[error("{file} was written, but does not read back: {source}")]
    ReadBack {
        /// Which.
        file: RepoPath,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// One of its archives.
    #[error("{file}: {source}")]
    Archive {
        /// Which.
        file: RepoPath,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// Two archives would have one name, which is made of the first digits of the generations.
    #[error("{file} is the archive of another generation; the ids begin with the same digits")]
    NameTaken {
        /// The name.
        file: RepoPath,
    },
    /// The image cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The new state of the repository would have a hole.
    #[error("the content of {path} could not be had from the repository")]
    Unreachable {
        /// The first file of the head that would be lost.
        path: String,
    },
}

/// What a repository holds before a publish, read while the image itself is still being read.
pub struct ExistingRepository {
    catalog: Option<Catalog>,
    known: ValidArchives,
    /// The manifest of the head.
    head: Option<Manifest>,
}

impl ExistingRepository {
    /// Reads it. What is damaged does not serve, and is told once something is published.
    pub fn read(locked: &Locked) -> Result<Self, PublishError> {
        let store = locked.store();
        let Some(catalog) = store.catalog()? else {
            return Ok(ExistingRepository {
                catalog: None,
                known: ValidArchives::default(),
                head: None,
            });
        };
        let (known, head) =
            rayon::join(|| ValidArchives::of(store, &catalog), || store.manifest(catalog.head()));
        // One that cannot be read is told of where it is needed.
        Ok(ExistingRepository { known, head: head.ok(), catalog: Some(catalog) })
    }
}

/// Writes and checks what it takes to publish `image`; `None` where it is the head already.
pub fn prepare<'l>(
    locked: &'l Locked,
    before: ExistingRepository,
    image: PublishInput<'_>,
    label: Option<String>,
    policy: &PublishPolicy,
    monitor: &dyn Monitor,
) -> Result<Option<Prepared<'l>>, PublishError> {
    let store = locked.store();
    let ExistingRepository { catalog: before, known, head } = before;
    let target = image.manifest.id();
    if before.as_ref().is_some_and(|catalog| catalog.head().generation == target) {
        return Ok(None);
    }
    known.faults.iter().for_each(|fault| monitor.warn(fault.clone()));
    let level = policy.effort.manifest_level();
    let archives = Archives { locked, image, policy, head: head.as_ref(), monitor };
    let (manifest, made) = rayon::join(
        || write_manifest(locked, before.as_ref(), image.manifest, level),
        || archives.make(before.as_ref(), &known),
    );
    let ((manifest, mut new), (made, index)) = (manifest?, made?);

    let now = Timestamp::now();
    let publish = Publish {
        serial: before.as_ref().map_or(0, |catalog| catalog.serial) + 1,
        generation: target,
        label,
        time: now,
        entries: image.manifest.len() as u64,
        bytes: image.manifest.bytes(),
        manifest,
    };
    new.extend(made.iter().map(|made| made.archive.file.file.clone()));
    let content = write_index(locked, publish.serial, &index, &mut new)?;
    let mut publishes =
        before.as_ref().map(|catalog| catalog.publishes.clone()).unwrap_or_default();
    let serial = publish.serial;
    publishes.push(publish);
    // A reader that has the catalog before this one may still ask for its index.
    let recent = before.and_then(|catalog| catalog.content).map(|content| content.file);
    let old_indices = old_indices(store, [Some(&content.file), recent.as_ref()])?;
    let catalog = Catalog {
        image: store.layer().name().clone(),
        serial,
        published: now,
        expires: None,
        content: Some(content),
        publishes,
        archives: known
            .archives
            .into_iter()
            .chain(made.iter().map(|made| made.archive.clone()))
            .collect(),
    };
    let made = made.into_iter().map(|made| made.archive).collect();
    Ok(Some(Prepared { locked, catalog, new, old_indices, made }))
}

impl Prepared<'_> {
    /// Makes it visible: the catalog's rename is the moment.
    pub fn commit(self) -> Result<PublishResult, PublishError> {
        self.locked.keep(&self.new)?;
        self.locked.commit(&self.catalog)?;
        for file in &self.old_indices {
            self.locked.remove(file)?;
        }
        Ok(PublishResult { publish: self.catalog.head().clone(), made: self.made })
    }
}

/// What the repository holds before a publish.
#[derive(Default)]
struct ValidArchives {
    /// The archives that are there, as far as can be told from their sizes and listings.
    archives: Vec<Archive>,
    /// The delta groups of all of them.
    groups: Vec<DeltaGroup>,
    index: ContentIndex,
    /// What is wrong with it, in sentences; for a publish alone, which mends it.
    faults: Vec<String>,
}

impl ValidArchives {
    /// An archive that is gone or damaged is named and no longer listed; an index that cannot be read
    /// holds nothing, which makes the publish write a full archive.
    fn of(store: &Store, catalog: &Catalog) -> Self {
        let mut known = ValidArchives::default();
        match store.index(catalog) {
            Ok(index) => known.index = index,
            Err(error) => known.faults.push(format!("{error}; it is made anew")),
        }
        for archive in &catalog.archives {
            let groups = store
                .read(&archive.file)
                .and_then(|_| groups_of(store, std::slice::from_ref(archive)));
            match groups {
                Ok(groups) => {
                    known.groups.extend(groups);
                    known.archives.push(archive.clone());
                }
                Err(error) => known.faults.push(format!("an archive is no longer listed: {error}")),
            }
        }
        known
    }
}

fn write_manifest(
    locked: &Locked,
    before: Option<&Catalog>,
    manifest: &Manifest,
    level: i32,
) -> Result<(FileRef, Vec<RepoPath>), PublishError> {
    let again = before
        .and_then(|catalog| catalog.publish_of(manifest.id()))
        .map(|publish| &publish.manifest);
    if let Some(file) = again.filter(|file| locked.store().read_checked(file).is_ok()) {
        return Ok((file.clone(), Vec::new()));
    }
    let name = name(&format!("manifests/{}.mtree.zst", manifest.id()));
    let mut new = Vec::new();
    let file = write_small(locked, name, &mut new, |to| manifest.write_zstd(to, level))?;
    Ok((file, new))
}

pub(crate) fn write_index(
    locked: &Locked,
    serial: u64,
    index: &ContentIndex,
    new: &mut Vec<RepoPath>,
) -> Result<FileRef, PublishError> {
    // The one of an older catalog stays as it is, also where a prune wrote that of the same serial.
    let plain = name(&format!("content-{serial}.idx.zst"));
    let others = (1u32..).map(|number| name(&format!("content-{serial}.{number}.idx.zst")));
    let is_free = |file: &RepoPath| !locked.store().path(file).exists();
    let file = std::iter::once(plain.clone()).chain(others).find(is_free).unwrap_or(plain);
    write_small(locked, file, new, |to| index.write_zstd(to))
}

fn write_small(
    locked: &Locked,
    file: RepoPath,
    new: &mut Vec<RepoPath>,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> Result<FileRef, PublishError> {
    let mut bytes = Vec::new();
    let mut to = locked.create(&file)?;
    let failed = |e| store::failed("write", &locked.store().path(&file), e);
    write(&mut bytes).and_then(|()| io::Write::write_all(&mut to, &bytes)).map_err(failed)?;
    locked.sync(&file, &to)?;
    new.push(file.clone());
    Ok(FileRef { file, size: bytes.len() as u64, sha256: Digest::of(&bytes) })
}

/// A file of `manifest` whose content cannot be had.
pub fn unreached<'m>(manifest: &'m Manifest, reach: &DeltaDepth) -> Option<&'m Entry> {
    let reached = |digest: &Digest| reach.depth(digest).is_some_and(|depth| depth <= MAX_DEPTH);
    manifest
        .entries()
        .iter()
        .find(|entry| entry.file().is_some_and(|(_, digest)| !reached(&digest)))
}

fn old_indices(store: &Store, keep: [Option<&RepoPath>; 2]) -> Result<Vec<RepoPath>, PublishError> {
    let is_index = |file: &RepoPath| {
        file.as_str().starts_with("content-") && file.as_str().ends_with(".idx.zst")
    };
    let files = store.files()?;
    Ok(files.into_iter().filter(|file| is_index(file) && !keep.contains(&Some(file))).collect())
}

/// The name of an archive of a repository.
fn archive_name(kind: ArchiveKind, extension: &str) -> RepoPath {
    let short = |id: GenerationId| id.short();
    match kind {
        ArchiveKind::Full { target } => name(&format!("full/{}.{extension}", short(target))),
        ArchiveKind::Diff { base, target } => {
            name(&format!("diffs/{}-{}.{extension}", short(base), short(target)))
        }
    }
}

/// Names that are made here consist of letters, digits, dots and dashes.
#[allow(clippy::expect_used)]
fn name(text: &str) -> RepoPath {
    RepoPath::new(text).expect("a name made of hexadecimal digits is a good one")
}
