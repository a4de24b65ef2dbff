//! Disk space of an update: bytes and inodes of each disk.
//!
//! An update is checked by the manifests before archives are fetched, and by the change plan before
//! anything is staged. New files exist beside the old ones, which are retained for a rollback, so
//! that a transaction frees no space before its end.

use std::collections::{BTreeMap, HashMap, HashSet, btree_map};
use std::fmt;

use crate::apply::downloaded::DownloadedUpdate;
use crate::apply::error::{DiskSpaceError, SpaceUnit};
use crate::apply::filesystem::Filesystems;
use crate::apply::plan::{ChangePlan, ContentSource, StagedItem};
use crate::apply::undo;
use crate::digest::Digest;
use crate::entry::{Entry, LeafKind};
use crate::manifest::{Manifest, compare};
use crate::root::mounts::{Mount, RootMount};
use crate::root::{FreeSpace, Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

/// Share of a disk that has to stay free, for the journal, directories and metadata: one in 32.
const SLACK_SHARE: u64 = 32;
/// Fewest and most bytes of this share.
const SLACK_BYTES: [u64; 2] = [1 << 20, 8 << 20];
/// Inodes that have to stay free, for the same purpose.
const SLACK_INODES: u64 = 64;
/// Longest target of a symbolic link that uses no block of its own (ext4).
const MAX_INLINE_TARGET: usize = 59;

/// Space that an update needs on the disks of a tree.
pub struct SpaceRequirement<'a> {
    root: &'a Root,
    filesystems: &'a Filesystems,
    host: Option<&'a RootMount>,
    mounts: &'a [Mount],
    /// Keyed by the first filesystem of each disk.
    by_disk: BTreeMap<usize, DiskRequirement>,
    /// Downloaded copies of contents, by filesystem: their stage needs no space.
    at_hand: HashMap<(usize, Digest), u32>,
}

/// Space that an update needs on one disk.
#[derive(Clone, Copy, Debug)]
struct DiskRequirement {
    available: FreeSpace,
    bytes: u64,
    inodes: u64,
}

/// Lack of space on one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// First filesystem of the disk.
    filesystem: usize,
    /// Its mount root, as shown to a person.
    place: String,
    unit: SpaceUnit,
    needed: u64,
    free: u64,
}

/// Space for files of an update that no manifest names.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtraSpace {
    /// Bytes that are still to be downloaded.
    pub download: u64,
    /// Bytes of the compressed manifest.
    pub manifest: u64,
}

/// Route of new content into the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagingRoute {
    /// Content is written to the stage that needs it.
    Direct,
    /// rsync writes all content to the receive directory, on the filesystem of the root.
    ReceiveDir,
}

impl<'a> SpaceRequirement<'a> {
    /// Requires nothing yet; `host` is the mount of `root`, `mounts` are those below it.
    pub fn new(
        root: &'a Root,
        filesystems: &'a Filesystems,
        host: Option<&'a RootMount>,
        mounts: &'a [Mount],
    ) -> Self {
        let (by_disk, at_hand) = (BTreeMap::new(), HashMap::new());
        SpaceRequirement { root, filesystems, host, mounts, by_disk, at_hand }
    }

    /// Requires nothing for contents of a downloaded update: they are staged as hard links.
    #[must_use]
    pub fn with_downloaded(mut self, downloaded: &DownloadedUpdate) -> Self {
        for (at, mount_root) in self.filesystems.mount_roots().iter().enumerate() {
            let copies = downloaded.copies_on(mount_root).into_iter();
            self.at_hand.extend(copies.map(|(digest, count)| ((at, digest), count)));
        }
        self
    }

    /// Adds the space of an update from `base` to `target`, as far as the manifests show it.
    pub fn add_manifests(
        &mut self,
        base: &Manifest,
        target: &Manifest,
        extra: &ExtraSpace,
    ) -> Result<(), RootError> {
        let changes = compare(base, target);

        let mut groups: HashSet<&TreePath> = HashSet::new();
        for entry in &changes.changed {
            let is_another_link = entry.group().is_some_and(|group| !groups.insert(group));
            let old = base.get(&entry.path);
            if !is_another_link && !old.is_some_and(|old| is_set_in_place(old, entry)) {
                self.add_entry(entry)?;
            }
        }

        // A directory may grow by the name of a new entry.
        let parents: HashSet<TreePath> = changes
            .changed
            .iter()
            .chain(&changes.removed)
            .filter_map(|entry| entry.path.parent())
            .collect();
        for parent in parents {
            self.add(&parent, 1, 0)?;
        }

        // The manifest is stored beside the journal and then in the state directory.
        self.add(&state::file_path("spool"), extra.download, 2)?;
        self.add(&TreePath::root(), extra.manifest, 1)?;
        self.add(&state::file_path(state::STATE_FILE), extra.manifest, 1)
    }

    /// Adds the space of the items to be staged.
    pub fn add_plan(&mut self, plan: &ChangePlan, route: StagingRoute) -> Result<(), RootError> {
        // A filesystem that takes part needs its share of free space, even if nothing is staged.
        for filesystem in plan.participating() {
            self.requirement(filesystem)?;
        }

        for item in &plan.staged_items {
            if self.is_at_hand(item) {
                continue;
            }
            // A hard link needs no inode.
            let inodes = u64::from(!item.is_link());
            self.add_to(item.filesystem, item.bytes(), inodes)?;
            let is_copied = self.disk(item.filesystem) != self.disk(0);
            if route == StagingRoute::ReceiveDir && is_copied {
                self.add_to(0, item.bytes(), 1)?;
            }
        }
        self.add_copied_backups(plan)
    }

    /// Adds the space of backups that have to be copies.
    pub fn add_copied_backups(&mut self, plan: &ChangePlan) -> Result<(), RootError> {
        for (filesystem, copied) in undo::backup::copied_backups(self.root, plan)? {
            self.add_to(filesystem, copied.bytes, copied.inodes)?;
        }
        Ok(())
    }

    /// Adds bytes on the disk of the root.
    pub fn add_bytes(&mut self, bytes: u64) -> Result<(), RootError> {
        self.add_to(0, bytes, 0)
    }

    /// Lists the disks without enough space.
    pub fn shortages(&self) -> Vec<Shortage> {
        let mut shortages = Vec::new();

        for (&filesystem, requirement) in &self.by_disk {
            let DiskRequirement { available, bytes, inodes } = requirement;
            let place = self.root.show(&self.filesystems.mount_roots()[filesystem]);
            let mut compare = |unit, needed, free| {
                if needed > free {
                    let place = place.clone();
                    shortages.push(Shortage { filesystem, place, unit, needed, free });
                }
            };

            let [min_slack, max_slack] = SLACK_BYTES;
            let slack = (available.total / SLACK_SHARE).clamp(min_slack, max_slack);
            compare(SpaceUnit::Bytes, bytes.saturating_add(slack), available.bytes);
            // btrfs creates inodes on demand, and reports none as free.
            if available.has_inodes {
                let needed = inodes.saturating_add(SLACK_INODES);
                compare(SpaceUnit::Inodes, needed, available.inodes);
            }
        }

        shortages
    }

    /// Bytes of the undo set, if its removal frees enough space for all `shortages`.
    pub fn freed_by_undo(&self, shortages: &[Shortage]) -> Result<Option<u64>, RootError> {
        let mut freed: HashMap<usize, (u64, u64)> = HashMap::new();
        for set in undo::disk_usage(self.root, self.filesystems)? {
            let (bytes, inodes) = freed
                .entry(self.disk(self.filesystems.slot_filesystem_of_dir(&set.mount_root)))
                .or_default();
            *bytes += set.bytes;
            *inodes += set.inodes;
        }

        let is_enough = shortages.iter().all(|shortage| {
            let (bytes, inodes) = freed.get(&shortage.filesystem).copied().unwrap_or_default();
            let more = match shortage.unit {
                SpaceUnit::Bytes => bytes,
                SpaceUnit::Inodes => inodes,
            };
            shortage.free.saturating_add(more) >= shortage.needed
        });
        Ok(is_enough.then(|| freed.values().map(|(bytes, _)| bytes).sum()))
    }

    /// Whether an item becomes a hard link of a downloaded copy, which serves no other item then.
    fn is_at_hand(&mut self, item: &StagedItem) -> bool {
        let ContentSource::Content { digest, .. } = &item.source else { return false };
        match self.at_hand.get_mut(&(item.filesystem, *digest)) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    fn add_entry(&mut self, entry: &Entry) -> Result<(), RootError> {
        let filesystem = self.filesystems.slot_filesystem_of(&entry.path);
        let block = self.requirement(filesystem)?.available.block;
        let bytes = match entry.leaf().map(|leaf| &leaf.kind) {
            None => block,
            Some(LeafKind::File { size, .. }) => *size,
            Some(LeafKind::Symlink { target }) if target.len() > MAX_INLINE_TARGET => block,
            Some(_) => 0,
        };
        self.add_to(filesystem, bytes, 1)
    }

    fn add(&mut self, path: &TreePath, bytes: u64, inodes: u64) -> Result<(), RootError> {
        self.add_to(self.filesystems.slot_filesystem_of(path), bytes, inodes)
    }

    fn add_to(&mut self, filesystem: usize, bytes: u64, inodes: u64) -> Result<(), RootError> {
        let requirement = self.requirement(filesystem)?;
        let bytes = bytes.next_multiple_of(requirement.available.block);
        requirement.bytes = requirement.bytes.saturating_add(bytes);
        requirement.inodes = requirement.inodes.saturating_add(inodes);
        Ok(())
    }

    /// The requirement on the disk of a filesystem; its free space is read once.
    fn requirement(&mut self, filesystem: usize) -> Result<&mut DiskRequirement, RootError> {
        let disk = self.disk(filesystem);
        match self.by_disk.entry(disk) {
            btree_map::Entry::Occupied(requirement) => Ok(requirement.into_mut()),
            btree_map::Entry::Vacant(slot) => {
                let available =
                    self.root.below(&self.filesystems.mount_roots()[disk])?.free_space()?;
                Ok(slot.insert(DiskRequirement { available, bytes: 0, inodes: 0 }))
            }
        }
    }

    /// The first filesystem on the same disk: bind mounts and subvolumes share its space.
    fn disk(&self, filesystem: usize) -> usize {
        let device = self.device(filesystem);
        (0..filesystem).find(|&other| self.device(other) == device).unwrap_or(filesystem)
    }

    fn device(&self, filesystem: usize) -> Option<&String> {
        let mount_root = &self.filesystems.mount_roots()[filesystem];
        let mount = self
            .mounts
            .iter()
            .rfind(|mount| *mount_root == mount.at || mount_root.is_below(&mount.at));
        match mount {
            Some(mount) => Some(&mount.device),
            None => self.host.map(|host| &host.device),
        }
    }
}

/// Whether an update sets only metadata in place, so that it stages nothing for this entry.
fn is_set_in_place(old: &Entry, new: &Entry) -> bool {
    if old.is_dir() && new.is_dir() {
        return true;
    }
    let mut old_meta = old.meta.clone();
    old_meta.mtime = new.meta.mtime;
    old.node == new.node && old_meta == new.meta
}

impl From<Shortage> for DiskSpaceError {
    fn from(Shortage { place, unit, needed, free, .. }: Shortage) -> Self {
        DiskSpaceError::TooSmall { place, unit, needed, free }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        DiskSpaceError::from(self.clone()).fmt(f)
    }
}
