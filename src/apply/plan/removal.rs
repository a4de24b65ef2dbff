//! Plans the removals: stale paths, untracked paths, and directories that become empty.

use crate::apply::error::{SlotsExhausted, Untouched};
use crate::apply::filesystem::Filesystems;
use crate::apply::on_disk::SlotAllocator;
use crate::apply::plan::change_plan::{Action, Change, ChangePlan, ItemizedLine};
use crate::apply::plan::input::PlanInput;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::policy::UntrackedPolicy;
use crate::apply::plan::subtree_removal::{MountTopology, RemovableSubtrees};
use crate::entry::EntryKind;
use crate::manifest::{Manifest, removed_entries};
use crate::root::{Descend, FileKind, RootError, Stat, Visit, mounts};
use crate::tree_path::TreePath;

/// Deviation of a directory that the target does not have and that is not empty.
pub(in crate::apply) const OCCUPIED: &str = "kept: it contains untracked entries";
/// Deviation of a path that is kept for the running kernel.
const KERNELS: &str = "the running kernel's, kept until the next boot";
/// Deviation of a directory in place of a stale file.
const OTHER_TYPE: &str = "a directory is in place of a file that the image no longer has";

/// Paths to be removed, before their order is decided.
#[derive(Default)]
struct Removals {
    /// Anything but directories.
    leaves: Vec<TreePath>,
    directories: Vec<TreePath>,
    /// Directories that an earlier run reported as removed, and could not remove.
    deferred: Vec<TreePath>,
    /// Paths that would be removed and are kept for the running kernel.
    kernel_paths: Vec<TreePath>,
}

/// Adds the removals to the plan: leaves first, then directories, the deepest first.
pub(super) fn add_removals(
    input: &PlanInput,
    live: &LiveTree,
    slots: &mut SlotAllocator,
    plan: &mut ChangePlan,
) -> Result<(), Untouched> {
    let mut removals = Removals::default();
    collect_stale(input, live, plan, &mut removals);
    if input.policy.untracked == UntrackedPolicy::Remove {
        collect_untracked(input, live, plan, &mut removals)?;
    }
    keep_kernel_paths(plan, &mut removals);
    collect_deferred(input, plan, &mut removals)?;

    let subtrees = RemovableSubtrees::find(
        input.root,
        &MountTopology { host: input.host, mounts: input.mounts, filesystems: input.filesystems },
        &removals.leaves,
        &removals.directories,
    )?;
    keep_directories(&mut removals.directories, plan, |dir| subtrees.is_occupied(dir));
    report_removals(input, plan, &removals);

    let Removals { leaves, mut directories, mut deferred, .. } = removals;
    directories.append(&mut deferred);
    let mut changes = removal_changes(input.filesystems, &subtrees, leaves, directories, slots)?;
    plan.changes.append(&mut changes);
    Ok(())
}

/// Counts and itemizes the removals.
fn report_removals(input: &PlanInput, plan: &mut ChangePlan, removals: &Removals) {
    // The update that kept the old kernel paths has reported their removal already.
    plan.removed_count += removals
        .leaves
        .iter()
        .chain(&removals.directories)
        .filter(|path| input.old_kernel_paths.binary_search(path).is_err())
        .count();

    let leaves = removals.leaves.iter().map(|path| (path, ""));
    let directories = removals.directories.iter().map(|path| (path, "/"));
    plan.itemized.extend(
        leaves
            .chain(directories)
            .map(|(path, suffix)| ItemizedLine::deletion(path.clone(), suffix)),
    );
}

/// Computes the changes that remove `leaves` and `directories`, in the order of the roll forward.
pub(in crate::apply) fn removal_changes(
    filesystems: &Filesystems,
    subtrees: &RemovableSubtrees,
    leaves: Vec<TreePath>,
    mut directories: Vec<TreePath>,
    slots: &mut SlotAllocator,
) -> Result<Vec<Change>, SlotsExhausted> {
    let change = |path: TreePath, action| Change {
        filesystem: filesystems.slot_filesystem_of(&path),
        path,
        action,
    };
    directories.retain(|path| subtrees.roots().binary_search(path).is_err());
    let (covered_leaves, leaves): (Vec<_>, Vec<_>) =
        leaves.into_iter().partition(|path| subtrees.covers(path));
    let (covered_directories, mut directories): (Vec<_>, Vec<_>) =
        directories.into_iter().partition(|path| subtrees.covers(path));

    let mut changes: Vec<Change> = Vec::new();
    for path in leaves {
        changes.push(change(path, Action::Remove { slot: slots.take_backup()? }));
    }
    for path in subtrees.roots() {
        changes.push(change(path.clone(), Action::RemoveTree { slot: slots.take_backup()? }));
    }

    // In reverse tree order, a directory is empty when it is removed.
    directories.sort_unstable();
    changes.extend(directories.into_iter().rev().map(|path| change(path, Action::RemoveDir)));

    let covered = covered_leaves.into_iter().chain(covered_directories);
    changes.extend(covered.map(|path| change(path, Action::CoveredByParent)));
    Ok(changes)
}

/// Directories that become another type; everything in them is moved with them.
fn displaced_directories(plan: &ChangePlan) -> Vec<TreePath> {
    plan.changes
        .iter()
        .filter(|change| matches!(change.action, Action::Exchange { to_directory: false, .. }))
        .map(|change| change.path.clone())
        .collect()
}

/// Collects the recorded paths that the target does not name.
fn collect_stale(
    input: &PlanInput,
    live: &LiveTree,
    plan: &mut ChangePlan,
    removals: &mut Removals,
) {
    let is_in_manifest = |path: &TreePath| {
        let has_path = |manifest: &Manifest| manifest.get(path).is_some();
        input.installed.is_some_and(has_path) || has_path(input.target)
    };
    let installed = input.installed.into_iter().flat_map(|old| removed_entries(old, input.target));
    let former =
        input.formerly_tracked.iter().filter(|entry| input.target.get(&entry.path).is_none());
    let recorded = installed.chain(former).map(|entry| (&entry.path, entry.is_dir()));
    let old_kernel_paths =
        input.old_kernel_paths.iter().filter(|path| !is_in_manifest(path)).map(|path| (path, true));
    let surplus_keys =
        input.surplus_keys.iter().filter(|path| !is_in_manifest(path)).map(|path| (path, true));

    let displaced = displaced_directories(plan);
    let mut protected: Vec<TreePath> = Vec::new();
    for (path, may_be_directory) in recorded.chain(old_kernel_paths).chain(surplus_keys) {
        if displaced.iter().any(|dir| path.is_below(dir)) {
            continue;
        }
        let above = std::iter::successors(path.parent(), TreePath::parent)
            .find_map(|above| plan.left_out.get(&above).and(plan.deviations.get(&above)))
            .cloned();
        if let Some(reason) = above.or_else(|| input.left_out_reason(live, path)) {
            plan.deviations.insert(path.clone(), reason);
            plan.left_out.insert(path.clone());
            continue;
        }
        let Some(stat) = live.get(path) else { continue };

        if input.protects(path) {
            protected.push(path.clone());
        } else if input.is_kernel_path(path) {
            removals.kernel_paths.push(path.clone());
        } else if stat.kind != FileKind::Directory {
            removals.leaves.push(path.clone());
        } else if may_be_directory {
            removals.directories.push(path.clone());
        } else {
            plan.deviations.insert(path.clone(), OTHER_TYPE.to_owned());
        }
    }

    keep_directories(&mut removals.directories, plan, |dir| {
        protected.iter().any(|path| path.is_below(dir))
    });
}

/// Takes the directories that are not empty from `directories`, and records them as deviations.
fn keep_directories(
    directories: &mut Vec<TreePath>,
    plan: &mut ChangePlan,
    is_occupied: impl Fn(&TreePath) -> bool,
) {
    directories.retain(|dir| {
        let is_kept = is_occupied(dir);
        if is_kept {
            plan.deviations.insert(dir.clone(), OCCUPIED.to_owned());
        }
        !is_kept
    });
}

/// Keeps the paths of the running kernel, and the directories above them.
fn keep_kernel_paths(plan: &mut ChangePlan, removals: &mut Removals) {
    let kernel_paths = &mut removals.kernel_paths;
    kernel_paths.sort_unstable();
    kernel_paths.dedup();

    let (mut above, rest): (Vec<_>, Vec<_>) =
        std::mem::take(&mut removals.directories).into_iter().partition(|dir| {
            let next = kernel_paths.partition_point(|path| path <= dir);
            kernel_paths.get(next).is_some_and(|path| path.is_below(dir))
        });
    removals.directories = rest;

    kernel_paths.append(&mut above);
    plan.kernel_paths = std::mem::take(kernel_paths);
    record_kernel_deviations(plan);
}

/// Records the topmost of the paths that are kept for the running kernel as deviations.
pub(in crate::apply) fn record_kernel_deviations(plan: &mut ChangePlan) {
    plan.kernel_paths.sort_unstable();
    let mut topmost: Option<&TreePath> = None;
    for path in &plan.kernel_paths {
        if !topmost.is_some_and(|topmost| path.is_below(topmost)) {
            plan.deviations.insert(path.clone(), KERNELS.to_owned());
            topmost = Some(path);
        }
    }
}

/// Makes the filesystems of the kept kernel paths take part.
///
/// The undo set has backups of these paths, and needs a stage on their filesystem. If there is no
/// other change on it, the plan sets an mtime to the value that it has.
pub(super) fn include_kernel_filesystems(live: &LiveTree, plan: &mut ChangePlan) {
    if plan.changes.is_empty() {
        return;
    }

    for path in plan.kernel_paths.clone() {
        let filesystem = plan.filesystems.slot_filesystem_of(&path);
        let Some(stat) = live.get(&path).filter(|stat| stat.kind != FileKind::Directory) else {
            continue;
        };
        if !plan.participating().contains(&filesystem) {
            plan.changes.push(Change { filesystem, path, action: Action::SetTime(stat.mtime) });
        }
    }
}

/// Collects directories that an earlier update could not remove, if they are empty now.
fn collect_deferred(
    input: &PlanInput,
    plan: &mut ChangePlan,
    removals: &mut Removals,
) -> Result<(), RootError> {
    for path in input.known_deviations {
        let is_kernel_path = plan.kernel_paths.binary_search(path).is_ok();
        // An excluded directory belongs to the node, also one that an update created.
        let is_excluded = input.filter.excludes(path, EntryKind::Directory).is_some();
        if is_excluded
            || is_kernel_path
            || input.target.get(path).is_some()
            || input.was_tracked(path)
        {
            continue;
        }
        if input.root.stat(path)?.is_none_or(|stat| stat.kind != FileKind::Directory) {
            continue;
        }

        if input.root.children(path)?.is_empty() {
            removals.deferred.push(path.clone());
        } else {
            plan.deviations.insert(path.clone(), OCCUPIED.to_owned());
        }
    }
    Ok(())
}

/// Collects the untracked paths, and counts those that are kept.
fn collect_untracked(
    input: &PlanInput,
    live: &LiveTree,
    plan: &mut ChangePlan,
    removals: &mut Removals,
) -> Result<(), RootError> {
    let displaced = displaced_directories(plan);
    let mut kept_count = 0;

    for (path, stat) in &live.untracked {
        // A path in a displaced directory is counted with that.
        if displaced.iter().any(|dir| path.is_below(dir)) {
            continue;
        }

        let kept = if is_kept(input, path) {
            Kept::Something
        } else if stat.kind == FileKind::Directory {
            collect_untracked_directory(input, path, stat, removals)?
        } else {
            let paths = if input.is_kernel_path(path) {
                &mut removals.kernel_paths
            } else {
                &mut removals.leaves
            };
            paths.push(path.clone());
            Kept::Nothing
        };
        kept_count += u64::from(kept == Kept::Something);
    }

    plan.untracked_count = live.is_complete.then_some(kept_count);
    Ok(())
}

/// Whether anything at or below an untracked path is kept.
#[derive(PartialEq, Eq)]
enum Kept {
    Nothing,
    Something,
}

/// Whether an untracked path is kept together with everything in it.
///
/// Protected paths are kept, filesystems of their own, and paths that show a tracked path through
/// a bind mount. A filesystem that the image has only an empty directory for belongs to the node.
fn is_kept(input: &PlanInput, path: &TreePath) -> bool {
    let filesystems = input.filesystems;
    if input.filter.protects(path)
        || filesystems.is_mount_root(path)
        || shows_tracked_path(input, path)
    {
        return true;
    }

    let mount_root = &filesystems.mount_roots()[filesystems.entry_filesystem_of(path)];
    let entries = input.target.entries();
    let next = entries.get(entries.partition_point(|entry| entry.path <= *mount_root));
    !next.is_some_and(|entry| entry.path.is_below(mount_root))
}

/// Collects an untracked directory and everything in it, except paths that are kept.
///
/// Excluded and protected paths are kept, and filesystems of their own such as snapshots and
/// subvolumes.
fn collect_untracked_directory(
    input: &PlanInput,
    dir: &TreePath,
    stat: &Stat,
    removals: &mut Removals,
) -> Result<Kept, RootError> {
    let parent = dir.parent().map(|parent| input.root.stat(&parent)).transpose()?.flatten();
    let is_on_parents_filesystem = |stat: &Stat| parent.is_none_or(|parent| parent.dev == stat.dev);
    if !is_on_parents_filesystem(stat) {
        return Ok(Kept::Something);
    }

    let mut cursor = input.filter.cursor();
    let (mut directories, mut kept) = (vec![dir.clone()], Vec::new());
    let (mut kernel_leaves, mut leaves) = (Vec::new(), Vec::new());
    let walked = input.root.walk::<RootError>(dir, |Visit { path, stat, .. }| {
        let is_directory = stat.kind == FileKind::Directory;
        let is_elsewhere = if is_directory {
            !is_on_parents_filesystem(&stat)
        } else {
            shows_tracked_path(input, &path)
        };
        if cursor.excludes(&path, stat.kind.entry_kind()).is_some()
            || is_elsewhere
            || input.filter.protects(&path)
            || input.filesystems.is_mount_root(&path)
        {
            kept.push(path);
            return Ok(Descend::Past);
        }

        if is_directory {
            directories.push(path);
        } else if input.is_kernel_path(&path) {
            kernel_leaves.push(path);
        } else {
            leaves.push(path);
        }
        Ok(Descend::Into)
    });
    match walked {
        // A user has mounted a filesystem in it that nobody else may inspect: all of it is kept.
        Err(error) if input.root.is_unknown(dir, &error) => return Ok(Kept::Something),
        answer => answer?,
    }
    removals.kernel_paths.append(&mut kernel_leaves);
    removals.leaves.append(&mut leaves);

    // A directory of the running kernel is kept even if it is empty.
    let (kernel_paths, mut directories): (Vec<_>, Vec<_>) =
        directories.into_iter().partition(|dir| input.is_kernel_path(dir));
    removals.kernel_paths.extend(kernel_paths);
    directories.retain(|dir| !kept.iter().any(|path| path.is_below(dir)));
    removals.directories.append(&mut directories);

    Ok(if kept.is_empty() { Kept::Nothing } else { Kept::Something })
}

/// Whether a bind mount shows a tracked path at `path`.
fn shows_tracked_path(input: &PlanInput, path: &TreePath) -> bool {
    let is_tracked = |from, to| {
        mounts::alias_of(path, from, to).is_some_and(|other| input.target.get(&other).is_some())
    };
    input
        .bind_mounts
        .iter()
        .any(|(mount, source)| is_tracked(mount, source) || is_tracked(source, mount))
}
