//! Request of a run: the meaning of the command line and the configuration together.

use std::path::PathBuf;
use std::time::Duration;

use crate::fetch::{FetchErrorKind, FetchOptions, RepoUrl};
use crate::full_sync::Server;
use crate::host::{BootLoader, Drift, KeepUndo, MaxDelete};
use crate::image::{ImageName, Layer};
use crate::tree_path::TreePath;
use crate::update::error::{FreshnessError, TrustError, UnsignedRoute, UpdateError};

pub use crate::host::Check;

/// Everything that an update needs to know.
#[derive(Clone, Debug)]
pub struct UpdateRequest {
    /// Top of the tree to update.
    pub root: PathBuf,
    /// Image that the tree follows.
    pub image: ImageName,
    /// Overrides, each copied over the image and those before it.
    pub overrides: Vec<ImageName>,
    /// Source of the names of the image and of the overrides.
    pub assignment: AssignmentSource,
    /// Source of the update: the published repository, or rsync alone.
    pub mode: SyncMode,
    /// Rsync daemon that serves images, overrides and scripts.
    pub rsync: Option<Server>,
    /// Limit for the time of one rsync process.
    pub sync_timeout: Duration,
    /// Exclude rules.
    pub excludes: Excludes,
    /// Excluded directories at and below these are created if the node lacks them.
    pub create_directories: Vec<TreePath>,
    /// Excluded files that are brought if the node lacks them.
    pub seed_files: Vec<TreePath>,
    /// Types of mounted filesystems that are updated; `None` for all that can be.
    pub fstypes: Option<Vec<String>>,
    /// Boot loader tool that runs after boot files changed.
    pub bootloader: BootLoader,
    /// Limit for the time of one hook or boot loader tool.
    pub program_timeout: Duration,
    /// Check level: how closely the tree is compared.
    pub check: Check,
    /// Treatment of tracked paths that deviate.
    pub drift: Drift,
    /// Whether untracked paths are removed.
    pub purge_untracked: bool,
    /// Deletion budget.
    pub max_delete: MaxDelete,
    /// Largest share of differing entries at which a tree is adopted.
    pub adopt_share: f64,
    /// Whether the run ends after adoption.
    pub adopt_only: bool,
    /// Whether a full sync may follow if diffs cannot be used.
    pub fallback: bool,
    /// Whether the run only reports its plan.
    pub dry_run: bool,
    /// Whether a pinned generation is installed.
    pub unhold: bool,
    /// Whether backups become an undo set.
    pub keep_undo: KeepUndo,
    /// Largest share of a filesystem that an undo set may use.
    pub undo_share: f64,
    /// Whether a catalog older than one seen before is accepted.
    pub allow_downgrade: bool,
    /// Whether the records of seen heads are removed first.
    pub forget_seen: bool,
    /// Filesystem types of the root that are accepted although they are not known to be safe.
    pub allow_root_fs: Vec<String>,
    /// Options of downloads.
    pub fetch: FetchOptions,
    /// Limit for the bytes in the spool.
    pub spool_limit: u64,
    /// Requirements for signatures and times.
    pub trust: TrustSettings,
    /// Part of the update that the run carries out.
    pub step: UpdateStep,
    /// Longest time between a download and its installation.
    pub staged_max_age: Duration,
    /// Number of compressed files that are rebuilt at a time.
    pub rebuild_jobs: usize,
}

/// Part of an update that a run carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateStep {
    /// All of it.
    Whole,
    /// Only the download; the tree is not changed.
    DownloadOnly,
    /// The installation of an update that an earlier run has downloaded, without a network.
    FromDownloaded(NewerHeads),
}

/// Whether a switch asks the server if it should wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewerHeads {
    /// For a short time; without an answer it goes on.
    Ask,
    /// The server can be reached only through a tunnel, or may not be reached.
    DoNotAsk,
}

/// Source of the names of the image and of the overrides.
#[derive(Clone, Debug)]
pub enum AssignmentSource {
    /// The configuration of the node.
    Configuration,
    /// The `cluster.txt` of the rsync daemon, which nothing signs.
    Daemon,
    /// The published `cluster.txt`.
    Cluster(SignedFiles),
    /// The record of the node, because the published `cluster.txt` is older than one seen.
    Record,
    /// The record of the node, to which alone the tree may be repaired.
    RecordToRepair {
        /// The published `cluster.txt`.
        cluster: SignedFiles,
        /// Reason that the published file is not followed.
        not_fresh: FreshnessError,
    },
}

impl AssignmentSource {
    /// Returns the signed `cluster.txt` that the node needs to verify in each run.
    pub(super) fn signed_cluster(&self) -> Option<&SignedFiles> {
        match self {
            AssignmentSource::Cluster(cluster)
            | AssignmentSource::RecordToRepair { cluster, .. } => Some(cluster),
            _ => None,
        }
    }

    /// Returns the reason that the run may only repair the recorded generation.
    pub(super) fn not_fresh(&self) -> Option<&FreshnessError> {
        match self {
            AssignmentSource::RecordToRepair { not_fresh, .. } => Some(not_fresh),
            _ => None,
        }
    }
}

/// Head and catalog of a layer with their signatures.
#[derive(Clone, Debug)]
pub struct SignedFiles {
    pub(super) layer: Layer,
    pub(super) head: Vec<u8>,
    pub(super) catalog: Vec<u8>,
}

/// Requirements for the signatures and times of a repository.
#[derive(Clone, Debug)]
pub struct TrustSettings {
    /// Whether unsigned data is refused even if this node has no key.
    pub require_signature: bool,
    /// Longest validity of a head.
    pub max_head_age: Duration,
    /// Whether an expired head is accepted.
    pub allow_expired: bool,
    /// Tree whose publish and head keys replace those of the updated tree.
    pub keys_from: Option<PathBuf>,
}

/// Source of an update.
#[derive(Clone, Debug)]
pub enum SyncMode {
    /// Published generations in this repository.
    Diffs(RepoUrl),
    /// Modules of the rsync daemon, published or not.
    Rsync(RsyncScope),
    /// The recorded generation, for a repair.
    Repair(RepairScope),
}

/// Part of the tree that a repair changes, and its source of content.
#[derive(Clone, Debug)]
pub struct RepairScope {
    /// Paths that are repaired with everything below them; empty for the whole tree.
    pub paths: Vec<TreePath>,
    /// The repository, or the reason that none can be asked.
    pub repo: Result<RepoUrl, String>,
}

/// Part of the tree that an rsync-only sync updates.
#[derive(Clone, Debug)]
pub struct RsyncScope {
    /// The only directory that is updated; the root for the whole tree.
    pub directory: TreePath,
    /// Whether paths that the image lacks are removed.
    pub delete: bool,
    /// Repository with the signed generations, for a node that requires signatures.
    pub repo: Option<RepositorySource>,
}

/// Repository of a run that was not told to use one.
#[derive(Clone, Debug)]
pub enum RepositorySource {
    /// Named by the administrator.
    Configured(RepoUrl),
    /// The web server at the address of the image server, which need not be a repository.
    Assumed(RepoUrl),
}

impl RepositorySource {
    /// The address.
    pub fn url(&self) -> &RepoUrl {
        match self {
            RepositorySource::Configured(url) | RepositorySource::Assumed(url) => url,
        }
    }

    /// Explains a server that does not answer, if nobody said that it has a repository.
    pub(super) fn explain(&self, error: UpdateError) -> UpdateError {
        match (self, error) {
            (RepositorySource::Assumed(_), UpdateError::Fetch(error))
                if error.kind == FetchErrorKind::Unreachable =>
            {
                TrustError::UnsignedRoute(UnsignedRoute::NoRepositoryOfServer(error)).into()
            }
            (_, error) => error,
        }
    }
}

/// Exclude rules and their source.
#[derive(Clone, Debug)]
pub struct Excludes {
    /// Name of the file, for messages.
    pub name: String,
    /// Content of the file.
    pub rules: Vec<u8>,
    /// Path of the file in the tree. If the image has another version, that one is used in this
    /// run. `None` if the rules come from elsewhere or from the image already.
    pub path: Option<TreePath>,
}

impl Excludes {
    /// Rules that the image or an override has at `path`.
    pub(super) fn from_image(path: &TreePath, rules: Vec<u8>) -> Self {
        Excludes { name: path.to_string(), rules, path: None }
    }
}
