//! Snapshot of the live tree: stats of the tracked paths, and the untracked paths beside them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::apply::error::Untouched;
use crate::cancel::{CancelReader, check_cancelled};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::{Cursor, Filter};
use crate::report::{Event, Job, Monitor};
use crate::root::{Descend, FileKind, OpenDirectory, Root, RootError, Stat, Visit};
use crate::state::is_above_own;
use crate::tree_path::TreePath;

/// Number of paths between two reports of progress.
const PROGRESS_STEP: u64 = 4096;

/// Snapshot of the live tree.
#[derive(Default)]
pub struct LiveTree {
    /// Stats of the tracked paths that exist, in tree order.
    tracked: Vec<(TreePath, Stat)>,
    /// Untracked paths without the paths below them; empty unless the whole tree was read.
    pub untracked: Vec<(TreePath, Stat)>,
    /// Whether the whole tree was read.
    pub is_complete: bool,
    /// Paths that were read if it was not the whole tree, sorted.
    covered: Vec<TreePath>,
    /// Digests of the regular files whose content was read.
    pub digests: HashMap<TreePath, Digest>,
}

/// Whether a path of the live tree is tracked.
enum Tracking {
    Tracked,
    Untracked,
}

impl LiveTree {
    /// Reads the whole tree except excluded paths; `tracked` is sorted and unique.
    pub fn walk(
        root: &Root,
        tracked: &[&TreePath],
        filter: &Filter,
        monitor: &dyn Monitor,
    ) -> Result<Self, Untouched> {
        monitor.event(Event::Started { job: Job::Walk, total: tracked.len() as u64 });
        let mut live = LiveTree {
            is_complete: true,
            tracked: Vec::with_capacity(tracked.len()),
            ..LiveTree::default()
        };
        if let Some(stat) = root.stat(&TreePath::root())? {
            live.tracked.push((TreePath::root(), stat));
        }

        // Many threads visit paths at the same time.
        let count = AtomicU64::new(0);
        let visit = |cursor: &mut Cursor<'_>, _: &OpenDirectory<'_>, visit: Visit| {
            check_cancelled(monitor)?;
            let is_directory = visit.stat.kind == FileKind::Directory;
            if cursor.excludes(&visit.path, visit.stat.kind.entry_kind()).is_some() {
                return Ok::<_, Untouched>((None, Descend::Past));
            }

            if tracked.binary_search(&&visit.path).is_ok() {
                if count.fetch_add(1, Ordering::Relaxed) % PROGRESS_STEP == PROGRESS_STEP - 1 {
                    monitor.event(Event::Advanced { job: Job::Walk, by: PROGRESS_STEP });
                }
                return Ok((Some((Tracking::Tracked, visit)), Descend::Into));
            }

            // A directory that only leads to the agent's own files is not the node's.
            if is_directory && is_above_own(&visit.path) {
                return Ok((None, Descend::Into));
            }
            Ok((Some((Tracking::Untracked, visit)), Descend::Past))
        };
        for (tracking, Visit { path, stat }) in
            root.survey(&TreePath::root(), |dir| filter.cursor_inside(dir), visit)?
        {
            match tracking {
                Tracking::Tracked => live.tracked.push((path, stat)),
                Tracking::Untracked => live.untracked.push((path, stat)),
            }
        }

        let reported = count.into_inner() / PROGRESS_STEP * PROGRESS_STEP;
        let rest = tracked.len() as u64 - reported;
        monitor.event(Event::Advanced { job: Job::Walk, by: rest });
        monitor.event(Event::Finished { job: Job::Walk });
        Ok(live)
    }

    /// Reads the stats of `paths`, which are sorted and unique, and nothing else.
    pub fn stat_paths(root: &Root, paths: &[TreePath]) -> Result<Self, RootError> {
        let stats = root.stat_each(&paths.iter().collect::<Vec<_>>())?;
        let existing = paths.iter().zip(stats);
        Ok(LiveTree {
            tracked: existing.filter_map(|(path, stat)| Some((path.clone(), stat?))).collect(),
            covered: paths.to_vec(),
            ..LiveTree::default()
        })
    }

    /// Reads every regular file that has the size of one of `entries` at its path.
    pub fn read_contents<'e>(
        &mut self,
        root: &Root,
        entries: impl Iterator<Item = &'e Entry>,
        monitor: &dyn Monitor,
    ) -> Result<(), Untouched> {
        let may_be_equal = |entry: &Entry| match (self.get(&entry.path), entry.file()) {
            (Some(stat), Some((size, _))) => stat.kind == FileKind::File && stat.size == size,
            _ => false,
        };
        let mut paths: Vec<&TreePath> = entries
            .filter(|entry| may_be_equal(entry))
            .map(|entry| &entry.path)
            .filter(|path| !self.digests.contains_key(path))
            .collect();
        paths.sort_unstable();
        paths.dedup();

        monitor.event(Event::Started { job: Job::Walk, total: paths.len() as u64 });
        let digests: Vec<Option<(TreePath, Digest)>> = paths
            .par_iter()
            .map(|path| {
                let size = self.get(path).map_or(0, |stat| stat.size);
                let digest = digest_of_file(root, path, size, monitor)?;
                monitor.event(Event::Advanced { job: Job::Walk, by: 1 });
                Ok(digest.map(|digest| ((*path).clone(), digest)))
            })
            .collect::<Result<_, RootError>>()
            .map_err(|error| Untouched::cancelled_or(monitor, error))?;
        self.digests.extend(digests.into_iter().flatten());
        monitor.event(Event::Finished { job: Job::Walk });
        Ok(())
    }

    /// Stat of the tracked path, if it exists.
    pub fn get(&self, path: &TreePath) -> Option<&Stat> {
        let index = self.tracked.binary_search_by(|(other, _)| other.cmp(path)).ok()?;
        Some(&self.tracked[index].1)
    }

    /// Directories on another filesystem than their parent, in tree order.
    pub fn filesystem_roots(&self) -> Vec<TreePath> {
        let mut ancestors: Vec<(&TreePath, u64)> = Vec::new();
        let mut roots = Vec::new();

        for (path, stat) in &self.tracked {
            if stat.kind != FileKind::Directory {
                continue;
            }
            while ancestors.last().is_some_and(|(dir, _)| !path.is_below(dir)) {
                ancestors.pop();
            }
            if ancestors.last().is_some_and(|(_, dev)| *dev != stat.dev) {
                roots.push(path.clone());
            }
            ancestors.push((path, stat.dev));
        }

        roots
    }

    /// Whether the path was read, so that its absence from the snapshot means that it is missing.
    pub fn covers(&self, path: &TreePath) -> bool {
        self.is_complete || self.covered.binary_search(path).is_ok()
    }

    /// Digest of the regular file at `path`, from the snapshot or read now.
    ///
    /// `None` if it does not exist, or is no longer as in the snapshot.
    pub fn digest(
        &self,
        root: &Root,
        path: &TreePath,
        monitor: &dyn Monitor,
    ) -> Result<Option<Digest>, Untouched> {
        if let Some(digest) = self.digests.get(path) {
            return Ok(Some(*digest));
        }
        let Some(stat) = self.get(path) else { return Ok(None) };
        digest_of_file(root, path, stat.size, monitor)
            .map_err(|error| Untouched::cancelled_or(monitor, error))
    }
}

/// Digest of a file of `size` bytes; `None` if it has another size by now, or cannot be opened
/// because of a lease. The caller then takes it for another content.
fn digest_of_file(
    root: &Root,
    path: &TreePath,
    size: u64,
    monitor: &dyn Monitor,
) -> Result<Option<Digest>, RootError> {
    let file = match root.open_file(path) {
        Err(error) if error.is_absent() || error.is_leased() => return Ok(None),
        answer => answer?,
    };
    if file.size() != size {
        return Ok(None);
    }
    let (digest, _) = Digest::of_reader(CancelReader { from: file, monitor })
        .map_err(|source| RootError { operation: "read", path: root.show(path), source })?;
    Ok(Some(digest))
}
