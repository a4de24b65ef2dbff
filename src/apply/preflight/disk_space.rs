//! Whether an update fits: its bytes and inodes, disk by disk, before anything is fetched and once more
//! before anything is staged.
//!
//! What is new lies beside what it replaces, and that is kept for undoing: nothing is free again before
//! the end.

use std::collections::{BTreeMap, HashMap, HashSet, btree_map};
use std::fmt;

use crate::apply::filesystem::Filesystems;
use crate::apply::plan::ChangePlan;
use crate::apply::undo;
use crate::entry::{Entry, LeafKind};
use crate::manifest::{Manifest, compare};
use crate::root::mounts::{Host, Mount};
use crate::root::{FreeSpace, Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

/// Disks never fill to the last block; a journal, directories and metadata need some: this share of all
/// bytes, but so many at least and at most.
const SLACK_SHARE: u64 = 32;
const SLACK_BYTES: [u64; 2] = [1 << 20, 8 << 20];
/// Likewise for inodes.
const SLACK_INODES: u64 = 64;
/// A symlink with a longer text takes a block.
const INLINE: usize = 59;

/// What an update takes of the disks of a tree.
pub struct SpaceRequirement<'a> {
    root: &'a Root,
    filesystems: &'a Filesystems,
    host: Option<&'a Host>,
    mounts: &'a [Mount],
    by_disk: BTreeMap<usize, Amount>,
}

/// What is taken of one disk, by the filesystem through which it was first seen.
#[derive(Clone, Copy, Debug)]
struct Amount {
    room: FreeSpace,
    bytes: u64,
    inodes: u64,
}

/// What one disk lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The filesystem, by its number.
    filesystem: usize,
    /// Where it begins, as a person knows it.
    place: String,
    /// Bytes or inodes.
    unit: Unit,
    /// So many are needed.
    needed: u64,
    /// So many are there.
    free: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Inodes,
}

/// Of what the parts of an update are that no manifest names.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtraSpace {
    /// Bytes that are still to be downloaded.
    pub download: u64,
    /// Bytes of the manifest as it is stored.
    pub manifest: u64,
}

impl<'a> SpaceRequirement<'a> {
    /// Nothing yet; `filesystems` are those of the tree at `root`, which `host` holds.
    pub fn new(
        root: &'a Root,
        filesystems: &'a Filesystems,
        host: Option<&'a Host>,
        mounts: &'a [Mount],
    ) -> Self {
        SpaceRequirement { root, filesystems, host, mounts, by_disk: BTreeMap::new() }
    }

    /// What leads from `base` to `target` takes, as far as the manifests tell.
    pub fn add_manifests(
        &mut self,
        base: &Manifest,
        target: &Manifest,
        aside: &ExtraSpace,
    ) -> Result<(), RootError> {
        let changes = compare(base, target);
        let mut groups: HashSet<&TreePath> = HashSet::new();
        for entry in &changes.changed {
            let old = base.get(&entry.path);
            let linked = entry.group().is_some_and(|group| !groups.insert(group));
            if !linked && !old.is_some_and(|old| is_set_in_place(old, entry)) {
                self.add_entry(entry)?;
            }
        }
        let parents =
            changes.changed.iter().chain(&changes.removed).filter_map(|entry| entry.path.parent());
        for parent in parents.collect::<HashSet<TreePath>>() {
            // It may grow by a name.
            self.add(&parent, 1, 0)?;
        }
        self.add(&state::place("spool"), aside.download, 2)?;
        // Beside the journal, and where it is recorded.
        self.add(&TreePath::root(), aside.manifest, 1)?;
        self.add(&state::place("state.toml"), aside.manifest, 1)
    }

    /// What `transaction` takes; with `transit`, all of it comes by way of the root's disk.
    pub fn add_transaction(
        &mut self,
        transaction: &ChangePlan,
        transit: bool,
    ) -> Result<(), RootError> {
        for at in transaction.participating() {
            self.amount(at)?;
        }
        for install in &transaction.staged_items {
            let at = install.filesystem;
            self.add_to(at, install.bytes(), 1)?;
            if transit && self.disk(at) != self.disk(0) {
                self.add_to(0, install.bytes(), 1)?;
            }
        }
        Ok(())
    }

    /// Bytes more on the root's disk.
    pub fn add_bytes(&mut self, bytes: u64) -> Result<(), RootError> {
        self.add_to(0, bytes, 0)
    }

    /// What is missing, disk by disk; nothing where the update fits.
    pub fn shortages(&self) -> Vec<Shortage> {
        let mut missing = Vec::new();
        for (&filesystem, amount) in &self.by_disk {
            let mut lacks = |unit, needed, free| {
                if needed > free {
                    let place = self.root.show(&self.filesystems.mount_roots()[filesystem]);
                    missing.push(Shortage { filesystem, place, unit, needed, free });
                }
            };
            let slack = (amount.room.total / SLACK_SHARE).clamp(SLACK_BYTES[0], SLACK_BYTES[1]);
            lacks(Unit::Bytes, amount.bytes.saturating_add(slack), amount.room.bytes);
            // Some filesystems make inodes as they need them, and say 0.
            if amount.room.has_inodes {
                lacks(Unit::Inodes, amount.inodes.saturating_add(SLACK_INODES), amount.room.inodes);
            }
        }
        missing
    }

    /// Whether the undo set, once it is gone, leaves enough for what is missing; if so, its bytes.
    pub fn freed_by_undo(&self, missing: &[Shortage]) -> Result<Option<u64>, RootError> {
        let mut freed: HashMap<usize, (u64, u64)> = HashMap::new();
        for set in undo::disk_usage(self.root, self.filesystems)? {
            let on_disk = freed
                .entry(self.disk(self.filesystems.slot_filesystem_of_dir(&set.mount_root)))
                .or_default();
            *on_disk = (on_disk.0 + set.bytes, on_disk.1 + set.inodes);
        }
        let covers = |shortage: &Shortage| {
            let (bytes, inodes) = freed.get(&shortage.filesystem).copied().unwrap_or_default();
            let more = if shortage.unit == Unit::Bytes { bytes } else { inodes };
            shortage.free.saturating_add(more) >= shortage.needed
        };
        let total = freed.values().map(|(bytes, _)| bytes).sum();
        Ok(missing.iter().all(covers).then_some(total))
    }

    fn add_entry(&mut self, entry: &Entry) -> Result<(), RootError> {
        let block = self.amount(self.filesystems.slot_filesystem_of(&entry.path))?.room.block;
        let bytes = match entry.leaf().map(|leaf| &leaf.kind) {
            None => block,
            Some(LeafKind::File { size, .. }) => *size,
            Some(LeafKind::Symlink { target }) if target.len() > INLINE => block,
            Some(_) => 0,
        };
        self.add(&entry.path, bytes, 1)
    }

    fn add(&mut self, path: &TreePath, bytes: u64, inodes: u64) -> Result<(), RootError> {
        self.add_to(self.filesystems.slot_filesystem_of(path), bytes, inodes)
    }

    fn add_to(&mut self, filesystem: usize, bytes: u64, inodes: u64) -> Result<(), RootError> {
        let amount = self.amount(filesystem)?;
        amount.bytes = amount.bytes.saturating_add(bytes.next_multiple_of(amount.room.block));
        amount.inodes = amount.inodes.saturating_add(inodes);
        Ok(())
    }

    fn amount(&mut self, filesystem: usize) -> Result<&mut Amount, RootError> {
        let disk = self.disk(filesystem);
        match self.by_disk.entry(disk) {
            btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
            btree_map::Entry::Vacant(new) => {
                let room = self.root.below(&self.filesystems.mount_roots()[disk])?.room()?;
                Ok(new.insert(Amount { room, bytes: 0, inodes: 0 }))
            }
        }
    }

    /// The first filesystem on the same disk: bind mounts and subvolumes share its room.
    fn disk(&self, filesystem: usize) -> usize {
        let device = |at: usize| {
            let top = &self.filesystems.mount_roots()[at];
            let mount =
                self.mounts.iter().rfind(|mount| *top == mount.at || top.is_below(&mount.at));
            mount.map_or(self.host.map(|host| &host.device), |mount| Some(&mount.device))
        };
        (0..filesystem).find(|&at| device(at) == device(filesystem)).unwrap_or(filesystem)
    }
}

/// Whether only a time is set, or a directory's metadata: nothing is staged for that.
fn is_set_in_place(old: &Entry, new: &Entry) -> bool {
    let timeless = |entry: &Entry| {
        let mut meta = entry.meta.clone();
        meta.mtime = new.meta.mtime;
        meta
    };
    (old.is_dir() && new.is_dir()) || (old.node == new.node && timeless(old) == new.meta)
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.unit == Unit::Bytes { "bytes" } else { "inodes" };
        write!(
            f,
            "{} has {} {unit} free and the update needs {}",
            self.place, self.free, self.needed
        )
    }
}
