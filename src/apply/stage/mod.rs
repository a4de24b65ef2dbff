//! Staging: new content beside the live tree, complete and durable, but not visible.
//!
//! A stage is created with every item that needs no content, then [`fill`]ed from one source after
//! the other, then finished and sealed. Each step consumes the one before:
//!
//! 1. [`Stage::create`] creates directories, symbolic links, FIFOs and devices.
//! 2. [`Stage::fill`] and [`Stage::move_content`] accept contents whose digest is correct.
//! 3. [`Stage::finish`] adds hard links, directory metadata and the undo log, and makes all of it
//!    durable: a [`Staged`].
//! 4. [`Staged::seal`] writes the journal, the commit point: a [`Sealed`].
//!
//! If the process dies before the seal, the next run removes the stage, and the tree is unchanged.

pub(super) mod background_sync;
mod downloaded;
pub mod fill;
mod live_link;
pub mod live_source;
mod rebuild_slots;
pub mod shortfall;
pub(super) mod sparse_copy;
pub mod unpack;
pub(super) mod worker_queue;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::apply::error::{RefusalKind, Untouched};
use crate::apply::filesystem::Filesystems;
use crate::apply::filesystem::stage_dirs::{self, Stages};
use crate::apply::filesystem::stage_lock::StageLock;
use crate::apply::journal::{self, CommitRecord, Journal, space_reserve};
use crate::apply::plan::{ChangePlan, ContentSource, StagedItem};
use crate::apply::undo::{self, RetentionLimits, UndoRetention, backup};
use crate::cancel::{CancelReader, check_cancelled};
use crate::digest::Digest;
use crate::entry::{LeafKind, Node};
use crate::fetch::content::VerifyingReader;
use crate::report::{Event, Job, Monitor};
use crate::root::{
    BoundedFile, FileKind, NewFile, Object, Rename, Root, RootError, syncfs_reports_errors,
};
use crate::tree_path::TreePath;

use background_sync::BackgroundSync;
use live_link::LiveLinker;
use sparse_copy::{CHUNK, CopyError, PositionedReader, copy_sparse, copy_verified};

pub use crate::apply::error::StageError;

/// Most staged items that are synced one by one.
///
/// A sync of the filesystem is faster for more of them, but also waits for the writes of other
/// programs.
const MAX_SYNCED_EACH: usize = 64;

/// A stage that is being filled.
pub struct Stage<'a> {
    root: &'a Root,
    stages: Stages,
    filesystems: &'a Filesystems,
    plan: &'a ChangePlan,
    /// Index of the first staged item of each content.
    first_items: HashMap<Digest, usize>,
    /// Staged items that become hard links of another one, as pairs of indices.
    links: Vec<(usize, usize)>,
    /// Indices of the staged items that wait for each content.
    missing: Mutex<BTreeMap<Digest, Vec<usize>>>,
    background_sync: Option<BackgroundSync>,
    /// Whether the system gives each file a security label (SELinux).
    has_labels: bool,
    monitor: &'a dyn Monitor,
}

/// A stage that is complete and durable.
#[must_use]
pub struct Staged<'a> {
    root: &'a Root,
    plan: &'a ChangePlan,
    filesystems: &'a Filesystems,
    monitor: &'a dyn Monitor,
    retention: UndoRetention,
}

/// A transaction that is past its commit point.
#[must_use]
pub struct Sealed {
    journal: Journal,
    _lock: StageLock,
}

impl<'a> Stage<'a> {
    /// Creates the stages, and in them every item that needs no content.
    pub fn create(
        root: &'a Root,
        filesystems: &'a Filesystems,
        plan: &'a ChangePlan,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, Untouched> {
        let mut stage = Stage::create_empty(root, filesystems, plan, monitor)?;
        stage.create_items()?;
        Ok(stage)
    }

    /// Creates the stages for the contents of `plan` alone, for a download.
    pub fn create_for_download(
        root: &'a Root,
        filesystems: &'a Filesystems,
        plan: &'a ChangePlan,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, Untouched> {
        let mut stage = Stage::create_empty(root, filesystems, plan, monitor)?;
        let mut missing: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        for (index, item) in plan.staged_items.iter().enumerate() {
            match &item.source {
                ContentSource::Content { digest, .. } => {
                    missing.entry(*digest).or_default().push(index);
                }
                // Contents of a new directory are staged in it.
                ContentSource::Node if item.entry.is_dir() => stage.create_node(item)?,
                _ => {}
            }
        }
        stage.set_missing(missing);
        Ok(stage)
    }

    /// Creates the stages without an item.
    fn create_empty(
        root: &'a Root,
        filesystems: &'a Filesystems,
        plan: &'a ChangePlan,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, Untouched> {
        let participants = plan.participating().into_iter();
        let stages = stage_dirs::create(root, filesystems, participants, plan.slots)
            .map_err(Untouched::from_root)?;
        let has_labels = root.label_for(&TreePath::root())?.is_some();

        // If a sync reports no write errors, each file has to be synced in any case.
        let background_sync = if syncfs_reports_errors() {
            let open_mount_roots = || {
                stages.filesystems().map(|at| root.below(&filesystems.mount_roots()[at])).collect()
            };
            BackgroundSync::start(open_mount_roots, plan.bytes())?
        } else {
            None
        };

        monitor.event(Event::Started { job: Job::Stage, total: plan.bytes() });
        Ok(Stage {
            root,
            stages,
            filesystems,
            plan,
            first_items: HashMap::new(),
            links: Vec::new(),
            missing: Mutex::default(),
            background_sync,
            has_labels,
            monitor,
        })
    }

    /// Creates the items that need no content, and lists the contents of the others as missing.
    fn create_items(&mut self) -> Result<(), Untouched> {
        let mut missing: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        let mut linker = LiveLinker::default();

        for (index, item) in self.plan.staged_items.iter().enumerate() {
            match &item.source {
                ContentSource::Node => self.create_node(item)?,
                ContentSource::Content { digest, .. } => {
                    missing.entry(*digest).or_default().push(index);
                }
                ContentSource::LinkStaged(other) => self.links.push((index, *other)),
                ContentSource::LinkLive { path, version } => {
                    let stage = self.stage_of(item)?;
                    if linker.link(self.root, path, *version, stage, &item.place)? {
                        continue;
                    }
                    // The file was replaced or edited since: its content is staged instead.
                    match (linker.replaced.entry(path), item.entry.digest()) {
                        (Entry::Vacant(first), Some(digest)) => {
                            first.insert(index);
                            missing.entry(*digest).or_default().push(index);
                        }
                        (Entry::Occupied(first), _) => self.links.push((index, *first.get())),
                        (Entry::Vacant(_), None) => {}
                    }
                }
            }
        }

        self.set_missing(missing);
        Ok(())
    }

    fn set_missing(&mut self, missing: BTreeMap<Digest, Vec<usize>>) {
        self.first_items =
            missing.iter().filter_map(|(digest, items)| Some((*digest, *items.first()?))).collect();
        *self.missing() = missing;
    }

    /// Contents that no source has supplied yet, with their sizes in bytes.
    pub fn missing_contents(&self) -> BTreeMap<Digest, u64> {
        self.missing()
            .iter()
            .filter_map(|(digest, items)| {
                Some((*digest, content_size(&self.plan.staged_items[*items.first()?])))
            })
            .collect()
    }

    /// Whether no source has supplied this content yet.
    pub fn is_missing(&self, digest: &Digest) -> bool {
        self.missing().contains_key(digest)
    }

    /// Opens the staged file that holds this content, if it is complete.
    pub fn open_staged(&self, digest: &Digest) -> Option<BoundedFile> {
        let first = self.first_items.get(digest).filter(|_| !self.is_missing(digest))?;
        let item = &self.plan.staged_items[*first];
        self.stages.staged(item.filesystem)?.open_file(&item.place).ok()
    }

    /// Stages a content for all items that wait for it; removes it again if its digest differs.
    pub fn fill(&self, digest: &Digest, content: &mut dyn BufRead) -> Result<(), StageError> {
        self.fill_by(digest, content, copy_sparse)
    }

    /// Like [`fill`](Self::fill), for a content that is compared with its digest while it is read.
    pub fn fill_verified(&self, content: &mut VerifyingReader<'_>) -> Result<(), StageError> {
        let digest = content.digest();
        let mut content = BufReader::with_capacity(CHUNK, content);
        self.fill_by(&digest, &mut content, |content, file, size| {
            copy_verified(content, file, size).map(|()| digest)
        })
    }

    /// Stages a content by `copy`, which returns the digest of the bytes that it has copied.
    fn fill_by(
        &self,
        digest: &Digest,
        content: &mut dyn BufRead,
        copy: impl FnOnce(&mut dyn BufRead, &NewFile, u64) -> Result<Digest, CopyError>,
    ) -> Result<(), StageError> {
        let Some(items) = self.missing().get(digest).cloned() else { return Ok(()) };
        let Some((&first, others)) = items.split_first() else { return Ok(()) };
        check_cancelled(self.monitor).map_err(Untouched::from)?;

        let first = &self.plan.staged_items[first];
        let stage = self.stage_of(first)?;
        let file = stage.create_file(&first.place).map_err(|error| self.error_of(first, error))?;
        let mut content = CancelReader { from: content, monitor: self.monitor };

        let failure = match copy(&mut content, &file, content_size(first)) {
            Ok(found) if found == *digest => None,
            Ok(_) => Some(StageError::WrongContent { path: first.entry.path.clone() }),
            Err(CopyError::Read(_)) if self.monitor.is_cancelled() => {
                Some(Untouched::Cancelled.into())
            }
            Err(CopyError::Read(error)) => Some(StageError::Unreadable(error)),
            Err(CopyError::Write(source)) => {
                let error =
                    RootError { operation: "write", path: stage.show(&first.place), source };
                Some(Untouched::from_root(error).into())
            }
        };
        if let Some(failure) = failure {
            stage.unlink(&first.place).map_err(Untouched::from_root)?;
            return Err(failure);
        }

        let held = stage.hold_new_file(&first.place, &file).map_err(Untouched::from)?;
        self.complete_content(digest, first, others, &held)?;
        if !self.syncs_filesystems() {
            file.start_writeback();
        }
        Ok(())
    }

    /// Stages the file at `path` of `from`, by a rename if that is possible.
    ///
    /// `from` is on the filesystem of the root. Returns false if the file is not this content.
    pub fn move_content(
        &self,
        digest: &Digest,
        from: &Root,
        path: &TreePath,
    ) -> Result<bool, StageError> {
        let Some(items) = self.missing().get(digest).cloned() else { return Ok(true) };
        let Some((&first, others)) = items.split_first() else { return Ok(true) };
        let first = &self.plan.staged_items[first];

        let stat = from.stat(path).map_err(Untouched::from)?;
        if stat.is_none_or(|stat| stat.kind != FileKind::File) {
            return Ok(false);
        }

        // Another filesystem cannot be reached by a rename.
        if first.filesystem != 0 {
            let file = from.open_file(path).map_err(Untouched::from)?;
            return match self.fill(digest, &mut BufReader::with_capacity(CHUNK, file)) {
                Ok(()) => Ok(true),
                Err(error) if error.is_of_source() => Ok(false),
                Err(error) => Err(error),
            };
        }

        let file = match from.open_file(path) {
            Err(error) if error.is_absent() => return Ok(false),
            answer => answer.map_err(Untouched::from)?,
        };
        let digest_and_size =
            Digest::of_reader(CancelReader { from: file.reader(), monitor: self.monitor })
                .map_err(|source| {
                    let error = RootError { operation: "read", path: from.show(path), source };
                    Untouched::cancelled_or(self.monitor, error)
                })?;
        if digest_and_size != (*digest, content_size(first)) {
            return Ok(false);
        }

        let stage = self.stage_of(first)?;
        from.rename(path, stage, &first.place, Rename::NoReplace).map_err(Untouched::from)?;
        let held = stage.hold_file(&first.place, &file).map_err(Untouched::from)?;
        self.complete_content(digest, first, others, &held)?;
        Ok(true)
    }

    /// Sets the metadata of `first`, whose content is `file`, and copies the content for `others`.
    fn complete_content(
        &self,
        digest: &Digest,
        first: &StagedItem,
        others: &[usize],
        file: &Object<'_>,
    ) -> Result<(), Untouched> {
        self.complete_file(first, file)?;
        for &other in others {
            self.copy_content(&self.plan.staged_items[other], file.as_fd())?;
        }
        self.missing().remove(digest);
        Ok(())
    }

    /// Paths that wait for each content that no source has supplied yet.
    pub fn missing_paths(&self) -> BTreeMap<Digest, Vec<TreePath>> {
        let missing = self.missing();
        let path = |item: &usize| self.plan.staged_items[*item].entry.path.clone();
        missing.iter().map(|(digest, items)| (*digest, items.iter().map(path).collect())).collect()
    }

    /// Reads the staged file of `item`, up to `limit` bytes.
    pub fn read_item(&self, item: &StagedItem, limit: u64) -> Result<Vec<u8>, Untouched> {
        // Hard links are created at the end.
        let item = match item.source {
            ContentSource::LinkStaged(other) => &self.plan.staged_items[other],
            _ => item,
        };
        let stage = self.stage_of(item)?;
        let mut bytes = Vec::new();
        stage.open_file(&item.place)?.take(limit).read_to_end(&mut bytes).map_err(|source| {
            RootError { operation: "read", path: stage.show(&item.place), source }
        })?;
        Ok(bytes)
    }

    /// Stage on the filesystem of the root, for contents that only the unpacking needs.
    pub fn scratch_dir(&self) -> Result<&Root, Untouched> {
        self.stages.staged(0).ok_or_else(|| RefusalKind::StageMissing.into())
    }

    /// Adds hard links, directory metadata, backups and the undo log; then makes all of it durable.
    ///
    /// Directories are completed after the items in them, since each of those changes their mtime.
    pub fn finish(mut self, limits: &RetentionLimits) -> Result<Staged<'a>, Untouched> {
        let missing = self.missing_contents().len();
        if missing > 0 {
            return Err(RefusalKind::ContentsMissing { count: missing }.into());
        }

        self.create_hardlinks().map_err(Untouched::from_root)?;
        for item in self.plan.staged_items.iter().rev().filter(|item| item.entry.is_dir()) {
            let held = self.stage_of(item)?.hold_dir(&item.place)?;
            let held = held.ok_or(RefusalKind::StageMissing)?;
            self.set_metadata(item, &held)?;
        }

        let retention = undo::decide(self.root, self.filesystems, self.plan, limits, self.monitor)?;
        undo::record_privileges(self.root, &self.stages, self.plan, self.monitor)
            .map_err(Untouched::from_root)?;
        backup::link_all_backups(self.root, &self.stages, self.plan, self.monitor)?;
        undo::record_prior_state(self.root, &self.stages, self.plan, retention, limits.recorded_id)
            .map_err(Untouched::from_root)?;

        if let Some(background_sync) = self.background_sync.take() {
            background_sync.finish().map_err(Untouched::from_root)?;
        }
        self.sync().map_err(Untouched::from_root)?;
        self.monitor.event(Event::Finished { job: Job::Stage });

        let Stage { root, plan, filesystems, monitor, .. } = self;
        Ok(Staged { root, plan, filesystems, monitor, retention })
    }

    fn create_hardlinks(&self) -> Result<(), RootError> {
        for &(index, other) in &self.links {
            let (item, other) = (&self.plan.staged_items[index], &self.plan.staged_items[other]);
            let Some(stage) = self.stages.staged(item.filesystem) else { continue };
            if let Some(held) = stage.hold(&other.place)? {
                held.link_to(stage, &item.place)?;
            }
        }
        Ok(())
    }

    /// Whether whole filesystems are synced at the end, in place of single files.
    fn syncs_filesystems(&self) -> bool {
        self.plan.staged_items.len() > MAX_SYNCED_EACH && syncfs_reports_errors()
    }

    /// Makes all stages durable.
    fn sync(&self) -> Result<(), RootError> {
        if self.syncs_filesystems() {
            return self.filesystems.sync(self.root, self.stages.filesystems());
        }

        for item in &self.plan.staged_items {
            let Some(stage) = self.stages.staged(item.filesystem) else { continue };
            if item.entry.is_dir() {
                stage.sync_dir(&item.place)?;
            } else if item.entry.file().is_some()
                && !matches!(item.source, ContentSource::LinkStaged(_))
            {
                // A live link may also lead to a device, a FIFO or a symbolic link.
                stage.sync_file(&item.place)?;
            }
        }

        for which in self.stages.filesystems() {
            let dirs = [self.stages.staged(which), self.stages.backups(which)];
            for dir in dirs.into_iter().flatten() {
                dir.sync_dir(&TreePath::root())?;
            }
            self.root.sync_dir(&self.filesystems.mount_roots()[which])?;
        }
        Ok(())
    }

    /// Creates an item that its entry describes completely.
    fn create_node(&self, item: &StagedItem) -> Result<(), Untouched> {
        let stage = self.stage_of(item)?;
        let place = &item.place;

        let created = match &item.entry.node {
            // The metadata of a directory is set when everything in it exists.
            Node::Directory => {
                return stage.create_dir(place).map_err(|error| self.error_of(item, error));
            }
            Node::Leaf(leaf) => match &leaf.kind {
                LeafKind::Symlink { target } => stage.create_symlink(place, target),
                LeafKind::Fifo => stage.create_fifo(place),
                LeafKind::Char(device) => stage.create_char(place, *device),
                LeafKind::Block(device) => stage.create_block(place, *device),
                LeafKind::File { .. } => return Ok(()),
            },
        };
        created.map_err(|error| self.error_of(item, error))?;

        let held = stage.hold(place)?.ok_or(RefusalKind::StageMissing)?;
        self.set_metadata(item, &held)
    }

    /// The failure of a change in the stage, with the path that the item is for.
    fn error_of(&self, item: &StagedItem, error: RootError) -> Untouched {
        let path = format!("{}, staged as {}", self.root.show(&item.entry.path), error.path);
        Untouched::from_root(RootError { path, ..error })
    }

    /// Creates another file with the same content, as a reflink if the filesystem can.
    fn copy_content(&self, item: &StagedItem, content: BorrowedFd) -> Result<(), Untouched> {
        let stage = self.stage_of(item)?;
        let file = stage.create_file(&item.place).map_err(|error| self.error_of(item, error))?;

        if file.share_blocks(content).is_err() {
            let from = PositionedReader { content, offset: 0 };
            let from = CancelReader { from, monitor: self.monitor };
            let mut from = BufReader::with_capacity(CHUNK, from);

            if let Err(CopyError::Read(source) | CopyError::Write(source)) =
                copy_sparse(&mut from, &file, content_size(item))
            {
                let error = RootError { operation: "write", path: stage.show(&item.place), source };
                return Err(if error.is_full() {
                    Untouched::from_root(error)
                } else {
                    Untouched::cancelled_or(self.monitor, error)
                });
            }
        }

        self.complete_file(item, &stage.hold_new_file(&item.place, &file)?)
    }

    /// Sets the metadata of a staged file that has its content.
    fn complete_file(&self, item: &StagedItem, file: &Object<'_>) -> Result<(), Untouched> {
        self.set_metadata(item, file)?;
        self.monitor.event(Event::Advanced { job: Job::Stage, by: item.bytes() });
        if let Some(background_sync) = &self.background_sync {
            background_sync.add_written(item.bytes());
        }
        Ok(())
    }

    /// Sets the metadata of a staged object, and the label that the node's policy has for its path.
    fn set_metadata(&self, item: &StagedItem, held: &Object<'_>) -> Result<(), Untouched> {
        held.set_meta(&item.entry.meta).map_err(|error| self.error_of(item, error))?;
        if !self.has_labels {
            return Ok(());
        }
        Ok(held.set_label(&self.root.label_for(&item.entry.path)?)?)
    }

    fn stage_of(&self, item: &StagedItem) -> Result<&Root, Untouched> {
        self.stages
            .staged(item.filesystem)
            .ok_or_else(|| RefusalKind::NoStage { path: item.entry.path.to_string() }.into())
    }

    fn missing(&self) -> MutexGuard<'_, BTreeMap<Digest, Vec<usize>>> {
        // Each change of the map is one call, so that a poisoned map is consistent.
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of the content of a staged file.
fn content_size(item: &StagedItem) -> u64 {
    item.entry.file().map_or(0, |(size, _)| size)
}

impl Staged<'_> {
    /// Writes the journal: the commit point of the transaction.
    pub fn seal(self, record: CommitRecord) -> Result<Sealed, StageError> {
        let journal = Journal {
            mount_roots: self.filesystems.mount_roots().to_vec(),
            slots: self.plan.slots,
            retention: self.retention,
            changes: self.plan.changes.clone(),
            directories: self.plan.directories.clone(),
            record,
        };

        space_reserve::preallocate(self.root, self.filesystems, self.plan, &journal.record)
            .map_err(Untouched::from_root)?;
        let lock = StageLock::take(self.root).map_err(Untouched::from)?;
        journal::seal(self.root, &journal, self.monitor)?;
        Ok(Sealed { journal, _lock: lock })
    }
}

impl Sealed {
    /// The redo journal, as it was written.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}
