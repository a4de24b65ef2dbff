//! Notices and warnings of a run, and descriptions of strategies: one enum each, with the wording.

use std::{fmt, io};

use crate::apply::Untouched;
use crate::apply::downloaded::DownloadSummary;
use crate::apply::error::DownloadedFault;
use crate::apply::preflight::disk_space::Shortage;
use crate::fetch::FetchError;
use crate::full_sync::Server;
use crate::generation::GenerationId;
use crate::host::boot_loader::BootCommand;
use crate::image::ImageName;
use crate::plan::FullSyncReason;
use crate::report::units::{Count, Size};
use crate::root::RootError;
use crate::state::StateError;
use crate::tree_path::TreePath;
use crate::update::error::{
    ArchiveFault, FollowUpError, FreshnessError, RepositoryFailure, TrustError, UpdateError, join,
};

/// Something that a run reports before its end.
pub(super) enum UpdateNotice<'a> {
    // Session and recovery.
    /// No interrupted transaction was found by `--recover`.
    NotInterrupted {
        root: String,
    },
    /// An interrupted transaction was completed by `--recover`.
    Recovered(RecoveredTree),
    /// An interrupted transaction was completed before this run's own.
    RecoveredFirst(RecoveredTree),
    /// All changes of an interrupted transaction were made; its state is not recorded.
    Unrecorded {
        root: String,
        mount_root: String,
    },
    BootLoaderPending,
    ReceiveDirLeft(RootError),

    // State and adoption.
    StateIgnored(StateError),
    /// The state belongs to another tree, of which this one is a copy.
    StateCopied,
    OtherImage {
        recorded: ImageName,
        requested: &'a ImageName,
    },
    ManifestLost,
    /// Adoption begins; `adopt_only` if it was requested, not needed.
    Comparing {
        adopt_only: bool,
    },
    Adopted(Similarity),
    NotAdopted(Similarity),

    // Catalog.
    NoPublicKey,
    ClockBehind {
        now: jiff::Timestamp,
    },
    SeenForgotten,
    /// The head has expired, and the request allows that.
    ExpiredHead {
        expires: jiff::Timestamp,
    },
    /// The head may not be the newest, so the tree is only compared with its record.
    NotFresh(&'a FreshnessError),
    /// The head is older than one that this node has seen.
    StaleRepository {
        issued: jiff::Timestamp,
    },
    ExcludesOfImage {
        name: &'a str,
    },
    ExcludesUnavailable {
        path: &'a TreePath,
    },
}

/// Something that a run reports about a downloaded update.
pub(super) enum DownloadNotice<'a> {
    /// A run that leaves it alone found one.
    Found(DownloadSummary),
    /// The same, if it cannot be used.
    Damaged(DownloadedFault),
    Dropped(&'a DropReason),
    /// A dry run found one that cannot be used.
    WouldBeDropped(&'a DropReason),
    /// The downloaded update could not be removed.
    Left(Untouched),
    /// The server said nothing about newer heads.
    NoNewerHead(NoNewerHead),
}

/// Reason that nothing is known about newer heads.
pub(super) enum NoNewerHead {
    /// There was no answer in time.
    Late,
    Fetch(FetchError),
    /// The answer is not one of this repository.
    Untrusted(TrustError),
    /// This node cannot ask.
    Node(UpdateError),
    Thread(io::Error),
}

/// Reason that a downloaded update is removed.
pub(super) enum DropReason {
    /// This run has installed it; no line is printed.
    Installed,
    /// This run has installed another target.
    Replaced,
    RolledBack,
    Damaged(DownloadedFault),
    OtherAgent {
        version: String,
    },
    OtherTree,
    OtherBase,
    OtherImage,
    OtherOverrides,
    OtherRules,
    /// Another download needs the space.
    NoRoom,
}

/// The published `cluster.txt` is not followed, since its head is not fresh.
pub(super) struct KeptAssignment<'a> {
    pub image: &'a ImageName,
    pub overrides: &'a [ImageName],
}

/// Something that a strategy or its transaction reports before its end.
pub(super) enum TransactionNotice<'a> {
    // Strategy.
    Strategy(&'a Route),
    ArchiveUnusable {
        name: &'a str,
        fault: &'a ArchiveFault,
    },
    /// Cost of rebuilding compressed files whose diffs are of their plain form.
    Recompression {
        files: u64,
        bytes: u64,
        /// Seconds of one processor.
        seconds: f64,
        /// Number of files that are rebuilt at a time.
        jobs: usize,
    },
    FetchingByDigest {
        contents: usize,
    },
    /// The repository did not supply all contents of a full sync.
    ReceivingByRsync {
        failure: &'a RepositoryFailure,
    },
    /// A file of the repository that did not supply contents; the text names it.
    RepositoryFileUnusable(&'a dyn fmt::Display),
    SpoolKept(FetchError),

    // Transaction.
    ForeignMount {
        path: String,
        kind: &'a str,
        paths: usize,
    },
    UndoSetWouldBeRemoved {
        shortages: &'a [Shortage],
        bytes: u64,
    },
    UndoSetRemoved {
        shortages: &'a [Shortage],
        bytes: u64,
    },

    // Boot loader and reboot.
    BootLoaderTool(&'a BootCommand),
    BootLoaderPendingKept(RootError),
    RewrittenNotRecorded(UpdateError),
    Rewritten {
        path: &'a TreePath,
    },
    /// A default entry keeps a kernel of the target ahead of one that the target does not have.
    DefaultEntrySet {
        wrong: &'a str,
        boot_file: String,
        entry: &'a str,
    },
    DefaultEntryCleared {
        entry: &'a str,
    },
    /// The boot loader's tool must not run, so that the boot menu may still name the files.
    BootFilesKept {
        release: String,
    },
    /// A step failed, and the run ends with the error of another step.
    FollowUpFailed(&'a FollowUpError),
    /// A node with a pinned generation removed the paths of a kernel that stopped running.
    KernelPathsRemoved {
        release: &'a str,
        paths: usize,
    },
    Rebooting,
}

/// Copy of a file that was edited on the node, before it is replaced.
pub(super) enum DriftCopy<'a> {
    Saved {
        path: &'a TreePath,
        place: &'a TreePath,
    },
    /// The file cannot be read.
    NotSaved(RootError),
}

/// State of a tree after its interrupted transaction was completed.
pub(super) struct RecoveredTree {
    pub root: String,
    pub content: RecoveredContent,
}

/// Content of a recovered tree.
pub(super) enum RecoveredContent {
    Generation(GenerationId),
    /// Received by rsync, not published.
    Unpublished(ImageName),
    /// A rollback to a tree of which nothing was recorded.
    Unrecorded,
}

/// Result of comparing the tree with a generation.
pub(super) struct Similarity {
    pub generation: GenerationId,
    pub differing: usize,
    pub entries: usize,
}

/// Description of the strategy that a run has chosen, with its reason, for people.
pub(super) enum Route {
    Diffs {
        count: usize,
        bytes: u64,
    },
    FullSync(FullSyncReason),
    Repair,
    /// The head may not be the newest, so it leads to no other generation.
    Recorded,
    /// The request is a repair to the recorded generation.
    RepairOfPaths,
    /// The image is unchanged, but its overrides are not.
    NewOverrides,
    Rsync(Server),
    /// Without `--diff`, on a node that requires signatures.
    SignedSync,
    Rollback,
    /// The kernel for which the paths were kept runs no more.
    KernelPaths {
        release: String,
    },
    Adoption,
    /// The contents of a downloaded update, to its target.
    Downloaded(DownloadSummary),
    /// The server answered that nothing changed.
    NotModified,
}

impl Similarity {
    /// Returns the share of entries that differ.
    pub fn differing_share(&self) -> f64 {
        self.differing as f64 / self.entries.max(1) as f64
    }
}

impl fmt::Display for UpdateNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use UpdateNotice as N;
        match self {
            N::NotInterrupted { root } => write!(f, "no update of {root} was interrupted"),
            N::Recovered(tree) => tree.fmt(f),
            N::RecoveredFirst(tree) => write!(f, "the interrupted update was finished: {tree}"),
            N::Unrecorded { root, mount_root } => write!(
                f,
                "all changes of {root} are made; {mount_root} is not mounted, so the next run \
                 records the state"
            ),
            N::BootLoaderPending => f.write_str(
                "boot files changed, but the boot loader was not updated; the next update runs \
                 its tool (si_updateclient --diff)",
            ),
            N::ReceiveDirLeft(error) => {
                write!(f, "cannot remove the receive directory: {error}; the next run will retry")
            }

            N::StateIgnored(error) => write!(f, "{error}; it is not used"),
            N::StateCopied => f.write_str(
                "the recorded state was copied with another tree: all tracked paths are compared",
            ),
            N::OtherImage { recorded, requested } => {
                write!(
                    f,
                    "the recorded state is of image {recorded}, not of {requested}; it is not used"
                )
            }
            N::ManifestLost => {
                f.write_str("the manifest of the recorded generation is lost or damaged")
            }
            N::Comparing { adopt_only: true } => {
                f.write_str("comparing the tree with the published manifests")
            }
            N::Comparing { adopt_only: false } => f.write_str(
                "no usable generation is recorded: comparing the tree with the published manifests",
            ),
            N::Adopted(similarity) => write!(
                f,
                "the tree is taken for generation {}: {} of {} entries differ",
                similarity.generation.short(),
                similarity.differing,
                similarity.entries
            ),
            N::NotAdopted(similarity) => {
                write!(f, "the tree resembles no published generation: {similarity}")
            }

            N::NoPublicKey => f.write_str(
                "this node has no public key: anyone who controls the server or the network \
                 controls it",
            ),
            N::ClockBehind { now } => write!(
                f,
                "cannot check if the head expired: this node's clock shows {now}, which is \
                 before the catalog was written"
            ),
            N::SeenForgotten => f.write_str(
                "the newest catalogs that this node has seen are forgotten (--forget-seen): an \
                 older one would be accepted now",
            ),
            N::ExpiredHead { expires } => {
                write!(f, "the head expired at {expires}; it is accepted by --allow-expired")
            }
            N::NotFresh(error) => write_not_fresh(error, f),
            N::StaleRepository { issued } => write!(
                f,
                "the repository was last updated at {issued}, and this node has seen a newer one: \
                 nothing new"
            ),
            N::ExcludesOfImage { name } => {
                write!(f, "using the exclude rules of {name} as the image has it")
            }
            N::ExcludesUnavailable { path } => write!(
                f,
                "cannot fetch {path} of the image yet: its exclude rules apply from the next run"
            ),
        }
    }
}

impl fmt::Display for DownloadNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use DownloadNotice as N;
        match self {
            N::Found(summary) => write!(f, "downloaded update: {}", ShownDownload(summary)),
            N::Damaged(fault) => write!(f, "the downloaded update is damaged: {fault}"),
            N::Dropped(reason) => write!(f, "the downloaded update is removed: {reason}"),
            N::WouldBeDropped(reason) => {
                write!(f, "the downloaded update would be removed: {reason}")
            }
            N::Left(error) => {
                write!(f, "cannot remove the downloaded update: {error}; the next run will retry")
            }
            N::NoNewerHead(reason) => write!(f, "{reason}: installing it"),
        }
    }
}

impl fmt::Display for NoNewerHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNKNOWN: &str = "nothing is known of a newer update than the downloaded one";
        match self {
            NoNewerHead::Late => f.write_str(
                "the server did not say in time if the downloaded update may be installed",
            ),
            NoNewerHead::Fetch(error) => write!(f, "{UNKNOWN}: {error}"),
            NoNewerHead::Untrusted(error) => write!(f, "{UNKNOWN}: the server's head: {error}"),
            NoNewerHead::Node(error) => write!(f, "{UNKNOWN}: {error}"),
            NoNewerHead::Thread(error) => write!(f, "{UNKNOWN}: cannot start a thread: {error}"),
        }
    }
}

/// Target, size and time of a downloaded update.
struct ShownDownload<'a>(&'a DownloadSummary);

impl fmt::Display for ShownDownload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DownloadSummary { generation, serial, downloaded, bytes } = self.0;
        let (generation, size) = (generation.short(), Size(*bytes));
        write!(f, "serial {serial} (generation {generation}), {size}, downloaded at {downloaded}")
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::Installed => "it is installed",
            DropReason::Replaced => "it does not lead to the installed generation",
            DropReason::RolledBack => "it does not lead from the restored generation",
            DropReason::Damaged(fault) => return fault.fmt(f),
            DropReason::OtherAgent { version } => {
                return write!(f, "version {version} of this program wrote it");
            }
            DropReason::OtherTree => "it was downloaded for another tree",
            DropReason::OtherBase => "it does not lead from the recorded generation",
            DropReason::OtherImage => "it is of another image",
            DropReason::OtherOverrides => "it was downloaded with other overrides",
            DropReason::OtherRules => "it was downloaded with other exclude rules",
            DropReason::NoRoom => "the new download needs its space",
        })
    }
}

impl fmt::Display for KeptAssignment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the published cluster.txt may not be the newest: this node keeps its recorded image {}",
            self.image
        )?;
        self.overrides.iter().try_for_each(|name| write!(f, ", override {name}"))
    }
}

/// Writes the reason that a run only compares the tree.
fn write_not_fresh(error: &FreshnessError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Of a stale image the run has printed a notice before.
    if !matches!(error, FreshnessError::StaleImage { .. }) {
        write!(f, "{error}; no other generation is installed, and ")?;
    }
    f.write_str("this tree is only compared with its recorded generation")
}

impl fmt::Display for TransactionNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use TransactionNotice as N;
        match self {
            N::Strategy(route) => route.fmt(f),
            N::ArchiveUnusable { name, fault } => write!(f, "{name} cannot be used: {fault}"),
            N::Recompression { files, bytes, seconds, jobs } => write!(
                f,
                "recompressing {files} files from {bytes} bytes of plain content: about \
                 {seconds:.1} s of one processor, {:.1} s with {jobs} at a time",
                seconds / *jobs as f64
            ),
            N::FetchingByDigest { contents } => {
                let contents = Count::new(*contents, "content", "contents");
                write!(f, "fetching {contents} whole, by digest")
            }
            N::ReceivingByRsync { failure } => {
                write!(f, "{failure}; rsync is asked for the missing files")
            }
            N::RepositoryFileUnusable(reason) => {
                write!(f, "a file of the repository cannot be used: {reason}")
            }
            N::SpoolKept(error) => {
                write!(f, "cannot empty the spool: {error}; its downloads are kept")
            }

            N::ForeignMount { path, kind, paths } => {
                let paths = Count::new(*paths, "tracked path there is", "tracked paths there are");
                write!(f, "{path} is {kind}: {paths} hidden and not updated")
            }
            N::UndoSetWouldBeRemoved { shortages, bytes } => write!(
                f,
                "{}: the undo set, {}, is in the way and would be removed first",
                join(shortages, "; "),
                Size(*bytes)
            ),
            N::UndoSetRemoved { shortages, bytes } => write!(
                f,
                "{}: the undo set, {}, is in the way and is removed; the last update cannot be \
                 rolled back any more",
                join(shortages, "; "),
                Size(*bytes)
            ),

            N::BootLoaderTool(command) => {
                write!(f, "boot files changed: running {}", command.program)?;
                command.arguments.iter().try_for_each(|word| write!(f, " {}", word.display()))
            }
            N::BootLoaderPendingKept(error) => write!(
                f,
                "cannot remove the record of changed boot files: {error}; the next run will run \
                 the boot loader's tool again"
            ),
            N::RewrittenNotRecorded(error) => {
                write!(f, "cannot record files that the boot loader's tool rewrote: {error}")
            }
            N::Rewritten { path } => write!(
                f,
                "{path} of the image was rewritten by the boot loader's tool: it is recorded as \
                 a deviation, and should be excluded"
            ),
            N::DefaultEntrySet { wrong, boot_file, entry } => write!(
                f,
                "kernel {wrong} cannot be removed from the boot menu ({boot_file}): {entry} is \
                 the default boot entry until an update makes that unnecessary"
            ),
            N::DefaultEntryCleared { entry } => {
                write!(f, "the default boot entry {entry} of an earlier rollback is cleared")
            }
            N::BootFilesKept { release } => write!(
                f,
                "the boot files of kernel {release} stay in /boot until another kernel runs, since \
                 no boot loader tool is run: make sure that the next boot starts another kernel"
            ),
            N::FollowUpFailed(error) => error.fmt(f),
            N::KernelPathsRemoved { release, paths } => {
                write!(f, "removed {paths} paths that were kept for kernel {release}")
            }
            N::Rebooting => f.write_str("rebooting"),
        }
    }
}

impl fmt::Display for DriftCopy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DriftCopy::Saved { path, place } => write!(f, "saved the edited {path} as {place}"),
            DriftCopy::NotSaved(error) => {
                write!(f, "{error}; if it was edited, it is replaced without a saved copy")
            }
        }
    }
}

impl fmt::Display for RecoveredTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = &self.root;
        match &self.content {
            RecoveredContent::Generation(id) => {
                write!(f, "{root} is at generation {}", id.short())
            }
            RecoveredContent::Unpublished(image) => {
                write!(f, "{root} is image {image} as received by rsync")
            }
            RecoveredContent::Unrecorded => {
                write!(f, "{root} is as it was before anything was recorded of it")
            }
        }
    }
}

impl fmt::Display for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Similarity { generation, differing, entries } = self;
        write!(f, "{differing} of {entries} entries differ from generation {}", generation.short())
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Diffs { count: 1, bytes } => {
                write!(f, "following one diff of {} to the head", Size(*bytes))
            }
            Route::Diffs { count, bytes } => write!(
                f,
                "following {count} diffs of {} together to the head, as one transaction",
                Size(*bytes)
            ),
            Route::FullSync(reason) => write!(f, "full sync: {reason}"),
            Route::Repair => f.write_str("the node is at the head of the catalog"),
            Route::Recorded => f.write_str("the node keeps its recorded generation"),
            Route::RepairOfPaths => f.write_str("repairing to the recorded generation"),
            Route::NewOverrides => {
                f.write_str("the image is at the head of the catalog, but its overrides changed")
            }
            Route::Rsync(server) => write!(f, "rsync from {server}"),
            Route::SignedSync => f.write_str(
                "full sync to the newest signed generation, since this node requires signatures",
            ),
            Route::Rollback => f.write_str("restoring the state before the last update"),
            Route::KernelPaths { release } => {
                write!(f, "removing the paths that were kept for kernel {release}")
            }
            Route::Downloaded(summary) => {
                write!(f, "using the downloaded update: {}", ShownDownload(summary))
            }
            Route::Adoption => f.write_str("the tree was compared with the published manifests"),
            Route::NotModified => f.write_str("the recorded generation is the head of the catalog"),
        }
    }
}
