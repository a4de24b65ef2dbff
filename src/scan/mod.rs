//! Reads an image tree into a manifest.
//!
//! What it promises: the manifest is the tree as it was at one moment, or the scan fails. A file that
//! changes while it is read is named; [`Scan::recheck`] finds, when everything has been written, what
//! changed since. Content that the last scan saw, by path, inode, size and both times, is not read
//! again.

mod cache;
mod hash;

use std::collections::HashMap;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

pub use cache::Cache;

use crate::entry::{Entry, Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::manifest::{Manifest, ManifestError};
use crate::report::{Event, Job, Monitor};
use crate::root::{
    Descend, FileKind, Root, RootError, Stat, Surveyed, Visit, mounts, on_many_threads,
};
use crate::tree_path::TreePath;

/// Where a client keeps its state: what is there belongs to one node and never to an image.
const CLIENT_STATE: &[u8] = b"var/lib/systemimager/client";

/// An image tree, scanned.
pub struct Scan {
    manifest: Manifest,
    /// What was found, in the order of the manifest.
    seen: Vec<Seen>,
    started: Mtime,
    bytes_read: u64,
}

/// One path of the tree and what lstat said of it.
struct Seen {
    path: TreePath,
    stat: Stat,
}

/// What else is read of everything, whether it changed or not.
struct Attributes {
    xattrs: Xattrs,
    /// The text, of a symlink.
    target: Option<Box<[u8]>>,
}

/// What a walk finds at one path.
enum ScanResult {
    Entry(Seen, Attributes),
    /// Something is mounted there, and what is in it is not the image's.
    Mounted(Seen, Attributes),
    Socket(TreePath),
    ClientState(TreePath),
}

/// Why a tree was not scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A call failed.
    #[error(transparent)]
    Tree(#[from] RootError),
    /// What is mounted is not known.
    #[error("cannot read what is mounted below {path}: {source}")]
    Mounts {
        /// The top of the image.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Something writes to the image.
    #[error(
        "{path} changed while the image was read; publish again when nothing writes to the image"
    )]
    Changed {
        /// What changed first.
        path: String,
    },
    /// An updated node was copied into the image, state and all.
    #[error(
        "{path} is a node's own state and does not belong into an image; remove it and publish again"
    )]
    ClientState {
        /// What was found.
        path: String,
    },
    /// The tree has something that a manifest cannot hold.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Reads the tree at `root`; content that `cache` knows is not read again.
pub fn scan(root: &Root, cache: &Cache, monitor: &dyn Monitor) -> Result<Scan, ScanError> {
    let started = now();
    let (seen, attributes) = look(root, monitor)?;
    monitor.event(Event::Started { job: Job::Scan, total: seen.len() as u64 });
    let links = Links::among(&seen);
    let reader = hash::ContentReader::new(root, cache);
    let read = |buffer: &mut Vec<u8>, (at, attributes)| {
        let first = links.first(&seen, at) == at;
        let entry = if first { Some(reader.entry(&seen[at], attributes, buffer)?) } else { None };
        monitor.event(Event::Advanced { job: Job::Scan, by: 1 });
        Ok(entry)
    };
    let all = || {
        attributes
            .into_par_iter()
            .enumerate()
            .map_init(hash::buffer, read)
            .collect::<Result<_, ScanError>>()
    };
    let read: Vec<Option<Entry>> = on_many_threads(all)?;
    let manifest = Manifest::new(assemble(root, &seen, read, &links)?)?;
    monitor.event(Event::Finished { job: Job::Scan });
    Ok(Scan { manifest, seen, started, bytes_read: reader.bytes_read() })
}

/// Reads the entries at `paths` of the tree at `root`, each without its hardlink group; `None` where nothing
/// stands, or a socket.
pub fn entries(root: &Root, paths: &[TreePath]) -> Result<Vec<Option<Entry>>, ScanError> {
    let cache = Cache::default();
    let reader = hash::ContentReader::new(root, &cache);
    let read = |buffer: &mut Vec<u8>, path: &TreePath| {
        let stat = root.stat(path)?.filter(|stat| stat.kind != FileKind::Socket);
        let seen = stat.map(|stat| Seen { path: path.clone(), stat });
        let entry = |seen: Seen| {
            let link = seen.stat.kind == FileKind::Symlink;
            let target = || if link { root.read_link(path).map(Some) } else { Ok(None) };
            let attributes =
                root.xattrs(path).and_then(|xattrs| Ok(Attributes { xattrs, target: target()? }));
            reader.entry(&seen, attributes.map_err(|error| gone(root, error, path))?, buffer)
        };
        seen.map(entry).transpose()
    };
    paths.par_iter().map_init(hash::buffer, read).collect()
}

impl Scan {
    /// What the tree holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How much content was read, since the last scan did not know it.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Fails by name where the tree is no longer as it was scanned.
    pub fn recheck(&self, root: &Root) -> Result<(), ScanError> {
        let paths: Vec<&TreePath> = self.seen.iter().map(|seen| &seen.path).collect();
        let now = root.stat_each(&paths)?;
        let changed =
            |(seen, now): &(&Seen, Option<Stat>)| now.is_none_or(|now| !alike(&now, &seen.stat));
        match self.seen.iter().zip(now).find(changed) {
            Some((seen, _)) => Err(ScanError::Changed { path: root.show(&seen.path) }),
            None => Ok(()),
        }
    }

    /// What the next scan need not read again.
    pub fn cache(&self) -> Cache {
        let files = self.seen.iter().zip(self.manifest.entries());
        Cache::new(files.filter_map(|(seen, entry)| Some((seen, entry.file()?.1))), self.started)
    }
}

/// Walks the tree and refuses what no image may hold.
fn look(root: &Root, monitor: &dyn Monitor) -> Result<(Vec<Seen>, Vec<Attributes>), ScanError> {
    let top = root.stat(&TreePath::root())?;
    let top = top.ok_or_else(|| ScanError::Changed { path: root.show(&TreePath::root()) })?;
    let unknown = |source| ScanError::Mounts { path: root.show(&TreePath::root()), source };
    let (_, mounts) = mounts::read(root.shown()).map_err(unknown)?;
    let visit = |_: &mut (), dir: &Surveyed<'_>, Visit { path, stat }: Visit| {
        if is_client_state(&path, &stat) {
            return Ok((Some(ScanResult::ClientState(path)), Descend::Past));
        }
        if stat.kind == FileKind::Socket {
            return Ok((Some(ScanResult::Socket(path)), Descend::Past));
        }
        let target = || {
            if stat.kind == FileKind::Symlink { dir.read_link(&path).map(Some) } else { Ok(None) }
        };
        let attributes =
            dir.xattrs(&path).and_then(|xattrs| Ok(Attributes { xattrs, target: target()? }));
        let attributes = attributes.map_err(|error| gone(root, error, &path))?;
        let mounted = mounts.iter().any(|mount| mount.at == path);
        let seen = Seen { path, stat };
        Ok::<_, ScanError>(match mounted {
            true => (Some(ScanResult::Mounted(seen, attributes)), Descend::Past),
            false => (Some(ScanResult::Entry(seen, attributes)), Descend::Into),
        })
    };
    let found = root.survey(&TreePath::root(), |_| (), visit)?;
    let (mut seen, mut attributes) =
        (Vec::with_capacity(found.len() + 1), Vec::with_capacity(found.len() + 1));
    seen.push(Seen { path: TreePath::root(), stat: top });
    attributes.push(Attributes { xattrs: root.xattrs(&TreePath::root())?, target: None });
    for found in found {
        let (entry, its) = match found {
            ScanResult::ClientState(path) => {
                return Err(ScanError::ClientState { path: root.show(&path) });
            }
            ScanResult::Socket(path) => {
                monitor.warn(format!("{} is a socket and is left out", root.show(&path)));
                continue;
            }
            ScanResult::Mounted(entry, its) => {
                let path = root.show(&entry.path);
                monitor.warn(format!("something is mounted on {path}; what is in it is left out"));
                (entry, its)
            }
            ScanResult::Entry(entry, its) => (entry, its),
        };
        seen.push(entry);
        attributes.push(its);
    }
    Ok((seen, attributes))
}

/// A failure at a path that was there a moment ago.
fn gone(root: &Root, error: RootError, path: &TreePath) -> ScanError {
    if error.is_absent() { ScanError::Changed { path: root.show(path) } } else { error.into() }
}

/// A stage or an undo set anywhere, anything of ours at the top, and all that is in the directory of
/// a client's state. That directory alone is part of the agent's package.
fn is_client_state(path: &TreePath, stat: &Stat) -> bool {
    let in_state = path.parent().is_some_and(|parent| parent.as_bytes() == CLIENT_STATE);
    let at_top = path.as_bytes() == path.name() && path.name().starts_with(b".si-");
    let store =
        stat.kind == FileKind::Directory && matches!(path.name(), b".si-stage" | b".si-undo");
    in_state || at_top || store
}

/// Which paths are names of one inode.
struct Links(HashMap<(u64, u64), (usize, usize)>);

impl Links {
    fn among(seen: &[Seen]) -> Self {
        let mut found: HashMap<(u64, u64), (usize, usize)> = HashMap::new();
        for (at, Seen { stat, .. }) in seen.iter().enumerate() {
            if stat.links > 1 && stat.kind != FileKind::Directory {
                found.entry((stat.dev, stat.ino)).or_insert((at, 0)).1 += 1;
            }
        }
        found.retain(|_, (_, names)| *names > 1);
        Links(found)
    }

    /// The first name of the inode that stands at `at`.
    fn first(&self, seen: &[Seen], at: usize) -> usize {
        self.group(seen, at).unwrap_or(at)
    }

    /// The same, if it has more than one.
    fn group(&self, seen: &[Seen], at: usize) -> Option<usize> {
        let stat = &seen[at].stat;
        if stat.kind == FileKind::Directory {
            return None;
        }
        self.0.get(&(stat.dev, stat.ino)).map(|(first, _)| *first)
    }
}

/// Gives every name of an inode what was read through the first, and its group.
fn assemble(
    root: &Root,
    seen: &[Seen],
    read: Vec<Option<Entry>>,
    links: &Links,
) -> Result<Vec<Entry>, ScanError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(seen.len());
    for (at, entry) in read.into_iter().enumerate() {
        let path = &seen[at].path;
        let group = links.group(seen, at);
        if group.is_some_and(|first| !alike(&seen[first].stat, &seen[at].stat)) {
            return Err(ScanError::Changed { path: root.show(path) });
        }
        let mut entry = match (entry, group) {
            (Some(entry), _) => entry,
            (None, first) => entries[first.unwrap_or(0)].at(path.clone()),
        };
        if let (Node::Leaf(leaf), Some(first)) = (&mut entry.node, group) {
            leaf.group = Some(seen[first].path.clone());
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Whether two looks saw the same; what is allocated settles some time after a write.
fn alike(a: &Stat, b: &Stat) -> bool {
    Stat { blocks: 0, ..*a } == Stat { blocks: 0, ..*b }
}

fn now() -> Mtime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Mtime { seconds: since.as_secs().try_into().unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

#[cfg(test)]
mod tests;
