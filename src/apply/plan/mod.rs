//! Decides which changes lead from what stands on a tree to a manifest.
//!
//! Nothing is changed here; files are read only where their stat does not settle what they hold.

mod classify;
pub mod difference;
pub(super) mod hardlinks;
pub mod live_tree;
pub(super) mod ordering;
mod placement;
mod removal;
pub(super) mod subtree_removal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use crate::apply::error::{SlotsExhausted, Untouched};
use crate::apply::filesystem::{Filesystems, Slots, limited};
use crate::apply::on_disk::SlotAllocator;
use crate::digest::Digest;
use crate::entry::{Entry, Mtime};
use crate::filter::Filter;
use crate::host::{Drift, Kernel};
use crate::manifest::Manifest;
use crate::root::Root;
use crate::root::mounts::{Host, Mount};
use crate::tree_path::TreePath;

use classify::{Classified, Decision, classify_all};
use live_tree::LiveTree;

pub(super) use removal::{OCCUPIED, record_kernel_deviations, removal_changes};

/// What is wanted of a tree.
pub struct PlanInput<'a> {
    /// The tree.
    pub root: &'a Root,
    /// What it is recorded to be, under the filter; `None` where nothing is known.
    pub installed: Option<&'a Manifest>,
    /// What it is to be, under the filter.
    pub target: &'a Manifest,
    /// What neither names any more and an older record did: it is stale as what the base alone names.
    pub formerly_tracked: &'a [Entry],
    /// What stayed for a kernel that ran then, in tree order: stale as well, whatever stands there.
    pub old_kernel_paths: &'a [TreePath],
    /// The kernel that runs on the tree: what belongs to it stays.
    pub kernel: Option<&'a Kernel>,
    /// Tracked paths that are known not to match the base.
    pub known_deviations: &'a HashSet<TreePath>,
    /// What the image does not decide about.
    pub filter: &'a Filter,
    /// Where renames can happen.
    pub filesystems: &'a Filesystems,
    /// What holds the top of the tree, where that is known.
    pub host: Option<&'a Host>,
    /// What is mounted below the tree.
    pub mounts: &'a [Mount],
    /// Pairs of places that show one directory.
    pub bind_mounts: &'a [(TreePath, TreePath)],
    /// How deviations are looked for, and what happens to them.
    pub policy: ComparePolicy,
}

/// How deviations are looked for, and what happens to them.
#[derive(Clone, Copy, Debug)]
pub struct ComparePolicy {
    /// How a tracked path that does not change is compared.
    pub check_level: CheckLevel,
    /// What happens to one that deviates.
    pub drift: Drift,
    /// What happens to untracked paths.
    pub untracked: UntrackedPolicy,
}

/// How closely a tracked path is looked at that did not change between base and target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckLevel {
    /// Not at all.
    Touched,
    /// By its stat, as rsync's quick check.
    Stat,
    /// By everything: content, extended attributes, symlink text.
    Content,
}

/// What happens to untracked paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UntrackedPolicy {
    /// They are the node's.
    Keep,
    /// They go.
    Remove,
}

/// All that one transaction does.
#[derive(Debug, Default)]
pub struct ChangePlan {
    /// Where renames can happen; what is numbered below counts these.
    pub filesystems: Filesystems,
    /// What has to be staged, directories before what they hold.
    pub staged_items: Vec<StagedItem>,
    /// What the roll-forward does, in this order.
    pub changes: Vec<Change>,
    /// Tracked directories whose time, and with [`Action::SetDirMetadata`] all metadata, is set last.
    pub directories: Vec<Entry>,
    /// Tracked paths that deviate and stay so.
    pub deviations: BTreeMap<TreePath, String>,
    /// Tracked paths that deviate and are repaired.
    pub repaired: BTreeMap<TreePath, String>,
    /// Untracked content of directories that become something else: it goes with them.
    pub displaced: Vec<TreePath>,
    /// The running kernel's paths that the target does not have, and that stay, in tree order.
    pub kernel_paths: Vec<TreePath>,
    /// Backups of these paths: a later run removes the paths, and the undo set has to restore them.
    pub kernel_backups: Vec<KernelBackup>,
    /// What the administrator has to know of it: sentences, lower case, no full stop.
    pub warnings: Vec<String>,
    /// What happens to each path, in rsync's itemised form, in tree order.
    pub itemized: Vec<ItemizedLine>,
    /// Paths that go without a replacement.
    pub removed_count: usize,
    /// Untracked paths that stay, where they were counted.
    pub untracked_count: Option<u64>,
    /// Where the slots of the changes come from.
    pub slots: Slots,
}

/// Backup of a path that stays for the running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelBackup {
    /// The filesystem whose stage holds the slot.
    pub filesystem: usize,
    /// The path.
    pub path: TreePath,
    /// The slot; unused if the path is a directory.
    pub slot: u32,
}

/// One line of an itemised list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemizedLine {
    /// Eleven characters, or `*deleting  `.
    pub change: String,
    /// Where.
    pub path: TreePath,
    /// Text behind the path: where a symlink leads, what a hardlink links, a slash for a directory.
    pub suffix: String,
    /// Bytes of new content.
    pub bytes: u64,
}

impl ItemizedLine {
    /// Whether something goes without a replacement.
    pub fn is_deletion(&self) -> bool {
        self.change.starts_with('*')
    }

    /// Where a symlink leads, or what a hardlink links; nothing for anything else.
    pub fn link_target(&self) -> &str {
        let leads = [" -> ", " => "].iter().find_map(|arrow| self.suffix.strip_prefix(arrow));
        leads.unwrap_or_default()
    }
}

/// Something to be staged.
#[derive(Debug)]
pub struct StagedItem {
    /// What it is to be.
    pub entry: Entry,
    /// The filesystem.
    pub filesystem: usize,
    /// The place in that filesystem's stage.
    pub place: TreePath,
    /// How it comes about.
    pub source: ContentSource,
}

/// How something staged comes about.
#[derive(Debug, PartialEq, Eq)]
pub enum ContentSource {
    /// From the entry alone: a directory, symlink, pipe or device.
    Node,
    /// A regular file with this content.
    Content {
        /// In bytes.
        size: u64,
        /// Of the content.
        digest: Digest,
    },
    /// A link of another install, by its index.
    LinkStaged(usize),
    /// A link of what stands on the live tree.
    LinkLive(TreePath),
}

/// One step of the roll-forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The filesystem whose stage holds the slot.
    pub filesystem: usize,
    /// Where.
    pub path: TreePath,
    /// What happens.
    pub action: Action,
}

/// What happens at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The slot comes to stand there, over nothing or over something that is no directory.
    Install {
        /// Its number.
        slot: u32,
    },
    /// The slot and what stands there change places: one of the two is a directory.
    Exchange {
        /// Its number.
        slot: u32,
        /// Whether the new one is the directory.
        to_directory: bool,
    },
    /// An empty directory is made; what else stands there goes into the slot's place.
    MakeDir {
        /// Its number.
        slot: u32,
    },
    /// What stands there goes into the slot's place among the displaced.
    Remove {
        /// Its number.
        slot: u32,
    },
    /// The directory goes into the slot's place among the displaced, with all that it holds: what is to go
    /// of that is listed by [`Action::CoveredByParent`], and what is not comes back.
    RemoveTree {
        /// Its number.
        slot: u32,
    },
    /// It goes with a directory above it.
    CoveredByParent,
    /// The directory goes if it is empty by then.
    RemoveDir,
    /// Only the time is set: nothing else differs, and no other name links the inode.
    SetTime(Mtime),
    /// The directory gets its owner, permissions and attributes, after everything else.
    SetDirMetadata,
}

impl Action {
    /// Whether a name comes somewhere by it, in the tree or among the displaced.
    pub(super) fn adds_entry(self) -> bool {
        match self {
            Action::Install { .. } | Action::Exchange { .. } | Action::MakeDir { .. } => true,
            Action::Remove { .. } | Action::RemoveTree { .. } => true,
            Action::CoveredByParent
            | Action::RemoveDir
            | Action::SetTime(_)
            | Action::SetDirMetadata => false,
        }
    }

    /// Whether what stands in the tree is another thing after it: not so where a time alone is set, or what
    /// only describes another change.
    pub(super) fn is_visible(self) -> bool {
        !matches!(self, Action::SetTime(_) | Action::SetDirMetadata | Action::CoveredByParent)
    }
}

impl PlanInput<'_> {
    /// Whether `path` belongs to the kernel that runs.
    fn is_kernel_path(&self, path: &TreePath) -> bool {
        self.kernel.is_some_and(|kernel| kernel.owns(path))
    }

    /// Whether `path` was recorded as the image's, so that it is not the node's own.
    fn was_tracked(&self, path: &TreePath) -> bool {
        self.installed.is_some_and(|base| base.get(path).is_some())
            || self.formerly_tracked.binary_search_by(|entry| entry.path.cmp(path)).is_ok()
            || self.old_kernel_paths.binary_search(path).is_ok()
    }
}

impl ChangePlan {
    /// Whether the tree is already as it is wanted.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The filesystems that take part; the top always does, it holds the journal.
    pub fn participating(&self) -> std::collections::BTreeSet<usize> {
        std::iter::once(0).chain(self.changes.iter().map(|change| change.filesystem)).collect()
    }

    /// Gives each path that stays for the running kernel a slot for its backup.
    pub(super) fn assign_kernel_slots(
        &mut self,
        slots: &mut SlotAllocator,
    ) -> Result<(), SlotsExhausted> {
        for path in &self.kernel_paths {
            let (filesystem, slot) = (self.filesystems.filesystem_of(path), slots.take_backup()?);
            self.kernel_backups.push(KernelBackup { filesystem, path: path.clone(), slot });
        }
        Ok(())
    }

    /// Bytes of content to be staged.
    pub fn bytes(&self) -> u64 {
        self.staged_items.iter().map(StagedItem::bytes).sum()
    }
}

impl StagedItem {
    /// Bytes of content; 0 for anything but a file of its own.
    pub fn bytes(&self) -> u64 {
        if let ContentSource::Content { size, .. } = self.source { size } else { 0 }
    }
}

/// The paths that [`CheckLevel::Touched`] has to look at: those that change, those recorded as deviating,
/// all that were or will be hardlinks of them, and the directories above all of them. Sorted, unique.
pub fn touched_paths(
    base: &Manifest,
    target: &Manifest,
    recorded: &HashSet<TreePath>,
) -> Vec<TreePath> {
    let changes = crate::manifest::compare(base, target);
    let mut touched: HashSet<&TreePath> =
        changes.changed.iter().chain(&changes.removed).map(|e| &e.path).collect();
    touched.extend(recorded);
    for manifest in [base, target] {
        for group in hardlinks::groups(manifest, |_| false) {
            let members = || group.iter().map(|&at| &manifest.entries()[at].path);
            if members().any(|path| touched.contains(path)) {
                touched.extend(members());
            }
        }
    }
    let mut paths: HashSet<TreePath> = HashSet::new();
    for path in touched {
        let mut at = Some(path.clone());
        while let Some(path) = at {
            at = path.parent();
            if !paths.insert(path) {
                break;
            }
        }
    }
    let mut paths: Vec<TreePath> = paths.into_iter().collect();
    paths.sort_unstable();
    paths
}

/// Decides what has to happen for the tree that `live` saw.
pub fn plan_changes(wanted: &PlanInput, live: &LiveTree) -> Result<ChangePlan, Untouched> {
    let judged = classify_all(wanted, live)?;
    let mut transaction = ChangePlan {
        untracked_count: live.is_complete.then_some(live.untracked.len() as u64),
        ..Default::default()
    };
    transaction.filesystems = wanted.filesystems.clone();
    for (entry, judged) in wanted.target.entries().iter().zip(&judged) {
        let words = || judged.difference.to_string();
        match judged.decision {
            Decision::Report => drop(transaction.deviations.insert(entry.path.clone(), words())),
            _ if judged.unchanged && judged.difference.any() && wanted.installed.is_some() => {
                transaction.repaired.insert(entry.path.clone(), words());
            }
            _ => {}
        }
    }
    let mut slots = SlotAllocator::new();
    placement::place_entries(wanted, live, &judged, &mut slots, &mut transaction)?;
    removal::add_removals(wanted, live, &mut slots, &mut transaction)?;
    transaction.assign_kernel_slots(&mut slots)?;
    removal::include_kernel_filesystems(live, &mut transaction);
    // Names and content first, so that the tree is mixed for as short a time as can be; then times.
    transaction.changes.sort_by_key(|change| match change.action {
        Action::SetTime(_) => 1,
        Action::CoveredByParent => 2,
        _ => 0,
    });
    settle_directories(wanted, live, &judged, &mut transaction);
    let displaced: HashSet<&TreePath> = transaction.displaced.iter().collect();
    let gone = live.untracked.iter().filter(|(path, _)| displaced.contains(path)).count() as u64;
    transaction.untracked_count =
        transaction.untracked_count.map(|count| count.saturating_sub(gone));
    transaction.itemized.sort_by(|a, b| a.path.cmp(&b.path));
    // They last as long as the run, and took up to twice the room while they grew.
    transaction.itemized.shrink_to_fit();
    transaction.changes.shrink_to_fit();
    transaction.staged_items.shrink_to_fit();
    Ok(transaction)
}

/// Lists the directories whose metadata has to be set in the end: those that differ, those whose time
/// does as far as they were looked at, those in which something comes or goes, and those that come as a whole:
/// xfs takes a directory that changes places with something else for modified.
fn settle_directories(
    wanted: &PlanInput,
    live: &LiveTree,
    judged: &[Classified],
    transaction: &mut ChangePlan,
) {
    let arriving = transaction.changes.iter().map(|change| change.path.clone());
    let stirred: HashSet<TreePath> = transaction
        .changes
        .iter()
        .filter_map(|change| change.path.parent())
        .chain(arriving)
        .collect();
    for (entry, judged) in wanted.target.entries().iter().zip(judged) {
        if !entry.is_dir() || judged.decision == Decision::Report {
            continue;
        }
        let stat = live.get(&entry.path);
        let fresh = judged.difference.missing || judged.difference.kind;
        let differs = judged.difference.any() && !fresh;
        if differs {
            let path = entry.path.clone();
            let filesystem = wanted.filesystems.holding(&path);
            transaction.changes.push(Change { filesystem, path, action: Action::SetDirMetadata });
        }
        let plain = wanted.filesystems.is_limited(&entry.path);
        let same = |mtime| {
            mtime == entry.meta.mtime || (plain && limited::same_time(entry.meta.mtime, mtime))
        };
        let late = live.covers(&entry.path) && stat.is_none_or(|stat| !same(stat.mtime));
        let disturbed =
            stirred.contains(&entry.path) || wanted.filesystems.is_mount_root(&entry.path);
        let read_only = |mount: &Mount| {
            mount.read_only && (entry.path == mount.at || entry.path.is_below(&mount.at))
        };
        if wanted.mounts.iter().any(read_only) {
            // Its time alone is no drift; anything else is refused by the preflight.
            continue;
        }
        if differs || disturbed || (late && !fresh) {
            transaction.directories.push(entry.clone());
        }
    }
}
