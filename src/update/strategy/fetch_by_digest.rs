//! Fetches the contents that neither the tree nor an archive of the chain has, by digest.
//!
//! These are contents of deviating paths and of overrides, and contents whose delta needs a path that
//! the node lacks or has changed. Contents of received overrides are taken from the receive directory.

use std::collections::HashSet;
use std::io;
use std::sync::OnceLock;

use crate::apply::Untouched;
use crate::apply::stage::live_source::LiveSource;
use crate::apply::stage::{Stage, StageError};
use crate::catalog::FileRef;
use crate::digest::Digest;
use crate::manifest::Manifest;
use crate::plan::FullSyncReason;
use crate::root::Root;
use crate::tree_path::TreePath;
use crate::update::error::{UpdateError, list_paths};
use crate::update::notice::TransactionNotice;
use crate::update::report::ByDigest;
use crate::update::run::Run;
use crate::update::source::overrides::LayerSource;
use crate::update::source::published::PublishedImage;
use crate::update::strategy::head_update::HeadUpdate;
use crate::update::transaction::error::TransactionError;

/// Fills all that the stage still needs; fails with the paths if something is nowhere.
pub(super) fn fill_missing(
    update: &HeadUpdate<'_>,
    stage: &Stage<'_>,
    live: &LiveSource<'_>,
) -> Result<(), TransactionError> {
    let run = update.run();
    for layer in update.transaction.overrides {
        match &layer.source {
            LayerSource::Received(received) => {
                take_received(stage, &layer.manifest, &received.tree)?
            }
            // The downloaded update was asked before.
            LayerSource::Stored { .. } => {}
            LayerSource::Published(published) => {
                let wanted = wanted_of(stage, &layer.manifest);
                fetch_wanted(run, stage, live, published, &wanted)?;
            }
            LayerSource::Recorded => {}
        }
    }
    let wanted: Vec<(Digest, u64)> = stage.missing_contents().into_iter().collect();
    fetch_wanted(run, stage, live, update.published, &wanted)?;

    let missing = list_missing(stage);
    if missing.is_empty() {
        return Ok(());
    }
    Err(TransactionError::ContentMissing(FullSyncReason::ContentMissing(list_paths(&missing))))
}

/// Contents that a run would fetch by digest.
pub(super) struct ContentForecast {
    /// `None` if there are none.
    pub by_digest: Option<ByDigest>,
    /// Those that no archive has.
    pub missing: HashSet<Digest>,
}

/// Estimates the transfer of `wanted`, contents that neither the tree nor a chain supplies.
///
/// The `downloaded` files cost nothing, because the run has them before these contents. Contents of
/// a downloaded update of the node are not fetched either.
pub(super) fn forecast(
    update: &HeadUpdate<'_>,
    live: &LiveSource<'_>,
    mut wanted: Vec<(Digest, u64)>,
    downloaded: &[&FileRef],
) -> Result<ContentForecast, TransactionError> {
    let run = update.run();
    if let Some(stored) = &run.downloaded {
        let mut missing = Vec::new();
        for content in wanted {
            if !stored.is_usable(&content.0, run.monitor).map_err(Untouched::from)? {
                missing.push(content);
            }
        }
        wanted = missing;
    }

    let mut by_digest = ByDigest { contents: 0, bytes: 0 };
    let mut missing = HashSet::new();
    let mut add = |published: &PublishedImage, contents: &[(Digest, u64)]| {
        if !contents.is_empty() {
            let estimate = published.estimate_contents(live, contents, downloaded)?;
            by_digest.contents += contents.len() - estimate.missing.len();
            by_digest.bytes += estimate.bytes;
            missing.extend(estimate.missing);
        }
        Ok::<(), UpdateError>(())
    };
    for layer in update.transaction.overrides {
        let named: HashSet<&Digest> =
            layer.manifest.entries().iter().filter_map(|entry| entry.digest()).collect();
        let (own, rest): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|(digest, _)| named.contains(digest));
        wanted = rest;
        if let Some(published) = layer.published() {
            add(published, &own)?;
        }
    }
    add(update.published, &wanted)?;
    let by_digest = (by_digest.contents > 0).then_some(by_digest);
    Ok(ContentForecast { by_digest, missing })
}

/// Moves contents that rsync received into the stage.
pub(super) fn take_received(
    stage: &Stage<'_>,
    manifest: &Manifest,
    tree: &Root,
) -> Result<(), StageError> {
    let wanted = stage.missing_contents();
    for entry in manifest.entries() {
        let Some((_, digest)) = entry.file() else { continue };
        if wanted.contains_key(&digest) && stage.is_missing(&digest) {
            stage.move_content(&digest, tree, &entry.path)?;
        }
    }
    Ok(())
}

/// Returns all paths whose content the stage still needs, in tree order.
pub(super) fn list_missing(stage: &Stage<'_>) -> Vec<TreePath> {
    let mut paths: Vec<TreePath> = stage.missing_paths().into_values().flatten().collect();
    paths.sort_unstable();
    paths
}

/// Returns the needed contents that `manifest` names.
fn wanted_of(stage: &Stage<'_>, manifest: &Manifest) -> Vec<(Digest, u64)> {
    let named: HashSet<Digest> =
        manifest.entries().iter().filter_map(|entry| Some(entry.file()?.1)).collect();
    stage.missing_contents().into_iter().filter(|(digest, _)| named.contains(digest)).collect()
}

/// Fetches `wanted` into the stage, as far as the repository has it.
pub(super) fn fetch_wanted(
    run: &Run<'_>,
    stage: &Stage<'_>,
    live: &LiveSource<'_>,
    published: &PublishedImage,
    wanted: &[(Digest, u64)],
) -> Result<(), TransactionError> {
    if wanted.is_empty() {
        return Ok(());
    }
    run.monitor.note(TransactionNotice::FetchingByDigest { contents: wanted.len() });

    let stage_error = OnceLock::new();
    let fetched = published.fetch_contents(run, live, wanted, &|content| {
        match stage.fill_verified(content) {
            // The store reports a content whose reader found another digest.
            Ok(()) | Err(StageError::WrongContent { .. }) => Ok(()),
            Err(StageError::Unreadable(error)) => Err(error),
            Err(error) => {
                stage_error.get_or_init(|| error);
                Err(io::Error::other("the stage cannot be written"))
            }
        }
    });
    match stage_error.into_inner() {
        Some(error) => Err(error.into()),
        None => Ok(fetched?),
    }
}
