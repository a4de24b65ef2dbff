//! Full sync: the whole tree is compared by content, and rsync delivers the files that differ.

use crate::apply::plan::{CheckLevel, UntrackedPolicy};
use crate::apply::stage::Stage;
use crate::apply::stage::fill;
use crate::apply::stage::live_source::LiveSource;
use crate::entry::EntryKind;
use crate::full_sync::{Comparison, FullSyncError, Module, Server};
use crate::host::Drift;
use crate::image::Layer;
use crate::plan::FullSyncReason;
use crate::tree_path::TreePath;
use crate::update::error::{NoFullSync, UpdateError};
use crate::update::notice::{Route, TransactionNotice};
use crate::update::strategy::fetch_by_digest::{fill_missing, list_missing};
use crate::update::strategy::head_update::{HeadUpdate, StrategyOutcome};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::target::Delivery;

/// Updates the tree to the head, or to its recorded generation, without diffs.
pub(super) fn run(
    update: &HeadUpdate<'_>,
    reason: FullSyncReason,
) -> Result<StrategyOutcome, UpdateError> {
    let (run, transaction) = (update.run(), &update.transaction);
    let request = run.request;
    let route = Route::FullSync(reason.clone());
    if !request.fallback {
        // The error gives the reason.
        return Err(NoFullSync::Forbidden(reason).into());
    }
    run.monitor.note(TransactionNotice::Strategy(&route));

    let mut target = transaction.target(update.image_manifest()?, route)?;
    if let Some(rules) = update.find_other_excludes(&target)? {
        return Ok(StrategyOutcome::OtherExcludes(rules));
    }
    target.policy.check_level = CheckLevel::Content;
    target.policy.drift = Drift::Repair;
    target.delivery = Delivery::ReceiveDir;
    if transaction.installed.is_none() {
        // Stale paths cannot be distinguished from untracked ones, so all paths that the image
        // lacks are removed, within the deletion budget.
        target.policy.untracked = UntrackedPolicy::Remove;
    }

    let live = transaction.read_live_tree(&target)?;
    let plan = transaction.plan(&target, &live)?;
    if request.dry_run {
        let mut report = transaction.forecast(&target, &plan);
        if plan.bytes() > 0 && request.rsync.is_none() {
            report.refusal.get_or_insert_with(|| NoFullSync::NoServer.into());
        }
        return Ok(StrategyOutcome::done(report));
    }

    let contents = LiveSource::from_live_tree(&run.session.root, &live, run.monitor);
    let report = transaction
        .execute(&target, &plan, |stage| fill(update, stage, &contents))
        .map_err(TransactionError::into_final)?;
    Ok(StrategyOutcome::done(report))
}

/// Fills a stage from the tree, then by rsync, then from the repository by digest.
fn fill(
    update: &HeadUpdate<'_>,
    stage: &Stage<'_>,
    contents: &LiveSource<'_>,
) -> Result<(), TransactionError> {
    let run = update.run();
    fill::from_live(stage, contents)?;
    if stage.missing_contents().is_empty() {
        return Ok(());
    }
    let Some(server) = &run.request.rsync else { return Err(NoFullSync::NoServer.into()) };
    receive(update, stage, server)?;

    // Paths of overrides are in no module of the image, and rsync does not send excluded seed files.
    // So neither says anything about the image.
    let mut changed = list_missing(stage);
    changed.retain(|path| {
        let mut overrides = update.transaction.overrides.iter();
        overrides.all(|layer| layer.manifest.get(path).is_none())
            && run.filter.excludes(path, EntryKind::Other).is_none()
    });
    if !changed.is_empty() {
        run.monitor.warn(TransactionNotice::ImageChangedOnServer { paths: &changed });
    }
    fill_missing(update, stage, contents)
}

/// Receives the image by rsync and moves the needed contents into the stage.
fn receive(
    update: &HeadUpdate<'_>,
    stage: &Stage<'_>,
    server: &Server,
) -> Result<(), TransactionError> {
    let run = update.run();
    let module = Module {
        server,
        layer: &Layer::Image(run.request.image.clone()),
        directory: &TreePath::root(),
        rules: &run.filter.rsync_rules(),
        comparison: Comparison::Checksum,
        times: &run.times,
        deadline: run.rsync_deadline(),
    };
    let tree = module
        .receive(&run.session.root, &run.create_receive_dir()?, run.monitor)
        .map_err(|error| convert_error(error, server))?;

    for digest in stage.missing_contents().into_keys() {
        for path in stage.paths_of(&digest) {
            if stage.move_content(&digest, &tree, &path)? {
                break;
            }
        }
    }
    Ok(())
}

/// Converts an rsync error: a missing service is no failure of a server that should have one.
fn convert_error(error: FullSyncError, server: &Server) -> UpdateError {
    match error {
        FullSyncError::Unavailable(_)
        | FullSyncError::NotInstalled
        | FullSyncError::NotFound(_) => NoFullSync::Unavailable(error).into(),
        error => UpdateError::from_full_sync(error, server),
    }
}
