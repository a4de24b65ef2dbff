//! The undo set: what the last transaction displaced, and how it is brought back.
//!
//! A rollback is a transaction like any other. What it puts back is the undo set itself, which is complete
//! and durable already; what it displaces becomes the next undo set, so that it can be undone as well.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::entry::{Entry, Meta, Mtime, Node, Xattrs};
use crate::filter::Filter;
use crate::generation::GenerationId;
use crate::host::{KeepUndo, Kernel};
use crate::manifest::{Manifest, path_text};
use crate::report::Monitor;
use crate::root::mounts::Mount;
use crate::root::{Descend, FileKind, Root, RootError, Stat};
use crate::state;
use crate::tree_path::TreePath;

use super::displaced::{self, Sum};
use super::filesystems::{Filesystems, Slots, Stages};
use super::order::{self, Arrival};
use super::prepare::{Action, Change, Item, KERNELS, Transaction, slot_name};
use super::way_back::{Before, Fact, WayBack, WayBackError, slot_of};
use super::{DISPLACED, Untouched, name};

/// What becomes of what a transaction displaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It becomes the undo set, in place of an earlier one.
    This,
    /// It goes, and an earlier undo set, which would not fit any more, with it.
    Nothing,
    /// It goes; an earlier undo set still leads back and stays.
    Earlier,
}

/// How much may be kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whether anything is.
    pub keep: KeepUndo,
    /// The largest share of a filesystem that an undo set may hold.
    pub share: f64,
    /// Whether the transaction leads to the generation that is recorded: what it repairs is not worth
    /// the way back to the generation before.
    pub repairs: bool,
    /// The generation that is recorded in the end, if any is.
    pub made: Option<GenerationId>,
}

/// An undo set that is there.
pub struct Undo {
    way_back: WayBack,
    filesystems: Filesystems,
    sets: HashMap<usize, Root>,
}

/// Decides what becomes of what `transaction` displaces.
pub(super) fn decide(
    root: &Root,
    filesystems: &Filesystems,
    transaction: &Transaction,
    limits: &Limits,
    monitor: &dyn Monitor,
) -> Result<Keep, Untouched> {
    // What only this node had is kept in any case.
    if !transaction.displaced.is_empty() {
        return Ok(Keep::This);
    }
    if limits.keep == KeepUndo::Never {
        return Ok(Keep::Nothing);
    }
    let fits = |undo: &Undo| undo.leads_from(limits.made);
    if limits.repairs && Undo::find(root).ok().flatten().as_ref().is_some_and(fits) {
        return Ok(Keep::Earlier);
    }
    if limits.keep == KeepUndo::Always {
        return Ok(Keep::This);
    }
    for (at, bytes) in displaced::cost(root, transaction)? {
        let top = &filesystems.tops()[at];
        let allowed = (root.below(top)?.room()?.total as f64 * limits.share) as u64;
        if bytes > allowed {
            monitor.warn(format!(
                "this update will not be undoable: it displaces {bytes} bytes on {} and undo_share allows {allowed}",
                root.show(top)
            ));
            return Ok(Keep::Nothing);
        }
    }
    Ok(Keep::This)
}

/// Notes what is before `transaction` among what it displaces, with what is recorded.
pub(super) fn note(
    root: &Root,
    stages: &Stages,
    transaction: &Transaction,
    made: Option<GenerationId>,
) -> Result<(), RootError> {
    let Some(old) = stages.old(0) else { return Ok(()) };
    if !transaction.displaced.is_empty() {
        let list: String = transaction.displaced.iter().map(|path| path_text(path) + "\n").collect();
        old.write_durably(&name(DISPLACED), list.as_bytes(), 0o600)?;
    }
    state::keep(root, old)?;
    WayBack::of(root, stages, made, transaction)?.write(old)
}

impl Undo {
    /// The undo set of the tree, if there is one.
    pub fn find(root: &Root) -> Result<Option<Undo>, WayBackError> {
        let top = Filesystems::new(Vec::new());
        let Some(set) = top.undo_of(root, 0)? else { return Ok(None) };
        let Some(way_back) = WayBack::read(&set)? else { return Ok(None) };
        let filesystems = Filesystems::from_tops(way_back.tops.clone());
        let mut sets = HashMap::new();
        for at in 0..filesystems.tops().len() {
            sets.extend(filesystems.undo_of(root, at)?.map(|set| (at, set)));
        }
        Ok(Some(Undo { way_back, filesystems, sets }))
    }

    /// Where the filesystems begin that the undo set of the tree is on, if it can be read.
    pub(super) fn tops(root: &Root) -> Vec<TreePath> {
        Undo::find(root).ok().flatten().map_or_else(Vec::new, |undo| undo.way_back.tops)
    }

    /// Whether it leads back from a tree of which `now` is recorded: not so where something else made it what
    /// it is.
    pub fn leads_from(&self, now: Option<GenerationId>) -> bool {
        self.way_back.made == now
    }

    /// What was recorded before: the state as text and the manifest as it is stored.
    pub fn record(&self) -> Result<state::Kept, RootError> {
        match self.sets.get(&0) {
            Some(set) => state::kept(set),
            None => Ok(state::Kept::default()),
        }
    }

    /// The bytes that would be free without it.
    pub fn bytes(&self) -> Result<u64, RootError> {
        let mut sum = Sum::default();
        for (at, set) in &self.sets {
            sum.add_tree(*at, set, &TreePath::root())?;
        }
        Ok(sum.bytes().values().sum())
    }

    /// The transaction that brings back what was. `tracked` is what the tree is recorded to be: what lies
    /// beyond it in a directory that goes as a whole is listed as displaced.
    pub fn plan(
        &self,
        root: &Root,
        mounts: &[Mount],
        kernel: Option<&Kernel>,
        tracked: Option<&Manifest>,
    ) -> Result<Transaction, Untouched> {
        let mut plan = Plan {
            root,
            undo: self,
            transaction: Transaction { slots: Slots::Undo, tops: self.filesystems.clone(), ..Transaction::default() },
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
                let filesystem = undo.filesystems.of(&entry.path);
                self.change(filesystem, &entry.path, Action::Make { slot });
                self.item("cd+++++++++", &entry.path, "/", 0);
            }
            // All of its metadata in the end.
            let filesystem = undo.filesystems.holding(&entry.path);
            self.change(filesystem, &entry.path, Action::Directory);
        }
        Ok(())
    }

    fn bring_back(&mut self, fact: &Fact) -> Result<(), Untouched> {
        let live = self.root.stat(&fact.path)?;
        match fact.before {
            Before::Stood(slot) => self.put_back(fact, slot, live.as_ref())?,
            Before::Nothing(_) => self.take_away(fact, live.as_ref()),
            Before::Time { old, new } => match live {
                Some(live) if live.mtime == new => {
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
            self.transaction.deviations.insert(fact.path.clone(), KERNELS.to_owned());
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
            let filesystem = self.undo.filesystems.of(&path);
            transaction.changes.push(Change { filesystem, path, action: Action::RemoveDir });
        }
        transaction.directories = directories;
        transaction.kernels.sort_unstable();
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
