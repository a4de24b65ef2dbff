//! Places the entries to be replaced: source, slot and action of each.
//!
//! A directory that is new, or that replaces another type of object, is staged with everything in
//! it and installed by one rename. If its entries were installed one by one, a path that was
//! reached through a symbolic link before and is in the directory afterwards would be absent in
//! between.

use std::collections::HashMap;

use crate::apply::difference::Difference;
use crate::apply::error::{Obstacle, RefusalKind, Untouched};
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{SlotAllocator, slot_name};
use crate::apply::plan::change_plan::{
    Action, Change, ChangePlan, ContentSource, ItemizedLine, StagedItem,
};
use crate::apply::plan::classify::{Classified, Decision};
use crate::apply::plan::hardlinks;
use crate::apply::plan::input::PlanInput;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::ordering::{self, PendingInstall};
use crate::apply::plan::policy::UntrackedPolicy;
use crate::entry::{Entry, LeafKind, Node};
use crate::filter::Cursor;
use crate::printable::Quoted;
use crate::root::{Descend, FileKind, Stat, Visit};
use crate::tree_path::TreePath;

/// Adds staged items, actions and itemized lines of all entries of the target that change.
pub(super) fn place_entries(
    input: &PlanInput,
    live: &LiveTree,
    classified: &[Classified],
    slots: &mut SlotAllocator,
    plan: &mut ChangePlan,
) -> Result<(), Untouched> {
    let mut placement = Placement {
        input,
        live,
        classified,
        link_sources: link_sources(input, classified),
        item_of_entry: HashMap::new(),
        subtree: None,
        installs: Vec::new(),
        times: Vec::new(),
        slots,
        plan,
    };
    for index in 0..input.target.entries().len() {
        placement.place(index)?;
    }

    let Placement { installs, mut times, plan, .. } = placement;
    plan.changes.append(&mut ordering::sort_installs(installs));
    plan.changes.append(&mut times);
    Ok(())
}

/// Placement in progress; the entries are placed in tree order.
struct Placement<'a> {
    input: &'a PlanInput<'a>,
    live: &'a LiveTree,
    classified: &'a [Classified],
    /// Map from the index of a member of a hard-link group: the member that it becomes a link of.
    link_sources: HashMap<usize, LinkSource>,
    /// Index of the staged item of each entry that has one.
    item_of_entry: HashMap<usize, usize>,
    /// The new directory that holds the current entry.
    subtree: Option<NewSubtree>,
    installs: Vec<PendingInstall>,
    times: Vec<Change>,
    slots: &'a mut SlotAllocator,
    plan: &'a mut ChangePlan,
}

/// The entry that a member of a hard-link group becomes a link of, by its index.
#[derive(Clone, Copy)]
enum LinkSource {
    /// The live tree has it.
    Live(usize),
    /// It is staged as well.
    Staged(usize),
}

/// A directory that is staged with everything in it.
struct NewSubtree {
    top: TreePath,
    filesystem: usize,
    /// Path of `top` in the stage.
    place: TreePath,
}

impl Placement<'_> {
    fn place(&mut self, index: usize) -> Result<(), Untouched> {
        let entry = &self.input.target.entries()[index];

        self.subtree = self.subtree.take().filter(|subtree| entry.path.is_below(&subtree.top));
        if self.classified[index].decision == Decision::LeaveOut {
            return Ok(());
        }
        if let Some(subtree) = &self.subtree {
            let (filesystem, place) = (subtree.filesystem, subtree.place_of(&entry.path)?);
            return self.stage(index, filesystem, place);
        }

        let Classified { decision, difference, .. } = self.classified[index];
        match decision {
            Decision::Replace => return self.install(index),
            Decision::Report | Decision::LeaveOut => return Ok(()),
            Decision::SetTime => self.times.push(Change {
                filesystem: self.input.filesystems.slot_filesystem_of(&entry.path),
                path: entry.path.clone(),
                action: Action::SetTime(entry.meta.mtime),
            }),
            Decision::Keep => {}
        }
        if difference.any() {
            self.plan.itemized.push(itemize(entry, &difference, None));
        }
        Ok(())
    }

    /// Stages an entry and installs it by an action of its own.
    fn install(&mut self, index: usize) -> Result<(), Untouched> {
        let entry = &self.input.target.entries()[index];
        let live_kind = self.live.get(&entry.path).map(|stat| stat.kind);
        if live_kind == Some(FileKind::Directory)
            && !entry.is_dir()
            && let Some(reason) = find_obstacle_of_user(self.input, entry)?
        {
            self.plan.deviations.insert(entry.path.clone(), reason);
            self.plan.left_out.insert(entry.path.clone());
            return Ok(());
        }

        let slot = self.slots.take_install()?;
        let filesystem = self.input.filesystems.slot_filesystem_of(&entry.path);
        self.stage(index, filesystem, slot_name(slot))?;
        refuse_mount_root(self.input, entry)?;

        let action = match live_kind.map(|kind| kind == FileKind::Directory) {
            Some(was_directory) if was_directory != entry.is_dir() => {
                Action::Exchange { slot, to_directory: entry.is_dir() }
            }
            _ => Action::Install { slot },
        };
        if let Action::Exchange { to_directory: false, .. } = action {
            displace_contents(self.input, entry, self.plan)?;
        }

        self.installs.push(PendingInstall {
            change: Change { filesystem, path: entry.path.clone(), action },
            exists: live_kind.is_some(),
            old_target: ordering::link_target(self.input.root, &entry.path, live_kind),
            new_target: entry.leaf().and_then(|leaf| match &leaf.kind {
                LeafKind::Symlink { target } => Some(target.clone()),
                _ => None,
            }),
        });
        if entry.is_dir() {
            let (top, place) = (entry.path.clone(), slot_name(slot));
            self.subtree = Some(NewSubtree { top, filesystem, place });
        }
        Ok(())
    }

    /// Adds the staged item of an entry, and its itemized line.
    fn stage(&mut self, index: usize, filesystem: usize, place: TreePath) -> Result<(), Untouched> {
        let entry = &self.input.target.entries()[index];
        let source = self.source(index)?;

        // A hard link cannot leave a filesystem.
        let linked = match &source {
            ContentSource::LinkStaged(item) => {
                let item = &self.plan.staged_items[*item];
                Some((&item.entry.path, item.filesystem))
            }
            ContentSource::LinkLive { path, .. } => {
                Some((path, self.input.filesystems.slot_filesystem_of(path)))
            }
            ContentSource::Node | ContentSource::Content { .. } => None,
        };
        if linked.is_some_and(|(_, other)| other != filesystem) {
            let path = entry.path.to_string();
            return Err(RefusalKind::HardlinkAcrossFilesystems { path }.into());
        }

        let line = itemize(entry, &self.classified[index].difference, linked.map(|(path, _)| path));
        self.plan.itemized.push(line);
        self.item_of_entry.insert(index, self.plan.staged_items.len());
        self.plan.staged_items.push(StagedItem { entry: entry.clone(), filesystem, place, source });
        Ok(())
    }

    fn source(&self, index: usize) -> Result<ContentSource, Untouched> {
        let entries = self.input.target.entries();
        match self.link_sources.get(&index) {
            Some(LinkSource::Live(other)) => {
                let path = &entries[*other].path;
                let live = match self.live.get(path) {
                    Some(live) => Some(*live),
                    None => self.input.root.stat(path)?,
                };
                if let Some(live) = live {
                    let (path, version) = (path.clone(), live.version());
                    return Ok(ContentSource::LinkLive { path, version });
                }
            }
            Some(LinkSource::Staged(other)) => {
                if let Some(item) = self.item_of_entry.get(other) {
                    return Ok(ContentSource::LinkStaged(*item));
                }
            }
            None => {}
        }

        Ok(match entries[index].file() {
            Some((size, digest)) => ContentSource::Content { size, digest },
            None => ContentSource::Node,
        })
    }
}

impl NewSubtree {
    /// Path in the stage of a path below the directory.
    fn place_of(&self, path: &TreePath) -> Result<TreePath, Untouched> {
        let rest = &path.as_bytes()[self.top.as_bytes().len()..];
        let bytes = [self.place.as_bytes(), rest].concat();
        // The slot can have more digits than the name of the directory has characters.
        TreePath::new(bytes).map_err(|_| RefusalKind::PathTooLong { path: path.to_string() }.into())
    }
}

/// Finds, for each replaced member of a hard-link group, the member that it becomes a link of.
///
/// A member that is kept is best, else the first one that is staged.
fn link_sources(input: &PlanInput, classified: &[Classified]) -> HashMap<usize, LinkSource> {
    let mut sources = HashMap::new();

    for group in hardlinks::groups(input.target, |path| input.filesystems.is_limited(path)) {
        let with = |decision| {
            group.iter().copied().filter(move |&index| classified[index].decision == decision)
        };
        let live_member = with(Decision::Keep).next();
        let mut replaced = with(Decision::Replace);

        match live_member {
            Some(live_member) => {
                sources.extend(replaced.map(|member| (member, LinkSource::Live(live_member))));
            }
            None => {
                if let Some(first) = replaced.next() {
                    sources.extend(replaced.map(|member| (member, LinkSource::Staged(first))));
                }
            }
        }
    }

    sources
}

/// Refuses to replace a mount point: another mount namespace would lose the mount.
fn refuse_mount_root(input: &PlanInput, entry: &Entry) -> Result<(), Untouched> {
    if input.filesystems.is_mount_root(&entry.path) {
        return Err(RefusalKind::MountPoint { path: entry.path.to_string(), kind: None }.into());
    }
    Ok(())
}

/// Plans the contents of a directory that becomes another type: they are moved together with it.
///
/// An object that must not be moved is refused. Untracked contents are listed as displaced, the
/// others as deleted.
fn displace_contents(
    input: &PlanInput,
    entry: &Entry,
    plan: &mut ChangePlan,
) -> Result<(), Untouched> {
    let kind = entry.type_name();
    let refusal = |path: &TreePath, obstacle| -> Untouched {
        RefusalKind::ImmovableInside { path: path.to_string(), obstacle, kind }.into()
    };

    // A bind mount has the device number of its source, so the walk does not notice it.
    if let Some(mount) = input.mounts.iter().find(|mount| mount.at.is_below(&entry.path)) {
        return Err(refusal(&mount.at, Obstacle::Mounted));
    }

    let mut cursor = input.filter.cursor();
    let top = input.root.stat(&entry.path)?;
    input.root.walk::<Untouched>(&entry.path, |visit| {
        if let Some(obstacle) = find_obstacle(input, &mut cursor, top.as_ref(), &visit)? {
            return Err(refusal(&visit.path, obstacle));
        }

        // One warning is enough for all paths of the kernel.
        if input.is_kernel_path(&visit.path) && plan.warnings.is_empty() {
            let path = input.root.show(&visit.path);
            plan.warnings.push(ApplyNotice::KernelDirectoryReplaced { path, kind });
        }

        // To the roll forward, a path of the directory that is not listed here is a late arrival.
        plan.removed_count += 1;
        plan.changes.push(Change {
            filesystem: input.filesystems.slot_filesystem_of(&visit.path),
            path: visit.path.clone(),
            action: Action::CoveredByParent,
        });

        // A run that removes untracked paths, or cannot separate them from stale ones, keeps none.
        if input.policy.untracked == UntrackedPolicy::Keep && !input.was_tracked(&visit.path) {
            plan.displaced.push(visit.path);
        } else {
            plan.itemized.push(ItemizedLine::deletion(visit.path, ""));
        }
        Ok(Descend::Into)
    })
}

/// Reason for which a directory cannot become another type, if a user can have caused it.
fn find_obstacle_of_user(input: &PlanInput, entry: &Entry) -> Result<Option<String>, Untouched> {
    let root = input.root;
    for mount in input.mounts.iter().filter(|mount| mount.at.is_below(&entry.path)) {
        if root.is_writable_by_others(&mount.at)? {
            return Ok(Some(format!("left out: {} is mounted in it", root.show(&mount.at))));
        }
    }

    let mut cursor = input.filter.cursor();
    let (top, mut found) = (root.stat(&entry.path)?, None);
    let walked = root.walk::<Untouched>(&entry.path, |visit| {
        if found.is_none()
            && let Some(obstacle) = find_obstacle(input, &mut cursor, top.as_ref(), &visit)?
            && root.is_writable_by_others(&visit.path)?
        {
            found = Some(format!("left out: {} {obstacle}", root.show(&visit.path)));
        }
        Ok(if found.is_some() { Descend::Past } else { Descend::Into })
    });
    match walked {
        Err(Untouched::Root(error)) if root.is_unknown(&entry.path, &error) => {
            Ok(Some(format!("left out: {error}")))
        }
        answer => answer.map(|()| found),
    }
}

/// Finds the reason why an object must not be moved with its directory; `top` is the directory.
fn find_obstacle(
    input: &PlanInput,
    cursor: &mut Cursor,
    top: Option<&Stat>,
    visit: &Visit,
) -> Result<Option<Obstacle>, Untouched> {
    if cursor.excludes(&visit.path, visit.stat.kind.entry_kind()).is_some() {
        return Ok(Some(Obstacle::Excluded));
    }
    if input.filter.protects(&visit.path) {
        return Ok(Some(Obstacle::Protected));
    }
    if top.is_some_and(|top| top.dev != visit.stat.dev) {
        return Ok(Some(Obstacle::OtherFilesystem));
    }

    // It could be moved with the directory, but not be removed from the undo set later.
    let pins = input.root.change_locks(&visit.path)?;
    Ok(pins.is_some_and(|pins| pins.immutable || pins.append_only).then_some(Obstacle::Flagged))
}

/// The line of a path that differs; `linked` is the path that it becomes a hard link of.
pub fn itemize(entry: &Entry, difference: &Difference, linked: Option<&TreePath>) -> ItemizedLine {
    let mut change = difference.itemize(entry);
    if linked.is_some() {
        change.replace_range(0..1, "h");
    }

    let suffix = match (&entry.node, linked) {
        (Node::Directory, _) => "/".to_owned(),
        (_, Some(path)) => format!(" => {path}"),
        (Node::Leaf(leaf), None) => match &leaf.kind {
            LeafKind::Symlink { target } => format!(" -> {}", Quoted(target)),
            _ => String::new(),
        },
    };

    let has_new_content =
        linked.is_none() && (difference.missing || difference.kind || difference.content);
    let size = entry.file().map_or(0, |(size, _)| size);
    let bytes = if has_new_content { size } else { 0 };
    ItemizedLine { change, path: entry.path.clone(), suffix, bytes }
}
