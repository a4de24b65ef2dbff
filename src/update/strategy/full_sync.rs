//! Full sync: the whole tree is compared by content, and rsync delivers the files that differ.

use crate::apply::plan::{CheckLevel, UntrackedPolicy};
use crate::apply::stage::Stage;
use crate::apply::stage::fill;
use crate::apply::stage::live_source::LiveSource;
use crate::entry::{Entry, EntryKind};
use crate::full_sync::{Comparison, FullSyncError, Module, Server, manifest_of_parents};
use crate::host::Drift;
use crate::image::Layer;
use crate::plan::FullSyncReason;
use crate::tree_path::TreePath;
use crate::update::error::{NoFullSync, Refusal, UpdateError, UsageError};
use crate::update::notice::{Route, TransactionNotice};
use crate::update::request::{RsyncScope, SyncMode};
use crate::update::run::Run;
use crate::update::source::overrides;
use crate::update::strategy::fetch_by_digest::{fill_missing, list_missing};
use crate::update::strategy::head_update::{HeadUpdate, StrategyOutcome};
use crate::update::strategy::rsync_only::{refuse_displacement, set_directory_times};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::target::{Delivery, Target};

/// Updates the tree to the head, or to its recorded generation, without diffs.
pub(super) fn run(
    update: &HeadUpdate<'_>,
    reason: FullSyncReason,
) -> Result<StrategyOutcome, UpdateError> {
    if !update.run().request.fallback {
        // The error gives the reason.
        return Err(NoFullSync::Forbidden(reason).into());
    }
    sync(update, Route::FullSync(reason))
}

/// Makes the tree, or the directory of the request, equal to the head.
pub(super) fn sync(update: &HeadUpdate<'_>, route: Route) -> Result<StrategyOutcome, UpdateError> {
    let (run, transaction) = (update.run(), &update.transaction);
    let request = run.request;
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
    if let SyncMode::Rsync(scope) = &request.mode {
        restrict_target(run, &mut target, scope)?;
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
    if let SyncMode::Rsync(scope) = &request.mode {
        refuse_displacement(&plan, scope)?;
        if plan.is_empty() {
            set_directory_times(run, &plan)?;
        }
    }

    let contents = LiveSource::from_live_tree(&run.session.root, &live, run.monitor);
    let report = transaction
        .execute(&target, &plan, |stage| fill(update, stage, &contents))
        .map_err(TransactionError::into_final)?;
    Ok(StrategyOutcome::done(report))
}

/// Restricts a target to the directory of a scope, and to its permission to remove paths.
fn restrict_target(
    run: &Run<'_>,
    target: &mut Target,
    scope: &RsyncScope,
) -> Result<(), UpdateError> {
    if !scope.delete {
        target.policy.untracked = UntrackedPolicy::Keep;
    }
    if scope.directory.is_root() {
        return Ok(());
    }

    // All paths of a mistyped directory would be stale.
    if !target.tracked.get(&scope.directory).is_some_and(Entry::is_dir) {
        let (directory, image) = (scope.directory.clone(), run.request.image.clone());
        return Err(UsageError::NoDirectoryOfImage { directory, image }.into());
    }
    target.provisions.clear();
    let parents = manifest_of_parents(&run.session.root, &scope.directory);
    if let Some(parents) = parents.map_err(Refusal::Rsync)? {
        // Directories above the requested one keep their metadata.
        target.tracked = overrides::compose(&target.tracked, [&parents])?;
    }
    Ok(())
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
    receive_missing(run, stage, server)?;

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
pub(super) fn receive_missing(
    run: &Run<'_>,
    stage: &Stage<'_>,
    server: &Server,
) -> Result<(), TransactionError> {
    let directory = match &run.request.mode {
        SyncMode::Rsync(scope) => scope.directory.clone(),
        SyncMode::Diffs(_) | SyncMode::Repair(_) => TreePath::root(),
    };
    let module = Module {
        server,
        layer: &Layer::Image(run.request.image.clone()),
        directory: &directory,
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
