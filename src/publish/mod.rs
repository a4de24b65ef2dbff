//! Publishes a generation of an image, or of an override, into a repository on this machine.
//!
//! A reader sees the repository either before or after a publish, never in between. All new files
//! are written to `.new/`, read back, verified and synced; then archives and manifest are renamed
//! into place, and the catalog last. The rename of the catalog is the commit point. A publish that
//! is killed before it leaves only unreferenced files.
//!
//! Each content of the head can be had from the repository, whole or through at most [`MAX_DEPTH`]
//! deltas. If diffs alone do not achieve that, the publish also writes a full archive; otherwise a
//! node far behind could not reach the head.

// A repository belongs to the server; it is not a target tree.
#![allow(clippy::disallowed_methods)]

mod archived_contents;
mod archives;
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
mod store;

use std::io;

use jiff::Timestamp;

use crate::catalog::{Archive, ArchiveKind, Catalog, FileRef, Publish, RepoPath};
use crate::delta::MAX_DEPTH;
use crate::diff_archive::ContentProvider;
use crate::diff_archive::content_index::ContentIndex;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::generation::GenerationId;
use crate::manifest::Manifest;
use crate::report::Monitor;

use archives::ArchiveWriter;

pub(crate) use content_sources::{NoContents, SpooledContents};
pub use delta_depth::DeltaDepth;
pub use error::PublishError;
pub use existing::ExistingRepository;
pub use head_clones::HeadClones;
pub(crate) use image_excludes::read_image_excludes;
pub use locked_store::LockedStore;
pub use policy::PublishPolicy;
pub(crate) use private_files::find_private_files;
pub use repository_mode::{RepositoryMode, UnknownMode};
pub use store::Store;
pub(crate) use store::compression;

/// A generation to be published.
#[derive(Clone, Copy)]
pub struct PublishInput<'i> {
    /// Its entries.
    pub manifest: &'i Manifest,
    /// The contents of its files.
    pub content: &'i dyn ContentProvider,
    /// A label that `list` and `show` print.
    pub label: Option<&'i str>,
}

/// A publish whose files are written and verified, but not yet visible.
#[must_use = "nothing is published before `commit`"]
pub struct PreparedPublish<'l> {
    locked: &'l LockedStore,
    catalog: Catalog,
    new_files: Vec<RepoPath>,
    old_indices: Vec<RepoPath>,
    new_archives: Vec<Archive>,
}

/// A completed publish.
#[derive(Clone, Debug)]
pub struct PublishResult {
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
    let ExistingRepository { catalog: before, valid, head } = existing;
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
    let serial = before.as_ref().map_or(0, |catalog| catalog.serial) + 1;
    let publish = Publish {
        serial,
        generation,
        label: image.label.map(str::to_owned),
        time: now,
        entries: image.manifest.len() as u64,
        bytes: image.manifest.bytes(),
        manifest,
    };
    let new_archives: Vec<Archive> = new_archives.into_iter().map(|new| new.archive).collect();
    new_files.extend(new_archives.iter().map(|archive| archive.file.file.clone()));

    let content = write_index(locked, serial, &index, &mut new_files)?;
    let mut publishes =
        before.as_ref().map(|catalog| catalog.publishes.clone()).unwrap_or_default();
    publishes.push(publish);

    // A reader of the previous catalog may still request its index: that one stays for now.
    let recent = before.and_then(|catalog| catalog.content).map(|content| content.file);
    let old_indices = old_indices(locked.store(), [Some(&content.file), recent.as_ref()])?;

    let catalog = Catalog {
        image: locked.store().layer().name().clone(),
        serial,
        published: now,
        expires: None,
        content: Some(content),
        publishes,
        archives: valid.archives.into_iter().chain(new_archives.iter().cloned()).collect(),
    };
    Ok(Some(PreparedPublish { locked, catalog, new_files, old_indices, new_archives }))
}

impl PreparedPublish<'_> {
    /// Makes the publish visible: the rename of the catalog is the commit point.
    pub fn commit(self) -> Result<PublishResult, PublishError> {
        self.locked.rename_into_place(&self.new_files)?;
        self.locked.commit(&self.catalog)?;

        for file in &self.old_indices {
            self.locked.remove(file)?;
        }
        Ok(PublishResult { publish: self.catalog.head().clone(), new_archives: self.new_archives })
    }
}

/// Writes the manifest, or reuses the file of an earlier publish of the same generation.
fn write_manifest(
    locked: &LockedStore,
    before: Option<&Catalog>,
    manifest: &Manifest,
    level: i32,
) -> Result<(FileRef, Vec<RepoPath>), PublishError> {
    let earlier = before
        .and_then(|catalog| catalog.publish_of(manifest.id()))
        .map(|publish| &publish.manifest);
    if let Some(file) = earlier.filter(|file| locked.store().read_checked(file).is_ok()) {
        return Ok((file.clone(), Vec::new()));
    }

    let name = repo_path(&format!("manifests/{}.mtree.zst", manifest.id()));
    let mut new_files = Vec::new();
    let file = write_small(locked, name, &mut new_files, |to| manifest.write_zstd(to, level))?;
    Ok((file, new_files))
}

/// Writes the content index under a name that no file has.
///
/// The index of an older catalog keeps its name, and so does one that a prune wrote for the same
/// serial: a reader of that catalog may be fetching it.
pub(crate) fn write_index(
    locked: &LockedStore,
    serial: u64,
    index: &ContentIndex,
    new_files: &mut Vec<RepoPath>,
) -> Result<FileRef, PublishError> {
    let plain = repo_path(&format!("content-{serial}.idx.zst"));
    let numbered = (1u32..).map(|number| repo_path(&format!("content-{serial}.{number}.idx.zst")));
    let file = std::iter::once(plain.clone())
        .chain(numbered)
        .find(|file| !locked.store().path(file).exists())
        .unwrap_or(plain);

    write_small(locked, file, new_files, |to| index.write_zstd(to).map(drop))
}

/// Writes a file that fits in memory.
fn write_small(
    locked: &LockedStore,
    file: RepoPath,
    new_files: &mut Vec<RepoPath>,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> Result<FileRef, PublishError> {
    let mut bytes = Vec::new();
    let mut to = locked.create(&file)?;
    write(&mut bytes)
        .and_then(|()| io::Write::write_all(&mut to, &bytes))
        .map_err(|e| PublishError::file("write", &locked.store().path(&file), e))?;

    locked.sync(&file, &to)?;
    new_files.push(file.clone());
    Ok(FileRef { file, size: bytes.len() as u64, sha256: Digest::of(&bytes) })
}

/// The first file of `manifest` whose content the repository cannot produce.
pub fn find_unreachable<'m>(manifest: &'m Manifest, depths: &DeltaDepth) -> Option<&'m Entry> {
    let is_reachable = |digest: &Digest| depths.get(digest).is_some_and(|n| n <= MAX_DEPTH);
    let mut entries = manifest.entries().iter();
    entries.find(|entry| entry.file().is_some_and(|(_, digest)| !is_reachable(&digest)))
}

/// Index files of catalogs that no reader can still have.
fn old_indices(store: &Store, keep: [Option<&RepoPath>; 2]) -> Result<Vec<RepoPath>, PublishError> {
    let mut files = store.files()?;
    files.retain(|file| {
        let name = file.as_str();
        let is_index = name.starts_with("content-") && name.ends_with(".idx.zst");
        is_index && !keep.contains(&Some(file))
    });
    Ok(files)
}

/// The name of an archive in a repository.
fn archive_name(kind: ArchiveKind, extension: &str) -> RepoPath {
    let short = GenerationId::short;
    match kind {
        ArchiveKind::Full { target } => repo_path(&format!("full/{}.{extension}", short(&target))),
        ArchiveKind::Diff { base, target } => {
            repo_path(&format!("diffs/{}-{}.{extension}", short(&base), short(&target)))
        }
    }
}

/// A name composed in this module. It consists of letters, digits, dots and dashes, so it is valid.
#[allow(clippy::expect_used)]
fn repo_path(text: &str) -> RepoPath {
    RepoPath::new(text).expect("a name made of hexadecimal digits is valid")
}
