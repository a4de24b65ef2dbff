//! Where each new thing is staged, and how it gets to its place.
//!
//! A directory that is new, or that comes in place of something else, is staged with all that it
//! holds and comes into place by one rename: what was below a symlink before and is below a directory
//! afterwards is absent at no moment.

use std::collections::HashMap;

use crate::apply::error::{Obstacle, RefusalKind, Untouched};
use crate::apply::on_disk::{SlotAllocator, slot_name};
use crate::apply::plan::classify::{Classified, Decision};
use crate::apply::plan::difference::Difference;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::ordering::{self, PendingInstall};
use crate::apply::plan::{
    Action, Change, ChangePlan, ContentSource, ItemizedLine, PlanInput, StagedItem,
    UntrackedPolicy, hardlinks,
};
use crate::entry::{Entry, LeafKind, Node};
use crate::root::{Descend, FileKind};
use crate::tree_path::TreePath;

/// A directory that is staged whole.
struct NewSubtree {
    top: TreePath,
    filesystem: usize,
    place: TreePath,
}

/// Fills in installs, changes and items for everything that does not stay.
pub(super) fn place_entries(
    wanted: &PlanInput,
    live: &LiveTree,
    judged: &[Classified],
    slots: &mut SlotAllocator,
    transaction: &mut ChangePlan,
) -> Result<(), Untouched> {
    let entries = wanted.target.entries();
    let leaders = leaders(wanted, judged);
    let mut staged: HashMap<usize, usize> = HashMap::new();
    let mut fresh: Option<NewSubtree> = None;
    let (mut arrivals, mut times) = (Vec::new(), Vec::new());
    let mut slot = 0;
    for (index, entry) in entries.iter().enumerate() {
        if fresh.as_ref().is_some_and(|fresh| !entry.path.is_below(&fresh.top)) {
            fresh = None;
        }
        let judged = &judged[index];
        if fresh.is_none() && judged.decision != Decision::Replace {
            if judged.decision == Decision::SetTime {
                let action = Action::SetTime(entry.meta.mtime);
                let filesystem = wanted.filesystems.filesystem_of(&entry.path);
                times.push(Change { filesystem, path: entry.path.clone(), action });
            }
            if judged.decision != Decision::Report && judged.difference.any() {
                transaction.itemized.push(item(entry, &judged.difference, None));
            }
            continue;
        }
        let (filesystem, place) = match &fresh {
            Some(fresh) => (fresh.filesystem, below(fresh, &entry.path)?),
            None => {
                slot = slots.take_install()?;
                (wanted.filesystems.filesystem_of(&entry.path), slot_name(slot))
            }
        };
        let make = how(entry, leaders.get(&index), &staged, entries);
        let link = match &make {
            ContentSource::LinkStaged(at) => Some(&transaction.staged_items[*at].entry.path),
            ContentSource::LinkLive(path) => Some(path),
            ContentSource::Node | ContentSource::Content { .. } => None,
        };
        transaction.itemized.push(item(entry, &judged.difference, link));
        let elsewhere = match &make {
            ContentSource::LinkStaged(at) => transaction.staged_items[*at].filesystem != filesystem,
            ContentSource::LinkLive(path) => wanted.filesystems.filesystem_of(path) != filesystem,
            ContentSource::Node | ContentSource::Content { .. } => false,
        };
        if elsewhere {
            let path = entry.path.to_string();
            return Err(RefusalKind::HardlinkAcrossFilesystems { path }.into());
        }
        staged.insert(index, transaction.staged_items.len());
        transaction.staged_items.push(StagedItem {
            entry: entry.clone(),
            filesystem,
            place: place.clone(),
            source: make,
        });
        if fresh.is_some() {
            continue;
        }
        refuse_mounts(wanted, entry)?;
        let stands = live.get(&entry.path).map(|stat| stat.kind);
        let directory = stands.map(|kind| kind == FileKind::Directory);
        let action = match directory {
            Some(directory) if directory != entry.is_dir() => {
                Action::Exchange { slot, to_directory: !directory }
            }
            _ => Action::Install { slot },
        };
        if matches!(action, Action::Exchange { to_directory: false, .. }) {
            displace(wanted, entry, transaction)?;
        }
        arrivals.push(PendingInstall {
            change: Change { filesystem, path: entry.path.clone(), action },
            exists: stands.is_some(),
            old_target: ordering::link_target(wanted.root, &entry.path, stands),
            new_target: entry.leaf().and_then(|leaf| match &leaf.kind {
                LeafKind::Symlink { target } => Some(target.clone()),
                _ => None,
            }),
        });
        if entry.is_dir() {
            fresh = Some(NewSubtree { top: entry.path.clone(), filesystem, place });
        }
    }
    transaction.changes.append(&mut ordering::sort_installs(arrivals));
    transaction.changes.append(&mut times);
    Ok(())
}

/// For each member of a hardlink group that is replaced: the index of the entry that it links.
fn leaders(wanted: &PlanInput, judged: &[Classified]) -> HashMap<usize, (usize, bool)> {
    let mut leaders = HashMap::new();
    for group in hardlinks::groups(wanted.target, |path| wanted.filesystems.is_limited(path)) {
        let right = group.iter().find(|&&at| judged[at].decision == Decision::Keep);
        let replaced = group.iter().filter(|&&at| judged[at].decision == Decision::Replace);
        let first = group.iter().find(|&&at| judged[at].decision == Decision::Replace);
        for &member in replaced {
            match (right, first) {
                (Some(&right), _) => {
                    leaders.insert(member, (right, true));
                }
                (None, Some(&first)) if first != member => {
                    leaders.insert(member, (first, false));
                }
                _ => {}
            }
        }
    }
    leaders
}

fn how(
    entry: &Entry,
    leader: Option<&(usize, bool)>,
    staged: &HashMap<usize, usize>,
    entries: &[Entry],
) -> ContentSource {
    match leader {
        Some((index, true)) => return ContentSource::LinkLive(entries[*index].path.clone()),
        Some((index, false)) => {
            if let Some(at) = staged.get(index) {
                return ContentSource::LinkStaged(*at);
            }
        }
        None => {}
    }
    match entry.file() {
        Some((size, digest)) => ContentSource::Content { size, digest },
        None => ContentSource::Node,
    }
}

fn below(fresh: &NewSubtree, path: &TreePath) -> Result<TreePath, Untouched> {
    let rest = &path.as_bytes()[fresh.top.as_bytes().len()..];
    let bytes = [fresh.place.as_bytes(), rest].concat();
    // Longer than the path itself where the slot has more digits than the directory's name.
    TreePath::new(bytes).map_err(|_| RefusalKind::PathTooLong { path: path.to_string() }.into())
}

/// Nothing that is mounted over may be replaced: another mount namespace would lose it.
fn refuse_mounts(wanted: &PlanInput, entry: &Entry) -> Result<(), Untouched> {
    if wanted.filesystems.is_mount_root(&entry.path) {
        return Err(RefusalKind::MountPoint { path: entry.path.to_string(), kind: None }.into());
    }
    Ok(())
}

/// Looks through a directory that becomes something else: what must not move stops the run by name,
/// untracked content goes with it and is listed.
fn displace(
    wanted: &PlanInput,
    entry: &Entry,
    transaction: &mut ChangePlan,
) -> Result<(), Untouched> {
    let kind = entry.type_name();
    let refused = |path: &TreePath, obstacle| -> Untouched {
        RefusalKind::ImmovableInside { path: path.to_string(), obstacle, kind }.into()
    };
    // A bind mount has the number of the filesystem that it shows, so mounts are asked for first.
    if let Some(mount) = wanted.mounts.iter().find(|mount| mount.at.is_below(&entry.path)) {
        return Err(refused(&mount.at, Obstacle::Mounted));
    }
    let mut cursor = wanted.filter.cursor();
    let top = wanted.root.stat(&entry.path)?;
    wanted.root.walk::<Untouched>(&entry.path, |visit| {
        let directory = visit.stat.kind == FileKind::Directory;
        if cursor.excludes(&visit.path, directory).is_some() {
            return Err(refused(&visit.path, Obstacle::Excluded));
        }
        if wanted.filter.protects(&visit.path) {
            return Err(refused(&visit.path, Obstacle::Protected));
        }
        if top.is_some_and(|top| top.dev != visit.stat.dev) {
            return Err(refused(&visit.path, Obstacle::OtherFilesystem));
        }
        // It could be moved, and never be removed from where it went.
        if wanted.root.pins(&visit.path)?.is_some_and(|pins| pins.immutable || pins.append_only) {
            return Err(refused(&visit.path, Obstacle::Flagged));
        }
        if wanted.is_kernel_path(&visit.path) && transaction.warnings.is_empty() {
            transaction.warnings.push(format!(
                "{} is the running kernel's and goes: it lies in a directory that becomes a {kind}",
                wanted.root.show(&visit.path)
            ));
        }
        transaction.removed_count += 1;
        // What comes into it from now on is not to go unnoticed.
        let (filesystem, path) =
            (wanted.filesystems.filesystem_of(&visit.path), visit.path.clone());
        transaction.changes.push(Change { filesystem, path, action: Action::CoveredByParent });
        // Where untracked paths go anyway, and in a full sync that cannot tell them from stale ones,
        // there is nothing to keep.
        if wanted.policy.untracked == UntrackedPolicy::Keep && !wanted.was_tracked(&visit.path) {
            transaction.displaced.push(visit.path);
        } else {
            transaction.itemized.push(ItemizedLine {
                change: "*deleting  ".to_owned(),
                suffix: String::new(),
                path: visit.path,
                bytes: 0,
            });
        }
        Ok(Descend::Into)
    })
}

fn item(entry: &Entry, difference: &Difference, link: Option<&TreePath>) -> ItemizedLine {
    let mut change = difference.itemize(entry);
    if link.is_some() {
        change.replace_range(0..1, "h");
    }
    let suffix = match (&entry.node, link) {
        (Node::Directory, _) => "/".to_owned(),
        (_, Some(link)) => format!(" => {link}"),
        (Node::Leaf(leaf), None) => match &leaf.kind {
            LeafKind::Symlink { target } => format!(" -> {}", crate::tree_path::Quoted(target)),
            _ => String::new(),
        },
    };
    let new_content = difference.missing || difference.kind || difference.content;
    let bytes =
        if new_content && link.is_none() { entry.file().map_or(0, |(size, _)| size) } else { 0 };
    ItemizedLine { change, path: entry.path.clone(), suffix, bytes }
}
