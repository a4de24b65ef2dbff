//! Refuses what cannot end well, while nothing is touched yet.

pub mod disk_space;

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use crate::apply::error::{BudgetExceeded, InodeFlag, NoRoom, RefusalKind, SpaceUnit, Untouched};
use crate::apply::filesystem::{Filesystems, Slots};
use crate::apply::on_disk::{UNDO_DIR, name, slot_name};
use crate::apply::plan::{Action, ChangePlan, ItemizedLine, StagedItem};
use crate::generation::GenerationId;
use crate::host::MaxDelete;
use crate::root::mounts::{Host, Mount};
use crate::root::{Descend, FileKind, Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

use disk_space::SpaceRequirement;

/// For fewer directories no other processor is woken.
const FEW: usize = 64;
/// A refusal names at most so many paths.
const NAMED: usize = 20;

/// Refuses a root that updates are not known to be safe on, or that cannot be written to.
pub fn check_root_filesystem(
    host: Option<&Host>,
    shown: &str,
    allowed: &[String],
) -> Result<(), Untouched> {
    let Some(host) = host else { return Ok(()) };
    if host.read_only {
        return Err(RefusalKind::ReadOnlyRoot { path: shown.to_owned() }.into());
    }
    if !host.is_local() && !allowed.contains(&host.kind) {
        let (path, kind) = (shown.to_owned(), host.kind.clone());
        return Err(RefusalKind::UnsafeRoot { path, kind }.into());
    }
    Ok(())
}

/// Refuses to delete more than is allowed; `renamed` paths have a replacement elsewhere.
pub fn check_budget(
    transaction: &ChangePlan,
    tracked: usize,
    renamed: usize,
    allowed: MaxDelete,
) -> Result<(), Untouched> {
    check_deletions(
        transaction.removed_count.saturating_sub(renamed),
        &transaction.itemized,
        tracked,
        allowed,
    )
}

/// The same for what rsync says that it would do.
pub fn check_forecast(
    items: &[ItemizedLine],
    tracked: usize,
    allowed: MaxDelete,
) -> Result<(), Untouched> {
    let going = items.iter().filter(|item| item.is_deletion()).count();
    check_deletions(going, items, tracked, allowed)
}

fn check_deletions(
    going: usize,
    items: &[ItemizedLine],
    tracked: usize,
    allowed: MaxDelete,
) -> Result<(), Untouched> {
    let (going, limit) = (going as u64, allowed.paths(tracked as u64));
    if going <= limit {
        return Ok(());
    }
    let names = items.iter().filter(|item| item.is_deletion());
    let first = names.take(NAMED).map(|item| format!("{}{}", item.path, item.suffix)).collect();
    Err(BudgetExceeded { deletions: going, limit, first }.into())
}

/// Refuses what a rename would stumble over after the seal.
pub fn check_paths(
    root: &Root,
    transaction: &ChangePlan,
    filesystems: &Filesystems,
    mounts: &[Mount],
) -> Result<(), Untouched> {
    let mut parents: Vec<TreePath> = Vec::new();
    let paths: Vec<&TreePath> = transaction.changes.iter().map(|change| &change.path).collect();
    for (change, pins) in transaction.changes.iter().zip(root.pins_each(&paths)?) {
        let directory = change.action == Action::SetDirMetadata;
        if let Some(mount) = mounts.iter().find(|mount| mount.at == change.path && !directory) {
            let (path, kind) = (root.show(&change.path), Some(mount.kind.clone()));
            return Err(RefusalKind::MountPoint { path, kind }.into());
        }
        let goes = matches!(
            change.action,
            Action::RemoveDir | Action::RemoveTree { .. } | Action::CoveredByParent
        );
        if goes && filesystems.is_mount_root(&change.path) {
            return Err(RefusalKind::Subvolume { path: root.show(&change.path) }.into());
        }
        if goes && let Some(mount) = mounts.iter().find(|mount| mount.at.is_below(&change.path)) {
            let (path, mount) = (root.show(&change.path), root.show(&mount.at));
            return Err(RefusalKind::MountInside { path, mount }.into());
        }
        let holds = |mount: &&Mount| {
            change.path.is_below(&mount.at) || (directory && change.path == mount.at)
        };
        if let Some(mount) = mounts.iter().find(|mount| mount.read_only && holds(mount)) {
            let (path, mount) = (root.show(&change.path), root.show(&mount.at));
            return Err(RefusalKind::ReadOnlyMount { path, mount }.into());
        }
        if let Some(pins) = pins {
            let path = root.show(&change.path);
            if let Some(flag) = InodeFlag::from_pins(&pins) {
                return Err(RefusalKind::FlaggedPath { path, flag }.into());
            }
            if pins.mount_root && !directory {
                return Err(RefusalKind::MountPoint { path, kind: None }.into());
            }
        }
        if change.action.is_visible() {
            parents.extend(change.path.parent());
        }
    }
    // What is made first is looked at by what it is made in.
    let made =
        transaction.changes.iter().filter(|change| matches!(change.action, Action::MakeDir { .. }));
    let made: HashSet<&TreePath> = made.map(|change| &change.path).collect();
    parents.retain(|parent| !made.contains(parent));
    parents.sort_unstable();
    parents.dedup();
    let fault = |parent: &TreePath| check_parent(root, parent, filesystems).err();
    let first = if parents.len() < FEW {
        parents.iter().find_map(fault)
    } else {
        parents.par_iter().find_map_first(fault)
    };
    if let Some(first) = first {
        return Err(first);
    }
    for which in transaction.participating() {
        let top = &filesystems.mount_roots()[which];
        if !root.may_write(top)? {
            return Err(RefusalKind::NotWritable { path: root.show(top) }.into());
        }
    }
    Ok(())
}

/// Refuses to write where a filesystem should be mounted and is not: what is written there would vanish
/// below it. `named` are the mount points that the tree's own fstab names.
pub fn check_missing_mounts(
    root: &Root,
    transaction: &ChangePlan,
    named: &[TreePath],
    mounts: &[Mount],
) -> Result<(), Untouched> {
    for point in named.iter().filter(|point| mounts.iter().all(|mount| mount.at != **point)) {
        if let Some(change) = transaction.changes.iter().find(|change| change.path.is_below(point))
        {
            let (path, mount) = (root.show(&change.path), root.show(point));
            return Err(RefusalKind::NotMounted { path, mount }.into());
        }
    }
    Ok(())
}

/// Refuses what would keep the agent from recording what it did.
pub fn check_agent_paths(
    root: &Root,
    transaction: &ChangePlan,
    generation: GenerationId,
) -> Result<(), Untouched> {
    let in_the_way =
        |install: &&StagedItem| state::is_above_own(&install.entry.path) && !install.entry.is_dir();
    if let Some(install) = transaction.staged_items.iter().find(in_the_way) {
        let (path, kind) = (root.show(&install.entry.path), install.entry.type_name());
        return Err(RefusalKind::OwnDirectoryInImage { path, kind }.into());
    }
    Ok(state::check_places(root, generation)?)
}

fn check_parent(
    root: &Root,
    parent: &TreePath,
    filesystems: &Filesystems,
) -> Result<(), Untouched> {
    let path = root.show(parent);
    let stat = root.stat(parent)?.filter(|stat| stat.kind == FileKind::Directory);
    let (Some(pins), Some(stat)) = (root.pins(parent)?, stat) else {
        return Err(RefusalKind::ParentMissing { path }.into());
    };
    if let Some(flag) = InodeFlag::from_pins(&pins) {
        return Err(RefusalKind::FlaggedParent { path, flag }.into());
    }
    let top = if filesystems.is_mount_root(parent) {
        parent.clone()
    } else {
        filesystems.mount_roots()[filesystems.entry_filesystem_of(parent)].clone()
    };
    // What is staged, and what is displaced, lies in directories that are made at the top.
    let (here, there) = (root.inherited_project(parent)?, root.inherited_project(&top)?);
    if here.is_some_and(|here| here != there.unwrap_or(0)) || (there.is_some() && here != there) {
        return Err(RefusalKind::ProjectDiffers { path, mount_root: root.show(&top) }.into());
    }
    let (Some(top_pins), Some(top_stat)) = (root.pins(&top)?, root.stat(&top)?) else {
        return Ok(());
    };
    if top_stat.dev != stat.dev || (top_pins.mount != pins.mount && top_pins.mount != 0) {
        return Err(RefusalKind::FilesystemChanged { path }.into());
    }
    Ok(())
}

/// Refuses a rollback that does not fit: what it puts back is there, but for where it has to be copied.
pub fn check_rollback_space(root: &Root, transaction: &ChangePlan) -> Result<(), Untouched> {
    match check_limited_space(root, transaction, &transaction.filesystems)? {
        0 => Ok(()),
        displaced => {
            let mut demand = SpaceRequirement::new(root, &transaction.filesystems, None, &[]);
            demand.add_bytes(displaced)?;
            match demand.shortages().first() {
                Some(shortage) => Err(Untouched::no_room(shortage.to_string())),
                None => Ok(()),
            }
        }
    }
}

/// Refuses what does not fit on filesystems without slots: each new file lies beside the old one while it
/// is copied. Returns the bytes of what is displaced there, which has to fit into slots elsewhere.
pub fn check_limited_space(
    root: &Root,
    transaction: &ChangePlan,
    filesystems: &Filesystems,
) -> Result<u64, Untouched> {
    let mut displaced = 0;
    // Most that is needed at once, and what is taken for good, in bytes.
    let mut needs: BTreeMap<usize, (i128, i128)> = BTreeMap::new();
    for change in &transaction.changes {
        let ground = filesystems.entry_filesystem_of(&change.path);
        let (Action::Install { slot } | Action::Exchange { slot, .. } | Action::Remove { slot }) =
            change.action
        else {
            continue;
        };
        if ground == change.filesystem {
            continue;
        }
        let block = root.below(&filesystems.mount_roots()[ground])?.room()?.block;
        let old = held(root, &change.path, block)?;
        displaced += old;
        let below = |install: &&StagedItem| {
            install.entry.path == change.path || install.entry.path.is_below(&change.path)
        };
        let comes = !matches!(change.action, Action::Remove { .. });
        let new = match transaction.slots {
            Slots::Undo if comes => held(root, &undo_slot(slot), block)?,
            // A directory takes a block as well.
            Slots::Stage if comes => {
                let new = transaction.staged_items.iter().filter(below);
                new.map(|install| install.bytes().next_multiple_of(block).max(block)).sum()
            }
            _ => 0,
        };
        let (most, taken) = needs.entry(ground).or_default();
        *most = (*most).max(*taken + i128::from(new));
        *taken += i128::from(new) - i128::from(old);
    }
    for (ground, (most, _)) in needs {
        let top = &filesystems.mount_roots()[ground];
        let room = root.below(top)?.room()?;
        // The directory in which files are copied.
        let needed = u64::try_from(most).unwrap_or(0).saturating_add(2 * room.block);
        check(root.show(top), needed, room.bytes)?;
    }
    Ok(displaced)
}

fn undo_slot(slot: u32) -> TreePath {
    let slot = slot_name(slot);
    name(UNDO_DIR).join(slot.as_bytes()).unwrap_or(slot)
}

/// The bytes that `path` holds, with what is below it, in whole blocks.
fn held(root: &Root, path: &TreePath, block: u64) -> Result<u64, RootError> {
    let Some(stat) = root.stat(path)? else { return Ok(0) };
    if stat.kind != FileKind::Directory {
        return Ok(stat.size.next_multiple_of(block));
    }
    let mut bytes = 0;
    root.walk::<RootError>(path, |visit| {
        if visit.stat.kind == FileKind::File {
            bytes += visit.stat.size.next_multiple_of(block);
        }
        Ok(Descend::Into)
    })?;
    Ok(bytes)
}

fn check(place: String, needed: u64, free: u64) -> Result<(), Untouched> {
    if needed <= free {
        return Ok(());
    }
    Err(NoRoom::TooSmall { place, unit: SpaceUnit::Bytes, needed, free }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_on_an_unsafe_filesystem_is_refused_by_the_flag_that_allows_it() {
        let host = Host { kind: "overlay".to_owned(), ..Host::default() };
        let refused = check_root_filesystem(Some(&host), "/", &[]).expect_err("overlay");
        assert!(refused.to_string().contains("--allow-root-fs=overlay"));
        assert!(check_root_filesystem(Some(&host), "/", &["overlay".to_owned()]).is_ok());
        assert!(
            check_root_filesystem(
                Some(&Host { read_only: true, kind: "ext4".to_owned(), ..Host::default() }),
                "/",
                &[]
            )
            .is_err()
        );
    }
}
