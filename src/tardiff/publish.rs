//! Scans an image or an override and publishes it if it has changed.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use super::TreeInput;
use super::prune::prune;
use crate::catalog::Publish;
use crate::image::Layer;
use crate::publish::{
    ExistingRepository, HeadClones, LockedStore, PublishError, PublishInput, PublishPolicy,
    PublishResult, Store, prepare,
};
use crate::report::Monitor;
use crate::root::Root;
use crate::scan::{self, Cache, ScanError};

/// What to publish, from where and how.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// The image or the override.
    pub layer: Layer,
    /// Its tree.
    pub tree: PathBuf,
    /// The repository.
    pub repo: PathBuf,
    /// A word of the administrator's.
    pub label: Option<String>,
    /// Which archives, and how they are written.
    pub policy: PublishPolicy,
    /// How many generations the repository keeps; all without it.
    pub keep: Option<usize>,
    /// Whether files that look unchanged since the last scan are read all the same.
    pub read_all: bool,
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum PublishOutcome {
    /// It is the head already.
    Unchanged(Publish),
    /// There is a new head.
    Published(PublishResult),
}

/// Publishes the tree, unless it is the head of its catalog already.
pub fn publish(
    request: &PublishRequest,
    monitor: &dyn Monitor,
) -> Result<PublishOutcome, PublishError> {
    let root = Root::open(&request.tree).map_err(ScanError::from)?;
    let locked = LockedStore::lock(Store::open(&request.repo, &request.layer))?;
    let scans = request.repo.join(".scan");
    let remembered = scans.join(request.layer.place());
    let cache = if request.read_all { Cache::default() } else { Cache::load(&remembered) };
    let (scan, before) =
        rayon::join(|| scan::scan(&root, &cache, monitor), || ExistingRepository::read(&locked));
    let (scan, before) = (scan?, before?);
    let image = PublishInput {
        manifest: scan.manifest(),
        content: &TreeInput(&root),
        label: request.label.as_deref(),
    };
    let prepared = prepare(&locked, before, image, &request.policy, monitor)?;
    let remember = || {
        let place = remembered.parent().unwrap_or(&scans);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(place)
            .and_then(|()| scan.cache().save(&remembered))
    };
    let (unchanged, saved) = rayon::join(|| scan.recheck(&root), remember);
    unchanged?;
    if let Err(e) = saved {
        monitor.warn(format!(
            "the next scan will read every file: cannot write {}: {e}",
            remembered.display()
        ));
    }
    let Some(prepared) = prepared else {
        let catalog = locked.store().catalog()?;
        let head = catalog.as_ref().map(|catalog| catalog.head().clone());
        return head
            .map(PublishOutcome::Unchanged)
            .ok_or_else(|| PublishError::NothingPublished(request.layer.clone()));
    };
    let published = prepared.commit()?;
    if request.policy.deltas {
        let cloned = HeadClones::open(locked.store())
            .update(scan.manifest(), |entry| root.open_file(&entry.path).map_err(|e| e.source));
        if let Err(e) = cloned {
            monitor.warn(format!("the next publish will read its base out of the archives: {e}"));
        }
    }
    if let Some(keep) = request.keep {
        prune(&locked, keep, monitor)?;
    }
    Ok(PublishOutcome::Published(published))
}
