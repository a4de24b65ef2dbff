//! Says where a path of the tree comes from, by what is recorded; needs no network.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::apply::Untouched;
use crate::apply::session::Session;
use crate::entry::Entry;
use crate::image::ImageName;
use crate::manifest::path_text;
use crate::root::FileKind;
use crate::state::{self, OverrideRecord, State, StoredState};
use crate::tree_path::TreePath;
use crate::update::source::overrides;
use crate::update::{Excludes, UpdateError, filter};

/// What is asked.
#[derive(Clone, Debug)]
pub struct ExplainRequest {
    /// The tree.
    pub root: PathBuf,
    /// The path.
    pub path: TreePath,
    /// What the image does not touch.
    pub excludes: Excludes,
    /// The kinds of mounted filesystem that are updated; `None` for all that can be.
    pub fstypes: Option<Vec<String>>,
}

/// Where a path comes from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Provenance {
    /// The image has it.
    Image {
        /// The image.
        name: ImageName,
        /// Its generation; `None` where it was never published.
        generation: Option<String>,
        /// How the node deviates there.
        #[serde(skip_serializing_if = "Option::is_none")]
        deviates: Option<String>,
    },
    /// An override has it.
    Override {
        /// The override.
        name: ImageName,
        /// How the node deviates there.
        #[serde(skip_serializing_if = "Option::is_none")]
        deviates: Option<String>,
    },
    /// A line of an exclude file leaves it to the node.
    Exclude {
        /// Its pattern.
        pattern: String,
        /// The file.
        file: String,
        /// The line.
        line: usize,
    },
    /// It is the node's, whatever any file says.
    Protected {
        /// Why.
        reason: String,
    },
    /// Only the node has it.
    Local {
        /// Whether anything stands there.
        exists: bool,
    },
}

/// Says where the path comes from.
pub fn why(request: &ExplainRequest) -> Result<Provenance, UpdateError> {
    let session = Session::look(&request.root)?;
    let root = &session.root;
    let filter = filter(&session, request.fstypes.as_deref(), TreePath::root(), &request.excludes)?;
    let state = match state::load(root).map_err(Untouched::from)? {
        StoredState::State(state) | StoredState::Copied(state) => Some(*state),
        StoredState::Nothing | StoredState::SetAside(_) => None,
    };
    let image = match &state {
        Some(state) => state::load_manifest(root, state.generation).map_err(Untouched::from)?,
        None => None,
    };
    let composed =
        state.as_ref().zip(image).map(|(state, image)| overrides::as_recorded(image, state));
    let entry = composed.as_ref().and_then(|composed| composed.get(&request.path));
    let stat = root.stat(&request.path).map_err(Untouched::from)?;
    let is_dir =
        entry.map_or(stat.is_some_and(|stat| stat.kind == FileKind::Directory), Entry::is_dir);
    if let Some(reason) = filter.excludes(&request.path, is_dir) {
        return Ok(match reason.configured() {
            Some((pattern, file, line)) => {
                Provenance::Exclude { pattern, file: file.to_owned(), line }
            }
            None => Provenance::Protected { reason: reason.to_string() },
        });
    }
    if let (Some(state), Some(_)) = (&state, entry) {
        return Ok(owner(state, &request.path));
    }
    if filter.protects(&request.path) {
        let reason =
            "the agent, its configuration and its keys stay though the image lacks them".to_owned();
        return Ok(Provenance::Protected { reason });
    }
    let kernel = state.as_ref().and_then(|state| state.kernel.as_ref());
    if let Some(kernel) = kernel.filter(|kernel| kernel.paths().contains(&request.path)) {
        let reason = format!("the running kernel's ({}) until the next boot", kernel.release);
        return Ok(Provenance::Protected { reason });
    }
    if composed.is_none() {
        let place = root.show(&request.path);
        return Err(Untouched::refused(format!(
            "nothing is recorded of this tree, so nobody can tell whether {place} is the image's or the node's own: update it first"
        ))
        .into());
    }
    Ok(Provenance::Local { exists: stat.is_some() })
}

/// The topmost layer that has `path`, which is not hidden.
fn owner(state: &State, path: &TreePath) -> Provenance {
    let deviates = state.deviations.get(&path_text(path)).cloned();
    let has = |laid: &&OverrideRecord| {
        laid.manifest().is_some_and(|manifest| manifest.get(path).is_some())
    };
    match state.overrides.iter().rev().find(has) {
        Some(laid) => Provenance::Override { name: laid.name.clone(), deviates },
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
                return f.write_str("local (nothing stands there)");
            }
        };
        deviates.as_ref().map_or(Ok(()), |what| write!(f, " (deviates: {what})"))
    }
}
