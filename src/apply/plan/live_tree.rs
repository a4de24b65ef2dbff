//! What stands at the tracked paths of a tree, and what stands beside them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::apply::Untouched;
use crate::apply::cancel::{CancelReader, cancelled_or, check_cancelled};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::{Cursor, Filter};
use crate::report::{Event, Job, Monitor};
use crate::root::{Descend, FileKind, Root, RootError, Stat, Surveyed, Visit};
use crate::state::is_above_own;
use crate::tree_path::TreePath;

/// Progress is told after so many paths.
const REPORTED: u64 = 4096;

/// What was seen of a tree: tracked paths with their stat, and untracked ones by their topmost path.
#[derive(Default)]
pub struct LiveTree {
    tracked: Vec<(TreePath, Stat)>,
    /// Untracked paths, each without what is below it; empty where only some paths were looked at.
    pub untracked: Vec<(TreePath, Stat)>,
    /// Whether the whole tree was walked.
    pub is_complete: bool,
    /// The paths that were looked at where the tree was not walked, sorted.
    covered: Vec<TreePath>,
    /// Digests of regular files, as far as they were read.
    pub digests: HashMap<TreePath, Digest>,
}

impl LiveTree {
    /// Walks the tree; `tracked` is sorted and unique. Excluded paths are passed by.
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
        let count = AtomicU64::new(0);
        let advanced = || {
            if count.fetch_add(1, Ordering::Relaxed) % REPORTED == REPORTED - 1 {
                monitor.event(Event::Advanced { job: Job::Walk, by: REPORTED });
            }
        };
        let visit = |cursor: &mut Cursor<'_>, _: &Surveyed<'_>, visit: Visit| {
            check_cancelled(monitor)?;
            let directory = visit.stat.kind == FileKind::Directory;
            Ok::<_, Untouched>(if cursor.excludes(&visit.path, directory).is_some() {
                (None, Descend::Past)
            } else if tracked.binary_search(&&visit.path).is_ok() {
                advanced();
                (Some((true, visit)), Descend::Into)
            } else if directory && is_above_own(&visit.path) {
                (None, Descend::Into)
            } else {
                (Some((false, visit)), Descend::Past)
            })
        };
        for (is_tracked, Visit { path, stat }) in
            root.survey(&TreePath::root(), |dir| filter.cursor_inside(dir), visit)?
        {
            let found = if is_tracked { &mut live.tracked } else { &mut live.untracked };
            found.push((path, stat));
        }
        let rest = tracked.len() as u64 - count.into_inner() / REPORTED * REPORTED;
        monitor.event(Event::Advanced { job: Job::Walk, by: rest });
        monitor.event(Event::Finished { job: Job::Walk });
        Ok(live)
    }

    /// Looks at `paths`, which are sorted and unique, and at nothing else.
    pub fn stat_paths(root: &Root, paths: &[TreePath]) -> Result<Self, RootError> {
        let mut live = LiveTree { covered: paths.to_vec(), ..LiveTree::default() };
        let found = root.stat_each(&paths.iter().collect::<Vec<_>>())?;
        let there = paths.iter().zip(found).filter_map(|(path, stat)| Some((path.clone(), stat?)));
        live.tracked.extend(there);
        Ok(live)
    }

    /// Reads every regular file whose size one of `wanted` has at its path, on all processors.
    pub fn read_contents<'e>(
        &mut self,
        root: &Root,
        wanted: impl Iterator<Item = &'e Entry>,
        monitor: &dyn Monitor,
    ) -> Result<(), Untouched> {
        let mut paths: Vec<&TreePath> = wanted
            .filter(|entry| {
                let same_size =
                    |stat: &Stat| entry.file().is_some_and(|(size, _)| size == stat.size);
                self.get(&entry.path)
                    .is_some_and(|stat| stat.kind == FileKind::File && same_size(stat))
            })
            .map(|entry| &entry.path)
            .filter(|path| !self.digests.contains_key(path))
            .collect();
        paths.sort_unstable();
        paths.dedup();
        monitor.event(Event::Started { job: Job::Walk, total: paths.len() as u64 });
        let read = |path: &&TreePath| {
            let digest = digest_where(root, path, |file| {
                Digest::of_reader(CancelReader { from: file, monitor })
            });
            monitor.event(Event::Advanced { job: Job::Walk, by: 1 });
            digest.map(|digest| digest.map(|digest| ((*path).clone(), digest)))
        };
        let found: Vec<Option<(TreePath, Digest)>> = paths
            .par_iter()
            .map(read)
            .collect::<Result<_, RootError>>()
            .map_err(|error| cancelled_or(monitor, error))?;
        self.digests.extend(found.into_iter().flatten());
        monitor.event(Event::Finished { job: Job::Walk });
        Ok(())
    }

    /// What was seen at `path`.
    pub fn get(&self, path: &TreePath) -> Option<&Stat> {
        let at = self.tracked.binary_search_by(|(seen, _)| seen.cmp(path)).ok()?;
        Some(&self.tracked[at].1)
    }

    /// Directories on another filesystem than the directory above them, in tree order.
    pub fn filesystem_roots(&self) -> Vec<TreePath> {
        let mut above: Vec<(&TreePath, u64)> = Vec::new();
        let mut tops = Vec::new();
        for (path, stat) in self.tracked.iter().filter(|(_, stat)| stat.kind == FileKind::Directory)
        {
            while above.last().is_some_and(|(dir, _)| !path.is_below(dir)) {
                above.pop();
            }
            if above.last().is_some_and(|(_, dev)| *dev != stat.dev) {
                tops.push(path.clone());
            }
            above.push((path, stat.dev));
        }
        tops
    }

    /// Whether it is known what stands at `path`, or that nothing does.
    pub fn covers(&self, path: &TreePath) -> bool {
        self.is_complete || self.covered.binary_search(path).is_ok()
    }

    /// The digest of the regular file at `path`, read now if it was not before; `None` where there is none.
    pub fn digest(&self, root: &Root, path: &TreePath) -> Result<Option<Digest>, RootError> {
        match self.digests.get(path) {
            Some(digest) => Ok(Some(*digest)),
            None => digest_of(root, path),
        }
    }
}

fn digest_of(root: &Root, path: &TreePath) -> Result<Option<Digest>, RootError> {
    digest_where(root, path, Digest::of_reader)
}

fn digest_where(
    root: &Root,
    path: &TreePath,
    read: impl FnOnce(File) -> io::Result<(Digest, u64)>,
) -> Result<Option<Digest>, RootError> {
    let file = match root.open_file(path) {
        Err(e) if e.is_absent() => return Ok(None),
        answer => answer?,
    };
    let (digest, _) =
        read(file).map_err(|source| RootError { what: "read", path: root.show(path), source })?;
    Ok(Some(digest))
}
