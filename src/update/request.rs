//! What a run is to do: the meaning of a command line and the configuration together.

use std::path::PathBuf;
use std::time::Duration;

use crate::fetch::{FetchOptions, RepoUrl};
use crate::full_sync::Server;
use crate::host::{BootLoader, Drift, KeepUndo, MaxDelete};
use crate::image::ImageName;
use crate::report::Monitor;
use crate::root::Root;
use crate::tree_path::TreePath;
use crate::update::hooks::HookContext;

pub use crate::host::Check;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct UpdateRequest {
    /// The tree to update.
    pub root: PathBuf,
    /// The image that it follows.
    pub image: ImageName,
    /// What is laid over it, each over the ones before it.
    pub overrides: Vec<ImageName>,
    /// By diffs or by rsync.
    pub way: SyncMode,
    /// The rsync daemon that serves images, overrides and scripts.
    pub rsync: Option<Server>,
    /// The most time that a full sync by rsync may take.
    pub sync_timeout: Duration,
    /// What the image does not touch.
    pub excludes: Excludes,
    /// The kinds of mounted filesystem that are updated; `None` for all that can be.
    pub fstypes: Option<Vec<String>>,
    /// What makes changed boot files known to the boot loader.
    pub bootloader: BootLoader,
    /// The most time that a hook or the boot loader's tool may take.
    pub program_timeout: Duration,
    /// How closely the node is looked at.
    pub check: Check,
    /// What happens to tracked paths that deviate.
    pub drift: Drift,
    /// Whether untracked paths are removed.
    pub purge_untracked: bool,
    /// The most that a run may delete.
    pub max_delete: MaxDelete,
    /// The largest share of deviating entries with which a tree is taken for a generation.
    pub adopt_share: f64,
    /// Only find out which generation the tree is, and record that.
    pub adopt_only: bool,
    /// Whether a full sync may follow where diffs do not lead to the head.
    pub fallback: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Whether the node goes to the generation that a rollback fled from.
    pub unhold: bool,
    /// Whether what an update displaces is kept.
    pub keep_undo: KeepUndo,
    /// The largest share of a filesystem that an undo set may hold.
    pub undo_share: f64,
    /// Whether a catalog older than one seen before is accepted.
    pub allow_downgrade: bool,
    /// Kinds of root filesystem that are accepted though they are not known to be safe.
    pub allow_root_fs: Vec<String>,
    /// How patient the downloads are.
    pub fetch: FetchOptions,
    /// The most bytes that the spool may hold.
    pub spool_limit: u64,
}

impl UpdateRequest {
    /// Where the programs run that surround a transaction, and how.
    pub(super) fn scene<'a>(&'a self, root: &'a Root, monitor: &'a dyn Monitor) -> HookContext<'a> {
        HookContext { root, bootloader: &self.bootloader, longest: self.program_timeout, monitor }
    }
}

/// How a node comes to be what it is to be.
#[derive(Clone, Debug)]
pub enum SyncMode {
    /// By diffs from the repository there, and by a full sync where they do not lead to the head.
    Diffs(RepoUrl),
    /// By rsync from the image's module, whatever is published.
    Sync(Sync),
}

/// What a run by rsync brings.
#[derive(Clone, Debug)]
pub struct Sync {
    /// Only this directory; the whole tree is the top.
    pub directory: TreePath,
    /// Whether what the image does not have goes.
    pub delete: bool,
}

/// The rules of what the image does not touch.
#[derive(Clone, Debug)]
pub struct Excludes {
    /// The name of the file, for messages.
    pub name: String,
    /// Its bytes.
    pub rules: Vec<u8>,
    /// Where the node has it: what the image brings there counts in the same run.
    pub place: Option<TreePath>,
}
