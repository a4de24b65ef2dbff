//! From the seal to the end: every step looks first whether it was made, so that all of them can be
//! repeated after an interruption at any moment.

use std::collections::HashSet;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::entry::Entry;
use crate::report::{Event, Job, Monitor};
use crate::root::{FileKind, Rename, Root, RootError};
use crate::state::{self, State};
use crate::tree_path::TreePath;

use super::filesystems::{Filesystems, Stages};
use super::journal::{self, Journal};
use super::prepare::{Action, Change, slot_name};
use super::{DISPLACED, Interrupted, name};

/// A transaction that is complete, durable and recorded.
#[derive(Debug)]
#[must_use]
pub struct Applied {
    /// What is recorded now.
    pub state: State,
    /// From the first rename to the last: the time in which the tree was mixed.
    pub mixed: Duration,
    /// Directories that stayed because something still sits in them.
    pub kept: Vec<TreePath>,
}

/// Does all that the journal says, records the state, and ends the transaction.
pub fn roll_forward(root: &Root, journal: &Journal, monitor: &dyn Monitor) -> Result<Applied, Interrupted> {
    let filesystems = Filesystems::from_tops(journal.tops.clone());
    let stages = filesystems.open_stages(root)?;
    monitor.event(Event::Started { job: Job::Apply, total: journal.changes.len() as u64 });
    let begin = Instant::now();
    let (mut kept, mut anew) = (Vec::new(), Vec::new());
    for change in &journal.changes {
        if !step(root, &stages, change, &mut anew)? {
            kept.push(change.path.clone());
        }
    }
    let mixed = begin.elapsed();
    monitor.event(Event::Advanced { job: Job::Apply, by: journal.changes.len() as u64 });
    settle_directories(root, journal)?;
    keep_displaced(&stages)?;
    filesystems.sync(root, std::iter::once(0).chain(stages.which()))?;
    let mut state = State::parse(&journal.state, "the state in the journal")?;
    for path in &kept {
        state.deviate(path, "kept, since something untracked sits in it");
    }
    for path in &anew {
        monitor.warn(format!("{} had gone or become something else meanwhile; it was made anew", root.show(path)));
        state.deviate(path, "was not there any more when the update was made; what it held may be missing");
    }
    state.written = jiff::Timestamp::now();
    state::save(root, &state, journal.manifest.as_deref())?;
    journal::discard(root)?;
    monitor.event(Event::Finished { job: Job::Apply });
    if let Err(error) = tidy(root, &filesystems, journal) {
        monitor.warn(format!("what was displaced is still there, and the next run removes it: {error}"));
    }
    Ok(Applied { state, mixed, kept })
}

/// Marks the undo directories whose content the node would miss, so that nobody removes them with the
/// stage.
fn keep_displaced(stages: &Stages) -> Result<(), Interrupted> {
    let list = name(DISPLACED);
    let Some(stage) = stages.stage(0).filter(|stage| stage.stat(&list).is_ok_and(|stat| stat.is_some())) else {
        return Ok(());
    };
    let mut paths = Vec::new();
    let read = stage.open_file(&list)?.read_to_end(&mut paths);
    read.map_err(|source| RootError { what: "read", path: stage.show(&list), source })?;
    for undo in stages.which().filter_map(|at| stages.undo(at)) {
        undo.write_durably(&list, &paths, 0o600)?;
    }
    Ok(())
}

/// Removes stages and what was displaced, and puts the time of the top right, which that changes.
fn tidy(root: &Root, filesystems: &Filesystems, journal: &Journal) -> Result<(), RootError> {
    filesystems.remove_stages(root)?;
    for top in filesystems.tops() {
        let entry = journal.directories.binary_search_by(|entry| entry.path.cmp(top));
        if let Ok(at) = entry {
            settle_time(root, &journal.directories[at])?;
        }
    }
    Ok(())
}

/// Makes one change unless it is made; false where a directory had to stay.
fn step(root: &Root, stages: &Stages, change: &Change, anew: &mut Vec<TreePath>) -> Result<bool, Interrupted> {
    let at = change.filesystem;
    let missing =
        || Interrupted(format!("the stage of the filesystem that holds {} is missing", root.show(&change.path)));
    let stage = || stages.stage(at).ok_or_else(missing);
    let undo = || stages.undo(at).ok_or_else(missing);
    if matches!(change.action, Action::Install { .. } | Action::Exchange { .. }) {
        make_way(root, undo()?, &change.path, anew)?;
    }
    match change.action {
        Action::Install { slot } => install(root, stage()?, undo()?, slot, &change.path)?,
        Action::Exchange { slot, to_directory } => {
            exchange(root, stage()?, undo()?, slot, &change.path, to_directory)?;
        }
        Action::Remove { slot } => remove(root, undo()?, slot, &change.path)?,
        Action::RemoveDir => return Ok(root.remove_dir(&change.path)?),
        // Set in the end, with the times.
        Action::Directory => {}
        Action::Times(mtime) => {
            if root.stat(&change.path)?.is_some() {
                root.set_times(&change.path, mtime)?;
            }
        }
    }
    Ok(true)
}

fn install(root: &Root, stage: &Root, undo: &Root, slot: u32, path: &TreePath) -> Result<(), RootError> {
    let slot = slot_name(slot);
    let Some(staged) = stage.stat(&slot)? else { return Ok(()) };
    match root.stat(path)? {
        None => return stage.rename(&slot, root, path, Rename::NoReplace),
        Some(live) if live.kind == FileKind::Directory || staged.kind == FileKind::Directory => {
            // It came to stand there after the seal: it goes aside, whatever it is.
            set_aside(root, undo, &slot, path)?;
            return stage.rename(&slot, root, path, Rename::NoReplace);
        }
        Some(_) => {}
    }
    // The second name is for undoing; where it cannot be had (no hardlinks here, or too many on this
    // inode), the change is made all the same.
    let _ = undo.create_link(&slot, root, path);
    stage.rename(&slot, root, path, Rename::Replace)?;
    // A rename between two names of one inode does nothing.
    stage.unlink(&slot)
}

fn exchange(
    root: &Root,
    stage: &Root,
    undo: &Root,
    slot: u32,
    path: &TreePath,
    to_directory: bool,
) -> Result<(), RootError> {
    let slot = slot_name(slot);
    let Some(staged) = stage.stat(&slot)? else { return Ok(()) };
    let is_new = (staged.kind == FileKind::Directory) == to_directory;
    if is_new {
        match root.stat(path)? {
            None => return stage.rename(&slot, root, path, Rename::NoReplace),
            Some(live) if (live.kind == FileKind::Directory) == to_directory => {
                set_aside(root, undo, &slot, path)?;
                return stage.rename(&slot, root, path, Rename::NoReplace);
            }
            Some(_) => stage.rename(&slot, root, path, Rename::Exchange)?,
        }
    }
    stage.rename(&slot, undo, &slot, Rename::NoReplace)
}

fn remove(root: &Root, undo: &Root, slot: u32, path: &TreePath) -> Result<(), RootError> {
    let slot = slot_name(slot);
    if undo.stat(&slot)?.is_some() {
        return Ok(());
    }
    match root.stat(path)? {
        // A directory that came to stand there is not what was to go.
        None => Ok(()),
        Some(live) if live.kind == FileKind::Directory => Ok(()),
        Some(_) => root.rename(path, undo, &slot, Rename::NoReplace),
    }
}

/// Makes the directories above `path` where they have gone since the tree was looked at, or something
/// else stands in their place, which goes aside; `anew` names them. What a directory of the image should
/// be like is set in the end, as for all of them.
fn make_way(root: &Root, undo: &Root, path: &TreePath, anew: &mut Vec<TreePath>) -> Result<(), RootError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let stands = root.stat(&parent)?;
    if stands.is_some_and(|stat| stat.kind == FileKind::Directory) {
        return Ok(());
    }
    make_way(root, undo, &parent, anew)?;
    if root.stat(&parent)?.is_some() {
        let mut free = 0;
        while undo.stat(&aside(free))?.is_some() {
            free += 1;
        }
        root.rename(&parent, undo, &aside(free), Rename::NoReplace)?;
    }
    root.create_dir(&parent)?;
    anew.push(parent);
    Ok(())
}

fn aside(number: u32) -> TreePath {
    name(&format!("aside-{number}"))
}

fn set_aside(root: &Root, undo: &Root, slot: &TreePath, path: &TreePath) -> Result<(), RootError> {
    undo.remove_tree(slot)?;
    root.rename(path, undo, slot, Rename::NoReplace)
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
