//! Update from a downloaded update: its contents are on this node, so that nothing is rebuilt.
//!
//! The tree is compared again. Contents of paths that have drifted since the download are not in
//! it: they come from the tree, or from the repository if the run may ask that.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use crate::apply::Untouched;
use crate::apply::downloaded::{DownloadedUpdate, RecordedCheck};
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::{ChangePlan, CheckLevel, ContentSource, UntrackedPolicy};
use crate::apply::stage::fill;
use crate::apply::stage::live_source::LiveSource;
use crate::apply::stage::shortfall::find_shortfall;
use crate::digest::Digest;
use crate::host::Drift;
use crate::tree_path::TreePath;
use crate::update::error::{Refusal, UpdateError};
use crate::update::notice::{Route, TransactionNotice};
use crate::update::strategy::fetch_by_digest::{self, fill_missing, list_missing};
use crate::update::strategy::head_update::{HeadUpdate, StrategyOutcome};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::target::Target;

/// Reason of a path that is left out.
const NOT_AT_HAND: &str =
    "left out: it was changed since the download, and its content is not on this node";
/// Most plans of one run. Without one path another one may need a content.
const MAX_PLANS: usize = 4;

/// Source of the contents that the downloaded update does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Supply {
    /// The tree, then the repository.
    Repository,
    /// The tree alone; other paths are left out.
    Node,
}

/// Whether a downloaded update leads from the installed generation to the head of the catalog.
pub(super) fn leads_to_head(update: &HeadUpdate<'_>, downloaded: &DownloadedUpdate) -> bool {
    let head = update.published.catalog.head().generation;
    let overrides = update.transaction.overrides.iter().map(|layer| layer.manifest.id());
    downloaded.record.target == crate::state::composed_id(head, overrides)
}

/// Whether a downloaded update has the catalogs of the run, and all its files.
pub(super) fn is_current(
    update: &HeadUpdate<'_>,
    downloaded: &DownloadedUpdate,
) -> Result<bool, UpdateError> {
    let overrides = update.transaction.overrides;
    let published = overrides.iter().map(|layer| layer.published());
    let layers = std::iter::once(Some(update.published)).chain(published);
    let catalogs = layers.map(|layer| layer.and_then(|layer| layer.seen.sha256));
    let stored = downloaded.record.layers.iter().map(|layer| layer.catalog.map(|file| file.sha256));
    let is_same = catalogs.zip(stored).all(|(catalog, stored)| catalog == stored);
    Ok(is_same && downloaded.is_intact().map_err(Untouched::from)?)
}

/// Installs the downloaded update.
pub(super) fn run(
    update: &HeadUpdate<'_>,
    downloaded: &DownloadedUpdate,
    supply: Supply,
) -> Result<StrategyOutcome, TransactionError> {
    let (run, transaction) = (update.run(), &update.transaction);
    let route = Route::Downloaded(downloaded.record.summary());
    run.monitor.note(TransactionNotice::Strategy(&route));

    let mut target = transaction.target(update.image_manifest()?, route)?;
    if let Some(rules) = update.find_other_excludes(&target)? {
        return Ok(StrategyOutcome::OtherExcludes(rules));
    }
    if downloaded.record.check == RecordedCheck::Content {
        target.policy.check_level = CheckLevel::Content;
        target.policy.drift = Drift::Repair;
    }
    if transaction.installed.is_none() {
        // As in a full sync: stale paths cannot be distinguished from untracked ones.
        target.policy.untracked = UntrackedPolicy::Remove;
    }

    let live = transaction.read_live_tree(&target)?;
    let by_content = target.policy.check_level == CheckLevel::Content;
    let contents = if by_content {
        LiveSource::from_live_tree(&run.session.root, &live, run.monitor)
    } else {
        update.recorded_contents()
    };
    let plan = match supply {
        Supply::Repository => transaction.plan(&target, &live)?,
        Supply::Node => plan_at_hand(update, downloaded, (&mut target, &live), &contents)?,
    };
    if run.request.dry_run {
        let mut report = transaction.forecast(&target, &plan);
        if supply == Supply::Repository {
            // A file that was edited since supplies nothing.
            let contents = if by_content { contents } else { update.contents_as_recorded() };
            let shortfall = find_shortfall(&plan, &contents, &[]);
            let forecast = fetch_by_digest::forecast(update, &contents, shortfall, &[])?;
            report.by_digest = forecast.by_digest;
        }
        return Ok(StrategyOutcome::done(report));
    }

    let report = transaction.execute(&target, &plan, |stage| {
        fill::from_live(stage, &contents)?;
        if supply == Supply::Repository {
            return fill_missing(update, stage, &contents);
        }
        match list_missing(stage).as_slice() {
            [] => Ok(()),
            // Another program has changed the tree since it was compared.
            paths => Err(Refusal::ChangedDuringSwitch { paths: paths.to_vec() }.into()),
        }
    })?;
    Ok(StrategyOutcome::done(report))
}

/// Plans without the paths whose contents are not on this node.
fn plan_at_hand(
    update: &HeadUpdate<'_>,
    downloaded: &DownloadedUpdate,
    (target, live): (&mut Target, &LiveTree),
    contents: &LiveSource<'_>,
) -> Result<ChangePlan, TransactionError> {
    for _ in 0..MAX_PLANS {
        let plan = update.transaction.plan(target, live)?;
        let missing = find_missing(update, downloaded, &plan, contents)?;
        if missing.is_empty() {
            return Ok(plan);
        }
        target.refused.extend(missing);
    }
    let paths: Vec<TreePath> = target.refused.keys().cloned().collect();
    Err(Refusal::DownloadDamaged { paths }.into())
}

/// Lists the paths whose contents are not on this node.
///
/// A content that the download has listed and that is damaged by now is no drift: the whole update
/// is refused then.
fn find_missing(
    update: &HeadUpdate<'_>,
    downloaded: &DownloadedUpdate,
    plan: &ChangePlan,
    contents: &LiveSource<'_>,
) -> Result<BTreeMap<TreePath, String>, UpdateError> {
    let monitor = update.run().monitor;
    let wanted: BTreeMap<Digest, u64> = plan
        .staged_items
        .iter()
        .filter_map(|item| match item.source {
            ContentSource::Content { digest, size } => Some((digest, size)),
            _ => None,
        })
        .collect();
    let missing: Vec<Digest> = wanted
        .into_par_iter()
        .map(|(digest, size)| {
            let is_at_hand = downloaded.is_usable(&digest, monitor).map_err(Untouched::from)?
                || contents.has_verified(&digest, size);
            Ok((!is_at_hand).then_some(digest))
        })
        .collect::<Result<Vec<_>, Untouched>>()?
        .into_iter()
        .flatten()
        .collect();

    let missing: HashSet<Digest> = missing.into_iter().collect();
    // Without the first path of a hard-link group, the next one would need the content.
    let items = plan.staged_items.iter().filter(|item| match item.source {
        ContentSource::Content { digest, .. } => missing.contains(&digest),
        ContentSource::LinkStaged(_) => {
            item.entry.digest().is_some_and(|digest| missing.contains(digest))
        }
        ContentSource::Node | ContentSource::LinkLive { .. } => false,
    });
    let paths: Vec<TreePath> = items.map(|item| item.entry.path.clone()).collect();
    if missing.iter().any(|digest| downloaded.has(digest)) {
        return Err(Refusal::DownloadDamaged { paths }.into());
    }
    Ok(paths.into_iter().map(|path| (path, NOT_AT_HAND.to_owned())).collect())
}
