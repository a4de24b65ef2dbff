//! Receives a layer that was never published, and makes its manifest.
//!
//! rsync lists the module, then transfers the paths that differ from the live tree, then
//! compares again: every path has to be, unchanged, in the received or in the live tree. The entry
//! of a path is read from the received tree, else from the live tree, whose file rsync found equal.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};

use super::error::{ChangedNames, FullSyncError, NodeFault, ServerFault};
use super::itemized::{RsyncListing, is_time_only, split_item, unescape};
use super::module::{Module, archive_options};
use super::notice::FullSyncNotice;
use super::receive_dir::{ReceiveDir, fixed_path};
use crate::digest::Digest;
use crate::entry::{Entry, Leaf, LeafKind, Node};
use crate::manifest::Manifest;
use crate::report::{Event, Job, Monitor, Silent};
use crate::root::Root;
use crate::scan;
use crate::tree_path::TreePath;

/// A layer that was received whole.
pub struct Received {
    /// All its paths, except excluded ones.
    pub manifest: Manifest,
    /// Directory of the received files.
    pub tree: Root,
    /// Digests of the files that were read from the live tree instead.
    pub local: HashMap<TreePath, Digest>,
    /// Paths whose time the filesystem of the receive directory cannot hold, with the reason.
    pub unheld_times: BTreeMap<TreePath, String>,
}

/// Result of the second comparison by rsync.
enum SecondComparison {
    /// Nothing changed.
    Unchanged {
        /// Hard links of which rsync reports another link as equal.
        links: HashSet<TreePath>,
        /// Paths whose time the filesystem cannot hold, with the reason.
        unheld_times: BTreeMap<TreePath, String>,
    },
    /// Names of changed files.
    Changed(Vec<String>),
}

/// Received and live tree of a layer.
struct ReceivedTrees<'a> {
    module: &'a Module<'a>,
    live: &'a Root,
    tree: &'a Root,
}

/// Receives the files of a layer that differ from the tree `live`, and makes its manifest.
pub fn receive_unpublished(
    module: &Module<'_>,
    live: &Root,
    receive_dir: &ReceiveDir,
    monitor: &dyn Monitor,
) -> Result<Received, FullSyncError> {
    let directory = receive_dir.create_layer(module.layer, module.rules)?;
    let layer_dir = &directory.top;
    module.transfer(live, layer_dir, exact_options(module), monitor)?;

    layer_dir.create_dir(&fixed_path("none"))?;
    let mut listing = RsyncListing::read(module, layer_dir, monitor)?;
    monitor.event(Event::Started { job: Job::Walk, total: listing.paths.len() as u64 });
    let mut comparison =
        compare_again(module, &listing, (live, layer_dir, &directory.tree), monitor)?;

    // rsync loses the capabilities of a file that it copies to another owner, and sets them in a
    // second transfer. An edit of the image may be complete by then, too.
    if matches!(comparison, SecondComparison::Changed(_)) {
        module.transfer(live, layer_dir, exact_options(module), monitor)?;
        listing = RsyncListing::read(module, layer_dir, monitor)?;
        comparison = compare_again(module, &listing, (live, layer_dir, &directory.tree), monitor)?;
    }
    let (equal_links, unheld_times) = match comparison {
        SecondComparison::Unchanged { links, unheld_times } => (links, unheld_times),
        SecondComparison::Changed(names) => {
            let (layer, names) = (module.layer.clone(), ChangedNames(names));
            return Err(FullSyncError::Server(ServerFault::Changed { layer, names }));
        }
    };

    let trees = ReceivedTrees { module, live, tree: &directory.tree };
    let (manifest, local) = trees.make_manifest(&listing, &equal_links, monitor)?;
    monitor.event(Event::Advanced { job: Job::Walk, by: listing.paths.len() as u64 });
    monitor.event(Event::Finished { job: Job::Walk });
    Ok(Received { manifest, tree: directory.tree, local, unheld_times })
}

/// Reads the directories above `directory` from the tree `live`, without their other content.
pub fn manifest_of_parents(
    live: &Root,
    directory: &TreePath,
) -> Result<Option<Manifest>, FullSyncError> {
    let parents: Vec<TreePath> =
        std::iter::successors(directory.parent(), TreePath::parent).collect();
    let entries = scan::read_entries(live, &parents, &Silent)?;
    let entries: Vec<Entry> = entries.into_iter().flatten().filter(Entry::is_dir).collect();
    Ok(if entries.is_empty() { None } else { Manifest::new(entries).ok() })
}

fn exact_options(module: &Module<'_>) -> Vec<OsString> {
    let mut options = archive_options();
    options.push(module.modify_window().into());
    options
}

/// Asks rsync whether the received and the live tree together are the module.
fn compare_again(
    module: &Module<'_>,
    listing: &RsyncListing,
    (live, layer_dir, tree): (&Root, &Root, &Root),
    monitor: &dyn Monitor,
) -> Result<SecondComparison, FullSyncError> {
    // Without -H: with it, rsync skips the further links of a file that the live tree has.
    let mut options: Vec<OsString> =
        ["-aAXSn", "--numeric-ids", "--no-inc-recursive", "--out-format=%i %n"]
            .map(Into::into)
            .into();
    options.push(module.modify_window().into());
    options.extend(module.comparison_options(live));

    let leaders: HashSet<&TreePath> = listing.leaders.values().collect();
    let mut equal_links = HashSet::new();
    let (mut changed, mut unheld_times) = (Vec::new(), BTreeMap::new());
    let outcome = module.run(
        (layer_dir, OsStr::new("tree/")),
        options,
        |line: &[u8]| {
            let (letters, name) = split_item(line).unwrap_or((b"", line));
            let name = unescape(name);
            let path = match name.strip_suffix(b"/").unwrap_or(&name) {
                b"." => Ok(TreePath::root()),
                name => TreePath::new(name),
            };
            match path {
                Ok(path) if is_time_only(letters) && has_unheld_time(module, &path, live, tree) => {
                    let reason = module.times.limit_reason(&path);
                    unheld_times.insert(path, reason);
                }
                Ok(path) if listing.leaders.contains_key(&path) || leaders.contains(&path) => {
                    equal_links.insert(path);
                }
                _ => changed.push(String::from_utf8_lossy(&name).escape_debug().to_string()),
            }
            Ok(())
        },
        monitor,
    )?;
    module.check_outcome(&outcome)?;

    Ok(if changed.is_empty() {
        SecondComparison::Unchanged { links: equal_links, unheld_times }
    } else {
        SecondComparison::Changed(changed)
    })
}

/// Whether the object that was received, or else the live one, has a time at a limit of its
/// filesystem: rsync has set it as well as possible.
fn has_unheld_time(module: &Module<'_>, path: &TreePath, live: &Root, tree: &Root) -> bool {
    let stat_in = |root: &Root| root.stat(path).ok().flatten();
    let stat = stat_in(tree).or_else(|| stat_in(live));
    stat.is_some_and(|stat| module.times.is_limit(&TreePath::root(), stat.mtime))
}

impl ReceivedTrees<'_> {
    /// Makes the manifest of the layer, and the digests of the files read from the live tree.
    fn make_manifest(
        &self,
        listing: &RsyncListing,
        equal_links: &HashSet<TreePath>,
        monitor: &dyn Monitor,
    ) -> Result<(Manifest, HashMap<TreePath, Digest>), FullSyncError> {
        // The received tree is preferred, except for the directories above the requested one:
        // rsync creates them there, but their metadata belongs to the node.
        let (live_paths, received_paths): (Vec<TreePath>, Vec<TreePath>) =
            listing.paths.keys().cloned().partition(|path| self.is_parent(path));
        let mut entries = BTreeMap::new();
        insert_entries(&mut entries, scan::read_entries(self.live, &live_paths, monitor)?);
        insert_entries(&mut entries, scan::read_entries(self.tree, &received_paths, monitor)?);

        // The remaining paths are in the other tree.
        let missing = listing
            .paths
            .keys()
            .filter(|path| !entries.contains_key(*path) && !equal_links.contains(*path));
        let (received_paths, live_paths): (Vec<TreePath>, Vec<TreePath>) =
            missing.cloned().partition(|path| self.is_parent(path));
        let live_entries = scan::read_entries(self.live, &live_paths, monitor)?;
        let digests = live_entries
            .iter()
            .flatten()
            .filter_map(|entry| Some((entry.path.clone(), entry.file()?.1)))
            .collect();
        insert_entries(&mut entries, live_entries);
        insert_entries(&mut entries, scan::read_entries(self.tree, &received_paths, monitor)?);

        join_links(&mut entries, &listing.leaders, &digests);
        self.check_types(listing, &entries, monitor)?;
        Ok((Manifest::new(entries.into_values().collect())?, digests))
    }

    /// Whether the path is above the requested directory.
    fn is_parent(&self, path: &TreePath) -> bool {
        let directory = self.module.directory;
        directory.is_below(path) || (path.is_root() && !directory.is_root())
    }

    /// Checks that all listed paths were found with their types.
    ///
    /// A difference means that another program writes to the live tree or to the module.
    fn check_types(
        &self,
        listing: &RsyncListing,
        entries: &BTreeMap<TreePath, Entry>,
        monitor: &dyn Monitor,
    ) -> Result<(), FullSyncError> {
        for (path, kind) in &listing.paths {
            match entries.get(path).map(type_letter) {
                Some(letter) if letter == *kind => {}
                None if *kind == b'S' => monitor.warn(FullSyncNotice::SocketOmitted { path }),
                _ => {
                    let layer = self.module.layer.clone();
                    let fault = NodeFault::Changed { path: path.clone(), layer };
                    return Err(FullSyncError::Node(fault));
                }
            }
        }
        Ok(())
    }
}

fn insert_entries(entries: &mut BTreeMap<TreePath, Entry>, found: Vec<Option<Entry>>) {
    entries.extend(found.into_iter().flatten().map(|entry| (entry.path.clone(), entry)));
}

/// rsync's letter for the type of an entry.
fn type_letter(entry: &Entry) -> u8 {
    match &entry.node {
        Node::Directory => b'd',
        Node::Leaf(leaf) => match leaf.kind {
            LeafKind::File { .. } => b'f',
            LeafKind::Symlink { .. } => b'L',
            LeafKind::Fifo => b'S',
            LeafKind::Char(_) | LeafKind::Block(_) => b'D',
        },
    }
}

/// Joins the links of each inode to one group, with the entry of one link for all of them.
fn join_links(
    entries: &mut BTreeMap<TreePath, Entry>,
    leaders: &HashMap<TreePath, TreePath>,
    local: &HashMap<TreePath, Digest>,
) {
    let mut groups: BTreeMap<&TreePath, Vec<&TreePath>> = BTreeMap::new();
    for (path, leader) in leaders {
        groups.entry(leader).or_insert_with(|| vec![leader]).push(path);
    }

    for mut members in groups.into_values() {
        members.sort_unstable();

        // A received link is preferred. If the live tree has some links, rsync does not transfer
        // the others: they would be links of those.
        let present: Vec<&Entry> = members.iter().filter_map(|path| entries.get(*path)).collect();
        let received = present.iter().find(|entry| !local.contains_key(&entry.path));
        let model = received.or(present.first()).map(|entry| (*entry).clone());

        let (Some(model), Some(first)) = (model, members.first()) else { continue };
        let Node::Leaf(leaf) = &model.node else { continue };
        for path in &members {
            let leaf = Leaf { kind: leaf.kind.clone(), group: Some((*first).clone()) };
            let entry = Entry::new((*path).clone(), model.meta.clone(), Node::Leaf(leaf));
            entries.insert((*path).clone(), entry);
        }
    }
}
