//! Preflight: refuses a change that would fail after the commit point, before anything is touched.
//!
//! After the commit point a transaction can only roll forward. A change that the kernel refuses at
//! that time, because of a mount, an inode flag or a full disk, would leave the tree between two
//! generations until an administrator helps.

mod deletions;
pub mod disk_space;
mod limited_space;

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use crate::apply::error::{InodeFlag, RefusalKind, Untouched};
use crate::apply::filesystem::Filesystems;
use crate::apply::plan::{Action, Change, ChangePlan};
use crate::generation::GenerationId;
use crate::root::mounts::{Mount, RootMount};
use crate::root::{ChangeLocks, FileKind, Root, RootError, active_swap_files};
use crate::state;
use crate::tree_path::TreePath;

pub use deletions::{check_budget, check_forecast};
pub use limited_space::{check_limited_space, check_rollback_space};

/// Fewest directories for which it is worth the time to use several processors.
const MIN_PARALLEL: usize = 64;

/// Refuses a root that is read-only or on a filesystem that is not known to be safe.
pub fn check_root_filesystem(
    host: Option<&RootMount>,
    shown: &str,
    allowed: &[String],
) -> Result<(), Untouched> {
    let Some(host) = host else { return Ok(()) };

    if host.read_only {
        return Err(RefusalKind::ReadOnlyRoot { path: shown.to_owned() }.into());
    }
    if !host.is_supported() && !allowed.contains(&host.kind) {
        let (path, kind) = (shown.to_owned(), host.kind.clone());
        return Err(RefusalKind::UnsafeRoot { path, kind }.into());
    }
    Ok(())
}

/// A path that would refuse its change after the commit point.
#[derive(Debug)]
pub struct PathRefusal {
    pub path: TreePath,
    pub reason: RefusalKind,
}

/// Refuses changes of paths at which a rename would fail.
pub fn check_paths(
    root: &Root,
    plan: &ChangePlan,
    filesystems: &Filesystems,
    mounts: &[Mount],
) -> Result<(), Untouched> {
    if let Some(refusal) = find_refusals(root, plan, filesystems, mounts)?.into_iter().next() {
        return Err(refusal.reason.into());
    }

    for index in plan.participating() {
        let mount_root = &filesystems.mount_roots()[index];
        if !root.is_writable(mount_root)? {
            return Err(RefusalKind::NotWritable { path: root.show(mount_root) }.into());
        }
    }
    Ok(())
}

/// Finds all paths at which a rename would fail: changes first, then directories of changes.
pub fn find_refusals(
    root: &Root,
    plan: &ChangePlan,
    filesystems: &Filesystems,
    mounts: &[Mount],
) -> Result<Vec<PathRefusal>, RootError> {
    let swap_files = active_swap_files();
    let check = PathCheck { root, filesystems, mounts, swap_files };
    let mut refusals = Vec::new();

    let paths: Vec<&TreePath> = plan.changes.iter().map(|change| &change.path).collect();
    let locks = match root.change_locks_each(&paths) {
        Ok(locks) => locks.into_iter().map(Ok).collect(),
        // One of them cannot be inspected; each has an answer of its own.
        Err(error) if error.is_of_path() => {
            paths.iter().map(|path| root.change_locks(path)).collect::<Vec<_>>()
        }
        Err(error) => return Err(error),
    };
    for (change, locks) in plan.changes.iter().zip(locks) {
        let reason = locks.and_then(|locks| check.refusal_of_change(change, locks.as_ref()));
        refusals.extend(refusal(&change.path, reason)?);
    }

    let parents = existing_parents(plan);
    let check_parent = |parent: &Parent| refusal(&parent.path, check.refusal_of_parent(parent));
    let of_parents: Vec<Option<PathRefusal>> = if parents.len() < MIN_PARALLEL {
        parents.iter().map(check_parent).collect::<Result<_, _>>()?
    } else {
        parents.par_iter().map(check_parent).collect::<Result<_, _>>()?
    };
    refusals.extend(of_parents.into_iter().flatten());
    Ok(refusals)
}

/// The refusal of a path; that it cannot be inspected is one too.
fn refusal(
    path: &TreePath,
    reason: Result<Option<RefusalKind>, RootError>,
) -> Result<Option<PathRefusal>, RootError> {
    let reason = match reason {
        Err(error) if error.is_of_path() => Some(RefusalKind::Caller(error.into())),
        answer => answer?,
    };
    Ok(reason.map(|reason| PathRefusal { path: path.clone(), reason }))
}

/// A directory in which entries change.
struct Parent {
    path: TreePath,
    /// Whether an entry is added or replaced, and not only removed.
    gains_entries: bool,
}

/// Lists the directories in which an entry is added, replaced or removed: sorted, unique.
///
/// A directory that the plan itself creates is covered by the check of its own parent.
fn existing_parents(plan: &ChangePlan) -> Vec<Parent> {
    let created: HashSet<&TreePath> = plan
        .changes
        .iter()
        .filter(|change| matches!(change.action, Action::MakeDir { .. }))
        .map(|change| &change.path)
        .collect();

    let mut parents: BTreeMap<TreePath, bool> = BTreeMap::new();
    for change in plan.changes.iter().filter(|change| change.action.is_visible()) {
        let Some(parent) = change.path.parent().filter(|parent| !created.contains(parent)) else {
            continue;
        };
        let gains = matches!(
            change.action,
            Action::Install { .. } | Action::Exchange { .. } | Action::MakeDir { .. }
        );
        *parents.entry(parent).or_default() |= gains;
    }
    parents.into_iter().map(|(path, gains_entries)| Parent { path, gains_entries }).collect()
}

/// Checks single paths of a plan.
struct PathCheck<'a> {
    root: &'a Root,
    filesystems: &'a Filesystems,
    mounts: &'a [Mount],
    /// Device and inode of each active swap file.
    swap_files: Vec<(u64, u64)>,
}

impl PathCheck<'_> {
    /// The reason for which a mount or the inode forbids a change.
    fn refusal_of_change(
        &self,
        change: &Change,
        locks: Option<&ChangeLocks>,
    ) -> Result<Option<RefusalKind>, RootError> {
        let path = || self.root.show(&change.path);
        let is_metadata = change.action == Action::SetDirMetadata;

        if !is_metadata && let Some(mount) = self.find_mount(|mount| mount.at == change.path) {
            let kind = Some(mount.kind.clone());
            return Ok(Some(RefusalKind::MountPoint { path: path(), kind }));
        }

        let is_removal = matches!(
            change.action,
            Action::RemoveDir | Action::RemoveTree { .. } | Action::CoveredByParent
        );
        if is_removal {
            if self.filesystems.is_mount_root(&change.path) {
                return Ok(Some(RefusalKind::Subvolume { path: path() }));
            }
            if let Some(mount) = self.find_mount(|mount| mount.at.is_below(&change.path)) {
                let mount = self.root.show(&mount.at);
                return Ok(Some(RefusalKind::MountInside { path: path(), mount }));
            }
        }

        let read_only = self.find_mount(|mount| {
            mount.read_only
                && (change.path.is_below(&mount.at) || (is_metadata && change.path == mount.at))
        });
        if let Some(mount) = read_only {
            let mount = self.root.show(&mount.at);
            return Ok(Some(RefusalKind::ReadOnlyMount { path: path(), mount }));
        }
        // Excluded in an update; a rollback knows no exclude rules.
        let foreign = self.find_mount(|mount| {
            change.path.is_below(&mount.at) && !self.filesystems.is_mount_root(&mount.at)
        });
        if let Some(mount) = foreign {
            let mount = self.root.show(&mount.at);
            return Ok(Some(RefusalKind::MountedSince { mount }));
        }
        match locks {
            Some(locks) => self.refusal_of_inode(change, locks),
            None => Ok(None),
        }
    }

    fn find_mount(&self, matches: impl Fn(&Mount) -> bool) -> Option<&Mount> {
        self.mounts.iter().find(|mount| matches(mount))
    }

    /// The reason for which the inode itself forbids a change.
    fn refusal_of_inode(
        &self,
        change: &Change,
        locks: &ChangeLocks,
    ) -> Result<Option<RefusalKind>, RootError> {
        let path = self.root.show(&change.path);
        if let Some(flag) = InodeFlag::from_locks(locks) {
            return Ok(Some(RefusalKind::FlaggedPath { path, flag }));
        }
        if locks.mount_root && change.action != Action::SetDirMetadata {
            return Ok(Some(RefusalKind::MountPoint { path, kind: None }));
        }

        // Usually there is none, and no further call is needed.
        if !self.swap_files.is_empty() && change.action.is_visible() {
            let stat = self.root.stat(&change.path)?;
            if stat.is_some_and(|stat| self.swap_files.contains(&(stat.dev, stat.ino))) {
                return Ok(Some(RefusalKind::ActiveSwap { path }));
            }
        }
        Ok(None)
    }

    /// The reason for which nothing can be renamed between a directory and the stage.
    fn refusal_of_parent(&self, parent: &Parent) -> Result<Option<RefusalKind>, RootError> {
        let (root, filesystems, Parent { path: parent, gains_entries }) =
            (self.root, self.filesystems, parent);
        let path = root.show(parent);
        let stat = root.stat(parent)?.filter(|stat| stat.kind == FileKind::Directory);
        let (Some(locks), Some(stat)) = (root.change_locks(parent)?, stat) else {
            return Ok(Some(RefusalKind::ParentMissing { path }));
        };
        if let Some(flag) = InodeFlag::from_locks(&locks) {
            return Ok(Some(RefusalKind::FlaggedParent { path, flag }));
        }

        // Stage and undo set are created in the mount root, and inherit its quota project.
        let mount_root = if filesystems.is_mount_root(parent) {
            parent
        } else {
            &filesystems.mount_roots()[filesystems.entry_filesystem_of(parent)]
        };
        let project = root.inherited_project(parent)?;
        let stage_project = root.inherited_project(mount_root)?;
        if project.is_some_and(|project| project != stage_project.unwrap_or(0))
            || (stage_project.is_some() && project != stage_project)
        {
            let mount_root = root.show(mount_root);
            return Ok(Some(RefusalKind::ProjectDiffers { path, mount_root }));
        }

        let (Some(top_locks), Some(top_stat)) =
            (root.change_locks(mount_root)?, root.stat(mount_root)?)
        else {
            return Ok(None);
        };
        // The stage inherits the encryption policy of the mount root.
        if *gains_entries && locks.encrypted && !top_locks.encrypted {
            return Ok(Some(RefusalKind::Encrypted { path }));
        }
        if top_stat.dev != stat.dev || (top_locks.mount != locks.mount && top_locks.mount != 0) {
            return Ok(Some(RefusalKind::FilesystemChanged { path }));
        }
        Ok(None)
    }
}

/// Refuses a change below a mount point of the tree's fstab at which nothing is mounted.
///
/// The change would be written below the mount point, and vanish when the filesystem is mounted.
pub fn check_missing_mounts(
    root: &Root,
    plan: &ChangePlan,
    fstab_mount_points: &[TreePath],
    mounts: &[Mount],
) -> Result<(), Untouched> {
    for point in fstab_mount_points {
        if mounts.iter().any(|mount| mount.at == *point) {
            continue;
        }
        if let Some(change) = plan.changes.iter().find(|change| change.path.is_below(point)) {
            let (path, mount) = (root.show(&change.path), root.show(point));
            return Err(RefusalKind::NotMounted { path, mount }.into());
        }
    }
    Ok(())
}

/// Refuses a change after which the agent could not record the state.
pub fn check_agent_paths(
    root: &Root,
    plan: &ChangePlan,
    generation: GenerationId,
) -> Result<(), Untouched> {
    let obstacle = plan
        .staged_items
        .iter()
        .find(|item| state::is_above_own(&item.entry.path) && !item.entry.is_dir());
    if let Some(item) = obstacle {
        let (path, kind) = (root.show(&item.entry.path), item.entry.type_name());
        return Err(RefusalKind::OwnDirectoryInImage { path, kind }.into());
    }
    check_state_paths(root, generation)
}

/// Refuses a tree in which the agent could not record the state of `generation`.
pub fn check_state_paths(root: &Root, generation: GenerationId) -> Result<(), Untouched> {
    state::check_writable(root, generation)?;
    for path in state::recorded_paths(generation) {
        // A file is first written under another name.
        let temporary = TreePath::new([path.as_bytes(), b".new"].concat()).ok();
        let (parent, path) = (path.parent(), Some(path));
        for path in [parent, temporary, path.clone()].iter().flatten() {
            let locks = root.change_locks(path)?;
            if let Some(flag) = locks.as_ref().and_then(InodeFlag::from_locks) {
                return Err(RefusalKind::FlaggedState { path: root.show(path), flag }.into());
            }
        }
        for path in path.iter() {
            if root.change_locks(path)?.is_some_and(|locks| locks.mount_root) {
                return Err(RefusalKind::MountPoint { path: root.show(path), kind: None }.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_filesystem_refusal_names_flag() {
        let host = RootMount { kind: "overlay".to_owned(), ..RootMount::default() };

        let refusal = check_root_filesystem(Some(&host), "/", &[]).expect_err("overlay");

        assert!(refusal.to_string().contains("--allow-root-fs=overlay"));
        assert!(check_root_filesystem(Some(&host), "/", &["overlay".to_owned()]).is_ok());
    }

    #[test]
    fn read_only_root_is_refused() {
        let host = RootMount { read_only: true, kind: "ext4".to_owned(), ..RootMount::default() };

        assert!(check_root_filesystem(Some(&host), "/", &[]).is_err());
    }
}
