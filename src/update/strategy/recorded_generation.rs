//! Sync to the recorded generation, from a repository whose head is not known to be the newest.
//!
//! A head that has expired, or that is older than one seen, leads to no other generation. But the
//! node has the manifest of its own generation, and takes contents by digest. So the repository may
//! still repair the tree: that needs the signature of a trusted key, and no freshness.

use crate::state::State;
use crate::update::error::{FreshnessError, TrustError, UpdateError};
use crate::update::installed::{Installed, recorded};
use crate::update::notice::UpdateNotice;
use crate::update::report::{Report, UpdateOutcome};
use crate::update::run::Run;
use crate::update::source::overrides::OverrideLayer;
use crate::update::source::published::PublishedImage;
use crate::update::strategy::head_update::{Goal, HeadUpdate, RepairExtent, StrategyOutcome};
use crate::update::strategy::{full_sync, repair};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::{PublishRef, UpdateTransaction};

/// A sync to the recorded generation, instead of one to the head.
pub(super) struct RecordedGeneration<'a> {
    pub run: &'a Run<'a>,
    pub published: &'a PublishedImage,
    /// Reason that the head is refused.
    pub not_fresh: FreshnessError,
    pub extent: RepairExtent,
}

/// Returns the reason that a head of the assignment, the image or an override leads nowhere.
///
/// The assignment is the first: with a head of it that has expired, an image of a mirror that is
/// behind is no success.
pub(super) fn find_not_fresh(
    run: &Run<'_>,
    published: &PublishedImage,
    overrides: &[OverrideLayer],
) -> Option<FreshnessError> {
    let layers = overrides.iter().filter_map(OverrideLayer::published);
    let mut reasons = std::iter::once(published).chain(layers).map(|layer| &layer.not_fresh);
    let of_assignment = run.request.assignment.not_fresh();
    of_assignment.or_else(|| reasons.find_map(Option::as_ref)).cloned()
}

impl RecordedGeneration<'_> {
    /// Compares the tree with its recorded generation, and repairs it.
    ///
    /// A run that has nothing to compare, or finds nothing, ends with the refusal: it has made no
    /// update, and an administrator has to see that.
    pub fn sync(
        &self,
        overrides: Vec<OverrideLayer>,
        state: Option<&State>,
    ) -> Result<StrategyOutcome, UpdateError> {
        let Some(state) = state.filter(|state| self.may_sync_to(state)) else {
            return Err(self.refusal());
        };
        match self.compare_and_repair(overrides, state)? {
            Some(outcome) => Ok(outcome),
            None if self.has_newest_seen(state) => {
                Ok(StrategyOutcome::done(Report::from_recorded_state(state)))
            }
            None => Err(self.refusal()),
        }
    }

    /// Brings the tree back to `state`; `None` if it is as recorded.
    fn compare_and_repair(
        &self,
        mut overrides: Vec<OverrideLayer>,
        state: &State,
    ) -> Result<Option<StrategyOutcome>, UpdateError> {
        for (layer, record) in overrides.iter_mut().zip(&state.overrides) {
            let Some(manifest) = record.manifest() else { return Err(self.refusal()) };
            layer.keep_recorded(manifest, record.catalog.as_ref());
        }
        let Some(installed) = recorded::read_installed(self.run, self.published, state)? else {
            return Err(self.refusal());
        };
        let update = HeadUpdate {
            transaction: UpdateTransaction {
                run: self.run,
                installed: Some(&installed),
                overrides: &overrides,
                published: Some(self.published),
                publish: Some(PublishRef { serial: state.serial, seen: state.catalog.as_ref() }),
            },
            published: self.published,
            goal: Goal::Recorded(self.extent),
        };
        if !repair::has_work(&update, &installed) {
            return Ok(None);
        }

        self.run.monitor.warn(UpdateNotice::NotFresh(&self.not_fresh));
        match repair_or_receive(&update, &installed)? {
            StrategyOutcome::Done(report) if found_nothing(&report) => Ok(None),
            outcome => Ok(Some(outcome)),
        }
    }

    /// Whether the tree was brought up to the newest catalog that this node has seen.
    ///
    /// Then a repository that is older has nothing new, and the run is a success.
    fn has_newest_seen(&self, state: &State) -> bool {
        match &self.not_fresh {
            FreshnessError::StaleImage { newest } => {
                state.catalog.as_ref().is_some_and(|seen| seen.sha256 == Some(*newest))
            }
            _ => false,
        }
    }

    /// Whether the recorded generation can be the target of this run.
    fn may_sync_to(&self, state: &State) -> bool {
        let request = self.run.request;
        let recorded = state.overrides.iter().map(|record| &record.name);
        state.is_published() && recorded.eq(&request.overrides) && !request.adopt_only
    }

    fn refusal(&self) -> UpdateError {
        TrustError::from(self.not_fresh.clone()).into()
    }
}

/// Repairs the tree from the repository; from rsync, if that lacks contents.
fn repair_or_receive(
    update: &HeadUpdate<'_>,
    installed: &Installed,
) -> Result<StrategyOutcome, UpdateError> {
    match repair::run(update, installed) {
        Err(TransactionError::ContentMissing(reason)) => full_sync::run(update, reason),
        result => result.map_err(TransactionError::into_final),
    }
}

/// Whether the tree is as recorded, so that the run has changed nothing and reports nothing.
fn found_nothing(report: &Report) -> bool {
    report.outcome != UpdateOutcome::Updated
        && report.items.is_empty()
        && report.deviations.is_empty()
}
