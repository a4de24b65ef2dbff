//! What a rollback does, worked out from the way back and from what stands on the tree now.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::entry::{Entry, Meta, Mtime, Node, Xattrs};
use crate::filter::Filter;
use crate::host::Kernel;
use crate::manifest::Manifest;
use crate::root::mounts::Mount;
use crate::root::{Descend, FileKind, Root, RootError, Stat};
use crate::state;
use crate::tree_path::TreePath;

use super::super::Untouched;
use super::super::filesystems::Slots;
use super::super::order::{self, Arrival};
use super::super::plain;
use super::super::prepare::{Action, Change, Item, Transaction, slot_name, tell_kernels};
use super::super::way_back::{Before, Fact, slot_of};
use super::Undo;

impl Undo {
    /// The transaction that brings back what was. `tracked` is what the tree is recorded to be: what lies
    /// beyond it in a directory that goes as a whole is listed as displaced.
    pub fn plan(
        &self,
        root: &Root,
        mounts: &[Mount],
        kernel: Option<&Kernel>,
        tracked: Option<&Manifest>,
    ) -> Result<Transaction, Untouched> {
        let tops = self.filesystems.with_plain(mounts);
        let mut plan = Plan {
            root,
            undo: self,
            transaction: Transaction { slots: Slots::Undo, tops, ..Transaction::default() },
            arrivals: Vec::new(),
            going: Vec::new(),
            times: Vec::new(),
            removals: Vec::new(),
            emptied: Vec::new(),
            used: HashSet::new(),
            directory_times: BTreeMap::new(),
            returning: HashMap::new(),
            filter: Filter::builder().build(),
            kernel,
        };
        plan.reserve()?;
        plan.make_directories()?;
        for fact in &self.way_back.facts {
            plan.bring_back(fact)?;
        }
        plan.finish(mounts, tracked)
    }
}

/// A rollback that is being worked out.
struct Plan<'a> {
    root: &'a Root,
    undo: &'a Undo,
    transaction: Transaction,
    arrivals: Vec<Arrival>,
    /// Directories that go as a whole.
    going: Vec<TreePath>,
    times: Vec<Change>,
    removals: Vec<Change>,
    emptied: Vec<TreePath>,
    used: HashSet<u32>,
    directory_times: BTreeMap<TreePath, Mtime>,
    /// Directories that come back as a whole.
    returning: HashMap<TreePath, Stat>,
    /// What is protected stays.
    filter: Filter,
    /// What belongs to the kernel that runs stays as well, until the next boot.
    kernel: Option<&'a Kernel>,
}

impl Plan<'_> {
    /// The slots that have something in them are not given to anything else.
    fn reserve(&mut self) -> Result<(), RootError> {
        for set in self.undo.sets.values() {
            self.used.extend(set.children(&TreePath::root())?.iter().filter_map(|(path, _)| slot_of(path)));
        }
        Ok(())
    }

    fn free_slot(&mut self) -> u32 {
        let slot = (1..u32::MAX).find(|slot| !self.used.contains(slot)).unwrap_or(u32::MAX);
        self.used.insert(slot);
        slot
    }

    /// Directories that went come again, empty, before anything can come into them.
    fn make_directories(&mut self) -> Result<(), Untouched> {
        let undo = self.undo;
        for entry in &undo.way_back.directories {
            let live = self.root.stat(&entry.path)?;
            if live.is_none_or(|live| live.kind != FileKind::Directory) {
                let slot = self.free_slot();
                let filesystem = self.transaction.tops.of(&entry.path);
                self.change(filesystem, &entry.path, Action::Make { slot });
                self.item("cd+++++++++", &entry.path, "/", 0);
            }
            // All of its metadata in the end.
            let filesystem = self.transaction.tops.holding(&entry.path);
            self.change(filesystem, &entry.path, Action::Directory);
        }
        Ok(())
    }

    fn bring_back(&mut self, fact: &Fact) -> Result<(), Untouched> {
        let live = self.root.stat(&fact.path)?;
        let plain = self.transaction.tops.is_plain(&fact.path);
        match fact.before {
            Before::Stood(slot) => self.put_back(fact, slot, live.as_ref())?,
            Before::Nothing(_) => self.take_away(fact, live.as_ref()),
            Before::Time { old, new } => match live {
                Some(live) if live.mtime == new || (plain && plain::same_time(new, live.mtime)) => {
                    self.times.push(Change {
                        filesystem: fact.filesystem,
                        path: fact.path.clone(),
                        action: Action::Times(old),
                    });
                    self.item(".f..t......", &fact.path, "", 0);
                }
                // What was edited since must not look as if it had not been.
                Some(live) if live.mtime != old => {
                    let what = "changed since the update that was undone";
                    self.transaction.deviations.insert(fact.path.clone(), what.to_owned());
                }
                _ => {}
            },
            Before::DirectoryTime(old) => {
                self.directory_times.insert(fact.path.clone(), old);
            }
        }
        Ok(())
    }

    fn put_back(&mut self, fact: &Fact, slot: u32, live: Option<&Stat>) -> Result<(), Untouched> {
        let set = self.undo.sets.get(&fact.filesystem);
        let kept = match set {
            Some(set) => set.stat(&slot_name(slot))?,
            None => None,
        };
        let Some(kept) = kept else {
            let path = self.root.show(&fact.path);
            return Err(Untouched::Refused(format!("what stood at {path} is not in the undo set any more")));
        };
        let directory = kept.kind == FileKind::Directory;
        if !directory && state::is_above_own(&fact.path) {
            let path = self.root.show(&fact.path);
            return Err(Untouched::Refused(format!("{path} was no directory, and the agent keeps files in it")));
        }
        let (letter, update, suffix) = match kept.kind {
            FileKind::Directory => ('d', 'c', "/"),
            FileKind::File => ('f', '>', ""),
            FileKind::Symlink => ('L', 'c', ""),
            FileKind::Char(_) | FileKind::Block(_) => ('D', 'c', ""),
            FileKind::Fifo | FileKind::Socket => ('S', 'c', ""),
        };
        let detail = if live.is_none_or(|live| live.kind != kept.kind) { "+++++++++" } else { "c........" };
        self.item(&format!("{update}{letter}{detail}"), &fact.path, suffix, kept.size);
        if directory {
            self.returning.insert(fact.path.clone(), kept);
        }
        let stands = live.map(|live| live.kind == FileKind::Directory);
        if stands == Some(true) {
            self.going.push(fact.path.clone());
        }
        let action = match stands {
            Some(stands) if stands != directory => Action::Exchange { slot, to_directory: directory },
            _ => Action::Install { slot },
        };
        self.arrivals.push(Arrival {
            change: Change { filesystem: fact.filesystem, path: fact.path.clone(), action },
            stands: stands.is_some(),
            led: order::leads(self.root, &fact.path, live.map(|live| live.kind)),
            leads: set.and_then(|set| order::leads(set, &slot_name(slot), Some(kept.kind))),
        });
        Ok(())
    }

    fn take_away(&mut self, fact: &Fact, live: Option<&Stat>) {
        if live.is_some() && self.filter.protects(&fact.path) {
            let what = "stays, since it is the agent's own";
            self.transaction.deviations.insert(fact.path.clone(), what.to_owned());
            return;
        }
        if live.is_some() && self.kernel.is_some_and(|kernel| kernel.owns(&fact.path)) {
            self.transaction.kernels.push(fact.path.clone());
            return;
        }
        match live.map(|live| live.kind) {
            None => return,
            Some(FileKind::Directory) => {
                self.emptied.push(fact.path.clone());
                self.item("*deleting  ", &fact.path, "/", 0);
            }
            Some(_) => {
                let slot = self.free_slot();
                let (filesystem, path) = (fact.filesystem, fact.path.clone());
                self.removals.push(Change { filesystem, path, action: Action::Remove { slot } });
                self.item("*deleting  ", &fact.path, "", 0);
            }
        }
        self.transaction.removed += 1;
    }

    /// Puts everything in the order in which it is made.
    fn finish(mut self, mounts: &[Mount], tracked: Option<&Manifest>) -> Result<Transaction, Untouched> {
        for path in &self.going {
            let beyond = look_through(self.root, path, mounts, tracked)?;
            self.transaction.displaced.extend(beyond);
        }
        let mut directories = self.undo.way_back.directories.clone();
        for (path, mtime) in &self.directory_times {
            let stat = match self.returning.get(path) {
                Some(kept) => Some(*kept),
                None => self.root.stat(path)?.filter(|stat| stat.kind == FileKind::Directory),
            };
            let Some(stat) = stat else { continue };
            let meta = Meta { mtime: *mtime, ..stat.meta(Xattrs::new()) };
            directories.push(Entry { path: path.clone(), meta, node: Node::Directory });
        }
        directories.sort_by(|a, b| a.path.cmp(&b.path));
        let transaction = &mut self.transaction;
        transaction.changes.append(&mut order::in_order(self.arrivals));
        transaction.changes.append(&mut self.times);
        transaction.changes.append(&mut self.removals);
        self.emptied.sort_unstable();
        for path in self.emptied.into_iter().rev() {
            let filesystem = transaction.tops.of(&path);
            transaction.changes.push(Change { filesystem, path, action: Action::RemoveDir });
        }
        transaction.directories = directories;
        tell_kernels(transaction);
        // Each filesystem that took part has an undo set of its own.
        if let Some(at) = transaction.filesystems().into_iter().find(|at| !self.undo.sets.contains_key(at)) {
            let top = self.root.show(&self.undo.filesystems.tops()[at]);
            return Err(Untouched::Refused(format!(
                "{top} takes part in it and is not mounted, or its undo set is gone"
            )));
        }
        transaction.items.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.transaction)
    }

    fn change(&mut self, filesystem: usize, path: &TreePath, action: Action) {
        self.transaction.changes.push(Change { filesystem, path: path.clone(), action });
    }

    fn item(&mut self, change: &str, path: &TreePath, suffix: &str, bytes: u64) {
        let (change, suffix) = (change.to_owned(), suffix.to_owned());
        self.transaction.items.push(Item { change, path: path.clone(), suffix, bytes });
    }
}

/// Looks through a directory that goes as a whole: a mount in it stops the rollback, what the image does
/// not have is listed.
fn look_through(
    root: &Root,
    path: &TreePath,
    mounts: &[Mount],
    tracked: Option<&Manifest>,
) -> Result<Vec<TreePath>, Untouched> {
    if let Some(mount) = mounts.iter().find(|mount| mount.at.is_below(path)) {
        let (mount, path) = (root.show(&mount.at), root.show(path));
        return Err(Untouched::Refused(format!("{mount} is mounted in {path}, which has to go")));
    }
    let mut beyond = Vec::new();
    root.walk::<RootError>(path, |visit| {
        if tracked.is_some_and(|tracked| tracked.get(&visit.path).is_none()) {
            beyond.push(visit.path);
        }
        Ok(Descend::Into)
    })?;
    Ok(beyond)
}
