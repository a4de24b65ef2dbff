//! Sync without `--diff` on a node that requires signatures.
//!
//! Nothing signs the modules of an rsync daemon. So the target is the newest published generation,
//! with all metadata of its manifest, and rsync is one of the sources of content, each of which is
//! compared by digest. Options of the old client keep their meaning: one directory, no deletion.

use crate::image::Layer;
use crate::state::State;
use crate::update::error::{TrustError, UnsignedRoute, UpdateError};
use crate::update::notice::Route;
use crate::update::request::{RepositorySource, RsyncScope};
use crate::update::run::Run;
use crate::update::source::head::{LayerAnswer, LayerRequest};
use crate::update::source::overrides;
use crate::update::source::published::PublishedImage;
use crate::update::strategy::full_sync;
use crate::update::strategy::head_update::{Goal, HeadUpdate, RepairExtent, StrategyOutcome};
use crate::update::strategy::pinned_head::check_pinned;
use crate::update::strategy::recorded_generation::{RecordedGeneration, find_not_fresh};
use crate::update::transaction::{PublishRef, UpdateTransaction};

/// A sync of the tree, or of one directory of it, to the head of a signed catalog.
pub(super) struct SignedSync<'a> {
    pub scope: &'a RsyncScope,
    pub repo: &'a RepositorySource,
    pub published: &'a PublishedImage,
    pub state: Option<&'a State>,
}

/// Fetches the newest catalog of the image.
pub(super) fn ask(
    run: &Run<'_>,
    repo: &RepositorySource,
) -> Result<Box<PublishedImage>, UpdateError> {
    let layer = Layer::Image(run.request.image.clone());
    let request =
        LayerRequest { node: run.requester(), repo: repo.url(), layer: &layer, known: None };
    match request.send().map_err(|error| repo.explain(error))? {
        LayerAnswer::Published(published) => Ok(published),
        LayerAnswer::NotPublished => {
            let (image, repository) = (run.request.image.clone(), repo.url().to_string());
            Err(TrustError::UnsignedRoute(UnsignedRoute::Image { image, repository }).into())
        }
        // Without a known catalog there is no answer without a catalog.
        LayerAnswer::Unchanged | LayerAnswer::Stale => {
            Err(TrustError::UnexpectedNotModified.into())
        }
    }
}

impl SignedSync<'_> {
    /// Syncs the tree under the exclude rules of `run`.
    pub fn run(&self, run: &Run<'_>) -> Result<StrategyOutcome, UpdateError> {
        let SignedSync { scope, repo, published, state } = *self;
        let is_whole_tree = scope.delete && scope.directory.is_root();
        let overrides = overrides::fetch_overrides(run, repo.url(), state)?;
        if let Some(not_fresh) = find_not_fresh(run, published, &overrides) {
            if !is_whole_tree {
                return Err(TrustError::from(not_fresh).into());
            }
            let extent = RepairExtent::Complete;
            return RecordedGeneration { run, published, not_fresh, extent }.sync(overrides, state);
        }
        check_pinned(run, &published.catalog, &overrides, state)?;

        let publish = PublishRef { serial: published.catalog.serial, seen: Some(&published.seen) };
        let update = HeadUpdate {
            transaction: UpdateTransaction {
                run,
                installed: None,
                overrides: &overrides,
                published: Some(published),
                publish: is_whole_tree.then_some(publish),
            },
            published,
            goal: Goal::Head,
        };
        full_sync::sync(&update, Route::SignedSync)
    }
}
