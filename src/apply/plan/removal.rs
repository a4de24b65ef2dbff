//! What goes.

use crate::apply::error::{SlotsExhausted, Untouched};
use crate::apply::filesystem::Filesystems;
use crate::apply::on_disk::SlotAllocator;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::subtree_removal::RemovableSubtrees;
use crate::apply::plan::{Action, Change, ChangePlan, ItemizedLine, PlanInput, UntrackedPolicy};
use crate::manifest::gone;
use crate::root::{Descend, FileKind, RootError, Stat, mounts};
use crate::tree_path::TreePath;

/// Why a directory stays that the image does not have any more.
pub(in crate::apply) const OCCUPIED: &str = "kept, since something untracked sits in it";
/// Why the running kernel's paths stay.
const KERNELS: &str = "the running kernel's, kept until the next boot";

/// Appends the removals: names first, then directories, the deepest first.
pub(super) fn add_removals(
    wanted: &PlanInput,
    live: &LiveTree,
    slots: &mut SlotAllocator,
    transaction: &mut ChangePlan,
) -> Result<(), Untouched> {
    let mut going = RemovedPaths::default();
    stale(wanted, live, transaction, &mut going)?;
    if wanted.policy.untracked == UntrackedPolicy::Remove {
        let mut kept = 0;
        // What lies in a directory that becomes something else goes along with it, and counts once.
        let displaced = displaced(transaction);
        let apart = |path: &TreePath| !displaced.iter().any(|top| path.is_below(top));
        for (path, stat) in live.untracked.iter().filter(|(path, _)| apart(path)) {
            kept += u64::from(untracked(wanted, path, stat, &mut going)?);
        }
        transaction.untracked_count = live.is_complete.then_some(kept);
    }
    keep_kernels(transaction, &mut going);
    deferred(wanted, transaction, &mut going)?;
    let place = (wanted.host, wanted.mounts);
    let whole = RemovableSubtrees::find(
        wanted.root,
        place,
        wanted.filesystems,
        &going.names,
        &going.directories,
    )?;
    going.directories.retain(|path| {
        let stays = whole.is_occupied(path);
        if stays {
            transaction.deviations.insert(path.clone(), OCCUPIED.to_owned());
        }
        !stays
    });
    // What waited for a boot was listed by the update that it belongs to.
    let counts = |path: &&TreePath| wanted.old_kernel_paths.binary_search(path).is_err();
    transaction.removed_count +=
        going.names.iter().chain(&going.directories).filter(counts).count();
    let items = going
        .names
        .iter()
        .map(|path| (path, ""))
        .chain(going.directories.iter().map(|path| (path, "/")));
    transaction.itemized.extend(items.map(|(path, suffix)| ItemizedLine {
        change: "*deleting  ".to_owned(),
        path: path.clone(),
        suffix: suffix.to_owned(),
        bytes: 0,
    }));
    going.directories.append(&mut going.deferred);
    transaction.changes.append(&mut removal_changes(
        wanted.filesystems,
        &whole,
        going.names,
        going.directories,
        slots,
    )?);
    Ok(())
}

/// The changes that remove `names` and `directories`, in the order in which they are made.
pub(in crate::apply) fn removal_changes(
    filesystems: &Filesystems,
    whole: &RemovableSubtrees,
    names: Vec<TreePath>,
    mut directories: Vec<TreePath>,
    slots: &mut SlotAllocator,
) -> Result<Vec<Change>, SlotsExhausted> {
    let change = |path: TreePath, action| Change {
        filesystem: filesystems.filesystem_of(&path),
        path,
        action,
    };
    directories.retain(|path| whole.roots().binary_search(path).is_err());
    let (inside, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|path| whole.covers(path));
    let (below, mut directories): (Vec<_>, Vec<_>) =
        directories.into_iter().partition(|path| whole.covers(path));
    directories.sort_unstable();
    let mut changes: Vec<Change> = Vec::new();
    for path in names {
        changes.push(change(path, Action::Remove { slot: slots.take_backup()? }));
    }
    for path in whole.roots() {
        changes.push(change(path.clone(), Action::RemoveTree { slot: slots.take_backup()? }));
    }
    changes.extend(directories.into_iter().rev().map(|path| change(path, Action::RemoveDir)));
    changes
        .extend(inside.into_iter().chain(below).map(|path| change(path, Action::CoveredByParent)));
    Ok(changes)
}

#[derive(Default)]
struct RemovedPaths {
    names: Vec<TreePath>,
    directories: Vec<TreePath>,
    deferred: Vec<TreePath>,
    /// What would go and stays for the running kernel.
    kernels: Vec<TreePath>,
}

/// Directories that become something else: they take everything below along.
fn displaced(transaction: &ChangePlan) -> Vec<TreePath> {
    let becomes =
        |change: &&Change| matches!(change.action, Action::Exchange { to_directory: false, .. });
    transaction.changes.iter().filter(becomes).map(|change| change.path.clone()).collect()
}

/// Tracked paths that the target no longer names.
fn stale(
    wanted: &PlanInput,
    live: &LiveTree,
    transaction: &mut ChangePlan,
    going: &mut RemovedPaths,
) -> Result<(), Untouched> {
    let stale = wanted.installed.into_iter().flat_map(|base| gone(base, wanted.target));
    let former =
        wanted.formerly_tracked.iter().filter(|entry| wanted.target.get(&entry.path).is_none());
    let stale = stale.chain(former).map(|entry| (&entry.path, entry.is_dir()));
    let known = |path: &TreePath| {
        [wanted.installed, Some(wanted.target)]
            .into_iter()
            .flatten()
            .any(|manifest| manifest.get(path).is_some())
    };
    let waiting =
        wanted.old_kernel_paths.iter().filter(|path| !known(path)).map(|path| (path, true));
    let displaced = displaced(transaction);
    let mut protected: Vec<TreePath> = Vec::new();
    for (path, directory) in stale.chain(waiting) {
        if displaced.iter().any(|top| path.is_below(top)) {
            continue;
        }
        let Some(stat) = live.get(path) else { continue };
        if wanted.filter.protects(path) {
            protected.push(path.clone());
            continue;
        }
        if wanted.is_kernel_path(path) {
            going.kernels.push(path.clone());
        } else if stat.kind != FileKind::Directory {
            going.names.push(path.clone());
        } else if directory {
            going.directories.push(path.clone());
        } else {
            transaction
                .deviations
                .insert(path.clone(), "a directory stands where a file was to go".to_owned());
        }
    }
    going.directories.retain(|dir| {
        let stays = protected.iter().any(|path| path.is_below(dir));
        if stays {
            transaction.deviations.insert(dir.clone(), OCCUPIED.to_owned());
        }
        !stays
    });
    Ok(())
}

/// What belongs to the running kernel stays, with the directories above it.
fn keep_kernels(transaction: &mut ChangePlan, going: &mut RemovedPaths) {
    let kernels = &mut going.kernels;
    kernels.sort_unstable();
    kernels.dedup();
    let holds = |dir: &TreePath| {
        let next = kernels.partition_point(|path| path <= dir);
        kernels.get(next).is_some_and(|path| path.is_below(dir))
    };
    let (above, rest) = std::mem::take(&mut going.directories).into_iter().partition(holds);
    going.directories = rest;
    let mut above: Vec<TreePath> = above;
    kernels.append(&mut above);
    transaction.kernel_paths = std::mem::take(kernels);
    record_kernel_deviations(transaction);
}

/// Lists what stays for the running kernel as deviations, by its topmost paths.
pub(in crate::apply) fn record_kernel_deviations(transaction: &mut ChangePlan) {
    transaction.kernel_paths.sort_unstable();
    let mut top: Option<&TreePath> = None;
    for path in &transaction.kernel_paths {
        if !top.is_some_and(|top| path.is_below(top)) {
            transaction.deviations.insert(path.clone(), KERNELS.to_owned());
            top = Some(path);
        }
    }
}

/// What stays for the kernel is kept for undoing as well, so its filesystems take part, by a change that
/// changes nothing where there is no other.
pub(super) fn include_kernel_filesystems(live: &LiveTree, transaction: &mut ChangePlan) {
    if transaction.changes.is_empty() {
        return;
    }
    for path in transaction.kernel_paths.clone() {
        let filesystem = transaction.filesystems.filesystem_of(&path);
        let Some(stat) = live.get(&path).filter(|stat| stat.kind != FileKind::Directory) else {
            continue;
        };
        if !transaction.participating().contains(&filesystem) {
            transaction.changes.push(Change {
                filesystem,
                path,
                action: Action::SetTime(stat.mtime),
            });
        }
    }
}

/// Directories that an earlier update could not remove because something still sat in them.
fn deferred(
    wanted: &PlanInput,
    transaction: &mut ChangePlan,
    going: &mut RemovedPaths,
) -> Result<(), Untouched> {
    for path in wanted.known_deviations {
        let kernels = transaction.kernel_paths.binary_search(path).is_ok();
        if kernels || wanted.target.get(path).is_some() || wanted.was_tracked(path) {
            continue;
        }
        match wanted.root.stat(path)? {
            Some(stat) if stat.kind == FileKind::Directory => {}
            _ => continue,
        }
        if wanted.root.children(path)?.is_empty() {
            going.deferred.push(path.clone());
        } else {
            transaction.deviations.insert(path.clone(), OCCUPIED.to_owned());
        }
    }
    Ok(())
}

/// An untracked path and what is below it, but for what is excluded or protected, what is tracked under
/// another name, and filesystems of their own: snapshots, and the node's subvolumes and mounts. Whether
/// anything stays.
fn untracked(
    wanted: &PlanInput,
    path: &TreePath,
    stat: &Stat,
    going: &mut RemovedPaths,
) -> Result<bool, RootError> {
    let above = path.parent().map(|parent| wanted.root.stat(&parent)).transpose()?.flatten();
    let apart = |dev| above.is_some_and(|above| above.dev != dev);
    let filesystems = wanted.filesystems;
    if wanted.filter.protects(path)
        || filesystems.is_mount_root(path)
        || is_tracked_twin(wanted, path)
    {
        return Ok(true);
    }
    // What is mounted where the image has an empty directory is a disk of the node's.
    let top = &filesystems.mount_roots()[filesystems.stage_filesystem_of(path)];
    let entries = wanted.target.entries();
    let below = entries.get(entries.partition_point(|entry| entry.path <= *top));
    if !below.is_some_and(|entry| entry.path.is_below(top)) {
        return Ok(true);
    }
    if stat.kind != FileKind::Directory {
        let to = if wanted.is_kernel_path(path) { &mut going.kernels } else { &mut going.names };
        to.push(path.clone());
        return Ok(false);
    }
    if apart(stat.dev) {
        return Ok(true);
    }
    let mut cursor = wanted.filter.cursor();
    let (mut inside, mut kept) = (vec![path.clone()], Vec::new());
    wanted.root.walk::<RootError>(path, |visit| {
        let directory = visit.stat.kind == FileKind::Directory;
        let stays = cursor.excludes(&visit.path, directory).is_some()
            || wanted.filter.protects(&visit.path)
            || wanted.filesystems.is_mount_root(&visit.path)
            || (directory && apart(visit.stat.dev))
            || (!directory && is_tracked_twin(wanted, &visit.path));
        if stays {
            kept.push(visit.path);
            return Ok(Descend::Past);
        }
        if directory {
            inside.push(visit.path);
        } else if wanted.is_kernel_path(&visit.path) {
            going.kernels.push(visit.path);
        } else {
            going.names.push(visit.path);
        }
        Ok(Descend::Into)
    })?;
    // An empty directory of the kernel's stays as well.
    going.kernels.extend(inside.iter().filter(|dir| wanted.is_kernel_path(dir)).cloned());
    inside.retain(|dir| !wanted.is_kernel_path(dir));
    inside.retain(|dir| !kept.iter().any(|path| path.is_below(dir)));
    going.directories.append(&mut inside);
    Ok(!kept.is_empty())
}

/// Whether `path` is seen through a bind mount at a place where it is the image's.
fn is_tracked_twin(wanted: &PlanInput, path: &TreePath) -> bool {
    let seen = |from, to| {
        mounts::twin(path, from, to).is_some_and(|twin| wanted.target.get(&twin).is_some())
    };
    wanted.bind_mounts.iter().any(|(mount, source)| seen(mount, source) || seen(source, mount))
}
