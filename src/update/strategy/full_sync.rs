//! Full sync: any state of the tree, an empty one included, becomes a published generation.
//!
//! The whole tree is compared by content. A content that is at another path is copied; the others
//! are fetched from the repository by digest. Rsync delivers only contents that the repository does
//! not have, or all that are missing if it cannot be reached.

use std::collections::HashSet;

use crate::apply::plan::{ChangePlan, CheckLevel, StagedItem, UntrackedPolicy};
use crate::apply::stage::live_source::LiveSource;
use crate::apply::stage::shortfall::find_shortfall;
use crate::apply::stage::{Stage, fill};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::Filter;
use crate::full_sync::{
    Comparison, FullSyncError, Module, ReceiveDir, Server, manifest_of_parents,
};
use crate::host::Drift;
use crate::image::Layer;
use crate::plan::FullSyncReason;
use crate::root::Root;
use crate::tree_path::TreePath;
use crate::update::error::{
    NoFullSync, Refusal, RepositoryFailure, UpdateError, UsageError, list_paths,
};
use crate::update::notice::{Route, TransactionNotice};
use crate::update::request::{RsyncScope, SyncMode};
use crate::update::run::Run;
use crate::update::source::overrides;
use crate::update::strategy::fetch_by_digest::{self, fill_missing, list_missing};
use crate::update::strategy::head_update::{HeadUpdate, StrategyOutcome};
use crate::update::strategy::rsync_only::{refuse_displacement, set_directory_times};
use crate::update::transaction::disk_space;
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::target::{Delivery, Target};

/// Largest number of missing files that are named to rsync, which compares each file with each name.
const MAX_NAMED: usize = 500;

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
    target.delivery = Delivery::FullSync;
    if transaction.installed.is_none() {
        // Stale paths cannot be distinguished from untracked ones, so all paths that the image
        // lacks are removed, within the deletion budget.
        target.policy.untracked = UntrackedPolicy::Remove;
    }
    if let SyncMode::Rsync(scope) = &request.mode {
        restrict_target(run, &mut target, scope)?;
    }

    let mut live = transaction.read_live_tree(&target)?;
    let plan = transaction.plan(&target, &live)?;
    live.find_contents(&run.session.root, plan.contents(), &run.filter, run.monitor)?;
    let contents = LiveSource::from_live_tree(&run.session.root, &live, run.monitor);
    if request.dry_run {
        let mut report = transaction.forecast(&target, &plan);
        let shortfall = find_shortfall(&plan, &contents, &[]);
        let forecast = fetch_by_digest::forecast(update, &contents, shortfall, &[]);
        let forecast = forecast.map_err(TransactionError::into_final)?;
        report.by_digest = forecast.by_digest;
        if !forecast.missing.is_empty() && request.rsync.is_none() {
            let reason = lacking(&paths_of(&plan, &forecast.missing));
            report.refusal.get_or_insert_with(|| NoFullSync::NoServer(reason).into());
        }
        return Ok(StrategyOutcome::done(report));
    }
    if let SyncMode::Rsync(scope) = &request.mode {
        refuse_displacement(&plan, scope)?;
        if plan.is_empty() {
            set_directory_times(run, &plan)?;
        }
    }

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

/// Fills a stage from the tree, then from the repository by digest, then by rsync.
fn fill(
    update: &HeadUpdate<'_>,
    stage: &Stage<'_>,
    contents: &LiveSource<'_>,
) -> Result<(), TransactionError> {
    let run = update.run();
    fill::from_live(stage, contents)?;
    let failure = match fill_missing(update, stage, contents) {
        Err(TransactionError::ContentMissing(reason)) => RepositoryFailure::Lacks(reason),
        Err(TransactionError::Failed(error @ UpdateError::Fetch(_))) => {
            RepositoryFailure::Unusable(Box::new(error))
        }
        result => return result,
    };

    let Some(server) = &run.request.rsync else { return Err(failure.without_rsync().into()) };
    let failure = receive_missing(run, stage, server, failure)?;
    let missing = list_missing(stage);
    match failure {
        _ if missing.is_empty() => Ok(()),
        RepositoryFailure::Lacks(_) => Err(NoFullSync::ImageChanged(lacking(&missing)).into()),
        RepositoryFailure::Unusable(error) => Err((*error).into()),
    }
}

/// Receives by rsync the contents that the repository did not supply; returns its failure.
pub(super) fn receive_missing(
    run: &Run<'_>,
    stage: &Stage<'_>,
    server: &Server,
    failure: RepositoryFailure,
) -> Result<RepositoryFailure, TransactionError> {
    run.monitor.warn(TransactionNotice::ReceivingByRsync { failure: &failure });
    disk_space::check_before_receiving(run, stage.missing_contents().values().sum())?;
    let receive_dir = run.create_receive_dir()?;
    match receive(run, server, &receive_dir, &list_missing(stage)) {
        Ok(tree) => take_missing(stage, &tree)?,
        Err(error) => return Err(failure.and_rsync(error, server).into()),
    }
    Ok(failure)
}

/// Receives files of the image by rsync: the missing ones, or all that differ if these are many.
fn receive(
    run: &Run<'_>,
    server: &Server,
    receive_dir: &ReceiveDir,
    missing: &[TreePath],
) -> Result<Root, FullSyncError> {
    let root_of_image = TreePath::root();
    let (directory, rules) = match &run.request.mode {
        _ if missing.len() <= MAX_NAMED => (&root_of_image, Filter::rsync_rules_of_files(missing)),
        SyncMode::Rsync(scope) => (&scope.directory, run.filter.rsync_rules()),
        SyncMode::Diffs(_) | SyncMode::Repair(_) => (&root_of_image, run.filter.rsync_rules()),
    };
    let module = Module {
        server,
        layer: &Layer::Image(run.request.image.clone()),
        directory,
        rules: &rules,
        comparison: Comparison::Checksum,
        times: &run.times,
        deadline: run.rsync_deadline(),
    };
    module.receive(&run.session.root, receive_dir, run.monitor)
}

/// Moves the missing contents from received files into the stage.
fn take_missing(stage: &Stage<'_>, tree: &Root) -> Result<(), TransactionError> {
    for (digest, paths) in stage.missing_paths() {
        for path in paths {
            if stage.move_content(&digest, tree, &path)? {
                break;
            }
        }
    }
    Ok(())
}

/// Lists the paths of a plan that are to hold one of `contents`.
pub(super) fn paths_of(plan: &ChangePlan, contents: &HashSet<Digest>) -> Vec<TreePath> {
    let waits =
        |item: &&StagedItem| item.entry.digest().is_some_and(|digest| contents.contains(digest));
    plan.staged_items.iter().filter(waits).map(|item| item.entry.path.clone()).collect()
}

/// Returns the reason that `paths` are to hold contents that the repository lacks.
pub(super) fn lacking(paths: &[TreePath]) -> FullSyncReason {
    FullSyncReason::ContentMissing(list_paths(paths))
}
