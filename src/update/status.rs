//! Status of a tree: its recorded state, pinned generation and undo set. Changes nothing.

use std::path::Path;

use serde::Serialize;

use crate::apply::downloaded::DownloadSummary;
use crate::apply::error::DownloadedFault;
use crate::apply::undo::UndoSet;
use crate::apply::{Untouched, session};
use crate::generation::GenerationId;
use crate::root::{Root, RootError};
use crate::state::pinned::{self, Pinned};
use crate::state::{self, LoadedState, State};
use crate::update::downloaded;
use crate::update::error::{Refusal, UpdateError};

/// Everything that is recorded of a tree.
#[derive(Debug)]
pub struct Status {
    /// Whether a transaction was interrupted, so that the next run has to complete it.
    pub interrupted: bool,
    /// The recorded state.
    pub state: LoadedState,
    /// Generation that a rollback left.
    pub pinned: Option<Pinned>,
    /// Undo set that `--rollback` would restore.
    pub undo: Option<UndoSummary>,
    /// Downloaded update that `--from-downloaded` would install.
    pub downloaded: Option<DownloadSummary>,
    /// Fault of the downloaded update, if it is damaged.
    pub download_fault: Option<DownloadedFault>,
}

/// Target and size of an undo set.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct UndoSummary {
    /// Generation before the last update; `None` if it was not a published one.
    pub generation: Option<GenerationId>,
    /// Serial of its publish.
    pub serial: Option<u64>,
    /// Bytes that its removal would free.
    pub bytes: u64,
}

/// Reads the status of the tree at `root`.
pub fn status(root: &Path) -> Result<Status, UpdateError> {
    let root = Root::open(root).map_err(Untouched::from)?;
    let interrupted = session::is_interrupted(&root).map_err(Untouched::from)?;
    let state = state::load(&root).map_err(Untouched::from)?;
    let pinned = pinned::load(&root).map_err(Untouched::from)?;

    // An interrupted transaction is completed first, and then has another undo set.
    let undo = if interrupted { None } else { find_undo_set(&root, &state)? };
    let (downloaded, download_fault) = match downloaded::summarize(&root) {
        None => (None, None),
        Some(Ok(summary)) => (Some(summary), None),
        Some(Err(fault)) => (None, Some(fault)),
    };
    Ok(Status { interrupted, state, pinned, undo, downloaded, download_fault })
}

/// Summarizes the undo set, if it belongs to the tree as recorded.
fn find_undo_set(root: &Root, state: &LoadedState) -> Result<Option<UndoSummary>, UpdateError> {
    let recorded = match state {
        LoadedState::Valid(state) | LoadedState::FromCopy(state) => Some(state.composed_id()),
        LoadedState::Missing | LoadedState::Rejected(_) => None,
    };
    match UndoSet::find(root).map_err(Refusal::UndoSet)? {
        Some(undo) if undo.leads_from(recorded) => {
            Ok(Some(summarize(&undo).map_err(Untouched::from)?))
        }
        _ => Ok(None),
    }
}

fn summarize(undo: &UndoSet) -> Result<UndoSummary, RootError> {
    let (generation, serial) = undo
        .record()?
        .state
        .and_then(|text| State::parse(&text, "the state in the undo set").ok())
        .filter(State::is_published)
        .map(|state| (state.generation, state.serial))
        .unzip();
    Ok(UndoSummary { generation, serial, bytes: undo.bytes()? })
}
