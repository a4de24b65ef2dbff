//! Publishes a `cluster.txt`: one file, with a head and a catalog like those of an image.

use jiff::Timestamp;

use crate::catalog::Catalog;
use crate::digest::Digest;
use crate::host::HostAssignment;
use crate::image::Layer;
use crate::publish::{Accepted, LockedStore, PublishError, next_serial, repo_path};

/// Publishes `content` as the newest `cluster.txt`; `None` if that is published already.
///
/// `file` names it in messages, and `serial` is `None` for the next one.
pub fn publish_cluster(
    locked: &LockedStore,
    file: &str,
    content: &[u8],
    serial: Option<u64>,
) -> Result<Option<Accepted>, PublishError> {
    // A file that stops all nodes must not be published.
    HostAssignment::check_all(file, content)?;
    let before = locked.store().published()?;
    let old = before.as_ref().map(|before| &before.catalog);
    let is_published = old
        .and_then(|catalog| catalog.cluster_file.as_ref())
        .is_some_and(|file| file.sha256 == Digest::of(content));
    if is_published && serial.is_none() {
        return Ok(None);
    }

    let serial = next_serial(locked.store(), old, serial)?;
    let (new, file) = locked
        .write_small("cluster", content, |digits| repo_path(&format!("files/{digits}.txt")))?;
    let catalog = Catalog {
        layer: Layer::Cluster,
        serial,
        revision: 0,
        issued: Timestamp::now(),
        previous: before.as_ref().map(|before| before.head.catalog),
        content: None,
        publishes: Vec::new(),
        archives: Vec::new(),
        unreadable: Vec::new(),
        cluster_file: Some(file),
    };
    locked.rename_into_place([&new])?;
    locked.commit(catalog, before.as_ref()).map(Some)
}
