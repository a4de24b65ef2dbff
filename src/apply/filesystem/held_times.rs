//! Times as the filesystems of a tree hold them.
//!
//! Manifests have times to the nanosecond. Before a manifest is compared with the tree, each time
//! becomes the one that the filesystem of its path stores. So a time that cannot be held is no
//! difference that every run would try to repair. A time outside the range is a deviation.

use std::collections::BTreeMap;

use crate::apply::filesystem::Filesystems;
use crate::entry::{Entry, Mtime};
use crate::manifest::Manifest;
use crate::root::{Root, RootError, TimeSupport};
use crate::tree_path::TreePath;

/// Times that each filesystem of a tree can hold.
#[derive(Clone, Debug)]
pub struct HeldTimes {
    filesystems: Filesystems,
    /// By number of the filesystem.
    supports: Vec<TimeSupport>,
}

/// A filesystem that rounds the times of paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoarseFilesystem {
    /// Its mount root.
    pub mount_root: TreePath,
    /// Number of tracked paths whose times are rounded.
    pub paths: usize,
}

impl HeldTimes {
    /// Probes all filesystems except limited ones, whose times are compared in another way.
    pub fn probe(root: &Root, filesystems: &Filesystems) -> Result<Self, RootError> {
        let supports = filesystems
            .mount_roots()
            .iter()
            .map(|mount_root| {
                if filesystems.is_limited(mount_root) {
                    return Ok(TimeSupport::EXACT);
                }
                match root.below(mount_root) {
                    // A btrfs subvolume or a mount of an older run may be gone.
                    Err(error) if error.is_absent() => Ok(TimeSupport::EXACT),
                    answer => answer.map(|filesystem| filesystem.time_support()),
                }
            })
            .collect::<Result<_, RootError>>()?;
        Ok(HeldTimes { filesystems: filesystems.clone(), supports })
    }

    /// The time that the object at `path` shows after it was given `time`.
    pub fn held(&self, path: &TreePath, time: Mtime) -> Mtime {
        self.support_of(path).held(time)
    }

    /// Whether an object at `path` with the time `shown` may have been given one outside the range.
    pub fn is_limit(&self, path: &TreePath, shown: Mtime) -> bool {
        let (first, last) = self.support_of(path).range();
        shown.seconds == first || shown.seconds == last
    }

    /// The reason of a deviation: the range of the times at `path`.
    pub fn limit_reason(&self, path: &TreePath) -> String {
        let (first, last) = self.support_of(path).range();
        format!("its filesystem holds times from {} to {}", date_of(first), date_of(last))
    }

    /// Whether any filesystem rounds times.
    pub fn is_any_coarse(&self) -> bool {
        self.supports.iter().any(|support| support.is_coarse())
    }

    /// Support of the filesystem of the root, which has the receive directory.
    pub fn of_root(&self) -> TimeSupport {
        self.supports.first().copied().unwrap_or(TimeSupport::EXACT)
    }

    /// The manifest with the times that the tree will show.
    pub fn apply(&self, manifest: &Manifest) -> Manifest {
        if self.supports.iter().all(|support| *support == TimeSupport::EXACT) {
            return manifest.clone();
        }
        manifest.with_times(|entry| self.held(&entry.path, entry.meta.mtime))
    }

    /// Paths whose times no object on their filesystem can have, with the reason.
    pub fn out_of_range(&self, manifest: &Manifest) -> BTreeMap<TreePath, String> {
        let entries = manifest.entries().iter();
        let is_outside = |entry: &&Entry| {
            self.held(&entry.path, entry.meta.mtime).seconds != entry.meta.mtime.seconds
        };
        entries
            .filter(is_outside)
            .map(|entry| (entry.path.clone(), self.limit_reason(&entry.path)))
            .collect()
    }

    /// Filesystems that round times of `manifest`.
    pub fn coarse_filesystems(&self, manifest: &Manifest) -> Vec<CoarseFilesystem> {
        let mut counts = vec![0; self.supports.len()];
        if self.is_any_coarse() {
            for entry in manifest.entries() {
                let at = self.filesystems.filesystem_at(&entry.path);
                let held = self.supports[at].held(entry.meta.mtime);
                counts[at] += usize::from(held.nanos != entry.meta.mtime.nanos);
            }
        }

        let rounded = self.filesystems.mount_roots().iter().zip(counts);
        rounded
            .zip(&self.supports)
            .filter(|((_, paths), support)| *paths > 0 && support.is_coarse())
            .map(|((mount_root, paths), _)| CoarseFilesystem {
                mount_root: mount_root.clone(),
                paths,
            })
            .collect()
    }

    fn support_of(&self, path: &TreePath) -> TimeSupport {
        match self.supports.as_slice() {
            [only] => *only,
            supports => supports[self.filesystems.filesystem_at(path)],
        }
    }
}

fn date_of(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%F").to_string(),
        Err(_) => seconds.to_string(),
    }
}
