//! From the seal to the end: every step looks first whether it was made, so that all of them can be
//! repeated after an interruption at any moment.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use crate::entry::{Entry, Mtime};
use crate::report::{Event, Job, Monitor};
use crate::root::mounts;
use crate::root::{FileKind, Rename, Root, RootError, Stat};
use crate::state::{self, State, StateError};
use crate::tree_path::TreePath;

use super::carry::Carry;
use super::filesystems::{Filesystems, Slots, Stages};
use super::journal::{self, Journal};
use super::prepare::{Action, Change, slot_name};
use super::undo::{self, Keep, Undo};
use super::way_back::{WayBack, WayBackError};
use super::{Interrupted, boot, displaced, name, reserve, strangers, top_times};

/// A transaction that is complete, durable and recorded.
#[derive(Debug)]
#[must_use]
pub struct Applied {
    /// What is recorded now, if anything is.
    pub state: Option<State>,
    /// From the first rename to the last rename or removal: the time in which the tree was mixed.
    pub mixed: Duration,
    /// Directories that stayed because something still sits in them.
    pub kept: Vec<TreePath>,
}

/// Does all that the journal says, records the state, and ends the transaction.
pub fn roll_forward(root: &Root, journal: &Journal, monitor: &dyn Monitor) -> Result<Applied, Interrupted> {
    let filesystems = Filesystems::from_tops(journal.tops.clone());
    let mut so_far = SoFar { begin: Instant::now(), anew: Vec::new(), edited: Vec::new() };
    let answer = match attempt(root, journal, &filesystems, &mut so_far, monitor) {
        Err(broken) if broken.is_full() && reserve::release(root, &filesystems).unwrap_or(false) => {
            monitor.note(format!("{broken}; going on with the room that was kept for this"));
            attempt(root, journal, &filesystems, &mut so_far, monitor)
        }
        answer => answer,
    };
    answer.map_err(|broken| Interrupted(broken.to_string()))
}

/// What a first attempt leaves to the second.
struct SoFar {
    begin: Instant,
    /// Directories that had to be made anew.
    anew: Vec<TreePath>,
    /// What somebody changed after the seal.
    edited: Vec<TreePath>,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    WayBack(#[from] WayBackError),
    #[error("the stage of the filesystem that holds {0} is missing")]
    NoStage(String),
}

impl Broken {
    fn is_full(&self) -> bool {
        match self {
            Broken::Root(error) | Broken::State(StateError::Root(error)) => error.is_full(),
            Broken::WayBack(WayBackError::Root(error)) => error.is_full(),
            _ => false,
        }
    }
}

fn attempt(
    root: &Root,
    journal: &Journal,
    filesystems: &Filesystems,
    so_far: &mut SoFar,
    monitor: &dyn Monitor,
) -> Result<Applied, Broken> {
    let takes_part = journal.takes_part();
    monitor.event(Event::Started { job: Job::Apply, total: journal.changes.len() as u64 });
    if journal.slots == Slots::Undo {
        filesystems.take_undo(root, takes_part.iter().copied())?;
    }
    let stages = filesystems.open_stages(root)?;
    let SoFar { begin, anew, edited } = so_far;
    let sealed = journal::sealed_at(root)?;
    let mounted = mounts::read(root.shown()).map_or_else(|_| Vec::new(), |(_, below)| below);
    let mounted = mounted.into_iter().map(|mount| mount.at).collect();
    let mut steps = Steps { root, filesystems, stages: &stages, mounted, here: None, anew, sealed, edited };
    let (mut kept, mut mixed) = (Vec::new(), Duration::ZERO);
    for change in &journal.changes {
        if !steps.make(change)? {
            kept.push(change.path.clone());
        }
        if change.action.shows() {
            mixed = begin.elapsed();
        }
    }
    let strangers = strangers::bring_back(root, &stages, &journal.changes)?;
    if !strangers.back.is_empty() {
        mixed = begin.elapsed();
    }
    let mut stuck = strangers.stuck;
    if !stuck.is_empty() {
        let listed: HashSet<TreePath> = undo::displaced(&stages)?.into_iter().collect();
        stuck.retain(|path| !listed.contains(path));
        undo::also_displaced(&stages, &stuck)?;
    }
    for path in &stuck {
        monitor.warn(format!(
            "{} came while the update was made and had to make way; it is kept in .si-undo until the next update",
            root.show(path)
        ));
    }
    for change in journal.changes.iter().filter(|change| matches!(change.action, Action::RemoveTree { .. })) {
        if root.stat(&change.path)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
            kept.push(change.path.clone());
        }
    }
    monitor.event(Event::Advanced { job: Job::Apply, by: journal.changes.len() as u64 });
    settle_directories(root, journal)?;
    if journal.keep == Keep::This {
        WayBack::settle(&stages, &journal.changes)?;
    }
    let grounds = journal.changes.iter().map(|change| filesystems.ground(&change.path));
    let touched: BTreeSet<usize> = grounds.chain(takes_part).collect();
    filesystems.sync(root, touched.into_iter())?;
    boot::write_back(root, journal, monitor);
    let mut state = match &journal.record.state {
        Some(text) => Some(State::parse(text, "the state in the journal")?),
        None => None,
    };
    let kept_at = if journal.keep == Keep::This { "is kept in .si-undo until the next update" } else { "is gone" };
    for path in so_far.edited.iter() {
        monitor.warn(format!("{} was changed after the update was sealed; what it was {kept_at}", root.show(path)));
    }
    for path in &kept {
        monitor.warn(format!("{} stays, since something untracked sits in it", root.show(path)));
    }
    for path in so_far.anew.iter() {
        monitor.warn(format!("{} had gone or become something else meanwhile; it was made anew", root.show(path)));
    }
    if let Some(state) = &mut state {
        for path in &kept {
            state.deviate(path, "kept, since something untracked sits in it");
        }
        for path in so_far.anew.iter() {
            state.deviate(path, "was not there any more when the update was made; what it held may be missing");
        }
        state.written = jiff::Timestamp::now();
    }
    state::held::record(root, journal.record.held.as_deref())?;
    match &state {
        Some(state) => state::save(root, state, journal.record.manifest.as_deref())?,
        None => state::forget(root)?,
    }
    // What cannot be given up now goes with the stage, or with the next run.
    let _ = reserve::release(root, filesystems);
    journal::close(root)?;
    monitor.event(Event::Finished { job: Job::Apply });
    if let Err(error) = put_away(root, journal) {
        monitor.warn(format!("what was displaced is not yet where it is kept; the next run sees to it: {error}"));
    }
    Ok(Applied { state, mixed, kept })
}

/// Puts what was displaced where it is kept, or removes it, then removes the stages, and puts the time of
/// the tops right, which that changes. Can be repeated.
pub(super) fn put_away(root: &Root, journal: &Journal) -> Result<(), RootError> {
    journal::stay_closed(root)?;
    let filesystems = Filesystems::from_tops(journal.tops.clone());
    let takes_part = journal.takes_part();
    if matches!(journal.keep, Keep::This | Keep::Nothing) {
        // An earlier undo set would not fit any more, wherever parts of it lie.
        let mut earlier = Undo::tops(root);
        earlier.retain(|top| takes_part.iter().all(|&at| journal.tops[at] != *top));
        Filesystems::from_tops(earlier).remove_undo(root)?;
    }
    match journal.keep {
        Keep::This => filesystems.keep_old(root, &takes_part)?,
        Keep::Nothing if filesystems.has_old(root)? => {
            let displaced = undo::displaced_slots(root, journal)?;
            if displaced.is_empty() {
                filesystems.remove_undo(root)?;
            } else {
                filesystems.thin_out(root, &displaced)?;
                filesystems.keep_old(root, &takes_part)?;
            }
        }
        // What only the node had was being kept already.
        Keep::Nothing => filesystems.keep_old(root, &takes_part)?,
        Keep::Beside => filesystems.keep_beside(root, &takes_part)?,
        Keep::Earlier => {
            let displaced = undo::displaced_slots(root, journal)?;
            if !displaced.is_empty() {
                filesystems.thin_out(root, &displaced)?;
                filesystems.keep_beside(root, &takes_part)?;
            }
        }
    }
    let mut times = top_times::noted(root)?;
    for top in filesystems.tops() {
        let entry = journal.directories.binary_search_by(|entry| entry.path.cmp(top));
        times.extend(entry.ok().map(|at| (top.clone(), journal.directories[at].meta.mtime)));
    }
    top_times::note(root, &times)?;
    filesystems.remove_stages(root)?;
    top_times::settle(root)
}

/// The changes, one after the other.
struct Steps<'a> {
    root: &'a Root,
    filesystems: &'a Filesystems,
    stages: &'a Stages,
    /// Where something is mounted.
    mounted: Vec<TreePath>,
    /// The directory of the last change: many follow each other in the same one.
    here: Option<(TreePath, Root)>,
    /// Directories that had to be made anew.
    anew: &'a mut Vec<TreePath>,
    /// When the transaction was sealed.
    sealed: Mtime,
    /// What somebody changed after that.
    edited: &'a mut Vec<TreePath>,
}

impl Steps<'_> {
    /// Makes one change unless it is made; false where a directory had to stay.
    fn make(&mut self, change: &Change) -> Result<bool, Broken> {
        // Set in the end, with the times; or part of another change.
        if matches!(change.action, Action::Directory | Action::RemoveInside) {
            return Ok(true);
        }
        let (at, root) = (change.filesystem, self.root);
        let missing = || Broken::NoStage(root.show(&change.path));
        let coming = self.stages.coming(at).ok_or_else(missing)?;
        let old = self.stages.old(at).ok_or_else(missing)?;
        let comes = matches!(change.action, Action::Install { .. } | Action::Exchange { .. } | Action::Make { .. });
        let ground = self.filesystems.ground(&change.path);
        if ground != at && (comes || matches!(change.action, Action::Remove { .. })) {
            self.here = None;
            let carry = Carry { root, top: &self.filesystems.tops()[ground] };
            carried(&carry, coming, old, change, self.anew)?;
            return Ok(true);
        }
        let path = change.path.alone();
        let mounted = self.mounted.iter().any(|at| at.is_below(&change.path));
        let Some(here) = self.enter(change, comes.then_some(old))? else { return Ok(true) };
        match change.action {
            Action::Install { slot } => {
                if install(here, coming, old, slot, &path)?.is_some_and(|live| changed_since(&live, self.sealed)) {
                    self.edited.push(change.path.clone());
                }
            }
            Action::Exchange { slot, to_directory } => exchange(here, coming, old, slot, &path, to_directory)?,
            Action::Make { slot } => make(here, old, slot, &path)?,
            Action::Remove { slot } => remove(here, old, slot, &path)?,
            // What has been mounted in it meanwhile must not go along: it stays as it is.
            Action::RemoveTree { .. } if mounted => {}
            Action::RemoveTree { slot } => remove_tree(here, old, slot, &path)?,
            Action::RemoveDir => return Ok(here.remove_dir(&path)?),
            Action::Directory | Action::RemoveInside => {}
            Action::Times(mtime) => {
                if here.stat(&path)?.is_some() {
                    here.set_times(&path, mtime)?;
                }
            }
        }
        Ok(true)
    }

    /// The directory that holds the path of `change`; where something is to come into it, it is made if it
    /// has gone, and what is in its way moved to `old`.
    fn enter(&mut self, change: &Change, old: Option<&Root>) -> Result<Option<&Root>, RootError> {
        let Some(parent) = change.path.parent() else { return Ok(None) };
        if self.here.as_ref().is_none_or(|(path, _)| *path != parent) {
            self.here = None;
            if let Some(old) = old {
                make_way(self.root, None, old, &change.path, self.anew)?;
            }
            match self.root.below(&parent) {
                Ok(here) => self.here = Some((parent, here)),
                Err(error) if error.is_absent() && old.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.here.as_ref().map(|(_, here)| here))
    }
}

/// One change on a filesystem that has no slots.
fn carried(
    carry: &Carry,
    coming: &Root,
    old: &Root,
    change: &Change,
    anew: &mut Vec<TreePath>,
) -> Result<(), RootError> {
    let (root, path) = (carry.root, &change.path);
    if !matches!(change.action, Action::Remove { .. }) {
        make_way(root, Some(carry), old, path, anew)?;
    }
    let live = root.stat(path)?.map(|live| live.kind == FileKind::Directory);
    match change.action {
        Action::Install { slot } | Action::Exchange { slot, .. } => match coming.stat(&slot_name(slot))? {
            Some(_) => carry.install(coming, old, &slot_name(slot), path),
            None => Ok(()),
        },
        // A directory that came to stand there is not what was to go.
        Action::Remove { slot } if live == Some(false) => carry.displace(old, &slot_name(slot), path),
        Action::Make { slot } if live != Some(true) => {
            if live.is_some() {
                carry.displace(old, &slot_name(slot), path)?;
            }
            root.create_dir(path)
        }
        _ => Ok(()),
    }
}

/// Whether somebody changed what is `live` after the seal. Each name of it that goes changes it as well, and
/// its second name among the displaced makes two of them: with more, only the time of its content counts.
fn changed_since(live: &Stat, sealed: Mtime) -> bool {
    live.ctime > sealed && (live.links <= 2 || live.mtime > sealed)
}

/// Says what it replaced.
fn install(root: &Root, coming: &Root, old: &Root, slot: u32, path: &TreePath) -> Result<Option<Stat>, RootError> {
    let slot = slot_name(slot);
    let Some(new) = coming.stat(&slot)? else { return Ok(None) };
    let Some(live) = root.stat(path)? else {
        coming.rename(&slot, root, path, Rename::NoReplace)?;
        return Ok(None);
    };
    if live.kind == FileKind::Directory || new.kind == FileKind::Directory {
        // It came to stand there after the seal: it goes aside, whatever it is.
        set_aside(root, old, &slot, path)?;
        coming.rename(&slot, root, path, Rename::NoReplace)?;
        return Ok(Some(live));
    }
    if !old.stat(&slot)?.is_some_and(|kept| displaced::is_kept(&kept, &live)) {
        // So did this, after its predecessor had got its second name.
        old.unlink(&slot)?;
        displaced::keep(root, old, &slot, path)?;
    }
    if (new.dev, new.ino) == (live.dev, live.ino) {
        // A rename between two names of one inode does nothing.
        coming.unlink(&slot)?;
        return Ok(None);
    }
    coming.rename(&slot, root, path, Rename::Replace)?;
    Ok(Some(live))
}

fn exchange(
    root: &Root,
    coming: &Root,
    old: &Root,
    slot: u32,
    path: &TreePath,
    to_directory: bool,
) -> Result<(), RootError> {
    let slot = slot_name(slot);
    let Some(new) = coming.stat(&slot)? else { return Ok(()) };
    let is_new = (new.kind == FileKind::Directory) == to_directory;
    if is_new {
        match root.stat(path)? {
            None => return coming.rename(&slot, root, path, Rename::NoReplace),
            Some(live) if (live.kind == FileKind::Directory) == to_directory => {
                set_aside(root, old, &slot, path)?;
                return coming.rename(&slot, root, path, Rename::NoReplace);
            }
            Some(_) => match coming.rename(&slot, root, path, Rename::Exchange) {
                // A filesystem that cannot do it: nothing stands there for a moment.
                Err(error) if error.is_unsupported() => {
                    set_aside(root, old, &slot, path)?;
                    return coming.rename(&slot, root, path, Rename::NoReplace);
                }
                answer => answer?,
            },
        }
    }
    coming.rename(&slot, old, &slot, Rename::NoReplace)
}

fn make(root: &Root, old: &Root, slot: u32, path: &TreePath) -> Result<(), RootError> {
    match root.stat(path)? {
        Some(live) if live.kind == FileKind::Directory => return Ok(()),
        Some(_) => set_aside(root, old, &slot_name(slot), path)?,
        None => {}
    }
    root.create_dir(path)
}

fn remove(root: &Root, old: &Root, slot: u32, path: &TreePath) -> Result<(), RootError> {
    let slot = slot_name(slot);
    if old.stat(&slot)?.is_some() {
        return Ok(());
    }
    match root.stat(path)? {
        // A directory that came to stand there is not what was to go.
        None => Ok(()),
        Some(live) if live.kind == FileKind::Directory => Ok(()),
        Some(_) => root.rename(path, old, &slot, Rename::NoReplace),
    }
}

fn remove_tree(root: &Root, old: &Root, slot: u32, path: &TreePath) -> Result<(), RootError> {
    let slot = slot_name(slot);
    if old.stat(&slot)?.is_some() {
        return Ok(());
    }
    match root.stat(path)? {
        Some(live) if live.kind == FileKind::Directory => root.rename(path, old, &slot, Rename::NoReplace),
        // What came to stand there is not what was to go.
        _ => Ok(()),
    }
}

/// Makes the directories above `path` where they have gone since the tree was looked at, or something
/// else stands in their place, which goes aside; `anew` names them. What a directory of the image should
/// be like is set in the end, as for all of them.
fn make_way(
    root: &Root,
    carry: Option<&Carry>,
    old: &Root,
    path: &TreePath,
    anew: &mut Vec<TreePath>,
) -> Result<(), RootError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let stands = root.stat(&parent)?;
    if stands.is_some_and(|stat| stat.kind == FileKind::Directory) {
        return Ok(());
    }
    make_way(root, carry, old, &parent, anew)?;
    if root.stat(&parent)?.is_some() {
        let mut free = 0;
        while old.stat(&aside(free))?.is_some() {
            free += 1;
        }
        match carry {
            Some(carry) => carry.displace(old, &aside(free), &parent)?,
            None => root.rename(&parent, old, &aside(free), Rename::NoReplace)?,
        }
    }
    root.create_dir(&parent)?;
    anew.push(parent);
    Ok(())
}

fn aside(number: u32) -> TreePath {
    name(&format!("aside-{number}"))
}

fn set_aside(root: &Root, old: &Root, slot: &TreePath, path: &TreePath) -> Result<(), RootError> {
    old.remove_tree(slot)?;
    root.rename(path, old, slot, Rename::NoReplace)
}

/// Gives directories their final metadata; children change no more.
fn settle_directories(root: &Root, journal: &Journal) -> Result<(), RootError> {
    let whole = journal.changes.iter().filter(|change| change.action == Action::Directory);
    let whole: HashSet<&TreePath> = whole.map(|change| &change.path).collect();
    for entry in &journal.directories {
        if whole.contains(&entry.path) {
            match root.stat(&entry.path)? {
                Some(stat) if stat.kind == FileKind::Directory => root.set_meta(&entry.path, &entry.meta)?,
                _ => {}
            }
        } else {
            settle_time(root, entry)?;
        }
    }
    Ok(())
}

fn settle_time(root: &Root, entry: &Entry) -> Result<(), RootError> {
    match root.stat(&entry.path)? {
        Some(stat) if stat.kind == FileKind::Directory && stat.mtime != entry.meta.mtime => {
            let set = root.set_times(&entry.path, entry.meta.mtime);
            // The time alone of a directory that may not be written to stays: it is no drift.
            set.or_else(|error| if error.is_forbidden() { Ok(()) } else { Err(error) })
        }
        _ => Ok(()),
    }
}
