//! Snapshot of the live tree: stats of the tracked paths, and the untracked paths beside them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::apply::error::Untouched;
use crate::apply::plan::policy::UntrackedPolicy;
use crate::cancel::{CancelReader, check_cancelled};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::{Cursor, Filter};
use crate::report::{Event, Job, Monitor};
use crate::root::{
    Descend, FileKind, ListedName, OpenDirectory, Root, RootError, Stat, SurveyRules, Visit,
};
use crate::state::is_above_own;
use crate::tree_path::TreePath;

/// Number of paths between two reports of progress.
const PROGRESS_STEP: u64 = 4096;
/// Untracked names among which a content is searched; bounds the memory and the time of a search.
const MAX_SEARCHED: usize = 1 << 18;

/// Snapshot of the live tree.
#[derive(Default)]
pub struct LiveTree {
    /// Stats of the tracked paths that exist, in tree order.
    tracked: Vec<(TreePath, Stat)>,
    /// Tracked paths that cannot be inspected, with the reason; nothing below them was read.
    unknown: BTreeMap<TreePath, String>,
    /// Untracked paths without the paths below them; empty unless they are to be removed.
    pub untracked: Vec<(TreePath, Stat)>,
    /// Number of untracked paths without the paths below them.
    pub untracked_count: u64,
    /// Whether the whole tree was read.
    pub is_complete: bool,
    /// Paths that were read if it was not the whole tree, sorted.
    covered: Vec<TreePath>,
    /// Digests of the regular files whose content was read.
    pub digests: HashMap<TreePath, Digest>,
}

/// Rules of the walk over a live tree.
struct Walk<'a> {
    root: &'a Root,
    /// Sorted.
    tracked: &'a [&'a TreePath],
    filter: &'a Filter,
    untracked: UntrackedPolicy,
    monitor: &'a dyn Monitor,
    tracked_count: AtomicU64,
    untracked_count: AtomicU64,
}

/// Search for contents at paths other than those that shall have them.
struct ContentSearch<'a> {
    root: &'a Root,
    live: &'a LiveTree,
    filter: &'a Filter,
    /// Contents that no file is known to have.
    wanted: HashSet<Digest>,
    /// Their sizes.
    sizes: HashSet<u64>,
    found: Mutex<HashSet<Digest>>,
    untracked_count: AtomicUsize,
    monitor: &'a dyn Monitor,
}

/// A path that the walk has found.
enum Found {
    Tracked(TreePath, Stat),
    Untracked(TreePath, Stat),
    Unknown(TreePath, RootError),
}

impl LiveTree {
    /// Reads the whole tree except excluded paths; `tracked` is sorted and unique.
    ///
    /// Untracked paths are only counted, and not inspected, unless they are to be removed.
    pub fn walk(
        root: &Root,
        tracked: &[&TreePath],
        filter: &Filter,
        untracked: UntrackedPolicy,
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

        let walk = Walk {
            root,
            tracked,
            filter,
            untracked,
            monitor,
            tracked_count: AtomicU64::new(0),
            untracked_count: AtomicU64::new(0),
        };
        for found in root.survey(&TreePath::root(), &walk)? {
            match found {
                Found::Tracked(path, stat) => live.tracked.push((path, stat)),
                Found::Untracked(path, stat) => live.untracked.push((path, stat)),
                Found::Unknown(path, error) => {
                    live.unknown.insert(path, error.source.to_string());
                }
            }
        }
        live.untracked_count = walk.untracked_count.into_inner();

        let reported = walk.tracked_count.into_inner() / PROGRESS_STEP * PROGRESS_STEP;
        let rest = tracked.len() as u64 - reported;
        monitor.event(Event::Advanced { job: Job::Walk, by: rest });
        monitor.event(Event::Finished { job: Job::Walk });
        Ok(live)
    }

    /// Reads the stats of `paths`, which are sorted and unique, and nothing else.
    pub fn stat_paths(root: &Root, paths: &[TreePath]) -> Result<Self, RootError> {
        let mut live = LiveTree { covered: paths.to_vec(), ..LiveTree::default() };
        for (path, stat) in paths.iter().zip(root.stat_each(&paths.iter().collect::<Vec<_>>())?) {
            match stat {
                Some(Ok(stat)) => live.tracked.push((path.clone(), stat)),
                Some(Err(error)) => {
                    live.unknown.insert(path.clone(), error.source.to_string());
                }
                None => {}
            }
        }
        Ok(live)
    }

    /// Snapshot of the paths in `tracked`, which are in tree order; no other path was read.
    pub fn from_stats(tracked: Vec<(TreePath, Stat)>) -> Self {
        let covered = tracked.iter().map(|(path, _)| path.clone()).collect();
        LiveTree { tracked, covered, ..LiveTree::default() }
    }

    /// Reason for which nothing is known about a path: it, or a directory above it, cannot be
    /// inspected.
    pub fn unknown_reason(&self, path: &TreePath) -> Option<&str> {
        if self.unknown.is_empty() {
            return None;
        }
        std::iter::successors(Some(path.clone()), TreePath::parent)
            .find_map(|path| self.unknown.get(&path))
            .map(String::as_str)
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

    /// Searches the tree for those of the `wanted` contents that no file is known to have.
    ///
    /// A file that was renamed is found if it has the size of a content, and is then read. Excluded
    /// paths are not searched.
    pub fn find_contents(
        &mut self,
        root: &Root,
        wanted: BTreeMap<Digest, u64>,
        filter: &Filter,
        monitor: &dyn Monitor,
    ) -> Result<(), Untouched> {
        let known: HashSet<&Digest> = self.digests.values().collect();
        let wanted = wanted.into_iter().filter(|(digest, _)| !known.contains(digest));
        let (wanted, sizes): (HashSet<Digest>, HashSet<u64>) = wanted.unzip();
        if wanted.is_empty() {
            return Ok(());
        }

        let search = ContentSearch {
            root,
            live: self,
            filter,
            wanted,
            sizes,
            found: Mutex::default(),
            untracked_count: AtomicUsize::new(0),
            monitor,
        };
        let found = root.survey(&TreePath::root(), &search)?;
        self.digests.extend(found);
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

impl<'a> SurveyRules for Walk<'a> {
    type State = Cursor<'a>;
    type Item = Found;
    type Error = Untouched;

    fn enter(&self, directory: &TreePath) -> Cursor<'a> {
        self.filter.cursor_inside(directory)
    }

    fn selects(&self, cursor: &mut Cursor<'a>, name: ListedName<'_>) -> bool {
        if name.kind.is_some_and(|kind| cursor.excludes(name.path, kind).is_some()) {
            return false;
        }
        if self.is_tracked(name.path) || is_above_own(name.path) {
            return true;
        }

        // Its kind decides if it is excluded, or it is to be removed.
        if name.kind.is_none() || self.untracked == UntrackedPolicy::Remove {
            return true;
        }
        self.untracked_count.fetch_add(1, Ordering::Relaxed);
        false
    }

    fn visit(
        &self,
        cursor: &mut Cursor<'a>,
        _: &OpenDirectory<'_>,
        Visit { path, stat }: Visit,
    ) -> Result<(Option<Found>, Descend), Untouched> {
        check_cancelled(self.monitor)?;
        if cursor.excludes(&path, stat.kind.entry_kind()).is_some() {
            return Ok((None, Descend::Past));
        }

        if self.is_tracked(&path) {
            let count = self.tracked_count.fetch_add(1, Ordering::Relaxed);
            if count % PROGRESS_STEP == PROGRESS_STEP - 1 {
                self.monitor.event(Event::Advanced { job: Job::Walk, by: PROGRESS_STEP });
            }
            return Ok((Some(Found::Tracked(path, stat)), Descend::Into));
        }

        // A directory that only leads to the agent's own files is not the node's.
        if stat.kind == FileKind::Directory && is_above_own(&path) {
            return Ok((None, Descend::Into));
        }
        self.untracked_count.fetch_add(1, Ordering::Relaxed);
        let is_listed = self.untracked == UntrackedPolicy::Remove;
        Ok((is_listed.then_some(Found::Untracked(path, stat)), Descend::Past))
    }

    fn fail(&self, path: TreePath, error: RootError) -> Result<Option<Found>, Untouched> {
        if !self.root.is_unknown(&path, &error) {
            return Err(error.into());
        }
        if self.is_tracked(&path) {
            return Ok(Some(Found::Unknown(path, error)));
        }
        self.untracked_count.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }
}

impl<'a> SurveyRules for ContentSearch<'a> {
    type State = Cursor<'a>;
    type Item = (TreePath, Digest);
    type Error = Untouched;

    fn enter(&self, directory: &TreePath) -> Cursor<'a> {
        self.filter.cursor_inside(directory)
    }

    fn selects(&self, cursor: &mut Cursor<'a>, name: ListedName<'_>) -> bool {
        if name.kind.is_some_and(|kind| cursor.excludes(name.path, kind).is_some()) {
            return false;
        }
        self.live.get(name.path).is_some()
            || self.untracked_count.fetch_add(1, Ordering::Relaxed) < MAX_SEARCHED
    }

    fn visit(
        &self,
        cursor: &mut Cursor<'a>,
        _: &OpenDirectory<'_>,
        Visit { path, stat }: Visit,
    ) -> Result<(Option<(TreePath, Digest)>, Descend), Untouched> {
        check_cancelled(self.monitor)?;
        if cursor.excludes(&path, stat.kind.entry_kind()).is_some() {
            return Ok((None, Descend::Past));
        }
        let may_be_wanted = stat.kind == FileKind::File && self.sizes.contains(&stat.size);
        if !may_be_wanted || self.live.digests.contains_key(&path) {
            return Ok((None, Descend::Into));
        }

        // A file that cannot be read is no source.
        let digest = digest_of_file(self.root, &path, stat.size, self.monitor).unwrap_or(None);
        let digest = digest.filter(|digest| self.wanted.contains(digest));
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = digest.filter(|digest| found.insert(*digest));
        Ok((digest.map(|digest| (path, digest)), Descend::Past))
    }

    fn fail(&self, _: TreePath, _: RootError) -> Result<Option<(TreePath, Digest)>, Untouched> {
        Ok(None)
    }
}

impl Walk<'_> {
    fn is_tracked(&self, path: &TreePath) -> bool {
        self.tracked.binary_search(&path).is_ok()
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
