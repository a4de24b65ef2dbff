//! New content beside the live tree: complete, durable, not visible.

pub(super) mod background_sync;
pub mod fill;
pub(super) mod sparse_copy;
pub(super) mod worker_queue;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use crate::apply::cancel::{CancelReader, cancelled_or, check_cancelled};
use crate::apply::filesystem::{Filesystems, Stages};
use crate::apply::journal::{self, CommitRecord, Journal, SealError, space_reserve};
use crate::apply::plan::{ChangePlan, ContentSource, StagedItem};
use crate::apply::undo::{self, RetentionLimits, UndoRetention, backup};
use crate::apply::{Interrupted, Untouched};
use crate::digest::Digest;
use crate::entry::{Entry, LeafKind, Node};
use crate::report::{Event, Job, Monitor};
use crate::root::{FileKind, Labels, Rename, Root, RootError, sync_tells_errors};
use crate::tree_path::TreePath;

use background_sync::BackgroundSync;
use sparse_copy::{CopyError, PIECE, Positioned, copy};

/// Up to so many files are synced one by one; more are synced with their filesystem, which is faster
/// but also waits for what others wrote.
const SYNC_EACH: usize = 64;

/// A stage that is being filled.
pub struct Stage<'a> {
    root: &'a Root,
    stages: Stages,
    filesystems: &'a Filesystems,
    transaction: &'a ChangePlan,
    /// The first install of each content.
    contents: HashMap<Digest, usize>,
    missing: Mutex<BTreeMap<Digest, Vec<usize>>>,
    early: Option<BackgroundSync>,
    labelled: bool,
    monitor: &'a dyn Monitor,
}

/// A stage that is complete and durable.
#[must_use]
pub struct Staged<'a> {
    root: &'a Root,
    transaction: &'a ChangePlan,
    filesystems: &'a Filesystems,
    monitor: &'a dyn Monitor,
    keep: UndoRetention,
}

/// A transaction that will be made, whatever happens.
#[must_use]
pub struct Sealed {
    journal: Journal,
}

/// Why a transaction was not sealed, or may have been.
#[derive(Debug, thiserror::Error)]
pub enum SealFailure {
    /// It was not.
    #[error(transparent)]
    Untouched(Untouched),
    /// It may have been: only the next run can tell.
    #[error(transparent)]
    Interrupted(Interrupted),
}

/// Why content could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// What was handed in is not what its digest says.
    #[error("{0} is not the content that was wanted")]
    OtherContent(String),
    /// What was handed in could not be read.
    #[error("cannot read new content: {0}")]
    Source(io::Error),
    /// This node's disk.
    #[error(transparent)]
    Untouched(#[from] Untouched),
}

impl<'a> Stage<'a> {
    /// Makes the stages, and in them everything that needs no content.
    pub fn create(
        root: &'a Root,
        filesystems: &'a Filesystems,
        transaction: &'a ChangePlan,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, Untouched> {
        let which = transaction.filesystems();
        let stages = filesystems.create_stages(root, which.into_iter(), transaction.slots);
        let stages = stages.map_err(Untouched::from_root)?;
        let labelled = root.label_for(&TreePath::root())?.is_some();
        let tops =
            || stages.filesystems().map(|at| root.below(&filesystems.mount_roots()[at])).collect();
        let early = if sync_tells_errors() {
            BackgroundSync::start(tops, transaction.bytes())?
        } else {
            None
        };
        monitor.event(Event::Started { job: Job::Stage, total: transaction.bytes() });
        let mut stage = Stage {
            root,
            stages,
            filesystems,
            transaction,
            contents: HashMap::new(),
            missing: Mutex::default(),
            early,
            labelled,
            monitor,
        };
        let mut missing: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        for (index, install) in transaction.installs.iter().enumerate() {
            match &install.make {
                ContentSource::Node => stage.create_node(install)?,
                ContentSource::Content { digest, .. } => {
                    missing.entry(*digest).or_default().push(index)
                }
                ContentSource::LinkStaged(_) | ContentSource::LinkLive(_) => {}
            }
        }
        stage.contents =
            missing.iter().filter_map(|(digest, at)| Some((*digest, *at.first()?))).collect();
        *stage.missing() = missing;
        Ok(stage)
    }

    /// The contents that are still to be handed in, with their sizes.
    pub fn wanted(&self) -> BTreeMap<Digest, u64> {
        let missing = self.missing();
        let size = |at: usize| self.transaction.installs[at].bytes();
        missing
            .iter()
            .filter_map(|(digest, at)| at.first().map(|&at| (*digest, size(at))))
            .collect()
    }

    /// Whether `digest` is still to be handed in.
    pub fn wants(&self, digest: &Digest) -> bool {
        self.missing().contains_key(digest)
    }

    /// The file that holds `digest`, once that was handed in.
    pub fn staged(&self, digest: &Digest) -> Option<File> {
        let first = self.contents.get(digest).filter(|_| !self.wants(digest))?;
        let install = &self.transaction.installs[*first];
        self.stages.staged(install.filesystem)?.open_file(&install.place).ok()
    }

    /// Takes content for all files that are to hold it; what turns out to be something else is dropped.
    pub fn fill(&self, digest: &Digest, content: &mut dyn BufRead) -> Result<(), FillError> {
        let Some(installs) = self.missing().get(digest).cloned() else { return Ok(()) };
        let Some((&first, others)) = installs.split_first() else { return Ok(()) };
        check_cancelled(self.monitor)?;
        let first = &self.transaction.installs[first];
        let tree = self.tree(first)?;
        let file = tree.create_file(&first.place).map_err(Untouched::from_root)?;
        let copied =
            copy(&mut CancelReader { from: content, monitor: self.monitor }, &file, first.bytes());
        let found = copied.map_err(|e| match e {
            CopyError::Read(_) if self.monitor.is_stopped() => Untouched::Stopped.into(),
            CopyError::Read(e) => FillError::Source(e),
            CopyError::Write(source) => {
                let path = tree.show(&first.place);
                FillError::Untouched(Untouched::from_root(RootError {
                    what: "write",
                    path,
                    source,
                }))
            }
        });
        match found {
            Ok(found) if found == *digest => {}
            Ok(_) => {
                tree.unlink(&first.place).map_err(Untouched::from_root)?;
                return Err(FillError::OtherContent(first.entry.path.to_string()));
            }
            Err(e) => {
                tree.unlink(&first.place).map_err(Untouched::from_root)?;
                return Err(e);
            }
        }
        self.filled(digest, first, others, &file)?;
        if !self.is_synced_whole() {
            file.begin_to_write();
        }
        Ok(())
    }

    /// Takes the file at `path` in the tree `from`, on the root's filesystem, as the content `digest`;
    /// false where it is not that.
    pub fn take_over(
        &self,
        digest: &Digest,
        from: &Root,
        path: &TreePath,
    ) -> Result<bool, Untouched> {
        let Some(installs) = self.missing().get(digest).cloned() else { return Ok(true) };
        let Some((&first, others)) = installs.split_first() else { return Ok(true) };
        let install = &self.transaction.installs[first];
        if from.stat(path)?.is_none_or(|stat| stat.kind != FileKind::File) {
            return Ok(false);
        }
        if install.filesystem != 0 {
            return match self
                .fill(digest, &mut BufReader::with_capacity(PIECE, from.open_file(path)?))
            {
                Ok(()) => Ok(true),
                Err(FillError::Untouched(error)) => Err(error),
                Err(_) => Ok(false),
            };
        }
        let file = match from.open_file(path) {
            Err(e) if e.is_absent() => return Ok(false),
            answer => answer?,
        };
        let read = Digest::of_reader(CancelReader { from: &file, monitor: self.monitor });
        let found = read.map_err(|source| {
            cancelled_or(self.monitor, RootError { what: "read", path: from.show(path), source })
        })?;
        if found != (*digest, install.bytes()) {
            return Ok(false);
        }
        from.rename(path, self.tree(install)?, &install.place, Rename::NoReplace)?;
        self.filled(digest, install, others, &file)?;
        Ok(true)
    }

    /// The content of `first` is in its place as `file`: it gets its metadata, and `others` the same content.
    fn filled(
        &self,
        digest: &Digest,
        first: &StagedItem,
        others: &[usize],
        file: &impl AsFd,
    ) -> Result<(), Untouched> {
        self.dress(first, file)?;
        for &other in others {
            self.duplicate(&self.transaction.installs[other], file.as_fd())?;
        }
        self.missing().remove(digest);
        Ok(())
    }

    /// The paths that are to hold `digest`, for messages.
    pub fn paths_of(&self, digest: &Digest) -> Vec<TreePath> {
        let of = |i: &&StagedItem| matches!(i.make, ContentSource::Content { digest: found, .. } if found == *digest);
        self.transaction
            .installs
            .iter()
            .filter(of)
            .map(|install| install.entry.path.clone())
            .collect()
    }

    /// The stage of the root's filesystem, for what is needed only on the way.
    pub fn scratch(&self) -> Result<&Root, Untouched> {
        self.stages.staged(0).ok_or_else(|| Untouched::Refused("the stage has gone".to_owned()))
    }

    /// Makes the hardlinks, settles staged directories, and notes the way back; then makes everything
    /// durable.
    pub fn finish(mut self, limits: &RetentionLimits) -> Result<Staged<'a>, Untouched> {
        let open = self.wanted().len();
        if open > 0 {
            return Err(Untouched::Refused(format!("{open} contents were not staged")));
        }
        self.link().map_err(Untouched::from_root)?;
        for install in self.transaction.installs.iter().rev().filter(|i| i.entry.is_dir()) {
            let tree = self.tree(install)?;
            tree.set_meta(&install.place, &install.entry.meta).map_err(Untouched::from_root)?;
            self.label(install)?;
        }
        let keep =
            undo::decide(self.root, self.filesystems, self.transaction, limits, self.monitor)?;
        backup::link_all_backups(self.root, &self.stages, self.transaction)
            .map_err(Untouched::from_root)?;
        let noted = undo::note(self.root, &self.stages, self.transaction, keep, limits.made);
        noted.map_err(Untouched::from_root)?;
        self.early.take().map_or(Ok(()), BackgroundSync::end).map_err(Untouched::from_root)?;
        self.make_durable().map_err(Untouched::from_root)?;
        self.monitor.event(Event::Finished { job: Job::Stage });
        let Stage { root, transaction, filesystems, monitor, .. } = self;
        Ok(Staged { root, transaction, filesystems, monitor, keep })
    }

    fn link(&self) -> Result<(), RootError> {
        for install in &self.transaction.installs {
            let Some(tree) = self.stages.staged(install.filesystem) else { continue };
            match &install.make {
                ContentSource::LinkStaged(at) => {
                    tree.create_link(&install.place, tree, &self.transaction.installs[*at].place)?
                }
                ContentSource::LinkLive(path) => {
                    tree.create_link(&install.place, self.root, path)?
                }
                ContentSource::Node | ContentSource::Content { .. } => {}
            }
        }
        Ok(())
    }

    /// Whether it becomes durable with its filesystems, not file by file.
    fn is_synced_whole(&self) -> bool {
        self.transaction.installs.len() > SYNC_EACH && sync_tells_errors()
    }

    fn make_durable(&self) -> Result<(), RootError> {
        if self.is_synced_whole() {
            return self.filesystems.sync(self.root, self.stages.filesystems());
        }
        for install in &self.transaction.installs {
            let Some(tree) = self.stages.staged(install.filesystem) else { continue };
            if install.entry.is_dir() {
                tree.sync_dir(&install.place)?;
            } else if matches!(install.make, ContentSource::Content { .. }) {
                tree.sync_file(&install.place)?;
            }
        }
        for which in self.stages.filesystems() {
            for tree in
                [self.stages.staged(which), self.stages.backups(which)].into_iter().flatten()
            {
                tree.sync_dir(&TreePath::root())?;
            }
            self.root.sync_dir(&self.filesystems.mount_roots()[which])?;
        }
        Ok(())
    }

    fn create_node(&self, install: &StagedItem) -> Result<(), Untouched> {
        let tree = self.tree(install)?;
        let (place, meta) = (&install.place, &install.entry.meta);
        let made = match &install.entry.node {
            Node::Directory => return tree.create_dir(place).map_err(Untouched::from_root),
            Node::Leaf(leaf) => match &leaf.kind {
                LeafKind::Symlink { target } => tree.create_symlink(place, target),
                LeafKind::Fifo => tree.create_fifo(place),
                LeafKind::Char(device) => tree.create_char(place, *device),
                LeafKind::Block(device) => tree.create_block(place, *device),
                LeafKind::File { .. } => return Ok(()),
            },
        };
        let symlink =
            matches!(install.entry.leaf().map(|l| &l.kind), Some(LeafKind::Symlink { .. }));
        made.and_then(|()| tree.set_special_meta(place, meta, symlink))
            .map_err(Untouched::from_root)?;
        self.label(install)
    }

    /// A second file with the same content; shares its blocks where the filesystem can.
    fn duplicate(&self, install: &StagedItem, content: BorrowedFd) -> Result<(), Untouched> {
        let tree = self.tree(install)?;
        let file = tree.create_file(&install.place).map_err(Untouched::from_root)?;
        let copied = file.share_blocks(content).or_else(|_| {
            let from = Positioned { content, at: 0 };
            let from =
                BufReader::with_capacity(PIECE, CancelReader { from, monitor: self.monitor });
            copy(&mut { from }, &file, install.bytes()).map(drop).map_err(|e| match e {
                CopyError::Read(e) | CopyError::Write(e) => e,
            })
        });
        copied.map_err(|source| {
            let error = RootError { what: "write", path: tree.show(&install.place), source };
            if error.is_full() {
                Untouched::from_root(error)
            } else {
                cancelled_or(self.monitor, error)
            }
        })?;
        self.dress(install, &file)
    }

    fn dress(&self, install: &StagedItem, file: impl AsFd) -> Result<(), Untouched> {
        let tree = self.tree(install)?;
        tree.set_file_meta(file, &install.place, &install.entry.meta)
            .map_err(Untouched::from_root)?;
        self.monitor.event(Event::Advanced { job: Job::Stage, by: install.bytes() });
        self.early.iter().for_each(|early| early.wrote(install.bytes()));
        self.label(install)
    }

    fn label(&self, install: &StagedItem) -> Result<(), Untouched> {
        if !self.labelled {
            return Ok(());
        }
        let label: Labels = self.root.label_for(&install.entry.path)?;
        Ok(self.tree(install)?.set_label(&install.place, &label)?)
    }

    fn tree(&self, install: &StagedItem) -> Result<&Root, Untouched> {
        let missing =
            |entry: &Entry| Untouched::Refused(format!("there is no stage for {}", entry.path));
        self.stages.staged(install.filesystem).ok_or_else(|| missing(&install.entry))
    }

    fn missing(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Vec<usize>>> {
        // A thread that panicked while it held the lock left the map whole: entries go as one.
        self.missing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Staged<'_> {
    /// Writes the journal: from here only forward.
    pub fn seal(self, record: CommitRecord) -> Result<Sealed, SealFailure> {
        let journal = Journal {
            tops: self.filesystems.mount_roots().to_vec(),
            slots: self.transaction.slots,
            keep: self.keep,
            changes: self.transaction.changes.clone(),
            directories: self.transaction.directories.clone(),
            record,
        };
        space_reserve::preallocate(self.root, self.filesystems, self.transaction, &journal.record)
            .map_err(|error| SealFailure::Untouched(Untouched::from_root(error)))?;
        journal::seal(self.root, &journal, self.monitor).map_err(|error| match error {
            SealError::Untouched(error) => SealFailure::Untouched(Untouched::from_root(error)),
            error @ SealError::Unknown(..) => {
                SealFailure::Interrupted(Interrupted(error.to_string()))
            }
        })?;
        Ok(Sealed { journal })
    }
}

impl Sealed {
    /// What is to be done.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}
