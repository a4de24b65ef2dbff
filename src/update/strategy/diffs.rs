//! Update by diffs: a chain of archives, applied as one transaction.
//!
//! Only the first frame of each archive is needed to plan. A thread downloads the rest meanwhile,
//! and the stage is filled from the growing files.

use std::thread::{self, ScopedJoinHandle};

use crate::apply::Untouched;
use crate::apply::preflight::disk_space::ExtraSpace;
use crate::apply::stage::Stage;
use crate::apply::stage::fill;
use crate::apply::stage::shortfall::find_shortfall;
use crate::host::{HookPhase, list_hooks};
use crate::plan::Chain;
use crate::update::error::{Refusal, UpdateError};
use crate::update::installed::Installed;
use crate::update::notice::{Route, TransactionNotice};
use crate::update::report::Report;
use crate::update::strategy::chain_archives::{
    ChainArchive, cancel_downloads, count_renamed, download_chain, download_error,
    fetch_override_chains, fill_from_archives, open_chain, report_recompression,
};
use crate::update::strategy::fetch_by_digest;
use crate::update::strategy::head_update::{HeadUpdate, StrategyOutcome};
use crate::update::transaction::disk_space;
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::target::Target;

/// The thread that downloads the chain; its result is the opened chains of the overrides.
type DownloadThread<'scope, 'a> =
    ScopedJoinHandle<'scope, Result<Vec<ChainArchive<'a>>, TransactionError>>;

/// Cancels unfinished downloads on drop, so that a failure need not wait for them.
struct CancelOnDrop<'d, 'a>(&'d [ChainArchive<'a>]);

/// Updates the tree from `installed` to the end of `chain`.
pub(super) fn run(
    update: &HeadUpdate<'_>,
    installed: &Installed,
    chain: &Chain,
) -> Result<StrategyOutcome, TransactionError> {
    let (run, transaction) = (update.run(), &update.transaction);
    let repository = &update.published.repository;
    let route = Route::Diffs { count: chain.diffs().len(), bytes: chain.bytes() };
    run.monitor.note(TransactionNotice::Strategy(&route));

    let (archives, image) = open_chain(repository, chain.diffs().iter(), &installed.manifest)?;
    report_recompression(&archives, run);
    let mut target = transaction.target(image, route)?;
    if let Some(rules) = update.find_other_excludes(&target)? {
        return Ok(StrategyOutcome::OtherExcludes(rules));
    }
    if let Some(installed) = &target.installed {
        target.renamed = count_renamed(installed, &target.tracked, &archives);
    }

    let extra = ExtraSpace {
        download: chain.diffs().iter().map(|archive| repository.missing_bytes(&archive.file)).sum(),
        manifest: update.published.catalog.head().manifest.size,
    };
    let installed = target.installed.as_ref().unwrap_or(&target.tracked);
    let fits = disk_space::check_before_download(run, installed, &target.tracked, &extra);
    if run.request.dry_run {
        let live = transaction.read_live_tree(&target)?;
        let plan = transaction.plan(&target, &live)?;
        let mut report = transaction.forecast(&target, &plan);
        // A file that was edited since supplies nothing, and the targets of its deltas are fetched.
        let live = update.contents_as_recorded();
        let (listings, files): (Vec<_>, Vec<_>) =
            archives.iter().map(ChainArchive::listed_file).unzip();
        let shortfall = find_shortfall(&plan, &live, &listings);
        report.by_digest = fetch_by_digest::forecast(update, &live, shortfall, &files)?.by_digest;
        report.refusal = fits.err().or(report.refusal);
        return Ok(StrategyOutcome::done(report));
    }
    fits?;

    let report = download_and_execute(update, &target, &archives)?;
    Ok(StrategyOutcome::done(report))
}

/// Downloads the chain in one thread while this one plans and stages.
fn download_and_execute(
    update: &HeadUpdate<'_>,
    target: &Target,
    archives: &[ChainArchive<'_>],
) -> Result<Report, TransactionError> {
    let transaction = &update.transaction;
    thread::scope(|scope| {
        scope.spawn(|| transaction.manifest_to_record(target));
        let download = scope.spawn(|| {
            download_chain(archives, update.run().monitor)
                .map_err(|(archive, error)| download_error(archive, error))?;
            fetch_override_chains(update)
        });
        let _cancel = CancelOnDrop(archives);

        let live = transaction.read_live_tree(target)?;
        let plan = transaction.plan(target, &live)?;
        drop(live);

        if may_unpack_while_downloading(update)? {
            return transaction.execute(target, &plan, |stage| {
                fill_while_downloading(update, stage, archives, download)
            });
        }
        let override_archives = wait(download)?;
        transaction.execute(target, &plan, |stage| {
            fill_from_archives(update, stage, archives.iter().chain(&override_archives))
        })
    })
}

/// Checks if the stage may be filled before all archives are complete.
///
/// Pre-update hooks run when everything is downloaded and verified. The chains of overrides are
/// unpacked together with that of the image, since their deltas may need its contents.
fn may_unpack_while_downloading(update: &HeadUpdate<'_>) -> Result<bool, UpdateError> {
    let root = &update.run().session.root;
    let hooks = list_hooks(root, HookPhase::Before).map_err(Untouched::from)?;
    Ok(hooks.is_empty() && update.transaction.overrides.is_empty())
}

/// Fills the stage from growing files; if that fails, once more from the complete ones.
fn fill_while_downloading(
    update: &HeadUpdate<'_>,
    stage: &Stage<'_>,
    archives: &[ChainArchive<'_>],
    download: DownloadThread<'_, '_>,
) -> Result<(), TransactionError> {
    let live = update.recorded_contents();
    fill::from_live(stage, &live)?;
    let inputs: Vec<_> = archives.iter().map(ChainArchive::input).collect();
    let unpacked = fill::from_chain(stage, &live, &inputs, update.run().request.rebuild_jobs);
    if unpacked.as_ref().is_err_and(|error| !error.is_of_source()) {
        return Ok(unpacked?);
    }

    // A failed download is the reason of a failed unpacking, so it is reported first.
    wait(download)?;
    if unpacked.is_err() {
        fill::from_chain(stage, &live, &inputs, update.run().request.rebuild_jobs)?;
    }
    fetch_by_digest::fill_missing(update, stage, &live)
}

/// Waits until the downloads are complete and verified.
fn wait<'a>(download: DownloadThread<'_, 'a>) -> Result<Vec<ChainArchive<'a>>, TransactionError> {
    download.join().map_err(|_panic| Refusal::DownloadThread)?
}

impl Drop for CancelOnDrop<'_, '_> {
    fn drop(&mut self) {
        cancel_downloads(self.0);
    }
}
