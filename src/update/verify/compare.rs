//! TreeComparison of a live tree with one manifest.

use std::collections::{HashMap, HashSet};

use crate::apply::Untouched;
use crate::apply::difference::Difference;
use crate::apply::filesystem::held_times::HeldTimes;
use crate::apply::filesystem::limited;
use crate::apply::filesystem::link_limits::LinkLimits;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::{ItemizedLine, hardlinks, itemize};
use crate::apply::session::Session;
use crate::entry::{Entry, Node};
use crate::filter::Filter;
use crate::manifest::Manifest;
use crate::report::Monitor;
use crate::root::Stat;
use crate::scan::{LiveObject, ScanError, read_tracked};
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::run::{SupportedPart, supported_part};
use crate::update::transaction::selection::refuse_untracked;
use crate::update::verify::VerifyRequest;

/// A live tree, and the rules by which it is compared.
pub(super) struct Subject<'a> {
    pub session: &'a Session,
    request: &'a VerifyRequest,
    /// Exclude rules and foreign mounts.
    pub filter: &'a Filter,
    times: HeldTimes,
    links: LinkLimits,
    monitor: &'a dyn Monitor,
}

/// Result of the comparison with one manifest.
pub(super) struct TreeComparison {
    /// In tree order.
    pub deviating: Vec<Deviating>,
    /// Number of tracked paths that were read.
    pub compared: usize,
}

/// A path whose live object does not match.
pub(super) struct Deviating {
    pub path: TreePath,
    /// Entry of the manifest; `None` if the path should not exist.
    pub expected: Option<Entry>,
    /// The live object; `None` if there is none that a manifest can have.
    pub found: Option<Entry>,
    pub item: ItemizedLine,
    /// The difference in words.
    pub reason: String,
}

impl<'a> Subject<'a> {
    pub fn new(
        request: &'a VerifyRequest,
        session: &'a Session,
        filter: &'a Filter,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, UpdateError> {
        let (root, filesystems) = (&session.root, &session.filesystems);
        let times = HeldTimes::probe(root, filesystems).map_err(Untouched::from)?;
        let links = LinkLimits::read(root, filesystems).map_err(Untouched::from)?;
        Ok(Subject { session, request, filter, times, links, monitor })
    }

    /// Whether `path` is verified.
    pub fn selects(&self, path: &TreePath) -> bool {
        self.request.selects(path)
    }

    /// The manifest without excluded and unsupported paths, as the tree would show it.
    pub fn tracked_part(&self, composed: &Manifest) -> Manifest {
        self.supported(composed).manifest
    }

    fn supported(&self, composed: &Manifest) -> SupportedPart {
        let part = supported_part(composed, self.filter, &self.session.mounts);
        part.held(&self.times, &self.links)
    }

    /// Entries that only `old` has and that an update to `target` would remove.
    pub fn stale_entries(&self, old: &Manifest, target: &Manifest) -> Vec<Entry> {
        let is_stale = |entry: &&Entry| {
            target.get(&entry.path).is_none() && !self.filter.protects(&entry.path)
        };
        self.tracked_part(old).entries().iter().filter(is_stale).cloned().collect()
    }

    /// Compares the tree with `composed`; no object shall exist at the paths of `stale`.
    pub fn compare(
        &self,
        composed: &Manifest,
        stale: &[Entry],
    ) -> Result<TreeComparison, UpdateError> {
        let SupportedPart { manifest: tracked, mut unsupported } = self.supported(composed);
        unsupported.retain(|path, _| self.selects(path));
        let mut entries: Vec<&Entry> = tracked.entries().iter().chain(stale).collect();
        entries.retain(|entry| self.selects(&entry.path));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let root = &self.session.root;
        refuse_untracked(root, self.filter, &self.request.paths, |top| {
            let is_tracked = |path: &TreePath| path == top || path.is_below(top);
            entries.iter().any(|entry| is_tracked(&entry.path))
                || unsupported.keys().any(is_tracked)
        })?;

        let paths: Vec<&TreePath> = entries.iter().map(|entry| &entry.path).collect();
        let mut objects = read_tracked(root, &paths, self.monitor).map_err(scan_error)?;
        set_groups(&mut objects);
        let wrong_links = self.find_wrong_links(&tracked, &paths, &objects)?;
        let is_stale: HashSet<&TreePath> = stale.iter().map(|entry| &entry.path).collect();

        let mut deviating = Vec::new();
        for (entry, object) in entries.iter().zip(objects) {
            if is_stale.contains(&entry.path) {
                deviating.extend(Deviating::stale(entry, object));
                continue;
            }
            let mut difference = self.compare_entry(entry, &object);
            difference.links = wrong_links.contains(&entry.path);
            let reason = unsupported.remove(&entry.path);
            deviating.extend(Deviating::new(entry, object, difference, reason));
        }
        // The remaining ones cannot exist on their filesystem.
        for (path, reason) in unsupported {
            let Some(entry) = composed.get(&path) else { continue };
            let difference = Difference::default();
            deviating.extend(Deviating::new(entry, LiveObject::Missing, difference, Some(reason)));
        }
        deviating.sort_by(|a, b| a.path.cmp(&b.path));

        Ok(TreeComparison { deviating, compared: entries.len() })
    }

    /// Compares one entry with its object, except for hard links.
    fn compare_entry(&self, entry: &Entry, object: &LiveObject) -> Difference {
        let difference = match object {
            LiveObject::Missing => Difference { missing: true, ..Difference::default() },
            LiveObject::Socket => Difference { kind: true, ..Difference::default() },
            LiveObject::Unreadable(_) => Difference::default(),
            LiveObject::Present(found, _) => Difference::between(entry, found),
        };
        if self.session.filesystems.is_limited(&entry.path) {
            return limited::mask_unsupported(difference, entry, object.stat());
        }
        difference
    }

    /// Paths of `paths` whose inode is shared although it should not be, or the reverse.
    ///
    /// Members of a hard-link group outside the selection are inspected as well.
    fn find_wrong_links(
        &self,
        tracked: &Manifest,
        paths: &[&TreePath],
        objects: &[LiveObject],
    ) -> Result<HashSet<TreePath>, UpdateError> {
        let mut stats: Vec<(TreePath, Stat)> = paths
            .iter()
            .zip(objects)
            .filter_map(|(path, object)| Some(((*path).clone(), *object.stat()?)))
            .collect();
        if !self.request.paths.is_empty() {
            let groups: HashSet<&TreePath> =
                paths.iter().filter_map(|path| tracked.get(path)?.group()).collect();
            let outside = tracked.entries().iter().filter(|entry| {
                entry.group().is_some_and(|group| groups.contains(group))
                    && !self.selects(&entry.path)
            });
            let outside: Vec<&TreePath> = outside.map(|entry| &entry.path).collect();
            let found = self.session.root.stat_each(&outside).map_err(Untouched::from)?;
            let found = outside.into_iter().zip(found);
            stats.extend(found.filter_map(|(path, stat)| Some((path.clone(), stat?.ok()?))));
            stats.sort_by(|a, b| a.0.cmp(&b.0));
        }

        let live = LiveTree::from_stats(stats);
        let is_ignored = |path: &TreePath| {
            self.session.filesystems.is_limited(path)
                || self.session.mounts.iter().any(|mount| mount.at == *path)
        };
        let mismatches = hardlinks::mismatches(tracked, &live, is_ignored);
        Ok(mismatches.into_iter().map(|index| tracked.entries()[index].path.clone()).collect())
    }
}

impl Deviating {
    /// The deviation of a path; `None` if nothing differs and there is no other `reason`.
    fn new(
        entry: &Entry,
        object: LiveObject,
        difference: Difference,
        reason: Option<String>,
    ) -> Option<Self> {
        let reason = match (&object, reason) {
            (LiveObject::Unreadable(error), _) => format!("cannot be read: {error}"),
            _ if difference.any() => difference.to_string(),
            (_, reason) => reason?,
        };
        let linked = entry.group().filter(|group| difference.links && **group != entry.path);
        Some(Deviating {
            path: entry.path.clone(),
            expected: Some(entry.clone()),
            found: into_entry(object),
            item: itemize(entry, &difference, linked),
            reason,
        })
    }

    /// The deviation of a path at which nothing should exist.
    fn stale(entry: &Entry, object: LiveObject) -> Option<Self> {
        if matches!(object, LiveObject::Missing) {
            return None;
        }
        let found = into_entry(object);
        let is_dir = found.as_ref().is_some_and(Entry::is_dir);
        let item = ItemizedLine::deletion(entry.path.clone(), if is_dir { "/" } else { "" });
        let reason = "stale: the generation does not have it".to_owned();
        Some(Deviating { path: entry.path.clone(), expected: None, found, item, reason })
    }
}

/// The entry of an object that a manifest can have.
fn into_entry(object: LiveObject) -> Option<Entry> {
    match object {
        LiveObject::Present(entry, _) => Some(entry),
        _ => None,
    }
}

/// Gives each object the hard-link group that it has among `objects`.
fn set_groups(objects: &mut [LiveObject]) {
    let mut groups: HashMap<(u64, u64), Vec<usize>> = HashMap::new();
    for (index, object) in objects.iter().enumerate() {
        if let LiveObject::Present(entry, stat) = object
            && stat.links > 1
            && !entry.is_dir()
        {
            groups.entry((stat.dev, stat.ino)).or_default().push(index);
        }
    }
    for members in groups.into_values().filter(|members| members.len() > 1) {
        let LiveObject::Present(first, _) = &objects[members[0]] else { continue };
        let name = first.path.clone();
        for index in members {
            if let LiveObject::Present(entry, _) = &mut objects[index]
                && let Node::Leaf(leaf) = &mut entry.node
            {
                leaf.group = Some(name.clone());
            }
        }
    }
}

fn scan_error(error: ScanError) -> UpdateError {
    match error {
        ScanError::Tree(error) => Untouched::from_root(error).into(),
        // No other error can occur: no manifest is made.
        _ => UpdateError::Cancelled,
    }
}
