//! What a rollback does, worked out from the way back and from what stands on the tree now.

mod items;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::apply::error::{RefusalKind, Untouched};
use crate::apply::filesystem::{Slots, limited};
use crate::apply::on_disk::{SlotAllocator, UNDO_DIR, slot_name, slot_number};
use crate::apply::plan::difference::Difference;
use crate::apply::plan::ordering::{self, PendingInstall};
use crate::apply::plan::subtree_removal::RemovableSubtrees;
use crate::apply::plan::{
    Action, Change, ChangePlan, ItemizedLine, OCCUPIED, record_kernel_deviations, removal_changes,
};
use crate::apply::undo::UndoSet;
use crate::apply::undo::undo_log::{PriorState, UndoRecord};
use crate::entry::{Entry, Meta, Mtime, Node, Xattrs};
use crate::filter::Filter;
use crate::host::Kernel;
use crate::manifest::Manifest;
use crate::root::mounts::{Host, Mount};
use crate::root::{Descend, FileKind, Root, RootError, Stat};
use crate::state;
use crate::tree_path::TreePath;

use items::removed;

impl UndoSet {
    /// The slots that the undo set has on all of its filesystems.
    fn slots(&self) -> Result<HashSet<u32>, RootError> {
        let mut slots = HashSet::new();
        for set in self.sets.values() {
            let children = set.children(&TreePath::root())?;
            slots.extend(children.iter().filter_map(|(path, _)| slot_number(path)));
        }
        Ok(slots)
    }

    /// The transaction that brings back what was. `tracked` is what the tree is recorded to be: what lies
    /// beyond it in a directory that goes as a whole is listed as displaced. `before` is what it was
    /// recorded to be before: what comes back and is not that deviates.
    pub fn plan(
        &self,
        root: &Root,
        (host, mounts): (Option<&Host>, &[Mount]),
        kernel: Option<&Kernel>,
        tracked: Option<&Manifest>,
        before: Option<&Manifest>,
    ) -> Result<ChangePlan, Untouched> {
        let tops = self.filesystems.with_limited(mounts);
        let kept = |at: &TreePath| at.components().any(|name| name == UNDO_DIR.as_bytes());
        if let Some(mount) = mounts.iter().find(|mount| kept(&mount.at)) {
            return Err(RefusalKind::MountInUndoSet { mount: root.show(&mount.at) }.into());
        }
        let mut plan = RollbackPlanner {
            root,
            before,
            tracked,
            undo: self,
            transaction: ChangePlan {
                slots: Slots::Undo,
                filesystems: tops,
                ..ChangePlan::default()
            },
            arrivals: Vec::new(),
            going: Vec::new(),
            made: HashSet::new(),
            directories: self.way_back.directories.clone(),
            times: Vec::new(),
            names: Vec::new(),
            emptied: Vec::new(),
            slots: SlotAllocator::with_reserved(self.slots()?),
            directory_times: BTreeMap::new(),
            returning: HashMap::new(),
            filter: Filter::builder().build(),
            kernel,
        };
        plan.make_directories()?;
        for fact in &self.way_back.facts {
            plan.bring_back(fact)?;
        }
        plan.finish(host, mounts)
    }
}

/// A rollback that is being worked out.
struct RollbackPlanner<'a> {
    root: &'a Root,
    before: Option<&'a Manifest>,
    tracked: Option<&'a Manifest>,
    undo: &'a UndoSet,
    transaction: ChangePlan,
    arrivals: Vec<PendingInstall>,
    /// Directories that are made again.
    made: HashSet<TreePath>,
    /// Directories that get all their metadata.
    directories: Vec<Entry>,
    /// Directories in whose place something else comes; where that is a directory, what it is in the undo set.
    going: Vec<(TreePath, Option<(usize, TreePath)>)>,
    times: Vec<Change>,
    /// What goes, apart from directories.
    names: Vec<TreePath>,
    emptied: Vec<TreePath>,
    slots: SlotAllocator,
    directory_times: BTreeMap<TreePath, Mtime>,
    /// Directories that come back as a whole.
    returning: HashMap<TreePath, Stat>,
    /// What is protected stays.
    filter: Filter,
    /// What belongs to the kernel that runs stays as well, until the next boot.
    kernel: Option<&'a Kernel>,
}

impl RollbackPlanner<'_> {
    /// Directories that went come again, empty, before anything can come into them.
    fn make_directories(&mut self) -> Result<(), Untouched> {
        let undo = self.undo;
        for entry in &undo.way_back.directories {
            let live = self.root.stat(&entry.path)?;
            if live.is_none_or(|live| live.kind != FileKind::Directory) {
                let slot = self.slots.take_install()?;
                let filesystem = self.transaction.filesystems.filesystem_of(&entry.path);
                self.make_parent(&entry.path)?;
                self.made.insert(entry.path.clone());
                self.change(filesystem, &entry.path, Action::MakeDir { slot });
                self.item("cd+++++++++", &entry.path, "/", 0);
            }
            if let Some(live) = live.filter(|live| live.kind == FileKind::Directory) {
                let difference =
                    Difference::from_stat(entry, Some(&live)).with_details(self.root, entry)?;
                let change = Difference { time: live.mtime != entry.meta.mtime, ..difference }
                    .itemize(entry);
                self.item(&change, &entry.path, "/", 0);
            }
            // All of its metadata in the end.
            let filesystem = self.transaction.filesystems.holding(&entry.path);
            self.change(filesystem, &entry.path, Action::SetDirMetadata);
        }
        Ok(())
    }

    /// A directory that somebody removed after the update, and into which something comes back, is made
    /// again as the image has it.
    fn make_parent(&mut self, path: &TreePath) -> Result<(), Untouched> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if self.made.contains(&parent) || self.root.stat(&parent)?.is_some() {
            return Ok(());
        }
        self.make_parent(&parent)?;
        let known = [self.tracked, self.before]
            .into_iter()
            .flatten()
            .find_map(|manifest| manifest.get(&parent));
        let Some(entry) = known.filter(|entry| entry.is_dir()).cloned() else { return Ok(()) };
        let (slot, filesystem) =
            (self.slots.take_install()?, self.transaction.filesystems.filesystem_of(&parent));
        self.change(filesystem, &parent, Action::MakeDir { slot });
        self.change(filesystem, &parent, Action::SetDirMetadata);
        self.item("cd+++++++++", &parent, "/", 0);
        self.directories.push(entry);
        // Removing it disturbed the one above.
        let above =
            parent.parent().and_then(|above| self.tracked.and_then(|tracked| tracked.get(&above)));
        if let Some(above) = above.filter(|above| !self.made.contains(&above.path)) {
            self.directory_times.entry(above.path.clone()).or_insert(above.meta.mtime);
        }
        self.made.insert(parent);
        Ok(())
    }

    fn bring_back(&mut self, fact: &UndoRecord) -> Result<(), Untouched> {
        let live = self.root.stat(&fact.path)?;
        let plain = self.transaction.filesystems.is_limited(&fact.path);
        match fact.before {
            PriorState::Existed(slot) => self.put_back(fact, slot, live.as_ref())?,
            // It goes, or stays, with the directory above it, in whose place another one comes.
            PriorState::Missing(_) if self.comes_with_another(&fact.path) => {}
            PriorState::Missing(_) => {
                self.add_missing(&fact.path, |_, _| false);
                self.take_away(fact, live.as_ref());
            }
            PriorState::AlreadyGone => self.add_missing(&fact.path, |_, _| false),
            PriorState::Time { old, new } => match live {
                Some(live)
                    if live.mtime == new || (plain && limited::same_time(new, live.mtime)) =>
                {
                    self.times.push(Change {
                        filesystem: fact.filesystem,
                        path: fact.path.clone(),
                        action: Action::SetTime(old),
                    });
                    self.item(".f..t......", &fact.path, "", 0);
                }
                // What was edited since must not look as if it had not been.
                Some(live) if live.mtime != old => {
                    let what = "changed since the update that was undone";
                    self.transaction.deviations.insert(fact.path.clone(), what.to_owned());
                }
                Some(_) => {}
                None => self.add_missing(&fact.path, |_, _| false),
            },
            PriorState::DirectoryTime(old) => {
                self.directory_times.insert(fact.path.clone(), old);
            }
        }
        Ok(())
    }

    fn put_back(
        &mut self,
        fact: &UndoRecord,
        slot: u32,
        live: Option<&Stat>,
    ) -> Result<(), Untouched> {
        let set = self.undo.sets.get(&fact.filesystem);
        let kept = match set {
            Some(set) => set.stat(&slot_name(slot))?,
            None => None,
        };
        let Some(kept) = kept else {
            let path = self.root.show(&fact.path);
            return Err(RefusalKind::BackupMissing { path }.into());
        };
        let directory = kept.kind == FileKind::Directory;
        if !directory && state::is_above_own(&fact.path) {
            let path = self.root.show(&fact.path);
            return Err(RefusalKind::OwnDirectoryInUndoSet { path }.into());
        }
        if set
            .map(|set| set.pins(&slot_name(slot)))
            .transpose()?
            .flatten()
            .is_some_and(|pins| pins.immutable)
        {
            let path = self.root.show(&fact.path);
            return Err(RefusalKind::BackupImmutable { path }.into());
        }
        self.make_parent(&fact.path)?;
        let (Some(set), place) = (set, slot_name(slot)) else { return Ok(()) };
        self.tell(&fact.path, set, &place, &kept, live)?;
        self.compare(&fact.path, &kept);
        if directory {
            self.returning.insert(fact.path.clone(), kept);
        }
        let stands = live.map(|live| live.kind == FileKind::Directory);
        if stands == Some(false)
            && self.tracked.is_some_and(|tracked| tracked.get(&fact.path).is_none())
        {
            self.transaction.displaced.push(fact.path.clone());
        }
        if stands == Some(true) {
            self.going
                .push((fact.path.clone(), directory.then(|| (fact.filesystem, place.clone()))));
        }
        let action = match stands {
            Some(stands) if stands != directory => {
                Action::Exchange { slot, to_directory: directory }
            }
            _ => Action::Install { slot },
        };
        self.arrivals.push(PendingInstall {
            change: Change { filesystem: fact.filesystem, path: fact.path.clone(), action },
            exists: stands.is_some(),
            old_target: ordering::link_target(self.root, &fact.path, live.map(|live| live.kind)),
            new_target: ordering::link_target(set, &place, Some(kept.kind)),
        });
        Ok(())
    }

    /// Looks through a directory in whose place something else comes: a mount in it stops the rollback. What
    /// only the node has is listed where it is displaced; what merely lies in a directory that comes, from
    /// the undo set, does not have to be.
    fn make_way(
        &mut self,
        path: &TreePath,
        comes: Option<(usize, TreePath)>,
        mounts: &[Mount],
    ) -> Result<(), Untouched> {
        if let Some(mount) = mounts.iter().find(|mount| mount.at.is_below(path)) {
            let (mount, path) = (self.root.show(&mount.at), self.root.show(path));
            return Err(RefusalKind::MountInside { path, mount }.into());
        }
        let comes = comes.and_then(|(at, place)| Some((self.undo.sets.get(&at)?, place)));
        let (transaction, tracked) = (&mut self.transaction, self.tracked);
        // The last directory that is displaced with all that it holds.
        let mut above: Option<TreePath> = None;
        self.root.walk(path, |visit| {
            let directory = visit.stat.kind == FileKind::Directory;
            let own = tracked.map_or(comes.is_some(), |tracked| tracked.get(&visit.path).is_none());
            let over = match &comes {
                Some(_) if above.as_ref().is_some_and(|above| visit.path.is_below(above)) => true,
                Some((set, place)) if own => {
                    let inside = &visit.path.as_bytes()[path.as_bytes().len()..];
                    let there = TreePath::new([place.as_bytes(), inside].concat()).ok();
                    let there = there.map(|there| set.stat(&there)).transpose()?.flatten();
                    there.filter(|there| !directory || there.kind != FileKind::Directory).is_some()
                }
                _ => true,
            };
            if own && over {
                if directory && !above.as_ref().is_some_and(|above| visit.path.is_below(above)) {
                    above = Some(visit.path.clone());
                }
                transaction.displaced.push(visit.path.clone());
            }
            if over {
                transaction.itemized.push(removed(&visit.path, if directory { "/" } else { "" }));
            }
            if comes.is_none() || !own {
                let filesystem = transaction.filesystems.filesystem_of(&visit.path);
                transaction.changes.push(Change {
                    filesystem,
                    path: visit.path,
                    action: Action::CoveredByParent,
                });
            }
            Ok::<_, RootError>(Descend::Into)
        })?;
        Ok(())
    }

    fn take_away(&mut self, fact: &UndoRecord, live: Option<&Stat>) {
        if live.is_some() && self.filter.protects(&fact.path) {
            let what = "stays, since it is the agent's own";
            self.transaction.deviations.insert(fact.path.clone(), what.to_owned());
            return;
        }
        if live.is_some() && self.kernel.is_some_and(|kernel| kernel.owns(&fact.path)) {
            self.transaction.kernel_paths.push(fact.path.clone());
            return;
        }
        match live.map(|live| live.kind) {
            None => return,
            Some(FileKind::Directory) => {
                self.emptied.push(fact.path.clone());
                self.item("*deleting  ", &fact.path, "/", 0);
            }
            Some(_) => {
                self.names.push(fact.path.clone());
                self.item("*deleting  ", &fact.path, "", 0);
            }
        }
        self.transaction.removed_count += 1;
    }

    /// Puts everything in the order in which it is made.
    fn finish(mut self, host: Option<&Host>, mounts: &[Mount]) -> Result<ChangePlan, Untouched> {
        for (path, comes) in std::mem::take(&mut self.going) {
            self.make_way(&path, comes, mounts)?;
        }
        // Directories that had gone since come again, but not what nothing brings.
        let facts = self.undo.way_back.facts.iter().map(|fact| &fact.path);
        let known: HashSet<TreePath> = facts.chain(&self.made).cloned().collect();
        for path in self.made.clone() {
            self.add_missing(&path, |plan, path| {
                known.contains(path) || plan.comes_with_another(path)
            });
        }
        // A stage is made and removed in each of them.
        for at in self.transaction.participating() {
            let top = self.transaction.filesystems.mount_roots()[at].clone();
            if let Some(stat) = self.root.stat(&top)? {
                self.directory_times.entry(top).or_insert(stat.mtime);
            }
        }
        let mut directories = std::mem::take(&mut self.directories);
        for (path, mtime) in &self.directory_times {
            let stat = match self.returning.get(path) {
                Some(kept) => Some(*kept),
                None => self.root.stat(path)?.filter(|stat| stat.kind == FileKind::Directory),
            };
            let Some(stat) = stat else { continue };
            let meta = Meta { mtime: *mtime, ..stat.meta(Xattrs::new()) };
            directories.push(Entry::new(path.clone(), meta, Node::Directory));
        }
        directories.sort_by(|a, b| a.path.cmp(&b.path));
        directories.dedup_by(|a, b| a.path == b.path);
        let (names, emptied) = (std::mem::take(&mut self.names), std::mem::take(&mut self.emptied));
        let tops = self.transaction.filesystems.clone();
        let whole = RemovableSubtrees::find(self.root, (host, mounts), &tops, &names, &emptied)?;
        let (occupied, emptied): (Vec<_>, Vec<_>) =
            emptied.into_iter().partition(|path| whole.is_occupied(path));
        self.transaction.removed_count -= occupied.len();
        for path in occupied {
            self.transaction.itemized.retain(|item| item.path != path);
            self.transaction.deviations.insert(path, OCCUPIED.to_owned());
        }
        let mut removals = removal_changes(&tops, &whole, names, emptied, &mut self.slots)?;
        let transaction = &mut self.transaction;
        transaction.changes.append(&mut ordering::sort_installs(self.arrivals));
        transaction.changes.append(&mut removals);
        transaction.changes.append(&mut self.times);
        transaction.directories = directories;
        record_kernel_deviations(transaction);
        transaction.assign_kernel_slots(&mut self.slots)?;
        // Each filesystem that took part has an undo set of its own.
        if let Some(at) =
            transaction.participating().into_iter().find(|at| !self.undo.sets.contains_key(at))
        {
            let mount_root = self.root.show(&self.undo.filesystems.mount_roots()[at]);
            return Err(RefusalKind::UndoSetIncomplete { mount_root }.into());
        }
        transaction.itemized.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.transaction)
    }

    fn change(&mut self, filesystem: usize, path: &TreePath, action: Action) {
        self.transaction.changes.push(Change { filesystem, path: path.clone(), action });
    }

    fn item(&mut self, change: &str, path: &TreePath, suffix: &str, bytes: u64) {
        let (change, suffix) = (change.to_owned(), suffix.to_owned());
        self.transaction.itemized.push(ItemizedLine { change, path: path.clone(), suffix, bytes });
    }
}
