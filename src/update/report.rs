//! Report of a finished run, or of a dry run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::apply::plan::ItemizedLine;
use crate::generation::GenerationId;
use crate::state::State;
use crate::tree_path::TreePath;
use crate::update::error::{FollowUpError, UpdateError};
use crate::update::notice::Route;

/// Result of a run.
#[derive(Debug)]
pub struct Report {
    /// Kind of result.
    pub outcome: UpdateOutcome,
    /// Generation that the node has now, or would have; `None` if it is not a published one.
    pub generation: Option<GenerationId>,
    /// Serial of its publish.
    pub serial: Option<u64>,
    /// Strategy and reason, as a sentence for people.
    pub description: String,
    /// One line for each changed path.
    pub items: Vec<ItemizedLine>,
    /// Bytes of new content.
    pub bytes: u64,
    /// In a dry run: contents that no archive of the chain supplies.
    pub by_digest: Option<ByDigest>,
    /// Time from the first rename to the last, in which the tree was mixed.
    pub switch_time: Option<Duration>,
    /// Deviations that were repaired, with the reason.
    pub repaired: BTreeMap<TreePath, String>,
    /// Deviations that remain, with the reason.
    pub deviations: BTreeMap<String, String>,
    /// Paths that this run left out, or an earlier one; they are deviations too.
    pub left_out: BTreeSet<String>,
    /// Number of deviations that are kernel paths and end with the next boot.
    pub kernel_deviations: usize,
    /// Displaced paths.
    pub displaced: Vec<TreePath>,
    /// Number of untracked paths; `None` if they were not counted.
    pub untracked: Option<u64>,
    /// In a dry run: the error with which the run itself would end.
    pub refusal: Option<UpdateError>,
    /// Failures after the completed transaction.
    pub follow_up_failures: Vec<FollowUpError>,
}

/// Contents that a run would fetch by digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByDigest {
    /// Number of contents.
    pub contents: usize,
    /// Estimate of the bytes to transfer.
    pub bytes: u64,
}

/// Kind of a run's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// Nothing had to be changed.
    UpToDate,
    /// The tree was changed.
    Updated,
    /// A dry run found changes.
    WouldUpdate,
    /// The tree was adopted, and nothing else was done.
    Adopted,
    /// The contents of the update are on this node, and the tree was not changed.
    Downloaded,
}

impl Report {
    /// Report without any change.
    pub(super) fn new(outcome: UpdateOutcome, description: String) -> Self {
        Report {
            outcome,
            generation: None,
            serial: None,
            description,
            items: Vec::new(),
            bytes: 0,
            by_digest: None,
            switch_time: None,
            repaired: BTreeMap::new(),
            deviations: BTreeMap::new(),
            left_out: BTreeSet::new(),
            kernel_deviations: 0,
            displaced: Vec::new(),
            untracked: None,
            refusal: None,
            follow_up_failures: Vec::new(),
        }
    }

    /// Report of a dry run that knows nothing except the changed paths.
    pub(super) fn from_forecast(items: Vec<ItemizedLine>, description: String) -> Self {
        let outcome =
            if items.is_empty() { UpdateOutcome::UpToDate } else { UpdateOutcome::WouldUpdate };
        let bytes = items.iter().map(|item| item.bytes).sum();
        Report { bytes, items, ..Report::new(outcome, description) }
    }

    /// Adds lines of a further transaction of the same run.
    pub(super) fn add_items(&mut self, items: Vec<ItemizedLine>) {
        self.items.extend(items);
        self.items.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// Takes the deviations from the state that is recorded at the end.
    pub(super) fn set_recorded(&mut self, state: Option<&State>) {
        let kernel_paths =
            state.and_then(|state| Some(state.kernel.as_ref()?.paths())).unwrap_or_default();
        self.kernel_deviations = count_topmost(&kernel_paths);
        self.deviations = state.map(|state| state.deviations.clone()).unwrap_or_default();
        self.left_out = state.map(|state| state.left_out.clone()).unwrap_or_default();
    }

    /// Report of a run that ended because nothing changed on the server.
    pub(super) fn from_recorded_state(state: &State) -> Self {
        let kernel_paths = state.kernel.as_ref().map(|kernel| kernel.paths()).unwrap_or_default();
        Report {
            generation: Some(state.generation),
            serial: Some(state.serial),
            deviations: state.deviations.clone(),
            left_out: state.left_out.clone(),
            kernel_deviations: count_topmost(&kernel_paths),
            untracked: state.untracked,
            ..Report::new(UpdateOutcome::UpToDate, Route::NotModified.to_string())
        }
    }
}

/// Counts the paths that are below no other; `paths` are in tree order.
pub(super) fn count_topmost(paths: &[TreePath]) -> usize {
    let mut topmost: Option<&TreePath> = None;
    let mut count = 0;
    for path in paths {
        if topmost.is_none_or(|above| !path.is_below(above)) {
            topmost = Some(path);
            count += 1;
        }
    }
    count
}
