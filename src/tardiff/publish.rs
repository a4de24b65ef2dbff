//! Scans an image or an override, and publishes it if it has changed.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::TreeInput;
use super::notice::TardiffNotice;
use super::prune::prune;
use super::sign;
use crate::catalog::{ArchiveKind, Catalog, Publish, RepoPath};
use crate::host::{KeyDir, KeysError, collect_keys, read_key_files};
use crate::image::Layer;
use crate::publish::{
    ExistingRepository, HeadClones, LockedStore, PublishError, PublishInput, PublishPolicy,
    PublishResult, Published, RepositoryMode, Reuse, SignedPart, Signing, Store, Validity,
    find_private_files, prepare, publish_again,
};
use crate::report::Monitor;
use crate::root::Root;
use crate::scan::{self, Cache, Scan, ScanError};
use crate::signature::{KeyId, KeySet, SignatureError};
use crate::signing::Signer;

/// A publish to be done.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// The image or the override.
    pub layer: Layer,
    /// Its tree.
    pub tree: PathBuf,
    /// The repository.
    pub repo: PathBuf,
    /// Label for people.
    pub label: Option<String>,
    /// Choice and form of the archives.
    pub policy: PublishPolicy,
    /// Number of generations to keep; `None` for all.
    pub keep: Option<usize>,
    /// Time for which pruned files remain.
    pub prune_grace: Duration,
    /// Readers of the repository; `None` for those of the present head.
    pub repository_mode: Option<RepositoryMode>,
    /// Serial of the publish; `None` for the next one.
    pub serial: Option<u64>,
    /// Whether files are read even if they look unchanged since the last scan.
    pub read_all: bool,
}

/// Result of a publish.
#[derive(Clone, Debug)]
pub enum PublishOutcome {
    /// The tree is the head already.
    Unchanged(Publish),
    /// There is a new head.
    Published {
        /// Its entry of the catalog.
        publish: Publish,
        /// Archives that were written for it.
        archives: Vec<PublishedArchive>,
    },
}

/// An archive that a publish has written.
#[derive(Clone, Debug)]
pub struct PublishedArchive {
    /// Its path in the repository.
    pub file: RepoPath,
    /// Size in bytes.
    pub size: u64,
    /// Serial of the base of a diff; `None` for a full archive.
    pub base_serial: Option<u64>,
}

/// Publishes the tree, unless it is the head of its catalog already.
pub fn publish(
    request: &PublishRequest,
    signing: Signing,
    monitor: &dyn Monitor,
) -> Result<PublishOutcome, PublishError> {
    let root = Root::open(&request.tree).map_err(ScanError::from)?;
    scan::refuse_pseudo_mounts(&root)?;
    let store = Store::open(&request.repo, &request.layer);
    let mut locked = LockedStore::lock(store, request.repository_mode)?.with_signing(signing);

    // Scan the tree and read the repository at the same time.
    let cache_path = request.repo.join(".scan").join(request.layer.repository_path());
    let cache = if request.read_all { Cache::default() } else { Cache::load(&cache_path) };
    let (scan, existing) =
        rayon::join(|| scan::scan(&root, &cache, monitor), || ExistingRepository::read(&locked));
    let (scan, existing) = (scan?, existing?);
    let before = existing.published().cloned();
    locked.signing().check(before.as_ref(), locked.store())?;
    warn_of_other_keys(&locked, before.as_ref(), monitor);
    if let Some(before) = &before {
        warn_of_new_keys(locked.signing(), before, monitor);
    }
    let old_catalog = before.as_ref().map(|before| before.catalog.clone());
    // Nodes keep their keys if an old image is published again.
    let generation = scan.manifest().id();
    if !old_catalog.as_ref().is_some_and(|catalog| catalog.is_superseded(generation)) {
        locked.set_image_keys(find_keys(&root, &request.layer, locked.signing())?);
    }

    let input = PublishInput {
        manifest: scan.manifest(),
        content: &TreeInput(&root),
        label: request.label.as_deref(),
        serial: request.serial,
    };
    let prepared = prepare(&locked, existing, input, &request.policy, monitor)?;

    // The published tree must be the tree that was scanned.
    let (unchanged, saved) = rayon::join(|| scan.recheck(&root), || save_cache(&scan, &cache_path));
    unchanged?;
    if let Err(error) = saved {
        monitor.warn(TardiffNotice::ScanCacheUnwritable { path: &cache_path, error });
    }

    let Some(prepared) = prepared else {
        let layer = request.layer.clone();
        let before = before.ok_or(PublishError::NothingPublished(layer))?;
        return publish_unchanged(&locked, before, request, monitor);
    };
    if request.repository_mode.is_none() && locked.mode() == RepositoryMode::Open {
        let files = find_private_files(scan.manifest());
        if let [first, more @ ..] = files.as_slice() {
            monitor.warn(TardiffNotice::PrivateFiles { first, more: more.len() });
        }
    }
    let result = prepared.commit()?;

    if request.policy.deltas {
        let cloned = HeadClones::open(locked.store())
            .update(scan.manifest(), |entry| root.open_file(&entry.path).map_err(|e| e.source));
        if let Err(error) = cloned {
            monitor.warn(TardiffNotice::HeadNotCloned(error));
        }
    }
    if let Some(keep) = request.keep {
        prune(&locked, result.accepted.clone(), keep, request.prune_grace, monitor)?;
    }
    Ok(published(result, old_catalog.as_ref()))
}

/// Renews the head of an unchanged tree, or publishes it again under the serial that is wanted.
fn publish_unchanged(
    locked: &LockedStore,
    before: Published,
    request: &PublishRequest,
    monitor: &dyn Monitor,
) -> Result<PublishOutcome, PublishError> {
    let Some(serial) = request.serial else {
        let newest = before.catalog.head().clone();
        renew(locked, before)?;
        return Ok(PublishOutcome::Unchanged(newest));
    };

    let accepted = locked.accept(before, Reuse::NextCatalog)?;
    let result = publish_again(locked, &accepted, serial, request.label.as_deref())?;
    if let Some(keep) = request.keep {
        prune(locked, result.accepted.clone(), keep, request.prune_grace, monitor)?;
    }
    Ok(published(result, None))
}

/// Reads the public keys by which nodes of an image will verify it; `None` if they keep theirs.
///
/// Nodes make their keys exactly those of the image's directory, even if it has none. Only a node
/// without any key accepts an unsigned head.
fn find_keys(
    root: &Root,
    layer: &Layer,
    signing: &Signing,
) -> Result<Option<KeySet>, PublishError> {
    let Layer::Image(_) = layer else { return Ok(None) };
    let files = read_key_files(root, &KeyDir::ALL)?;
    let keys = collect_keys(&files, |path| root.show(path))?;

    let directory = root.stat(&KeyDir::Publish.path()).map_err(KeysError::from)?;
    let is_verified = signing.signs_heads() || keys.requires_signature();
    Ok(directory.filter(|_| is_verified).map(|_| keys))
}

/// Warns if none of the publisher's keys has signed the catalog that a publish continues.
///
/// The new generation is that of the scanned tree. Older ones, and the serial, are taken over.
pub(super) fn warn_of_other_keys(
    locked: &LockedStore,
    before: Option<&Published>,
    monitor: &dyn Monitor,
) {
    let signing = locked.signing();
    let keys = signing.accepted_keys();
    // A program with an unknown key verifies nothing; another warning names it.
    if signing.publish.is_none() || keys.publish_keys().next().is_none() {
        return;
    }
    if let Some(error) = before.and_then(|before| before.verify_catalog(&keys).err()) {
        monitor.warn(TardiffNotice::CatalogOfOtherKey { layer: locked.store().layer(), error });
    }
}

/// Warns if a key signs now that has not signed before: perhaps the nodes do not have it yet.
pub fn warn_of_new_keys(signing: &Signing, before: &Published, monitor: &dyn Monitor) {
    let layer = &before.head.layer;
    let id = |signer: &Option<Signer>| signer.as_ref().and_then(Signer::public_key).map(|k| k.id());
    let is_new = |key: &KeyId, known: &[KeyId]| !known.is_empty() && !known.contains(key);
    let (publish, head) = (id(&signing.publish), id(&signing.head));

    if let Some(key) = publish.filter(|key| is_new(key, &before.catalog_keys)) {
        monitor.warn(TardiffNotice::NewKey { layer, part: SignedPart::Catalog, key });
    }
    // Keys that sign catalogs may sign heads.
    let known = [before.head_keys.as_slice(), before.catalog_keys.as_slice()].concat();
    if let Some(key) = head.filter(|key| is_new(key, &known)) {
        monitor.warn(TardiffNotice::NewKey { layer, part: SignedPart::Head, key });
    }
}

/// Signs the head of an unchanged layer, or issues it again before it expires.
pub(super) fn renew(locked: &LockedStore, before: Published) -> Result<(), PublishError> {
    let signing = locked.signing();
    if signing.publish.is_some() && before.catalog_keys.is_empty() {
        let layer = locked.store().layer().clone();
        let source = SignatureError::Unsigned;
        return Err(PublishError::NotAccepted { layer, part: SignedPart::Catalog, source });
    }
    if before.head.expires.is_some() || signing.validity != Validity::AsBefore {
        sign::refresh(locked, &locked.accept(before, Reuse::NextHead)?)?;
    }
    Ok(())
}

/// Stores the results of the scan, so that the next scan skips unchanged files.
fn save_cache(scan: &Scan, path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    scan.cache().save(path)
}

/// Adds the serials of the bases, which the catalog of before has.
fn published(result: PublishResult, old_catalog: Option<&Catalog>) -> PublishOutcome {
    let archives = result.new_archives.into_iter().map(|archive| PublishedArchive {
        base_serial: match archive.kind {
            ArchiveKind::Full { .. } => None,
            ArchiveKind::Diff { base, .. } => old_catalog
                .and_then(|catalog| catalog.publish_of(base))
                .map(|publish| publish.serial),
        },
        file: archive.file.file,
        size: archive.file.size,
    });
    PublishOutcome::Published { publish: result.publish, archives: archives.collect() }
}
