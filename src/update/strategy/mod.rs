//! Chooses the strategy of an update, and another one if it fails for a reason that allows it.
//!
//! `plan::choose` decides between repair, diffs and full sync. If an archive of the server turns
//! out to be missing or damaged, it is called again without that archive; if a content is nowhere
//! in the repository, a full sync follows. No other failure leads to another strategy: a server
//! that is not trusted must not be given a second chance.

mod chain_archives;
mod diffs;
mod downloaded;
mod fetch_by_digest;
mod full_sync;
mod head_update;
mod pinned_head;
mod recorded_generation;
mod repair;
mod repair_paths;
mod rsync_only;
mod signed_sync;
mod switch;

use std::collections::HashSet;

use crate::apply::Untouched;
use crate::catalog::RepoPath;
use crate::fetch::{FetchErrorKind, RepoUrl};
use crate::host::Check;
use crate::image::Layer;
use crate::plan::{self, FullSyncReason, UpdatePlan};
use crate::state::seen::SeenHeads;
use crate::state::{SeenCatalog, State};
use crate::tree_path::TreePath;
use crate::update::error::{Refusal, TrustError, UnsignedRoute, UpdateError, UsageError};
use crate::update::installed::{adopt, find_installed, recorded};
use crate::update::notice::{Route, TransactionNotice, UpdateNotice};
use crate::update::report::{Report, UpdateOutcome};
use crate::update::request::{Excludes, RepairScope, RsyncScope, UpdateStep};
use crate::update::run::Run;
use crate::update::source::head::{LayerAnswer, LayerRequest};
use crate::update::source::overrides;
use crate::update::source::published::PublishedImage;
use crate::update::source::trust::requires_signature;
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::{PublishRef, UpdateTransaction, download};

use downloaded::Supply;
use head_update::{Goal, HeadUpdate, RepairExtent, StrategyOutcome};
use pinned_head::check_pinned;
use recorded_generation::RecordedGeneration;
use repair_paths::PathRepair;
use signed_sync::SignedSync;

pub(super) use switch::install_downloaded;

/// Updates the tree to the head of the catalog in the repository `repo`.
pub(super) fn run_catalog(run: &Run<'_>, repo: &RepoUrl) -> Result<Report, UpdateError> {
    let request = run.request;
    check_signatures(run)?;
    forget_seen(run)?;
    let state = recorded::load_state(run)?;
    let layer = Layer::Image(request.image.clone());
    let ask = |known| LayerRequest { node: run.requester(), repo, layer: &layer, known }.send();

    // If the tree was brought up to the newest catalog, the run ends here.
    let unchanged_state = match &state {
        Some(state) if may_end_unmodified(run, repo, state)? => Some(state),
        _ => None,
    };
    let known = unchanged_state.and_then(|state| state.catalog.as_ref()?.sha256);
    let mut answer = ask(known)?;
    if let (LayerAnswer::Stale, Some(state)) = (&answer, unchanged_state) {
        return Ok(Report::from_recorded_state(state));
    }
    if let (LayerAnswer::Unchanged, Some(state)) = (&answer, unchanged_state) {
        if are_overrides_unmodified(run, repo, state)? {
            let result = Ok(Report::from_recorded_state(state));
            tidy_spool(run, &result);
            return result;
        }
        answer = ask(None)?;
    }
    let published = match answer {
        LayerAnswer::Published(published) => published,
        LayerAnswer::NotPublished => {
            let (image, repository) = (request.image.clone(), repo.to_string());
            return Err(UpdateError::UnknownImage { image, repository });
        }
        LayerAnswer::Unchanged | LayerAnswer::Stale => {
            return Err(TrustError::UnexpectedNotModified.into());
        }
    };

    let result = verify_same_head(&published, state.as_ref()).and_then(|()| {
        install_head(run, |run| try_strategies(run, repo, &published, state.as_ref()))
    });
    tidy_spool(run, &result);
    result
}

/// Syncs the tree, or one directory of it, without diffs.
///
/// On a node that requires signatures the newest signed generation is the target, otherwise the
/// image that the rsync daemon has.
pub(super) fn run_sync(run: &Run<'_>, scope: &RsyncScope) -> Result<Report, UpdateError> {
    if !check_signatures(run)? {
        return rsync_only::run_rsync(run, scope);
    }
    let Some(repo) = &scope.repo else {
        return Err(TrustError::UnsignedRoute(UnsignedRoute::NoRepository).into());
    };
    forget_seen(run)?;
    let state = recorded::load_state(run)?;
    let published = signed_sync::ask(run, repo)?;

    let state = state.as_ref();
    let sync = SignedSync { scope, repo, published: &published, state };
    let result = install_head(run, |run| sync.run(run));
    tidy_spool(run, &result);
    result
}

/// Repairs the tree, or some of its paths, to the recorded generation.
pub(super) fn run_repair(run: &Run<'_>, scope: &RepairScope) -> Result<Report, UpdateError> {
    let Some(state) = recorded::load_state(run)? else {
        let root = run.session.root.show(&TreePath::root());
        return Err(Refusal::NothingToVerify { root }.into());
    };
    let repair = PathRepair::new(scope, &state);
    let result = install_head(run, |run| repair.run(run));
    tidy_spool(run, &result);
    result
}

/// Whether this node requires signatures; if not, the run says so.
fn check_signatures(run: &Run<'_>) -> Result<bool, UpdateError> {
    let is_required = requires_signature(&run.session.root, &run.request.trust)?;
    if !is_required {
        run.monitor.note(UpdateNotice::NoPublicKey);
    }
    Ok(is_required)
}

/// Removes the records of seen heads, if the request says so.
fn forget_seen(run: &Run<'_>) -> Result<(), UpdateError> {
    if run.request.forget_seen && !run.request.dry_run {
        SeenHeads::forget(&run.session.root).map_err(Untouched::from_root)?;
        run.monitor.warn(UpdateNotice::SeenForgotten);
    }
    Ok(())
}

/// Verifies the manifest of a head that the node already has, if the serial has grown.
///
/// No other file of the repository is read then, and the serial would be recorded although nothing
/// shows that the repository has the files of this catalog.
fn verify_same_head(published: &PublishedImage, state: Option<&State>) -> Result<(), UpdateError> {
    let head = published.catalog.head();
    let seen = state.and_then(|state| state.catalog.as_ref());
    match state.zip(seen) {
        Some((state, seen))
            if state.generation == head.generation
                && published.catalog.serial > seen.serial
                && published.not_fresh.is_none() =>
        {
            published.manifest(head).map(drop)
        }
        _ => Ok(()),
    }
}

/// Checks if an unchanged catalog means that the run has nothing to do.
fn may_end_unmodified(run: &Run<'_>, repo: &RepoUrl, state: &State) -> Result<bool, UpdateError> {
    let request = run.request;
    let is_from_repo =
        |seen: Option<&SeenCatalog>| seen.is_some_and(|seen| seen.repo == repo.to_string());

    // Under an expired assignment, a run that has nothing to repair is refused.
    let has_own_work = request.assignment.not_fresh().is_some()
        || matches!(request.check, Check::Stat | Check::Content)
        || request.adopt_only
        || request.purge_untracked
        || !state.left_out.is_empty()
        || run.has_rebooted_since(state.kernel.as_ref());
    // An unpublished override has no catalog: it has to be received to be compared.
    let has_same_overrides =
        state.overrides.iter().map(|record| &record.name).eq(&request.overrides)
            && state.overrides.iter().all(|record| is_from_repo(record.catalog.as_ref()));

    Ok(is_from_repo(state.catalog.as_ref())
        && has_same_overrides
        && !has_own_work
        && run.matches_state(state)?)
}

/// Checks if the catalogs of all recorded overrides are unchanged.
fn are_overrides_unmodified(
    run: &Run<'_>,
    repo: &RepoUrl,
    state: &State,
) -> Result<bool, UpdateError> {
    for record in &state.overrides {
        let layer = Layer::Override(record.name.clone());
        let known = record.catalog.as_ref().and_then(|seen| seen.sha256);
        let request = LayerRequest { node: run.requester(), repo, layer: &layer, known };
        match request.send()? {
            LayerAnswer::Unchanged | LayerAnswer::Stale => {}
            LayerAnswer::NotPublished | LayerAnswer::Published(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// Installs the head of a checked catalog, under the exclude rules that the target has.
///
/// `install` is repeated if the target has other rules than those of `run`.
fn install_head(
    run: &Run<'_>,
    install: impl Fn(&Run<'_>) -> Result<StrategyOutcome, UpdateError>,
) -> Result<Report, UpdateError> {
    let rules = match install(run)? {
        StrategyOutcome::Done(report) => return Ok(*report),
        StrategyOutcome::OtherExcludes(rules) => rules,
    };

    let excludes = match &run.excludes.path {
        Some(path) => Excludes::from_image(path, rules),
        None => Excludes { rules, ..run.excludes.clone() },
    };
    let name = &excludes.name;
    run.monitor.note(UpdateNotice::ExcludesOfImage { name });
    match install(&run.with_excludes(&excludes)?)? {
        StrategyOutcome::Done(report) => Ok(*report),
        StrategyOutcome::OtherExcludes(_) => {
            Err(UsageError::UnstableExcludes { name: name.clone() }.into())
        }
    }
}

/// Tries strategies in the order of `plan::choose` until one succeeds or fails for good.
fn try_strategies(
    run: &Run<'_>,
    repo: &RepoUrl,
    published: &PublishedImage,
    state: Option<&State>,
) -> Result<StrategyOutcome, UpdateError> {
    let overrides = overrides::fetch_overrides(run, repo, state)?;
    if let Some(not_fresh) = recorded_generation::find_not_fresh(run, published, &overrides) {
        if run.request.step == UpdateStep::DownloadOnly {
            return Err(TrustError::from(not_fresh).into());
        }
        let extent = RepairExtent::Requested;
        return RecordedGeneration { run, published, not_fresh, extent }.sync(overrides, state);
    }
    check_pinned(run, &published.catalog, &overrides, state)?;
    let installed = find_installed(run, published, &overrides, state)?;
    if run.request.adopt_only {
        let report = adopt::finish_adopt_only(run, installed, &published.seen)?;
        return Ok(StrategyOutcome::done(report));
    }

    let head = published.catalog.head();
    let update = HeadUpdate {
        transaction: UpdateTransaction {
            run,
            installed: installed.as_ref(),
            overrides: &overrides,
            published: Some(published),
            publish: Some(PublishRef { serial: head.serial, seen: Some(&published.seen) }),
        },
        published,
        goal: Goal::Head,
    };
    if let Some(outcome) = try_downloaded(&update)? {
        return Ok(outcome);
    }
    let mut unusable: HashSet<RepoPath> = HashSet::new();
    loop {
        let error = match try_once(&update, &unusable) {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        match error {
            TransactionError::ContentMissing(reason) => return full_sync::run(&update, reason),
            TransactionError::ArchiveUnusable { name, fault } => {
                let archives = &published.catalog.archives;
                let file = archives
                    .iter()
                    .map(|archive| &archive.file.file)
                    .find(|file| file.as_str() == name && !unusable.contains(*file));
                // Archives of overrides are in another catalog, and have no replacement.
                let Some(file) = file else {
                    return Err(TransactionError::ArchiveUnusable { name, fault }.into_final());
                };
                run.monitor.warn(TransactionNotice::ArchiveUnusable { name: &name, fault: &fault });
                unusable.insert(file.clone());
            }
            TransactionError::Failed(error) => return Err(error),
        }
    }
}

/// Uses the downloaded update, if it leads to the head; `None` if another strategy has to be tried.
fn try_downloaded(update: &HeadUpdate<'_>) -> Result<Option<StrategyOutcome>, UpdateError> {
    let (run, installed) = (update.run(), update.transaction.installed);
    let Some(found) = &run.downloaded else { return Ok(None) };
    if !downloaded::leads_to_head(update, found) {
        return Ok(None);
    }
    if run.request.step == UpdateStep::DownloadOnly && downloaded::is_current(update, found)? {
        let summary = match run.request.dry_run {
            true => found.record.summary(),
            false => download::renew(&update.transaction, found)?.summary(),
        };
        let report = Report {
            generation: Some(summary.generation),
            serial: Some(summary.serial),
            bytes: summary.bytes,
            ..Report::new(UpdateOutcome::Downloaded, Route::Downloaded(summary).to_string())
        };
        return Ok(Some(StrategyOutcome::done(report)));
    }
    if installed.is_none_or(|installed| !installed.is_listed() || installed.is_adopted()) {
        return Ok(None);
    }
    match downloaded::run(update, found, Supply::Repository) {
        Ok(outcome) => Ok(Some(outcome)),
        // The repository lacks a content that was downloaded before: it may have the diff.
        Err(TransactionError::ContentMissing(_) | TransactionError::ArchiveUnusable { .. }) => {
            Ok(None)
        }
        Err(TransactionError::Failed(error)) => Err(error),
    }
}

/// Runs the strategy that `plan::choose` names, without the archives in `unusable`.
fn try_once(
    update: &HeadUpdate<'_>,
    unusable: &HashSet<RepoPath>,
) -> Result<StrategyOutcome, TransactionError> {
    let installed = update.transaction.installed;
    let base = installed.filter(|installed| installed.is_listed());
    let base = base.map(|installed| installed.manifest.id());

    let plan = plan::choose(base, &update.published.catalog, unusable);
    let reason = match (plan, installed) {
        (UpdatePlan::Nothing, Some(installed)) => return repair::run(update, installed),
        (UpdatePlan::Diffs(chain), Some(installed)) => {
            return diffs::run(update, installed, &chain);
        }
        // `choose` accepts listed generations only.
        (UpdatePlan::Full(FullSyncReason::NotRecorded), Some(installed)) => {
            FullSyncReason::UnknownGeneration(installed.manifest.id())
        }
        (UpdatePlan::Full(reason), _) => reason,
        (UpdatePlan::Nothing | UpdatePlan::Diffs(_), None) => FullSyncReason::NotRecorded,
    };
    Ok(full_sync::run(update, reason)?)
}

/// Empties the spool after a success, or if the disk is full; otherwise downloads can be resumed.
fn tidy_spool(run: &Run<'_>, result: &Result<Report, UpdateError>) {
    let is_useless = match result {
        Ok(_) | Err(UpdateError::DiskSpace(_)) => true,
        Err(UpdateError::Node(error)) => matches!(error, Untouched::DiskSpace { .. }),
        Err(UpdateError::Fetch(error)) => error.kind == FetchErrorKind::DiskSpace,
        Err(_) => false,
    };
    // A spool that cannot be opened was reported by the download that needed it.
    if is_useless
        && let Ok(Some(spool)) = run.open_spool()
        && let Err(error) = spool.tidy(&[])
    {
        run.monitor.warn(TransactionNotice::SpoolKept(error));
    }
}
