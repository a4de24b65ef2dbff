//! Publishes the `cluster.txt` of an image server into the repository.

use std::path::PathBuf;
use std::time::Duration;

use super::prune::prune;
use super::publish::{renew, warn_of_new_keys, warn_of_other_keys};
use crate::host::{MAX_FILE, named_file};
use crate::image::Layer;
use crate::publish::{LockedStore, PublishError, RepositoryMode, Signing, Store, publish_cluster};
use crate::report::Monitor;

/// A `cluster.txt` to be published.
#[derive(Clone, Debug)]
pub struct ClusterRequest {
    /// The file.
    pub file: PathBuf,
    /// The repository.
    pub repo: PathBuf,
    /// Time for which files of earlier publishes remain.
    pub prune_grace: Duration,
    /// Readers of the repository; `None` for those of the present head.
    pub repository_mode: Option<RepositoryMode>,
    /// Serial of the publish; `None` for the next one.
    pub serial: Option<u64>,
}

/// Result of a publish of a `cluster.txt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterOutcome {
    /// The file is published already.
    Unchanged,
    /// There is a new head.
    Published {
        serial: u64,
        /// Size in bytes.
        size: u64,
    },
}

/// Publishes the file, unless it is the published one, and removes those that no node needs.
pub fn publish(
    request: &ClusterRequest,
    signing: Signing,
    monitor: &dyn Monitor,
) -> Result<ClusterOutcome, PublishError> {
    let name = request.file.display().to_string();
    let content = named_file::read(&request.file, MAX_FILE + 1)
        .map_err(|source| PublishError::File { operation: "read", path: name.clone(), source })?;
    let store = Store::open(&request.repo, &Layer::Cluster);
    let locked = LockedStore::lock(store, request.repository_mode)?.with_signing(signing);
    let before = locked.store().published()?;
    locked.signing().check(before.as_ref(), locked.store())?;
    warn_of_other_keys(&locked, before.as_ref(), monitor);
    if let Some(before) = &before {
        warn_of_new_keys(locked.signing(), before, monitor);
    }

    let published = publish_cluster(&locked, &name, &content, request.serial)?;

    let Some(accepted) = published else {
        if let Some(before) = before {
            renew(&locked, before)?;
        }
        return Ok(ClusterOutcome::Unchanged);
    };
    let serial = accepted.published().catalog.serial;
    prune(&locked, accepted, 1, request.prune_grace, monitor)?;
    Ok(ClusterOutcome::Published { serial, size: content.len() as u64 })
}
