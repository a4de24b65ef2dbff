//! What a run is to do: the meaning of a command line and the configuration together.

use std::path::PathBuf;

use crate::fetch::{Options, RepoUrl};
use crate::host::{Drift, KeepUndo, MaxDelete};
use crate::image::ImageName;

pub use crate::host::Check;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// The tree to update.
    pub root: PathBuf,
    /// The image that it follows.
    pub image: ImageName,
    /// Where the repository is.
    pub repo: RepoUrl,
    /// Host and port of the rsync daemon that serves the image for a full sync.
    pub rsync: Option<(String, u16)>,
    /// The exclude file: its name, for messages, and its bytes.
    pub excludes: (String, Vec<u8>),
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
    pub fetch: Options,
    /// The most bytes that the spool may hold.
    pub spool_limit: u64,
}
