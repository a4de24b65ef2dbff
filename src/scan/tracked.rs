//! Reads the tracked paths of a live tree: metadata and content, on all processors.
//!
//! Unlike a scan it describes a tree that programs use: a path may be missing, unreadable, or
//! change at any time.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::hash::{buffer, hash};
use super::{Attributes, ScanError, read_attributes};
use crate::cancel::CancelReader;
use crate::entry::{Entry, Leaf, LeafKind, Node};
use crate::report::{Event, Job, Monitor};
use crate::root::{FileKind, Root, RootError, Stat, on_many_threads};
use crate::tree_path::TreePath;

/// Files of at least this size are read first, the largest one first.
///
/// Otherwise one processor would hash the last large file while the others have nothing to do.
const LARGE: u64 = 1 << 20;
/// Number of paths between two reports of progress.
const PROGRESS_STEP: usize = 1024;

/// A path of a live tree as it was read.
#[derive(Clone, Debug)]
pub enum LiveObject {
    Missing,
    /// The kernel refuses to inspect or to read it, with the reason.
    Unreadable(String),
    /// A socket, which no manifest can have.
    Socket,
    /// The entry has no hard-link group; the stat names its inode.
    Present(Entry, Stat),
}

/// Reads `paths`, which are in tree order; the result has their order.
///
/// The content of each inode is read once.
pub fn read_tracked(
    root: &Root,
    paths: &[&TreePath],
    monitor: &dyn Monitor,
) -> Result<Vec<LiveObject>, ScanError> {
    monitor.event(Event::Started { job: Job::Walk, total: paths.len() as u64 });
    let stats = root.stat_each(paths)?;
    let reader = TrackedReader { root, paths, stats: &stats, monitor };

    let first_links = first_links(&stats);
    let order = reading_order(&stats, &first_links);
    let next = AtomicUsize::new(0);
    let read: Vec<Vec<(usize, LiveObject)>> = on_many_threads(|| {
        let by_thread = rayon::broadcast(|_| reader.read_next(&order, &next));
        by_thread.into_iter().collect::<Result<_, ScanError>>()
    })?;

    let mut objects = vec![LiveObject::Missing; paths.len()];
    for (index, object) in read.into_iter().flatten() {
        objects[index] = object;
    }
    for (index, first) in first_links.iter().enumerate() {
        if *first != index {
            objects[index] = objects[*first].at(paths[index]);
        }
    }
    let rest = paths.len() - order.len() / PROGRESS_STEP * PROGRESS_STEP;
    monitor.event(Event::Advanced { job: Job::Walk, by: rest as u64 });
    monitor.event(Event::Finished { job: Job::Walk });
    Ok(objects)
}

impl LiveObject {
    /// The stat of an object that was read.
    pub fn stat(&self) -> Option<&Stat> {
        match self {
            LiveObject::Present(_, stat) => Some(stat),
            _ => None,
        }
    }

    /// The same object, by another of its hard links.
    fn at(&self, path: &TreePath) -> Self {
        match self {
            LiveObject::Present(entry, stat) => LiveObject::Present(entry.at(path.clone()), *stat),
            other => other.clone(),
        }
    }
}

/// Index of the first path of each inode; of other paths their own index.
fn first_links(stats: &[Option<Result<Stat, RootError>>]) -> Vec<usize> {
    let mut first_of: HashMap<(u64, u64), usize> = HashMap::new();
    let first_link = |(index, stat): (usize, &Option<Result<Stat, RootError>>)| match stat {
        Some(Ok(stat)) if stat.links > 1 && stat.kind == FileKind::File => {
            *first_of.entry((stat.dev, stat.ino)).or_insert(index)
        }
        _ => index,
    };
    stats.iter().enumerate().map(first_link).collect()
}

/// Indices of the paths to be read: large files, then all others in tree order.
fn reading_order(stats: &[Option<Result<Stat, RootError>>], first_links: &[usize]) -> Vec<usize> {
    let size_of = |index: usize| match &stats[index] {
        Some(Ok(stat)) if stat.kind == FileKind::File && stat.size >= LARGE => stat.size,
        _ => 0,
    };
    let mut order: Vec<usize> =
        (0..stats.len()).filter(|index| first_links[*index] == *index).collect();
    order.sort_by_key(|index| Reverse(size_of(*index)));
    order
}

/// Reader of the paths of one tree; all threads share it.
struct TrackedReader<'a> {
    root: &'a Root,
    paths: &'a [&'a TreePath],
    stats: &'a [Option<Result<Stat, RootError>>],
    monitor: &'a dyn Monitor,
}

impl TrackedReader<'_> {
    /// Reads paths in `order` from the one at `next`, which all threads advance.
    fn read_next(
        &self,
        order: &[usize],
        next: &AtomicUsize,
    ) -> Result<Vec<(usize, LiveObject)>, ScanError> {
        let mut buffer = buffer();
        let mut read = Vec::new();
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(&index) = order.get(position) else { return Ok(read) };

            let object = self.read(index, &mut buffer);
            if self.monitor.is_cancelled() {
                return Err(ScanError::Cancelled);
            }
            read.push((index, object));
            if (position + 1).is_multiple_of(PROGRESS_STEP) {
                let by = PROGRESS_STEP as u64;
                self.monitor.event(Event::Advanced { job: Job::Walk, by });
            }
        }
    }

    /// Reads one path; every error is one of this path.
    fn read(&self, index: usize, buffer: &mut [u8]) -> LiveObject {
        let path = self.paths[index];
        let stat = match &self.stats[index] {
            None => return LiveObject::Missing,
            Some(Err(error)) => return LiveObject::Unreadable(error.source.to_string()),
            Some(Ok(stat)) => stat,
        };
        if stat.kind == FileKind::Socket {
            return LiveObject::Socket;
        }
        match self.read_entry(path, stat, buffer) {
            Ok(entry) => LiveObject::Present(entry, *stat),
            Err(error) if error.is_absent() => LiveObject::Missing,
            Err(error) => LiveObject::Unreadable(error.source.to_string()),
        }
    }

    fn read_entry(
        &self,
        path: &TreePath,
        stat: &Stat,
        buffer: &mut [u8],
    ) -> Result<Entry, RootError> {
        let Attributes { xattrs, target } = read_attributes(self.root, path, stat)?;
        let kind = match stat.kind {
            FileKind::Directory | FileKind::Socket => None,
            FileKind::File => Some(self.read_file(path, buffer)?),
            FileKind::Symlink => Some(LeafKind::Symlink { target: target.unwrap_or_default() }),
            FileKind::Fifo => Some(LeafKind::Fifo),
            FileKind::Char(device) => Some(LeafKind::Char(device)),
            FileKind::Block(device) => Some(LeafKind::Block(device)),
        };

        let mut meta = stat.meta(xattrs);
        if stat.kind == FileKind::Symlink {
            meta.mode = 0o777;
        }
        let node = kind.map_or(Node::Directory, |kind| Node::Leaf(Leaf { kind, group: None }));
        Ok(Entry::new(path.clone(), meta, node))
    }

    /// Hashes a regular file up to the size that it has when it is opened.
    fn read_file(&self, path: &TreePath, buffer: &mut [u8]) -> Result<LeafKind, RootError> {
        let file = self.root.open_file(path)?;
        let mut from = CancelReader { from: file, monitor: self.monitor };
        let (digest, size) = hash(&mut from, buffer).map_err(|source| RootError {
            operation: "read",
            path: self.root.show(path),
            source,
        })?;
        Ok(LeafKind::File { size, digest })
    }
}
