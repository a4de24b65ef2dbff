//! Explains the provenance of a path from the recorded state; needs no network.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::apply::Untouched;
use crate::apply::session::Session;
use crate::entry::{Entry, EntryKind};
use crate::filter::{ExcludeReason, Filter};
use crate::image::ImageName;
use crate::manifest::{Manifest, path_text};
use crate::state::{self, LoadedState, OverrideRecord, State};
use crate::tree_path::TreePath;
use crate::update::error::{Refusal, UpdateError};
use crate::update::request::Excludes;
use crate::update::run::build_filter;
use crate::update::source::overrides;

/// A path to be explained.
#[derive(Clone, Debug)]
pub struct ExplainRequest {
    /// Top of the tree.
    pub root: PathBuf,
    /// The path.
    pub path: TreePath,
    /// Exclude rules.
    pub excludes: Excludes,
    /// Types of mounted filesystems that are updated; `None` for all that can be.
    pub fstypes: Option<Vec<String>>,
}

/// Provenance of a path.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Provenance {
    /// An entry of the image.
    Image {
        /// Name of the image.
        name: ImageName,
        /// Its generation; `None` if it was never published.
        generation: Option<String>,
        /// Reason of a deviation of the path.
        #[serde(skip_serializing_if = "Option::is_none")]
        deviates: Option<String>,
    },
    /// An entry of an override.
    Override {
        /// Name of the override.
        name: ImageName,
        /// Reason of a deviation of the path.
        #[serde(skip_serializing_if = "Option::is_none")]
        deviates: Option<String>,
    },
    /// Excluded by a line of an exclude file.
    Exclude {
        /// Pattern of the line.
        pattern: String,
        /// Name of the file.
        file: String,
        /// Number of the line.
        line: usize,
    },
    /// Kept by this program, regardless of the configuration.
    Protected {
        /// The reason.
        reason: String,
    },
    /// Untracked: only the node has it.
    Local {
        /// Whether the path exists.
        exists: bool,
    },
}

/// Recorded state with the composed manifest that it names.
struct Recorded {
    state: Option<State>,
    composed: Option<Manifest>,
}

/// Explains the provenance of a path.
pub fn why(request: &ExplainRequest) -> Result<Provenance, UpdateError> {
    let session = Session::look(&request.root)?;
    let root = &session.root;
    let filter = build_filter(&session, request.fstypes.as_deref(), &request.excludes, None)?;
    let recorded = Recorded::load(&session)?;

    let entry = recorded.composed.as_ref().and_then(|composed| composed.get(&request.path));
    let stat = root.stat(&request.path).map_err(Untouched::from)?;
    let kind = entry
        .map(Entry::kind)
        .or_else(|| stat.map(|stat| stat.kind.entry_kind()))
        .unwrap_or(EntryKind::Other);

    if let Some(reason) = filter.excludes(&request.path, kind) {
        return Ok(explain_exclusion(&reason));
    }
    if let (Some(state), Some(_)) = (&recorded.state, entry) {
        return Ok(find_layer(state, &request.path));
    }
    if let Some(reason) = protection(&filter, recorded.state.as_ref(), &request.path) {
        return Ok(Provenance::Protected { reason });
    }
    if recorded.composed.is_none() {
        return Err(Refusal::NothingRecorded { path: root.show(&request.path) }.into());
    }
    Ok(Provenance::Local { exists: stat.is_some() })
}

impl Recorded {
    fn load(session: &Session) -> Result<Self, UpdateError> {
        let root = &session.root;
        let state = match state::load(root).map_err(Untouched::from)? {
            LoadedState::Valid(state) | LoadedState::FromCopy(state) => *state,
            LoadedState::Missing | LoadedState::Rejected(_) => {
                return Ok(Recorded { state: None, composed: None });
            }
        };
        let image = state::load_manifest(root, state.generation).map_err(Untouched::from)?;
        let composed = image.map(|image| overrides::compose_recorded(image, &state));
        Ok(Recorded { state: Some(state), composed })
    }
}

/// Explains a path that is never compared, changed or removed.
fn explain_exclusion(reason: &ExcludeReason<'_>) -> Provenance {
    match reason.configured() {
        Some((pattern, file, line)) => Provenance::Exclude { pattern, file: file.to_owned(), line },
        None => Provenance::Protected { reason: reason.to_string() },
    }
}

/// Returns the reason that a path is kept although no layer has it.
fn protection(filter: &Filter, state: Option<&State>, path: &TreePath) -> Option<String> {
    if filter.protects(path) {
        let reason = "the agent, its configuration and its keys stay even if the image lacks them";
        return Some(reason.to_owned());
    }
    let kernel = state?.kernel.as_ref()?;
    kernel
        .paths()
        .contains(path)
        .then(|| format!("the running kernel's ({}) until the next boot", kernel.release))
}

/// Returns the last layer that has `path`; it hides those below.
fn find_layer(state: &State, path: &TreePath) -> Provenance {
    let deviates = state.deviations.get(&path_text(path)).cloned();
    match state.overrides.iter().rev().find(|record: &&OverrideRecord| {
        record.manifest().is_some_and(|manifest| manifest.get(path).is_some())
    }) {
        Some(record) => Provenance::Override { name: record.name.clone(), deviates },
        None => {
            let generation = state.is_published().then(|| state.generation.to_string());
            Provenance::Image { name: state.image.clone(), generation, deviates }
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deviates = match self {
            Provenance::Image { name, generation, deviates } => {
                write!(f, "image {name} {}", generation.as_deref().unwrap_or("unknown"))?;
                deviates
            }
            Provenance::Override { name, deviates } => {
                write!(f, "override {name}")?;
                deviates
            }
            Provenance::Exclude { pattern, file, line } => {
                return write!(f, "exclude {pattern} {file}:{line}");
            }
            Provenance::Protected { reason } => return write!(f, "protected {reason}"),
            Provenance::Local { exists: true } => return f.write_str("local"),
            Provenance::Local { exists: false } => {
                return f.write_str("local (does not exist)");
            }
        };

        deviates.as_ref().map_or(Ok(()), |reason| write!(f, " (deviates: {reason})"))
    }
}
