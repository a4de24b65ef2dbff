//! Finds the installed generation: recorded in the state, or adopted in this run.

pub(super) mod adopt;
pub(super) mod recorded;

use std::collections::{BTreeMap, HashSet};

use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::manifest::Manifest;
use crate::state::{KernelPaths, OverrideRecord, State, composed_id};
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::run::Run;
use crate::update::source::overrides::OverrideLayer;
use crate::update::source::published::PublishedImage;

/// The generation that a node has, apart from deviations.
pub(super) struct Installed {
    /// Manifest of the image's generation, with excluded paths.
    pub manifest: Manifest,
    /// Overrides copied over the image, in order.
    pub overrides: Vec<OverrideRecord>,
    /// Manifest of the image together with its overrides.
    pub composed: Manifest,
    /// Tracked paths known not to match.
    pub deviating: HashSet<TreePath>,
    /// The same paths, as manifests write them, with the reason.
    pub deviations: BTreeMap<String, String>,
    /// Digest of the filter under which this was recorded; `None` if it was adopted in this run.
    pub filter: Option<Digest>,
    /// Paths that the last transaction left out.
    pub left_out: HashSet<TreePath>,
    /// Serial of the publish.
    pub serial: u64,
    /// Paths kept for the kernel that ran when the state was recorded.
    pub kernel: Option<KernelPaths>,
    pub origin: Origin,
}

/// How this run found the installed generation.
pub(super) enum Origin {
    /// Recorded, in the catalog, and its manifest is on this node.
    Recorded(RecordScope),
    /// Recorded and in the catalog, but its manifest had to be fetched.
    Refetched(RecordScope),
    /// Recorded, but not in the catalog: no diff can start here.
    Unlisted(RecordScope),
    /// Adopted in this run; nothing was recorded before.
    Adopted,
    /// Adopted in this run, although another generation was recorded.
    AdoptedInstead {
        /// Composed manifest of the record. Paths that only it names are stale, not the node's own.
        recorded: Manifest,
    },
}

/// Tree and filter for which a state was recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordScope {
    /// This tree under this filter: unchanged paths need not be compared.
    Same,
    /// A copy of this tree or another filter: every tracked path has to be compared once.
    Other,
}

impl Installed {
    /// Returns the id of the image with its overrides.
    pub fn composed_id(&self) -> GenerationId {
        composed_id(self.manifest.id(), self.overrides.iter().map(|record| record.generation))
    }

    /// Checks if the catalog lists the generation, so that diffs can start at it.
    pub fn is_listed(&self) -> bool {
        !matches!(self.origin, Origin::Unlisted(_))
    }

    /// Checks if the generation was adopted in this run.
    pub fn is_adopted(&self) -> bool {
        matches!(self.origin, Origin::Adopted | Origin::AdoptedInstead { .. })
    }

    /// Checks if all deviations are known, so that other tracked paths need not be compared.
    pub fn knows_all_deviations(&self) -> bool {
        match self.origin {
            Origin::Recorded(scope) | Origin::Refetched(scope) | Origin::Unlisted(scope) => {
                scope == RecordScope::Same
            }
            Origin::Adopted | Origin::AdoptedInstead { .. } => true,
        }
    }

    /// Checks if the manifest is stored on this node.
    pub fn is_manifest_stored(&self) -> bool {
        matches!(self.origin, Origin::Recorded(_) | Origin::Unlisted(_))
    }

    /// Checks if the adoption has to be recorded before the transaction.
    ///
    /// An adopted generation is true until the seal, and a rollback returns to it. A record that
    /// was overruled stays: only the transaction removes its stale paths.
    pub fn needs_record_before_transaction(&self) -> bool {
        matches!(self.origin, Origin::Adopted)
    }

    /// Returns the composed manifest of a record that adoption overruled.
    pub fn overruled_record(&self) -> Option<&Manifest> {
        match &self.origin {
            Origin::AdoptedInstead { recorded } => Some(recorded),
            _ => None,
        }
    }
}

/// Finds the installed generation; `None` if nothing is recorded and no generation is similar.
///
/// A recorded generation that the catalog lists is used as it is. Otherwise the tree is compared
/// with the published generations, and the record is the last resort.
pub(super) fn find_installed(
    run: &Run<'_>,
    published: &PublishedImage,
    overrides: &[OverrideLayer],
    state: Option<&State>,
) -> Result<Option<Installed>, UpdateError> {
    let recorded = match state {
        Some(state) => recorded::read_installed(run, published, state)?,
        None => None,
    };
    if !run.request.adopt_only && recorded.as_ref().is_some_and(Installed::is_listed) {
        return Ok(recorded);
    }

    let Some(mut adopted) = adopt::adopt(run, published, overrides)? else { return Ok(recorded) };
    adopted.kernel = state.and_then(|state| state.kernel.clone());
    adopted.left_out = state.into_iter().flat_map(State::left_out_paths).collect();
    if let Some(recorded) = recorded {
        adopted.origin = Origin::AdoptedInstead { recorded: recorded.composed };
    }
    Ok(Some(adopted))
}
