//! Repair: the image is at its generation, but deviations or overrides need work.

use crate::apply::plan::{ChangePlan, CheckLevel};
use crate::apply::stage::shortfall::find_shortfall;
use crate::host::{Check, Drift};
use crate::manifest::path_text;
use crate::tree_path::TreePath;
use crate::update::installed::Installed;
use crate::update::notice::{Route, TransactionNotice};
use crate::update::strategy::chain_archives::{fetch_override_chains, fill_from_archives};
use crate::update::strategy::fetch_by_digest;
use crate::update::strategy::head_update::{Goal, HeadUpdate, RepairExtent, StrategyOutcome};
use crate::update::transaction::error::TransactionError;

/// Compares the tree with its generation if that is needed, and installs the differing paths.
pub(super) fn run(
    update: &HeadUpdate<'_>,
    installed: &Installed,
) -> Result<StrategyOutcome, TransactionError> {
    let (run, transaction) = (update.run(), &update.transaction);
    let has_new_overrides = installed.composed_id() != transaction.composed_id(&installed.manifest);
    let route = match update.goal {
        Goal::Recorded(_) => Route::Recorded,
        Goal::Head if has_new_overrides => Route::NewOverrides,
        Goal::Head => Route::Repair,
    };
    let mut target = transaction.target(installed.manifest.clone(), route)?;
    if let Some(rules) = update.find_other_excludes(&target)? {
        return Ok(StrategyOutcome::OtherExcludes(rules));
    }

    // The installation of an adopted tree may have left out excluded directories.
    let needs_provisions = transaction.lacks_provisions(&target)?;
    if !has_new_overrides && !needs_provisions && !has_work(update, installed) {
        let plan = known_deviations(installed, target.kernel_paths.clone());
        return Ok(StrategyOutcome::done(transaction.record_only(&target, &plan)?));
    }
    if has_new_overrides {
        run.monitor.note(TransactionNotice::Strategy(&target.route));
    }

    if update.goal == Goal::Recorded(RepairExtent::Complete) {
        target.policy.check_level = CheckLevel::Content;
        target.policy.drift = Drift::Repair;
    }
    let live = transaction.read_live_tree(&target)?;
    let plan = transaction.plan(&target, &live)?;
    if run.request.dry_run {
        let mut report = transaction.forecast(&target, &plan);
        let live = update.contents_as_recorded();
        let shortfall = find_shortfall(&plan, &live, &[]);
        report.by_digest = fetch_by_digest::forecast(update, &live, shortfall, &[])?.by_digest;
        return Ok(StrategyOutcome::done(report));
    }

    let archives = fetch_override_chains(update)?;
    let report = transaction
        .execute(&target, &plan, |stage| fill_from_archives(update, stage, archives.iter()))?;
    Ok(StrategyOutcome::done(report))
}

/// Checks if the tree has to be compared although the image and its overrides are unchanged.
pub(super) fn has_work(update: &HeadUpdate<'_>, installed: &Installed) -> bool {
    let request = update.run().request;
    let is_check_requested = update.goal == Goal::Recorded(RepairExtent::Complete)
        || matches!(request.check, Check::Stat | Check::Content)
        || request.purge_untracked;

    let differs = !installed.deviating.is_empty() || installed.overruled_record().is_some();
    let repairs_adopted = installed.is_adopted() && request.drift != Drift::Report && differs;

    is_check_requested
        || repairs_adopted
        || !installed.knows_all_deviations()
        || !installed.left_out.is_empty()
        || update.run().has_rebooted_since(installed.kernel.as_ref())
}

/// Returns a plan without changes that has the recorded deviations.
fn known_deviations(installed: &Installed, kernel_paths: Vec<TreePath>) -> ChangePlan {
    let mut plan = ChangePlan { kernel_paths, ..ChangePlan::default() };
    for path in &installed.deviating {
        let reason = installed.deviations.get(&path_text(path)).cloned().unwrap_or_default();
        plan.deviations.insert(path.clone(), reason);
    }
    plan
}
