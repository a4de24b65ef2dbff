//! Space on limited filesystems, which have no stage of their own.
//!
//! Staged files and backups of a limited filesystem are on the filesystem of the root. The roll
//! forward copies each file in place of a rename, beside the old file, before it removes the old
//! one.

use std::collections::BTreeMap;

use crate::apply::error::{DiskSpaceError, SpaceUnit, Untouched};
use crate::apply::filesystem::{Filesystems, Slots};
use crate::apply::on_disk::{UNDO_DIR, name, slot_name};
use crate::apply::plan::{Action, Change, ChangePlan};
use crate::apply::preflight::disk_space::SpaceRequirement;
use crate::apply::undo;
use crate::root::{Descend, FileKind, Root, RootError};
use crate::tree_path::TreePath;

/// Refuses a rollback that does not fit.
///
/// The content that it restores is on its filesystem already, except on limited filesystems.
pub fn check_rollback_space(root: &Root, plan: &ChangePlan) -> Result<(), Untouched> {
    let backup_bytes = check_limited_space(root, plan, &plan.filesystems)?;
    if backup_bytes == 0 && undo::backup::copied_backups(root, plan)?.is_empty() {
        return Ok(());
    }

    let mut requirement = SpaceRequirement::new(root, &plan.filesystems, None, &[]);
    requirement.add_bytes(backup_bytes)?;
    requirement.add_copied_backups(plan)?;
    match requirement.shortages().into_iter().next() {
        Some(shortage) => Err(DiskSpaceError::from(shortage).into()),
        None => Ok(()),
    }
}

/// Refuses a change that does not fit on the limited filesystems.
///
/// Returns the bytes of the backups, which need space on the filesystem of the root.
pub fn check_limited_space(
    root: &Root,
    plan: &ChangePlan,
    filesystems: &Filesystems,
) -> Result<u64, Untouched> {
    let mut backup_bytes = 0;
    let mut usages: BTreeMap<usize, CopyUsage> = BTreeMap::new();

    for change in &plan.changes {
        let filesystem = filesystems.entry_filesystem_of(&change.path);
        let (Action::Install { .. } | Action::Exchange { .. } | Action::Remove { .. }) =
            change.action
        else {
            continue;
        };
        if filesystem == change.filesystem {
            continue;
        }

        let block = root.below(&filesystems.mount_roots()[filesystem])?.free_space()?.block;
        let removed = used_bytes(root, &change.path, block)?;
        let added = added_bytes(root, plan, change, block)?;
        backup_bytes += removed;
        usages.entry(filesystem).or_default().replace(removed, added);
    }

    for (filesystem, usage) in usages {
        let mount_root = &filesystems.mount_roots()[filesystem];
        let space = root.below(mount_root)?.free_space()?;
        // Two blocks for the directory in which files are copied.
        let needed = u64::try_from(usage.peak).unwrap_or(0).saturating_add(2 * space.block);
        if needed > space.bytes {
            let (place, free) = (root.show(mount_root), space.bytes);
            return Err(
                DiskSpaceError::TooSmall { place, unit: SpaceUnit::Bytes, needed, free }.into()
            );
        }
    }
    Ok(backup_bytes)
}

/// Bytes that the changes so far use on a limited filesystem; they may be negative.
#[derive(Default)]
struct CopyUsage {
    current: i128,
    peak: i128,
}

impl CopyUsage {
    /// Copies a new object and then removes the old one.
    fn replace(&mut self, removed: u64, added: u64) {
        self.peak = self.peak.max(self.current + i128::from(added));
        self.current += i128::from(added) - i128::from(removed);
    }
}

/// Bytes that a change copies to its path, in whole blocks.
fn added_bytes(
    root: &Root,
    plan: &ChangePlan,
    change: &Change,
    block: u64,
) -> Result<u64, RootError> {
    let (Action::Install { slot } | Action::Exchange { slot, .. }) = change.action else {
        return Ok(0);
    };
    match plan.slots {
        Slots::Undo => used_bytes(root, &undo_slot(slot), block),
        Slots::Stage => Ok(plan
            .staged_items
            .iter()
            .filter(|item| item.entry.path == change.path || item.entry.path.is_below(&change.path))
            // A directory uses a block as well.
            .map(|item| item.bytes().next_multiple_of(block).max(block))
            .sum()),
    }
}

fn undo_slot(slot: u32) -> TreePath {
    let slot = slot_name(slot);
    name(UNDO_DIR).join(slot.as_bytes()).unwrap_or(slot)
}

/// Bytes of the object at `path` and of the files in it, in whole blocks; 0 if it is missing.
fn used_bytes(root: &Root, path: &TreePath, block: u64) -> Result<u64, RootError> {
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
