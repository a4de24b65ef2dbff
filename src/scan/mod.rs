//! Reads a tree into a manifest.
//!
//! The manifest describes the tree at one moment, or the scan fails. A file that changes while it
//! is read is named in the error. [`Scan::recheck`] finds later changes, after a publish has
//! written its archives. Without both, a publish could promise content that no image ever had.

mod cache;
mod error;
mod hash;
mod notice;
mod tracked;

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

pub use cache::Cache;
pub use error::ScanError;
pub use notice::ScanNotice;
pub use tracked::{LiveObject, read_tracked};

use crate::client_paths::{DOWNLOADED_DIR, OWN_PREFIX, STAGE_DIR, STATE_DIR, UNDO_DIR};
use crate::entry::{Entry, Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::manifest::Manifest;
use crate::report::{Event, Job, Monitor};
use crate::root::mounts::{self, Mount};
use crate::root::{
    Descend, FileKind, ListedName, OpenDirectory, Root, RootError, Stat, SurveyRules, Visit,
    on_many_threads,
};
use crate::tree_path::TreePath;

/// The result of a scan.
pub struct Scan {
    manifest: Manifest,
    /// One for each entry of the manifest, in the same order.
    paths: Vec<ScannedPath>,
    started: Mtime,
    bytes_read: u64,
}

/// A path of the tree with its inode.
struct ScannedPath {
    path: TreePath,
    stat: Stat,
}

/// Metadata that is read for each path, whether its content is in the cache or not.
struct Attributes {
    xattrs: Xattrs,
    /// Target of a symbolic link.
    target: Option<Box<[u8]>>,
}

/// Result of visiting one path.
enum ScanResult {
    Entry(ScannedPath, Attributes),
    /// A mount point; the mounted tree is not part of the image.
    Mounted(ScannedPath, Attributes),
    Socket(TreePath),
    ClientState(TreePath),
}

/// Refuses an image in which a filesystem of the kernel is mounted, before anything is read.
///
/// Such a mount shows that somebody still works in the image, for example in a chroot. Its mount
/// point changes while the image is read, or hides files of the image.
pub fn refuse_pseudo_mounts(image: &Root) -> Result<(), ScanError> {
    match read_mounts(image)?.into_iter().find(Mount::is_pseudo) {
        Some(Mount { at, kind, .. }) => {
            Err(ScanError::PseudoMounted { path: image.show(&at), kind })
        }
        None => Ok(()),
    }
}

/// Scans the tree; content with a digest in `cache` is not read.
pub fn scan(root: &Root, cache: &Cache, monitor: &dyn Monitor) -> Result<Scan, ScanError> {
    let started = now();
    let (paths, attributes) = list_paths(root, monitor)?;
    monitor.event(Event::Started { job: Job::Scan, total: paths.len() as u64 });

    // Content is read through the first link of each inode.
    let links = Links::new(&paths);
    let reader = hash::ContentReader::new(root, cache, monitor);
    let entries: Vec<Option<Entry>> = on_many_threads(|| {
        attributes
            .into_par_iter()
            .enumerate()
            .map_init(hash::buffer, |buffer: &mut Vec<u8>, (index, attributes)| {
                let is_first = links.first(&paths, index) == index;
                let entry = if is_first {
                    Some(reader.read_entry(&paths[index], attributes, buffer)?)
                } else {
                    None
                };
                monitor.event(Event::Advanced { job: Job::Scan, by: 1 });
                Ok(entry)
            })
            .collect::<Result<_, ScanError>>()
    })?;

    let manifest = Manifest::new(assemble(root, &paths, entries, &links)?)?;
    monitor.event(Event::Finished { job: Job::Scan });
    Ok(Scan { manifest, paths, started, bytes_read: reader.bytes_read() })
}

/// Reads the entries at `paths`; `None` if a path does not exist or is a socket.
///
/// The entries have no hard-link group, since other links are not read.
pub fn read_entries(
    root: &Root,
    paths: &[TreePath],
    monitor: &dyn Monitor,
) -> Result<Vec<Option<Entry>>, ScanError> {
    let cache = Cache::default();
    let reader = hash::ContentReader::new(root, &cache, monitor);

    paths
        .par_iter()
        .map_init(hash::buffer, |buffer: &mut Vec<u8>, path: &TreePath| {
            let stat = root.stat(path)?.filter(|stat| stat.kind != FileKind::Socket);
            let Some(stat) = stat else { return Ok(None) };
            let attributes = read_attributes(root, path, &stat)
                .map_err(|error| changed_or(root, error, path))?;
            let scanned = ScannedPath { path: path.clone(), stat };
            reader.read_entry(&scanned, attributes, buffer).map(Some)
        })
        .collect()
}

fn read_attributes(root: &Root, path: &TreePath, stat: &Stat) -> Result<Attributes, RootError> {
    let xattrs = root.xattrs(path)?;
    let is_symlink = stat.kind == FileKind::Symlink;
    let target = if is_symlink { Some(root.read_link(path)?) } else { None };
    Ok(Attributes { xattrs, target })
}

impl Scan {
    /// The manifest of the tree.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of content that were read because the cache did not have their digest.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Fails if a path of the tree has changed since the scan.
    pub fn recheck(&self, root: &Root) -> Result<(), ScanError> {
        let paths: Vec<&TreePath> = self.paths.iter().map(|scanned| &scanned.path).collect();
        let current = root.stat_each(&paths)?;

        let changed = self.paths.iter().zip(current).find(|(scanned, current)| {
            !matches!(current, Some(Ok(current)) if is_same_inode(current, &scanned.stat))
        });
        match changed {
            Some((scanned, _)) => Err(ScanError::Changed { path: root.show(&scanned.path) }),
            None => Ok(()),
        }
    }

    /// The cache for the next scan.
    pub fn cache(&self) -> Cache {
        let digests = self
            .paths
            .iter()
            .zip(self.manifest.entries())
            .filter_map(|(scanned, entry)| Some((scanned, *entry.digest()?)));
        Cache::new(digests, self.started)
    }
}

/// Lists all paths with their attributes, and refuses paths that no image may have.
fn list_paths(
    root: &Root,
    monitor: &dyn Monitor,
) -> Result<(Vec<ScannedPath>, Vec<Attributes>), ScanError> {
    let top = TreePath::root();
    let top_stat = root.stat(&top)?.ok_or_else(|| ScanError::Changed { path: root.show(&top) })?;
    let mounts = read_mounts(root)?;

    let results = root.survey(&top, &Listing { root, mounts: &mounts })?;

    let mut paths = Vec::with_capacity(results.len() + 1);
    let mut attributes = Vec::with_capacity(results.len() + 1);
    attributes.push(read_attributes(root, &top, &top_stat)?);
    paths.push(ScannedPath { path: top, stat: top_stat });
    for result in results {
        let (scanned, read) = match result {
            ScanResult::Entry(scanned, read) => (scanned, read),
            ScanResult::Mounted(scanned, read) => {
                monitor.warn(ScanNotice::Mounted { path: root.show(&scanned.path) });
                (scanned, read)
            }
            ScanResult::Socket(path) => {
                monitor.warn(ScanNotice::Socket { path: root.show(&path) });
                continue;
            }
            ScanResult::ClientState(path) => {
                return Err(ScanError::ClientState { path: root.show(&path) });
            }
        };
        paths.push(scanned);
        attributes.push(read);
    }
    Ok((paths, attributes))
}

/// Rules of the survey of an image: every path counts, and each failure ends the scan.
struct Listing<'a> {
    root: &'a Root,
    mounts: &'a [Mount],
}

impl SurveyRules for Listing<'_> {
    type State = ();
    type Item = ScanResult;
    type Error = ScanError;

    fn enter(&self, _: &TreePath) {}

    fn selects(&self, (): &mut (), _: ListedName<'_>) -> bool {
        true
    }

    fn visit(
        &self,
        (): &mut (),
        directory: &OpenDirectory<'_>,
        visit: Visit,
    ) -> Result<(Option<ScanResult>, Descend), ScanError> {
        visit_path(self.root, self.mounts, directory, visit)
    }

    fn fail(&self, _: TreePath, error: RootError) -> Result<Option<ScanResult>, ScanError> {
        Err(error.into())
    }
}

fn read_mounts(root: &Root) -> Result<Vec<Mount>, ScanError> {
    let (_, mounts) = mounts::read(root.location())
        .map_err(|source| ScanError::Mounts { path: root.show(&TreePath::root()), source })?;
    Ok(mounts)
}

fn visit_path(
    root: &Root,
    mounts: &[Mount],
    dir: &OpenDirectory<'_>,
    Visit { path, stat }: Visit,
) -> Result<(Option<ScanResult>, Descend), ScanError> {
    if is_client_state(&path, &stat) {
        return Ok((Some(ScanResult::ClientState(path)), Descend::Past));
    }
    if stat.kind == FileKind::Socket {
        return Ok((Some(ScanResult::Socket(path)), Descend::Past));
    }

    let changed = |error| changed_or(root, error, &path);
    let xattrs = dir.xattrs(&path).map_err(changed)?;
    let is_symlink = stat.kind == FileKind::Symlink;
    let target = if is_symlink { Some(dir.read_link(&path).map_err(changed)?) } else { None };
    let attributes = Attributes { xattrs, target };

    let is_mount_point = mounts.iter().any(|mount| mount.at == path);
    let scanned = ScannedPath { path, stat };
    Ok(if is_mount_point {
        (Some(ScanResult::Mounted(scanned, attributes)), Descend::Past)
    } else {
        (Some(ScanResult::Entry(scanned, attributes)), Descend::Into)
    })
}

/// The error for a failed call on a path: if the path is missing now, the tree has changed.
fn changed_or(root: &Root, error: RootError, path: &TreePath) -> ScanError {
    if error.is_absent() { ScanError::Changed { path: root.show(path) } } else { error.into() }
}

/// Whether a path is state of a node: a stage or undo set anywhere, any `.si-*` in the root, or a
/// file in the state directory. Its files belong to one node, and never to an image; the state
/// directory itself is part of the agent's package.
fn is_client_state(path: &TreePath, stat: &Stat) -> bool {
    let is_in_state_dir =
        path.parent().is_some_and(|parent| parent.as_bytes() == STATE_DIR.as_bytes());
    let is_own_in_root =
        path.as_bytes() == path.name() && path.name().starts_with(OWN_PREFIX.as_bytes());
    let is_stage = stat.kind == FileKind::Directory
        && [STAGE_DIR, UNDO_DIR, DOWNLOADED_DIR].map(str::as_bytes).contains(&path.name());
    is_in_state_dir || is_own_in_root || is_stage
}

/// The hard links of a tree: by device and inode, the index of the first path.
struct Links(HashMap<(u64, u64), usize>);

impl Links {
    /// Finds inodes with at least two links in the tree.
    fn new(paths: &[ScannedPath]) -> Self {
        let mut counts: HashMap<(u64, u64), (usize, usize)> = HashMap::new();
        for (index, ScannedPath { stat, .. }) in paths.iter().enumerate() {
            if stat.links > 1 && stat.kind != FileKind::Directory {
                counts.entry((stat.dev, stat.ino)).or_insert((index, 0)).1 += 1;
            }
        }

        // A single link here means that the others are outside the tree.
        let groups = counts.into_iter().filter(|(_, (_, count))| *count > 1);
        Links(groups.map(|(inode, (first, _))| (inode, first)).collect())
    }

    /// Index of the first link of the inode at `index`.
    fn first(&self, paths: &[ScannedPath], index: usize) -> usize {
        self.group(paths, index).unwrap_or(index)
    }

    /// Index of the first link if the tree has several.
    fn group(&self, paths: &[ScannedPath], index: usize) -> Option<usize> {
        let stat = &paths[index].stat;
        if stat.kind == FileKind::Directory {
            return None;
        }
        self.0.get(&(stat.dev, stat.ino)).copied()
    }
}

/// Gives each link the entry that was read through the first link, and its group.
fn assemble(
    root: &Root,
    paths: &[ScannedPath],
    read: Vec<Option<Entry>>,
    links: &Links,
) -> Result<Vec<Entry>, ScanError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(paths.len());

    for (index, entry) in read.into_iter().enumerate() {
        let ScannedPath { path, stat } = &paths[index];
        let group = links.group(paths, index);
        if group.is_some_and(|first| !is_same_inode(&paths[first].stat, stat)) {
            return Err(ScanError::Changed { path: root.show(path) });
        }

        let mut entry = match (entry, group) {
            (Some(entry), _) => entry,
            (None, first) => entries[first.unwrap_or(0)].at(path.clone()),
        };
        if let (Node::Leaf(leaf), Some(first)) = (&mut entry.node, group) {
            leaf.group = Some(paths[first].path.clone());
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Whether two stats show the same, unchanged inode.
///
/// Allocated blocks are ignored: a filesystem may change their number some time after a write.
fn is_same_inode(a: &Stat, b: &Stat) -> bool {
    Stat { blocks: 0, ..*a } == Stat { blocks: 0, ..*b }
}

fn now() -> Mtime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Mtime { seconds: since.as_secs().try_into().unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

#[cfg(test)]
mod tests;
