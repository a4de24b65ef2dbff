//! Plans a transaction: computes every change that brings the live tree to the target manifest.
//!
//! Nothing is changed here. A file is read only if its stat does not prove that it has the expected
//! content.
//!
//! The planner compares each entry with the live tree ([`difference`](crate::apply::difference))
//! and decides whether to keep or to replace it (`classify`). It then places the entries to be
//! replaced (`placement`), in an order in which no path is absent in between (`ordering`), adds
//! excluded entries that the node lacks (`provisions`), and adds the removals (`removal`).

mod change_plan;
mod classify;
pub mod hardlinks;
mod input;
pub mod live_tree;
pub(super) mod ordering;
mod placement;
mod policy;
mod provisions;
mod removal;
pub(super) mod subtree_removal;
#[cfg(test)]
mod tests;
mod touched_paths;

use std::collections::HashSet;

use crate::apply::error::Untouched;
use crate::apply::filesystem::limited;
use crate::apply::on_disk::SlotAllocator;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::root::{CAPABILITY, SET_ID};
use crate::tree_path::TreePath;

use classify::{Classified, Decision, classify_all};
use live_tree::LiveTree;

pub use change_plan::{
    Action, Change, ChangePlan, ContentSource, ItemizedLine, KernelBackup, StagedItem,
};
pub use input::PlanInput;
pub use placement::itemize;
pub use policy::{CheckLevel, ComparePolicy, UntrackedPolicy};
pub use touched_paths::touched_paths;

pub(super) use removal::{OCCUPIED, record_kernel_deviations, removal_changes};

/// Plans the changes that bring the tree, as `live` has read it, to the target.
pub fn plan_changes(input: &PlanInput, live: &LiveTree) -> Result<ChangePlan, Untouched> {
    let classified = classify_all(input, live)?;
    let mut plan = ChangePlan {
        filesystems: input.filesystems.clone(),
        privileged_paths: privileged_paths(input.target),
        untracked_count: live.is_complete.then_some(live.untracked_count),
        ..ChangePlan::default()
    };
    record_drift(input, live, &classified, &mut plan);

    let mut slots = SlotAllocator::new();
    placement::place_entries(input, live, &classified, &mut slots, &mut plan)?;
    provisions::place_provisions(input, &mut slots, &mut plan)?;
    removal::add_removals(input, live, &mut slots, &mut plan)?;
    plan.assign_kernel_slots(&mut slots)?;
    removal::include_kernel_filesystems(live, &mut plan);

    // Names and contents change first, so that the tree is mixed for as short a time as possible.
    plan.changes.sort_by_key(|change| match change.action {
        Action::SetTime(_) => 1,
        Action::CoveredByParent => 2,
        _ => 0,
    });
    add_directories(input, live, &classified, &mut plan);

    // Displaced paths are moved to the undo set: they are no longer in the tree.
    let displaced: HashSet<&TreePath> = plan.displaced.iter().collect();
    let is_topmost =
        |path: &&TreePath| path.parent().is_none_or(|parent| !displaced.contains(&parent));
    let moved = displaced.iter().copied().filter(is_topmost).count() as u64;
    plan.untracked_count = plan.untracked_count.map(|count| count.saturating_sub(moved));

    plan.itemized.sort_by(|a, b| a.path.cmp(&b.path));
    // The lists exist until the run ends, and growing left up to half of their capacity unused.
    plan.itemized.shrink_to_fit();
    plan.changes.shrink_to_fit();
    plan.staged_items.shrink_to_fit();
    Ok(plan)
}

/// Records which paths deviate, and which deviations are repaired.
fn record_drift(
    input: &PlanInput,
    live: &LiveTree,
    classified: &[Classified],
    plan: &mut ChangePlan,
) {
    for (entry, classified) in input.target.entries().iter().zip(classified) {
        let is_drift = classified.is_unchanged && classified.difference.any();
        let list = match classified.decision {
            Decision::LeaveOut => {
                let reason = input.left_out_reason(live, &entry.path);
                leave_out(plan, &entry.path, reason, classified);
                continue;
            }
            Decision::Report => &mut plan.deviations,
            _ if is_drift && input.installed.is_some() => &mut plan.repaired,
            _ => continue,
        };
        list.insert(entry.path.clone(), classified.difference.to_string());
    }
}

/// Paths of the entries with set-id bits or capabilities.
pub(super) fn privileged_paths(manifest: &Manifest) -> Vec<TreePath> {
    let is_privileged = |entry: &&Entry| {
        !entry.is_dir()
            && (entry.meta.mode & SET_ID != 0 || entry.meta.xattrs.contains_key(CAPABILITY))
    };
    manifest.entries().iter().filter(is_privileged).map(|entry| entry.path.clone()).collect()
}

/// Leaves out a path about which nothing is known, or that would refuse its change.
///
/// Of the paths below an unknown directory only those that the target changes are listed: the next
/// run would find no difference of the others either.
fn leave_out(
    plan: &mut ChangePlan,
    path: &TreePath,
    reason: Option<String>,
    classified: &Classified,
) {
    let is_below_other = path.parent().is_some_and(|parent| plan.left_out.contains(&parent));
    if classified.is_unchanged && is_below_other {
        return;
    }
    let reason = reason.unwrap_or_else(|| "cannot be read".to_owned());
    plan.deviations.insert(path.clone(), reason);
    plan.left_out.insert(path.clone());
}

/// Adds the directories whose metadata or mtime the roll forward sets last.
///
/// The mtime is set if it differs, and if a change in the directory or of the directory itself
/// modifies it: xfs changes the mtime of a directory that is exchanged.
fn add_directories(
    input: &PlanInput,
    live: &LiveTree,
    classified: &[Classified],
    plan: &mut ChangePlan,
) {
    let modified: HashSet<TreePath> = plan
        .changes
        .iter()
        .flat_map(|change| [change.path.parent(), Some(change.path.clone())])
        .flatten()
        .collect();

    for (entry, classified) in input.target.entries().iter().zip(classified) {
        let is_kept = matches!(classified.decision, Decision::Report | Decision::LeaveOut);
        if !entry.is_dir() || is_kept {
            continue;
        }

        let is_new = classified.difference.missing || classified.difference.kind;
        let differs = classified.difference.any() && !is_new;
        if differs {
            let path = entry.path.clone();
            let filesystem = input.filesystems.slot_filesystem_of_dir(&path);
            plan.changes.push(Change { filesystem, path, action: Action::SetDirMetadata });
        }

        // The preflight refuses any other change there, and the mtime alone is no drift.
        if input.is_read_only(&entry.path) {
            continue;
        }

        let is_modified =
            modified.contains(&entry.path) || input.filesystems.is_mount_root(&entry.path);
        if differs || is_modified || (!is_new && has_other_time(input, live, entry)) {
            plan.directories.push(entry.clone());
        }
    }
}

/// Whether the mtime of a directory is known to differ from that of its entry.
fn has_other_time(input: &PlanInput, live: &LiveTree, entry: &Entry) -> bool {
    let Some(stat) = live.get(&entry.path) else { return live.covers(&entry.path) };
    let (expected, found) = (entry.meta.mtime, stat.mtime);
    let is_same = found == expected
        || (input.filesystems.is_limited(&entry.path) && limited::same_time(expected, found));
    !is_same
}
