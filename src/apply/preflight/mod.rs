//! Preflight: refuses a change that would fail after the commit point, before anything is touched.
//!
//! After the commit point a transaction can only roll forward. A change that the kernel refuses at
//! that time, because of a mount, an inode flag or a full disk, would leave the tree between two
//! generations until an administrator helps.

mod deletions;
pub mod disk_space;
mod limited_space;

use std::collections::HashSet;

use rayon::prelude::*;

use crate::apply::error::{InodeFlag, RefusalKind, Untouched};
use crate::apply::filesystem::Filesystems;
use crate::apply::plan::{Action, Change, ChangePlan};
use crate::generation::GenerationId;
use crate::root::mounts::{Mount, RootMount};
use crate::root::{ChangeLocks, FileKind, Root};
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

/// Refuses changes of paths at which a rename would fail.
pub fn check_paths(
    root: &Root,
    plan: &ChangePlan,
    filesystems: &Filesystems,
    mounts: &[Mount],
) -> Result<(), Untouched> {
    let check = PathCheck { root, filesystems, mounts };
    let paths: Vec<&TreePath> = plan.changes.iter().map(|change| &change.path).collect();
    for (change, pins) in plan.changes.iter().zip(root.change_locks_each(&paths)?) {
        check.check_change(change)?;
        if let Some(pins) = pins {
            check.check_pins(change, &pins)?;
        }
    }

    let parents = existing_parents(plan);
    let refusal = |parent: &TreePath| check.check_parent(parent).err();
    let first = if parents.len() < MIN_PARALLEL {
        parents.iter().find_map(refusal)
    } else {
        parents.par_iter().find_map_first(refusal)
    };
    if let Some(first) = first {
        return Err(first);
    }

    for index in plan.participating() {
        let mount_root = &filesystems.mount_roots()[index];
        if !root.is_writable(mount_root)? {
            return Err(RefusalKind::NotWritable { path: root.show(mount_root) }.into());
        }
    }
    Ok(())
}

/// Lists the directories in which an entry is added, replaced or removed: sorted, unique.
///
/// A directory that the plan itself creates is covered by the check of its own parent.
fn existing_parents(plan: &ChangePlan) -> Vec<TreePath> {
    let created: HashSet<&TreePath> = plan
        .changes
        .iter()
        .filter(|change| matches!(change.action, Action::MakeDir { .. }))
        .map(|change| &change.path)
        .collect();

    let mut parents: Vec<TreePath> = plan
        .changes
        .iter()
        .filter(|change| change.action.is_visible())
        .filter_map(|change| change.path.parent())
        .filter(|parent| !created.contains(parent))
        .collect();
    parents.sort_unstable();
    parents.dedup();
    parents
}

/// Checks single paths of a plan.
struct PathCheck<'a> {
    root: &'a Root,
    filesystems: &'a Filesystems,
    mounts: &'a [Mount],
}

impl PathCheck<'_> {
    /// Refuses a change that a mount forbids.
    fn check_change(&self, change: &Change) -> Result<(), Untouched> {
        let path = || self.root.show(&change.path);
        let is_metadata = change.action == Action::SetDirMetadata;

        if !is_metadata && let Some(mount) = self.find_mount(|mount| mount.at == change.path) {
            let kind = Some(mount.kind.clone());
            return Err(RefusalKind::MountPoint { path: path(), kind }.into());
        }

        let is_removal = matches!(
            change.action,
            Action::RemoveDir | Action::RemoveTree { .. } | Action::CoveredByParent
        );
        if is_removal {
            if self.filesystems.is_mount_root(&change.path) {
                return Err(RefusalKind::Subvolume { path: path() }.into());
            }
            if let Some(mount) = self.find_mount(|mount| mount.at.is_below(&change.path)) {
                let mount = self.root.show(&mount.at);
                return Err(RefusalKind::MountInside { path: path(), mount }.into());
            }
        }

        let read_only = self.find_mount(|mount| {
            mount.read_only
                && (change.path.is_below(&mount.at) || (is_metadata && change.path == mount.at))
        });
        if let Some(mount) = read_only {
            let mount = self.root.show(&mount.at);
            return Err(RefusalKind::ReadOnlyMount { path: path(), mount }.into());
        }
        Ok(())
    }

    fn find_mount(&self, matches: impl Fn(&Mount) -> bool) -> Option<&Mount> {
        self.mounts.iter().find(|mount| matches(mount))
    }

    /// Refuses a change that the inode forbids.
    fn check_pins(&self, change: &Change, pins: &ChangeLocks) -> Result<(), Untouched> {
        let path = self.root.show(&change.path);
        if let Some(flag) = InodeFlag::from_locks(pins) {
            return Err(RefusalKind::FlaggedPath { path, flag }.into());
        }
        if pins.mount_root && change.action != Action::SetDirMetadata {
            return Err(RefusalKind::MountPoint { path, kind: None }.into());
        }
        Ok(())
    }

    /// Refuses a directory into which nothing can be renamed from the stage.
    fn check_parent(&self, parent: &TreePath) -> Result<(), Untouched> {
        let (root, filesystems) = (self.root, self.filesystems);
        let path = root.show(parent);
        let stat = root.stat(parent)?.filter(|stat| stat.kind == FileKind::Directory);
        let (Some(pins), Some(stat)) = (root.change_locks(parent)?, stat) else {
            return Err(RefusalKind::ParentMissing { path }.into());
        };
        if let Some(flag) = InodeFlag::from_locks(&pins) {
            return Err(RefusalKind::FlaggedParent { path, flag }.into());
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
            return Err(RefusalKind::ProjectDiffers { path, mount_root }.into());
        }

        let (Some(top_pins), Some(top_stat)) =
            (root.change_locks(mount_root)?, root.stat(mount_root)?)
        else {
            return Ok(());
        };
        if top_stat.dev != stat.dev || (top_pins.mount != pins.mount && top_pins.mount != 0) {
            return Err(RefusalKind::FilesystemChanged { path }.into());
        }
        Ok(())
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
    Ok(state::check_writable(root, generation)?)
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
