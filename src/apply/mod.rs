//! The machinery that turns a live tree from what it is into what a manifest says, as one transaction.
//!
//! Each step consumes the one before, and there is no other way to make its type:
//!
//! 1. [`plan::live_tree`]: what stands at the tracked paths now; [`plan::difference`]: how that differs from an entry.
//! 2. [`plan`]: which changes lead to the target; pure but for reading. [`preflight`] refuses what
//!    cannot end well while nothing is touched yet.
//! 3. [`stage`]: new content beside the live tree, complete and durable, invisible; [`stage::fill`] fills it.
//! 4. [`journal`]: the list of changes, durable: the seal. From here only forward.
//! 5. [`roll_forward`]: renames, removals, directory metadata; each step can be repeated.
//! 6. [`undo`]: what was displaced, kept with its [undo log](undo::undo_log); a rollback is one more transaction.
//! 7. [`session`]: the lock, and what an interrupted run left behind.
//!
//! Before the seal every failure is [`Untouched`]; after it, [`Interrupted`]. Whether something weaker
//! may be tried instead is therefore a matter of types.

mod cancel;
pub mod filesystem;
pub mod journal;
pub mod plan;
pub mod preflight;
pub mod roll_forward;
pub mod session;
pub mod stage;
pub mod undo;

use crate::root::RootError;
use crate::state::StateError;
use crate::tree_path::TreePath;

/// A failure before the seal: the tree is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Untouched {
    /// A call on the tree failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A filesystem is too small.
    #[error("no room on this node: {0}")]
    NoRoom(String),
    /// This tree cannot take the change.
    #[error("this node refuses the change: {0}")]
    Refused(String),
    /// More would be deleted than is allowed.
    #[error("{0}")]
    Budget(String),
    /// The run was asked to stop.
    #[error("stopped on request; nothing was changed")]
    Stopped,
}

/// A failure after the seal: the tree is between two generations, and the next run finishes.
#[derive(Debug, thiserror::Error)]
#[error(
    "the tree is between two generations; the next run of si_updateclient finishes what was begun: {0}"
)]
pub struct Interrupted(pub String);

impl From<RootError> for Interrupted {
    fn from(error: RootError) -> Self {
        Interrupted(error.to_string())
    }
}

impl From<StateError> for Interrupted {
    fn from(error: StateError) -> Self {
        Interrupted(error.to_string())
    }
}

impl Untouched {
    /// An error of the tree, told apart where the filesystem is full.
    pub fn from_root(error: RootError) -> Self {
        if error.is_full() { Untouched::NoRoom(error.to_string()) } else { Untouched::Root(error) }
    }
}

/// The name of the directory that holds a stage, at the top of each filesystem.
pub const STAGE_DIR: &str = ".si-stage";
/// In a stage: what is to come, by slot.
pub const STAGED_DIR: &str = "new";
/// In a stage: what is displaced, by slot; it becomes the undo set.
pub const BACKUP_DIR: &str = "old";
/// The name of the directory that holds the undo set, at the top of each filesystem.
pub const UNDO_DIR: &str = ".si-undo";
/// In the undo set: the untracked paths that went along with a directory that became something else.
pub const DISPLACED_DIR: &str = "displaced";
/// The name of the directory that a full sync is received in.
pub const RECEIVE_DIR: &str = ".si-full";

/// A fixed name as a path; such names are good.
fn name(text: &str) -> TreePath {
    TreePath::new(text).unwrap_or_else(|_| TreePath::root())
}
