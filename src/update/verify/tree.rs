//! A tree that is verified, and the record of it.

use std::path::Path;

use crate::apply::Untouched;
use crate::apply::session::{self, Session};
use crate::filter::Filter;
use crate::image::ImageName;
use crate::manifest::Manifest;
use crate::report::Monitor;
use crate::root::{Root, Stat};
use crate::state::{self, LoadedState, Lock, OverrideRecord, STATE_FILE, State, StateError};
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::notice::UpdateNotice;
use crate::update::request::Excludes;
use crate::update::source::excludes::{RecordedRules, find_hidden_edit};
use crate::update::source::overrides;

/// An open tree that no run changes, as far as can be seen without a lock.
pub(super) struct OpenTree {
    pub session: Session,
    /// Stat of the recorded state: each run that changes the tree replaces the file.
    state: Option<Stat>,
}

/// State and manifest that are recorded of a tree.
pub(super) struct RecordedTree {
    pub state: State,
    /// Manifest of the image's generation; `None` if it is lost.
    pub image: Option<Manifest>,
    /// The image with its overrides.
    pub composed: Option<Manifest>,
}

impl OpenTree {
    /// Opens a tree unless another run works on it, or an interrupted update is pending.
    pub fn open(path: &Path) -> Result<Self, UpdateError> {
        let session = Session::look(path)?;
        check_quiet(&session.root)?;
        let state = stat_of_state(&session.root)?;
        Ok(OpenTree { session, state })
    }

    /// Fails if a run has changed the tree since it was opened, or works on it.
    pub fn check_unchanged(&self) -> Result<(), UpdateError> {
        let root = &self.session.root;
        check_quiet(root)?;
        if stat_of_state(root)? == self.state {
            return Ok(());
        }
        Err(StateError::Locked { root: root.location().display().to_string() }.into())
    }
}

impl RecordedTree {
    /// Loads the record; `None` if there is none for this tree. Warns of one that cannot be used.
    pub fn load_or_warn(
        session: &Session,
        monitor: &dyn Monitor,
    ) -> Result<Option<Self>, UpdateError> {
        if let LoadedState::Rejected(error) = state::load(&session.root).map_err(Untouched::from)? {
            monitor.warn(UpdateNotice::StateIgnored(error));
            return Ok(None);
        }
        RecordedTree::load(session)
    }

    /// Loads the record; `None` if there is none for this tree.
    pub fn load(session: &Session) -> Result<Option<Self>, UpdateError> {
        let root = &session.root;
        let state = match state::load(root).map_err(Untouched::from)? {
            LoadedState::Valid(state) | LoadedState::FromCopy(state) => *state,
            LoadedState::Missing | LoadedState::Rejected(_) => return Ok(None),
        };
        let image = state::load_manifest(root, state.generation).map_err(Untouched::from)?;
        let composed =
            image.as_ref().map(|image| overrides::compose_recorded(image.clone(), &state));
        Ok(Some(RecordedTree { state, image, composed }))
    }

    /// The exclude file, if it was edited and its edited rules exclude it.
    pub fn find_hidden_edit<'e>(
        &self,
        excludes: &'e Excludes,
        filter: &Filter,
    ) -> Option<&'e TreePath> {
        let recorded =
            RecordedRules { filter: &self.state.filter, deviations: &self.state.deviations };
        let entry = self.composed.as_ref()?.get(excludes.path.as_ref()?);
        find_hidden_edit(excludes, filter, entry, &recorded)
    }

    /// The record of an override.
    pub fn override_record(&self, name: &ImageName) -> Option<&OverrideRecord> {
        self.state.overrides.iter().find(|record| record.name == *name)
    }

    pub fn override_names(&self) -> Vec<ImageName> {
        self.state.overrides.iter().map(|record| record.name.clone()).collect()
    }
}

/// Fails if a run holds the lock of the tree, or was interrupted.
fn check_quiet(root: &Root) -> Result<(), UpdateError> {
    let shown = root.location().display().to_string();
    if Lock::is_held(root)? {
        return Err(StateError::Locked { root: shown }.into());
    }
    if session::is_interrupted(root).map_err(Untouched::from)? {
        return Err(UpdateError::NotVerifiable { root: shown });
    }
    Ok(())
}

fn stat_of_state(root: &Root) -> Result<Option<Stat>, UpdateError> {
    Ok(root.stat(&state::file_path(STATE_FILE)).map_err(Untouched::from)?)
}
