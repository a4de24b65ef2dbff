//! Plans the provisions: excluded entries that the node lacks, and that are created once.
//!
//! An existing path of any type is left as it is. A provision is created only in a directory
//! that exists, or that the same transaction stages; it is then staged in that directory, so that
//! both become visible by one rename.

use std::collections::HashMap;

use crate::apply::difference::Difference;
use crate::apply::error::{RefusalKind, Untouched};
use crate::apply::on_disk::{SlotAllocator, slot_name};
use crate::apply::plan::change_plan::{Action, Change, ChangePlan, ContentSource, StagedItem};
use crate::apply::plan::input::PlanInput;
use crate::apply::plan::placement::itemize;
use crate::entry::Entry;
use crate::root::FileKind;
use crate::tree_path::TreePath;

/// Adds staged items, actions and itemized lines of the provisions that the tree lacks.
pub(super) fn place_provisions(
    input: &PlanInput,
    slots: &mut SlotAllocator,
    plan: &mut ChangePlan,
) -> Result<(), Untouched> {
    let paths: Vec<&TreePath> = input.provisions.iter().map(|entry| &entry.path).collect();
    let stats = input.root.stat_each(&paths)?;
    let missing: Vec<&Entry> = input
        .provisions
        .iter()
        .zip(stats)
        .filter(|(entry, stat)| stat.is_none() && !input.is_read_only(&entry.path))
        .map(|(entry, _)| entry)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }

    // Filesystem and place of each directory that is staged.
    let mut staged: HashMap<TreePath, (usize, TreePath)> = plan
        .staged_items
        .iter()
        .filter(|item| item.entry.is_dir())
        .map(|item| (item.entry.path.clone(), (item.filesystem, item.place.clone())))
        .collect();

    for entry in missing {
        let Some(parent) = entry.path.parent() else { continue };
        let (filesystem, place) = if let Some((filesystem, place)) = staged.get(&parent) {
            (
                *filesystem,
                place
                    .join(entry.path.name())
                    .map_err(|_| RefusalKind::PathTooLong { path: entry.path.to_string() })?,
            )
        } else {
            let stat = input.root.stat(&parent)?;
            if stat.is_none_or(|stat| stat.kind != FileKind::Directory) {
                continue;
            }

            let slot = slots.take_install()?;
            let filesystem = input.filesystems.slot_filesystem_of(&entry.path);
            let (path, action) = (entry.path.clone(), Action::Install { slot });
            plan.changes.push(Change { filesystem, path, action });
            (filesystem, slot_name(slot))
        };

        if entry.is_dir() {
            staged.insert(entry.path.clone(), (filesystem, place.clone()));
        }
        let source = match entry.file() {
            Some((size, digest)) => ContentSource::Content { size, digest },
            None => ContentSource::Node,
        };
        let difference = Difference { missing: true, ..Difference::default() };
        plan.itemized.push(itemize(entry, &difference, None));
        plan.staged_items.push(StagedItem { entry: entry.clone(), filesystem, place, source });
    }
    Ok(())
}
