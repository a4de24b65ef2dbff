//! The switch to a downloaded update, without a network.

use std::sync::Arc;

use crate::apply::downloaded::DownloadedUpdate;
use crate::fetch::RepoUrl;
use crate::update::error::{Refusal, UpdateError};
use crate::update::installed::recorded;
use crate::update::report::Report;
use crate::update::request::{NewerHeads, UpdateStep};
use crate::update::run::Run;
use crate::update::source::newer_heads;
use crate::update::source::stored::{StoredLayers, StoredSource};
use crate::update::strategy::downloaded::{self, Supply};
use crate::update::strategy::head_update::{Goal, HeadUpdate, StrategyOutcome};
use crate::update::strategy::pinned_head::check_pinned;
use crate::update::strategy::{check_signatures, install_head};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::{PublishRef, UpdateTransaction};

/// Installs the downloaded update of the node, if there is one.
pub(in crate::update) fn install_downloaded(
    run: &Run<'_>,
    repo: &RepoUrl,
) -> Result<Report, UpdateError> {
    let state = recorded::load_state(run)?;
    // Without one, this run has just completed a switch that was interrupted.
    let Some(downloaded) = run.downloaded.clone() else {
        let state = state.ok_or(Refusal::DownloadDropped)?;
        return Ok(Report::from_recorded_state(&state));
    };
    check_signatures(run)?;
    let layers = StoredSource { run, repo, downloaded: &downloaded }.read(state.as_ref())?;
    if run.request.step == UpdateStep::FromDownloaded(NewerHeads::Ask) {
        newer_heads::ask(run, repo, &layers.heads)?;
    }

    install_head(run, |run| install(run, &downloaded, &layers))
}

fn install(
    run: &Run<'_>,
    downloaded: &Arc<DownloadedUpdate>,
    layers: &StoredLayers,
) -> Result<StrategyOutcome, UpdateError> {
    let StoredLayers { image, overrides, .. } = layers;
    let state = recorded::load_state(run)?;
    check_pinned(run, &image.catalog, overrides, state.as_ref())?;
    let installed = match &state {
        Some(state) => recorded::read_installed(run, image, state)?,
        None => None,
    };
    let serial = image.catalog.head().serial;
    let update = HeadUpdate {
        transaction: UpdateTransaction {
            run,
            installed: installed.as_ref(),
            overrides,
            published: Some(image),
            publish: Some(PublishRef { serial, seen: Some(&image.seen) }),
        },
        published: image,
        goal: Goal::Head,
    };
    downloaded::run(&update, downloaded, Supply::Node).map_err(TransactionError::into_final)
}
