//! What goes.

use crate::manifest::gone;
use crate::root::{Descend, FileKind, RootError};
use crate::tree_path::TreePath;

use super::super::Untouched;
use super::super::live::Live;
use super::{Action, Change, Item, Transaction, Untracked, Wanted};

/// Slots of removals are counted down from here, apart from those of installs.
const FIRST_SLOT: u32 = u32::MAX;

/// Appends the removals: names first, then directories, the deepest first.
pub(super) fn remove(wanted: &Wanted, live: &Live, transaction: &mut Transaction) -> Result<(), Untouched> {
    let mut going = Going::default();
    stale(wanted, live, transaction, &mut going)?;
    deferred(wanted, transaction, &mut going)?;
    if wanted.policy.untracked == Untracked::Remove {
        for (path, stat) in &live.untracked {
            untracked(wanted, path, stat.kind, &mut going)?;
        }
        transaction.untracked = live.whole.then_some(0);
    }
    transaction.removed += going.names.len() + going.directories.len();
    let items = going.names.iter().map(|path| (path, "")).chain(going.directories.iter().map(|path| (path, "/")));
    transaction.items.extend(items.map(|(path, suffix)| Item {
        change: "*deleting  ".to_owned(),
        path: path.clone(),
        suffix: suffix.to_owned(),
        bytes: 0,
    }));
    let mut slot = FIRST_SLOT;
    for path in going.names {
        let filesystem = wanted.filesystems.of(&path);
        transaction.changes.push(Change { filesystem, path, action: Action::Remove { slot } });
        slot -= 1;
    }
    going.directories.extend(going.deferred);
    going.directories.sort_unstable();
    for path in going.directories.into_iter().rev() {
        transaction.changes.push(Change { filesystem: 0, path, action: Action::RemoveDir });
    }
    Ok(())
}

#[derive(Default)]
struct Going {
    names: Vec<TreePath>,
    directories: Vec<TreePath>,
    deferred: Vec<TreePath>,
}

/// Tracked paths that the target no longer names.
fn stale(wanted: &Wanted, live: &Live, transaction: &mut Transaction, going: &mut Going) -> Result<(), Untouched> {
    let stale = wanted.base.into_iter().flat_map(|base| gone(base, wanted.target));
    let former = wanted.former.iter().filter(|entry| wanted.target.get(&entry.path).is_none());
    // Directories that become something else take everything below along.
    let displaced: Vec<TreePath> = transaction
        .changes
        .iter()
        .filter(|change| matches!(change.action, Action::Exchange { to_directory: false, .. }))
        .map(|change| change.path.clone())
        .collect();
    for entry in stale.chain(former) {
        if displaced.iter().any(|top| entry.path.is_below(top)) {
            continue;
        }
        let Some(stat) = live.get(&entry.path) else { continue };
        if wanted.filter.protects(&entry.path) {
            continue;
        }
        if stat.kind != FileKind::Directory {
            going.names.push(entry.path.clone());
        } else if entry.is_dir() {
            going.directories.push(entry.path.clone());
        } else {
            transaction.deviations.insert(entry.path.clone(), "a directory stands where a file was to go".to_owned());
        }
    }
    Ok(())
}

/// Directories that an earlier update could not remove because something still sat in them.
fn deferred(wanted: &Wanted, transaction: &mut Transaction, going: &mut Going) -> Result<(), Untouched> {
    for path in wanted.recorded {
        if wanted.target.get(path).is_some() || wanted.was_tracked(path) {
            continue;
        }
        match wanted.root.stat(path)? {
            Some(stat) if stat.kind == FileKind::Directory => {}
            _ => continue,
        }
        if wanted.root.children(path)?.is_empty() {
            going.deferred.push(path.clone());
        } else {
            transaction.deviations.insert(path.clone(), "kept, since something untracked sits in it".to_owned());
        }
    }
    Ok(())
}

/// An untracked path and what is below it, but for what is excluded or protected.
fn untracked(wanted: &Wanted, path: &TreePath, kind: FileKind, going: &mut Going) -> Result<(), RootError> {
    if wanted.filter.protects(path) || wanted.filesystems.is_top(path) {
        return Ok(());
    }
    if kind != FileKind::Directory {
        going.names.push(path.clone());
        return Ok(());
    }
    let mut cursor = wanted.filter.cursor();
    let (mut inside, mut kept) = (vec![path.clone()], Vec::new());
    wanted.root.walk::<RootError>(path, |visit| {
        let directory = visit.stat.kind == FileKind::Directory;
        let stays = cursor.excludes(&visit.path, directory).is_some()
            || wanted.filter.protects(&visit.path)
            || wanted.filesystems.is_top(&visit.path);
        if stays {
            kept.push(visit.path);
            return Ok(Descend::Past);
        }
        if directory {
            inside.push(visit.path);
        } else {
            going.names.push(visit.path);
        }
        Ok(Descend::Into)
    })?;
    inside.retain(|dir| !kept.iter().any(|path| path.is_below(dir)));
    going.directories.append(&mut inside);
    Ok(())
}
