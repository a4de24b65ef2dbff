//! How a run ended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::apply::plan::ItemizedLine;
use crate::apply::stage::StageError;
use crate::apply::{Interrupted, SessionError, Untouched};
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::generation::GenerationId;
use crate::state::pinned::Pinned;
use crate::state::{State, StateError, StoredState};
use crate::tree_path::TreePath;

/// What a run did.
#[derive(Debug)]
pub struct Report {
    /// In one word.
    pub outcome: UpdateOutcome,
    /// The generation that the node is at, or would be; `None` where it stays unknown.
    pub generation: Option<GenerationId>,
    /// The serial of its publish.
    pub serial: Option<u64>,
    /// The way that was taken and why, for people.
    pub way: String,
    /// What happened, or would happen, to each path.
    pub items: Vec<ItemizedLine>,
    /// Bytes of new content.
    pub bytes: u64,
    /// From the first rename to the last.
    pub mixed: Option<Duration>,
    /// Tracked paths that deviated and are the image's again.
    pub repaired: BTreeMap<TreePath, String>,
    /// Tracked paths that deviate and stay so.
    pub deviations: BTreeMap<String, String>,
    /// Those of the deviations that are the running kernel's and wait for the next boot.
    pub kernels: usize,
    /// Untracked paths that went along with a directory that became something else.
    pub displaced: Vec<TreePath>,
    /// Untracked paths that stay, where they were counted.
    pub untracked: Option<u64>,
    /// Why the run itself would stop, where this was a dry run.
    pub refusal: Option<UpdateError>,
    /// What failed of what follows an update that is made: a sentence each.
    pub afterwards: Vec<String>,
}

/// What a run did, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// There was nothing to do.
    UpToDate,
    /// The tree was changed.
    Updated,
    /// A dry run: it would be changed.
    WouldUpdate,
    /// The tree was recognised and recorded.
    Adopted,
}

/// What is recorded of a tree.
#[derive(Debug)]
pub struct Status {
    /// Whether an interrupted update waits to be finished.
    pub interrupted: bool,
    /// The state.
    pub found: StoredState,
    /// The generation that a rollback fled from.
    pub held: Option<Pinned>,
    /// What `--rollback` would bring back.
    pub undo: Option<UndoSummary>,
}

/// What can be undone, and what it costs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct UndoSummary {
    /// The generation of before; `None` where nothing was recorded then.
    pub generation: Option<GenerationId>,
    /// The serial of its publish.
    pub serial: Option<u64>,
    /// Bytes that would be free without the undo set.
    pub bytes: u64,
}

/// Why a run did not do what it was asked to. But for [`UpdateError::Interrupted`] and
/// [`UpdateError::Afterwards`] the tree is as it was.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// What the server offers is not to be trusted.
    #[error("the server is not trusted: {0}; nothing was changed")]
    Trust(String),
    /// Something could not be fetched.
    #[error("{0}; nothing was changed")]
    Fetch(FetchError),
    /// Another run works on the tree.
    #[error("{0}")]
    Locked(String),
    /// This node does not take the change.
    #[error("{0}; nothing was changed")]
    Node(Untouched),
    /// More would be deleted than is allowed.
    #[error("{0}\nnothing was changed")]
    Budget(String),
    /// The run was asked to stop, and did so before the seal.
    #[error("stopped on request; nothing was changed")]
    Stopped,
    /// Only a full sync would help, and there is none.
    #[error("{0}; nothing was changed")]
    NoFullSync(String),
    /// There is no undo set.
    #[error(
        "nothing can be undone on {0}: no update was made, or what it displaced was not kept (keep_undo), or it is not what made the tree what it is recorded to be; nothing was changed"
    )]
    NothingToUndo(String),
    /// The head of the catalog is what a rollback fled from.
    #[error("{0}; nothing was changed")]
    Held(String),
    /// A pre-update hook did not agree.
    #[error("{0}; nothing was changed")]
    Hook(String),
    /// The update is made and recorded, and something that follows it failed.
    #[error("what was asked for is done, but {0}")]
    Afterwards(String),
    /// An interrupted update cannot be finished now.
    #[error("an update that was interrupted has to be finished first, and cannot be: {0}")]
    Unfinished(String),
    /// The tree is between two generations.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// How many of `paths`, which are in tree order, lie below no other.
pub(super) fn topmost(paths: &[TreePath]) -> usize {
    let mut top: Option<&TreePath> = None;
    paths
        .iter()
        .filter(|path| {
            let below = top.is_some_and(|top| path.is_below(top));
            if !below {
                top = Some(path);
            }
            !below
        })
        .count()
}

impl Report {
    /// What a dry run tells that knows no more than what would change.
    pub(super) fn forecast(items: Vec<ItemizedLine>, way: String) -> Self {
        Report {
            outcome: if items.is_empty() {
                UpdateOutcome::UpToDate
            } else {
                UpdateOutcome::WouldUpdate
            },
            generation: None,
            serial: None,
            way,
            bytes: items.iter().map(|item| item.bytes).sum(),
            items,
            mixed: None,
            repaired: BTreeMap::new(),
            deviations: BTreeMap::new(),
            kernels: 0,
            displaced: Vec::new(),
            untracked: None,
            refusal: None,
            afterwards: Vec::new(),
        }
    }

    /// Nothing was to be done for a node in this `state`.
    pub(super) fn up_to_date(state: &State) -> Self {
        Report {
            outcome: UpdateOutcome::UpToDate,
            generation: Some(state.generation),
            serial: Some(state.serial),
            way: "the recorded generation is the head of the catalog".to_owned(),
            items: Vec::new(),
            bytes: 0,
            mixed: None,
            repaired: BTreeMap::new(),
            deviations: state.deviations.clone(),
            kernels: state.kernel.as_ref().map_or(0, |kernel| topmost(&kernel.paths())),
            displaced: Vec::new(),
            untracked: state.untracked,
            refusal: None,
            afterwards: Vec::new(),
        }
    }
}

impl From<FetchError> for UpdateError {
    fn from(error: FetchError) -> Self {
        match error.kind {
            FetchErrorKind::Stopped => UpdateError::Stopped,
            _ => UpdateError::Fetch(error),
        }
    }
}

impl From<Untouched> for UpdateError {
    fn from(error: Untouched) -> Self {
        match error {
            Untouched::State(error) => error.into(),
            Untouched::Budget(exceeded) => UpdateError::Budget(exceeded.to_string()),
            Untouched::Stopped => UpdateError::Stopped,
            error => UpdateError::Node(error),
        }
    }
}

impl From<StageError> for UpdateError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Untouched(error) => error.into(),
            StageError::Interrupted(error) => error.into(),
            StageError::Archive { name, source } => {
                let why = source.to_string();
                FetchError::new(FetchErrorKind::Corrupt, Side::Server, &name, &why).into()
            }
            error @ (StageError::WrongContent { .. } | StageError::Unreadable(_)) => {
                let why = error.to_string();
                FetchError::new(FetchErrorKind::Corrupt, Side::Server, "repository", &why).into()
            }
        }
    }
}

impl From<StateError> for UpdateError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Locked(_) => UpdateError::Locked(error.to_string()),
            error => UpdateError::Node(Untouched::State(error)),
        }
    }
}

impl From<SessionError> for UpdateError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Root(error) => Untouched::from_root(error).into(),
            SessionError::State(error) => error.into(),
            SessionError::Interrupted(error) => UpdateError::Interrupted(error),
            SessionError::Mounts(_) => UpdateError::Node(Untouched::refused(error.to_string())),
            SessionError::NotMounted { .. } => UpdateError::Unfinished(error.to_string()),
            SessionError::Journal(error) => UpdateError::Unfinished(error.to_string()),
        }
    }
}
