//! Publishes a generation of an image, or of an override, into a repository on this machine.
//!
//! A reader sees the repository either before or after a publish, never in between. All new files
//! are written to `.new/`, read back, verified and synced; then they are renamed into place, and
//! the head last. The rename of the head is the commit point. A publish that is killed before it
//! leaves only unreferenced files. No other file is ever replaced: the name of each contains its
//! digest.
//!
//! Each content of the head can be had from the repository, whole or through at most [`MAX_DEPTH`]
//! deltas. If diffs alone do not achieve that, the publish also writes a full archive; otherwise a
//! node far behind could not reach the head.

// A repository belongs to the server; it is not a target tree.
#![allow(clippy::disallowed_methods)]

mod accepted;
mod archived_contents;
mod archives;
mod cluster;
mod content_sources;
mod delta_depth;
mod error;
mod existing;
mod head_clones;
mod image_excludes;
mod locked_store;
mod notice;
mod policy;
mod private_files;
mod repository_mode;
mod signing;
mod store;

use jiff::Timestamp;

use crate::catalog::{
    Archive, ArchiveKind, Catalog, FileRef, IndexFile, MAX_SERIAL_STEP, Publish, RepoPath,
};
use crate::delta::MAX_DEPTH;
use crate::diff_archive::ContentProvider;
use crate::diff_archive::content_index::ContentIndex;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::generation::GenerationId;
use crate::manifest::Manifest;
use crate::report::Monitor;

use archives::ArchiveWriter;

pub use accepted::{Accepted, Reuse};
pub use cluster::publish_cluster;
pub(crate) use content_sources::{NoContents, SpooledContents};
pub use delta_depth::DeltaDepth;
pub use error::{PublishError, SignedPart};
pub use existing::ExistingRepository;
pub use head_clones::HeadClones;
pub(crate) use image_excludes::read_image_excludes;
pub use locked_store::{LockedStore, NewFile};
pub use policy::PublishPolicy;
pub(crate) use private_files::find_private_files;
pub use repository_mode::{RepositoryMode, UnknownMode};
pub use signing::{BadValidity, Signing, Validity};
pub(crate) use store::compression;
pub use store::{Published, Store};

/// A generation to be published.
#[derive(Clone, Copy)]
pub struct PublishInput<'i> {
    /// Its entries.
    pub manifest: &'i Manifest,
    /// The contents of its files.
    pub content: &'i dyn ContentProvider,
    /// A label that `list` and `show` print.
    pub label: Option<&'i str>,
    /// The serial of the publish; `None` for the next one.
    pub serial: Option<u64>,
}

/// A publish whose files are written and verified, but not yet visible.
#[must_use = "nothing is published before `commit`"]
pub struct PreparedPublish<'l> {
    locked: &'l LockedStore,
    /// The head and catalog that are replaced.
    before: Option<Published>,
    catalog: Catalog,
    new_files: Vec<NewFile>,
    new_archives: Vec<Archive>,
}

/// A completed publish.
#[derive(Clone, Debug)]
pub struct PublishResult {
    /// The new head and catalog.
    pub accepted: Accepted,
    /// The catalog's entry.
    pub publish: Publish,
    /// The archives that were written for it.
    pub new_archives: Vec<Archive>,
}

/// Writes and verifies all files of a publish; `None` if the image is already the head.
pub fn prepare<'l>(
    locked: &'l LockedStore,
    existing: ExistingRepository,
    image: PublishInput<'_>,
    policy: &PublishPolicy,
    monitor: &dyn Monitor,
) -> Result<Option<PreparedPublish<'l>>, PublishError> {
    let ExistingRepository { published, valid, head } = existing;
    let previous = published.as_ref().map(|published| published.head.catalog);
    let before = published.as_ref().map(|published| published.catalog.clone());
    let generation = image.manifest.id();
    if before.as_ref().is_some_and(|catalog| catalog.head().generation == generation) {
        return Ok(None);
    }

    for fault in &valid.faults {
        monitor.warn(fault);
    }

    let level = policy.effort.manifest_level();
    let writer = ArchiveWriter { locked, image, policy, head: head.as_ref(), monitor };
    let (manifest, archives) = rayon::join(
        || write_manifest(locked, before.as_ref(), image.manifest, level),
        || writer.write_all(before.as_ref(), &valid),
    );
    let ((manifest, mut new_files), (new_archives, index)) = (manifest?, archives?);

    let now = Timestamp::now();
    let serial = next_serial(locked.store(), before.as_ref(), image.serial)?;
    let publish = Publish {
        serial,
        generation,
        label: image.label.map(str::to_owned),
        time: now,
        entries: image.manifest.len() as u64,
        bytes: image.manifest.bytes(),
        manifest,
    };
    let (archive_files, new_archives): (Vec<NewFile>, Vec<Archive>) =
        new_archives.into_iter().map(|new| (new.file, new.archive)).unzip();
    new_files.extend(archive_files);

    let (new_index, content) = write_index(locked, &index)?;
    new_files.push(new_index);
    let (mut publishes, unreadable) =
        before.map(|catalog| (catalog.publishes, catalog.unreadable)).unwrap_or_default();
    publishes.push(publish);

    let catalog = Catalog {
        layer: locked.store().layer().clone(),
        serial,
        revision: 0,
        issued: now,
        previous,
        content: Some(content),
        publishes,
        archives: valid.archives.into_iter().chain(new_archives.iter().cloned()).collect(),
        unreadable,
        cluster_file: None,
    };
    Ok(Some(PreparedPublish { locked, before: published, catalog, new_files, new_archives }))
}

impl PreparedPublish<'_> {
    /// Makes the publish visible: the rename of the head is the commit point.
    pub fn commit(self) -> Result<PublishResult, PublishError> {
        self.locked.rename_into_place(&self.new_files)?;
        let publish = self.catalog.head().clone();
        let accepted = self.locked.commit(self.catalog, self.before.as_ref())?;
        Ok(PublishResult { accepted, publish, new_archives: self.new_archives })
    }
}

/// Publishes the generation of the head again, under a larger serial.
pub fn publish_again(
    locked: &LockedStore,
    accepted: &Accepted,
    serial: u64,
    label: Option<&str>,
) -> Result<PublishResult, PublishError> {
    let Published { head, catalog, .. } = accepted.published();
    let serial = next_serial(locked.store(), Some(catalog), Some(serial))?;
    let now = Timestamp::now();
    let newest = catalog.head();
    let label = label.map(str::to_owned).or_else(|| newest.label.clone());
    let publish = Publish { serial, label, time: now, ..newest.clone() };

    let previous = Some(head.catalog);
    let mut catalog = Catalog { serial, revision: 0, issued: now, previous, ..catalog.clone() };
    catalog.publishes.push(publish.clone());
    let written = locked.commit(catalog, Some(accepted.published()))?;
    Ok(PublishResult { accepted: written, publish, new_archives: Vec::new() })
}

/// The serial of a publish: the next one, or a larger one that is wanted.
fn next_serial(
    store: &Store,
    before: Option<&Catalog>,
    wanted: Option<u64>,
) -> Result<u64, PublishError> {
    let present = before.map_or(0, |catalog| catalog.serial);
    let layer = store.layer().clone();
    match wanted {
        Some(wanted) if wanted <= present => {
            Err(PublishError::SmallSerial { layer, wanted, present })
        }
        Some(wanted) if wanted - present > MAX_SERIAL_STEP => {
            Err(PublishError::LargeSerial { layer, wanted, present })
        }
        Some(wanted) => Ok(wanted),
        None => present.checked_add(1).ok_or(PublishError::LastSerial { layer }),
    }
}

/// Writes the manifest, or reuses the file of an earlier publish of the same generation.
fn write_manifest(
    locked: &LockedStore,
    before: Option<&Catalog>,
    manifest: &Manifest,
    level: i32,
) -> Result<(FileRef, Vec<NewFile>), PublishError> {
    let earlier = before
        .and_then(|catalog| catalog.publish_of(manifest.id()))
        .map(|publish| &publish.manifest);
    if let Some(file) = earlier.filter(|file| locked.store().read_checked(file).is_ok()) {
        return Ok((file.clone(), Vec::new()));
    }

    let mut bytes = Vec::new();
    manifest
        .write_zstd(&mut bytes, level)
        .map_err(|e| PublishError::file("write a manifest in", locked.store().dir(), e))?;
    let generation = manifest.id().short();
    let (new, file) = locked.write_small("manifest", &bytes, |digits| {
        repo_path(&format!("manifests/{generation}-{digits}.mtree.zst"))
    })?;
    Ok((file, vec![new]))
}

/// Writes the content index.
pub(crate) fn write_index(
    locked: &LockedStore,
    index: &ContentIndex,
) -> Result<(NewFile, IndexFile), PublishError> {
    let mut bytes = Vec::new();
    let first_frame = index
        .write_zstd(&mut bytes)
        .map_err(|e| PublishError::file("write a content index in", locked.store().dir(), e))?;
    let (new, file) = locked
        .write_small("content", &bytes, |digits| repo_path(&format!("content/{digits}.idx.zst")))?;
    Ok((new, IndexFile { file, first_frame }))
}

/// The first file of `manifest` whose content the repository cannot produce.
pub fn find_unreachable<'m>(manifest: &'m Manifest, depths: &DeltaDepth) -> Option<&'m Entry> {
    let is_reachable = |digest: &Digest| depths.get(digest).is_some_and(|n| n <= MAX_DEPTH);
    let mut entries = manifest.entries().iter();
    entries.find(|entry| entry.file().is_some_and(|(_, digest)| !is_reachable(&digest)))
}

/// The name of an archive before it is published.
fn archive_name(kind: ArchiveKind) -> String {
    let short = GenerationId::short;
    match kind {
        ArchiveKind::Full { target } => format!("full/{}", short(&target)),
        ArchiveKind::Diff { base, target } => {
            format!("diffs/{}-{}", short(&base), short(&target))
        }
    }
}

/// A name composed in this module. It consists of letters, digits, dots and dashes, so it is valid.
#[allow(clippy::expect_used)]
fn repo_path(text: &str) -> RepoPath {
    RepoPath::new(text).expect("a name made of hexadecimal digits is valid")
}
