//! Makes a manifest of what rsync brings of something that was never published.
//!
//! rsync lists the module; then it brings what the live tree does not have in the very same form; then it is
//! asked again whether anything of the module is in neither. A path's entry is read from what came, else
//! from the live tree, which rsync found to be equal there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;

use crate::digest::Digest;
use crate::entry::{Entry, LeafKind, Node};
use crate::full_sync::itemized::{RsyncListing, itemized, unescape};
use crate::full_sync::{FullSyncError, Module, ReceiveDir, TO_THE_NANOSECOND, options, path};
use crate::manifest::Manifest;
use crate::report::{Event, Job, Monitor};
use crate::root::Root;
use crate::scan;
use crate::tree_path::TreePath;

/// So many paths are named in a message.
const NAMED: usize = 10;

/// What rsync says of what it brought.
enum Judgement {
    /// With the live tree it is the module, but for these names of files that are there under another.
    Whole(HashSet<TreePath>),
    /// These are in neither.
    Changed(Vec<String>),
}

/// Something that came whole: its manifest, and the content that the live tree does not have.
pub struct Received {
    /// What it holds, as far as the rules let it come.
    pub manifest: Manifest,
    /// The files that came.
    pub tree: Root,
    /// The content of the files that were read on the live tree, since they did not come.
    pub local: HashMap<TreePath, Digest>,
}

impl Module<'_> {
    /// Receives what differs from the tree `live`, and finds out what the whole module is.
    pub fn receive_whole(
        &self,
        live: &Root,
        aside: &ReceiveDir,
        monitor: &dyn Monitor,
    ) -> Result<Received, FullSyncError> {
        let (place, tree) = self.prepare(aside)?;
        let options = || options().into_iter().chain([TO_THE_NANOSECOND.into()]).collect();
        self.bring(live, &place, options(), monitor)?;
        place.create_dir(&path("none"))?;
        let mut listing = self.list(&place, monitor)?;
        monitor.event(Event::Started { job: Job::Walk, total: listing.paths.len() as u64 });
        let different = match self.judge_again(&listing, live, &place, monitor)? {
            Judgement::Whole(different) => different,
            // rsync drops the capabilities of a file that it copies and gives to another owner, and sets them in
            // a second pass; and who edited the image meanwhile may have finished.
            Judgement::Changed(_) => {
                self.bring(live, &place, options(), monitor)?;
                listing = self.list(&place, monitor)?;
                match self.judge_again(&listing, live, &place, monitor)? {
                    Judgement::Whole(different) => different,
                    Judgement::Changed(what) => return Err(self.changed(what)),
                }
            }
        };
        let (manifest, local) = self.manifest(&listing, &different, live, &tree, monitor)?;
        monitor.event(Event::Advanced { job: Job::Walk, by: listing.paths.len() as u64 });
        monitor.event(Event::Finished { job: Job::Walk });
        Ok(Received { manifest, tree, local })
    }

    /// Asks rsync whether what came and what the live tree has are the module, path by path.
    fn judge_again(
        &self,
        listing: &RsyncListing,
        live: &Root,
        place: &Root,
        monitor: &dyn Monitor,
    ) -> Result<Judgement, FullSyncError> {
        // Without -H, under which rsync passes over the other names of a file that the live tree has.
        let options = [
            "-aAXSn",
            "--numeric-ids",
            "--no-inc-recursive",
            TO_THE_NANOSECOND,
            "--out-format=%i %n",
        ];
        let mut options: Vec<OsString> = options.map(Into::into).into();
        options.extend(self.comparing(live));
        let leaders: HashSet<&TreePath> = listing.leaders.values().collect();
        let is_linked =
            |path: &TreePath| listing.leaders.contains_key(path) || leaders.contains(path);
        let (mut names, mut changed) = (HashSet::new(), Vec::new());
        let hear = |line: &[u8]| {
            let name = unescape(itemized(line).map_or(line, |(_, name)| name));
            match TreePath::new(name.strip_suffix(b"/").unwrap_or(&name)) {
                Ok(path) if is_linked(&path) => drop(names.insert(path)),
                _ => changed.push(String::from_utf8_lossy(&name).escape_debug().to_string()),
            }
            Ok(())
        };
        let outcome = self.run(place, options, "tree/", hear, monitor)?;
        if let Some(error) = self.judge(&outcome) {
            return Err(error);
        }
        Ok(if changed.is_empty() { Judgement::Whole(names) } else { Judgement::Changed(changed) })
    }

    fn changed(&self, mut what: Vec<String>) -> FullSyncError {
        let more = what.len().saturating_sub(NAMED);
        let and = if more > 0 { format!(" and {more} more") } else { String::new() };
        what.truncate(NAMED);
        let (layer, names) = (self.layer, what.join(", "));
        FullSyncError::Server(format!(
            "the {layer} changed while it was received: {names}{and}; run again"
        ))
    }

    fn manifest(
        &self,
        listing: &RsyncListing,
        different: &HashSet<TreePath>,
        live: &Root,
        tree: &Root,
        monitor: &dyn Monitor,
    ) -> Result<(Manifest, HashMap<TreePath, Digest>), FullSyncError> {
        // Of the directories above the one that is asked for the server's metadata does not count.
        let above = |path: &TreePath| {
            self.directory.is_below(path) || (path.is_root() && !self.directory.is_root())
        };
        let paths: Vec<TreePath> = listing.paths.keys().cloned().collect();
        let (from_live, from_tree): (Vec<TreePath>, Vec<TreePath>) =
            paths.into_iter().partition(&above);
        let mut entries: BTreeMap<TreePath, Entry> = BTreeMap::new();
        let mut take = |found: Vec<Option<Entry>>| {
            entries.extend(found.into_iter().flatten().map(|entry| (entry.path.clone(), entry)));
        };
        take(scan::entries(live, &from_live)?);
        take(scan::entries(tree, &from_tree)?);
        let missing: Vec<TreePath> = listing
            .paths
            .keys()
            .filter(|path| !entries.contains_key(*path) && !different.contains(*path))
            .cloned()
            .collect();
        let (from_tree, from_live): (Vec<TreePath>, Vec<TreePath>) =
            missing.into_iter().partition(&above);
        let local = scan::entries(live, &from_live)?;
        let digests = local
            .iter()
            .flatten()
            .filter_map(|entry| Some((entry.path.clone(), entry.file()?.1)))
            .collect();
        entries.extend(local.into_iter().flatten().map(|entry| (entry.path.clone(), entry)));
        let above = scan::entries(tree, &from_tree)?;
        entries.extend(above.into_iter().flatten().map(|entry| (entry.path.clone(), entry)));
        link(&mut entries, &listing.leaders, &digests);
        self.check(listing, &entries, monitor)?;
        let manifest = Manifest::new(entries.into_values().collect());
        Ok((manifest.map_err(|error| FullSyncError::Server(error.to_string()))?, digests))
    }

    /// Refuses what is not what the listing says: something writes to the live tree, or to the module.
    fn check(
        &self,
        listing: &RsyncListing,
        entries: &BTreeMap<TreePath, Entry>,
        monitor: &dyn Monitor,
    ) -> Result<(), FullSyncError> {
        for (path, kind) in &listing.paths {
            let found = entries.get(path).map(letter);
            if found == Some(*kind) {
                continue;
            }
            if found.is_none() && *kind == b'S' {
                monitor.warn(format!("{path} is a socket on the server and is left out"));
                continue;
            }
            let what = self.layer;
            return Err(FullSyncError::Node(format!(
                "{path} changed while the {what} was received; run again"
            )));
        }
        Ok(())
    }
}

/// The directories above `directory` as they stand on the tree `live`, from the top on; those alone.
pub fn above(live: &Root, directory: &TreePath) -> Result<Option<Manifest>, FullSyncError> {
    let mut paths = Vec::new();
    let mut at = directory.parent();
    while let Some(path) = at {
        at = path.parent();
        paths.push(path);
    }
    let entries = scan::entries(live, &paths)?;
    let entries: Vec<Entry> = entries.into_iter().flatten().filter(Entry::is_dir).collect();
    Ok(if entries.is_empty() { None } else { Manifest::new(entries).ok() })
}

/// The letter that rsync has for a kind of entry.
fn letter(entry: &Entry) -> u8 {
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

/// Makes the links of one inode one group: they are what came of it, else what is on the live tree.
fn link(
    entries: &mut BTreeMap<TreePath, Entry>,
    leaders: &HashMap<TreePath, TreePath>,
    local: &HashMap<TreePath, Digest>,
) {
    let mut groups: BTreeMap<&TreePath, Vec<&TreePath>> = BTreeMap::new();
    for (path, leader) in leaders {
        groups.entry(leader).or_insert_with(|| vec![leader]).push(path);
    }
    for (_, mut members) in groups {
        members.sort_unstable();
        // Where the live tree has some of them, rsync does not bring the others: they would be links of those.
        let there = || members.iter().filter(|path| entries.contains_key(**path));
        let came = there().find(|path| !local.contains_key(**path)).or_else(|| there().next());
        let model = came.and_then(|path| entries.get(*path)).cloned();
        let (Some(model), Some(first)) = (model, members.first()) else { continue };
        let Node::Leaf(leaf) = &model.node else { continue };
        for path in &members {
            let node = Node::Leaf(crate::entry::Leaf {
                kind: leaf.kind.clone(),
                group: Some((*first).clone()),
            });
            entries.insert((*path).clone(), Entry::new((*path).clone(), model.meta.clone(), node));
        }
    }
}
