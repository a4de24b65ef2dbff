//! Overrides of a run: published in a repository, or received by rsync.

use std::collections::BTreeMap;

use crate::fetch::RepoUrl;
use crate::full_sync::{Comparison, Module, ReceiveDir, Received, receive_unpublished};
use crate::image::{ImageName, Layer};
use crate::manifest::Manifest;
use crate::state::{OverrideRecord, SeenCatalog, State};
use crate::tree_path::TreePath;
use crate::update::error::{NoFullSync, Refusal, TrustError, UnsignedRoute, UpdateError};
use crate::update::run::Run;
use crate::update::source::head::{LayerAnswer, LayerRequest};
use crate::update::source::published::PublishedImage;
use crate::update::source::trust::refuse_unsigned;

/// Largest number of entries of an override: all of them are recorded in the node's state.
const MAX_ENTRIES: usize = 100_000;

/// An override that is to be copied over the image.
pub(in crate::update) struct OverrideLayer {
    pub name: ImageName,
    pub manifest: Manifest,
    /// Manifest of the override that the node has recorded.
    pub recorded: Option<Manifest>,
    pub source: LayerSource,
}

/// Source of an override's contents.
pub(in crate::update) enum LayerSource {
    Published(Box<PublishedImage>),
    /// Received under the filter of the run.
    Received(Box<Received>),
    /// Only the record of the node; a repair looks for contents itself.
    Recorded,
    /// Received by the run that has downloaded the update, which has the contents.
    Stored {
        /// Paths whose time their filesystem cannot hold, with the reason.
        unheld_times: BTreeMap<TreePath, String>,
    },
}

impl OverrideLayer {
    /// Returns the record of the override for the state.
    pub fn record(&self) -> OverrideRecord {
        let seen = self.published().map(|published| published.seen.clone());
        OverrideRecord::new(self.name.clone(), &self.manifest, seen)
    }

    /// Makes the recorded manifest the target; contents still come from the same source.
    pub fn keep_recorded(&mut self, manifest: Manifest, seen: Option<&SeenCatalog>) {
        self.manifest = manifest;
        self.recorded = None;
        if let LayerSource::Published(published) = &mut self.source {
            // The newest catalog may be that of another manifest.
            published.seen.sha256 = seen.and_then(|seen| seen.sha256);
        }
    }

    /// Returns the repository of a published override.
    pub fn published(&self) -> Option<&PublishedImage> {
        match &self.source {
            LayerSource::Published(published) => Some(published),
            LayerSource::Received(_) | LayerSource::Recorded | LayerSource::Stored { .. } => None,
        }
    }
}

/// Copies the manifests of overrides over that of an image, in order.
pub(in crate::update) fn compose<'m>(
    image: &Manifest,
    overrides: impl IntoIterator<Item = &'m Manifest>,
) -> Result<Manifest, UpdateError> {
    let mut composed = image.clone();
    for layer in overrides {
        composed = composed.overlaid(layer).map_err(Refusal::Overrides)?;
    }
    Ok(composed)
}

/// Copies the recorded overrides over the recorded image; without them if they do not fit.
pub(in crate::update) fn compose_recorded(image: Manifest, state: &State) -> Manifest {
    let overrides: Vec<Manifest> =
        state.overrides.iter().filter_map(OverrideRecord::manifest).collect();
    compose(&image, &overrides).unwrap_or(image)
}

/// Fetches all overrides of the run; those that are not published are received by rsync.
pub(in crate::update) fn fetch_overrides(
    run: &Run<'_>,
    repo: &RepoUrl,
    state: Option<&State>,
) -> Result<Vec<OverrideLayer>, UpdateError> {
    let mut receive_dir = None;
    let mut layers = Vec::new();
    for name in &run.request.overrides {
        let recorded =
            state.and_then(|state| state.overrides.iter().find(|record| record.name == *name));
        let layer = match fetch_published(run, repo, name, recorded)? {
            Some(layer) => layer,
            None => {
                let receive_dir = match &mut receive_dir {
                    Some(directory) => directory,
                    empty => empty.insert(run.create_receive_dir()?),
                };
                receive_override(run, name, receive_dir, recorded)?
            }
        };

        let entries = layer.manifest.len();
        if entries > MAX_ENTRIES {
            let name = name.clone();
            return Err(Refusal::LargeOverride { name, entries, limit: MAX_ENTRIES }.into());
        }
        layers.push(layer);
    }
    Ok(layers)
}

/// Fetches the catalog and manifest of an override; `None` if it is not published.
fn fetch_published(
    run: &Run<'_>,
    repo: &RepoUrl,
    name: &ImageName,
    record: Option<&OverrideRecord>,
) -> Result<Option<OverrideLayer>, UpdateError> {
    let layer = Layer::Override(name.clone());
    let request = LayerRequest { node: run.requester(), repo, layer: &layer, known: None };
    let published = match request.send()? {
        LayerAnswer::NotPublished => return Ok(None),
        LayerAnswer::Published(published) => published,
        // Without a known catalog there is no answer without a catalog.
        LayerAnswer::Unchanged | LayerAnswer::Stale => {
            return Err(TrustError::UnexpectedNotModified.into());
        }
    };
    let recorded = record.and_then(OverrideRecord::manifest);
    let head = published.catalog.head();
    let manifest = match recorded.as_ref().filter(|recorded| recorded.id() == head.generation) {
        Some(unchanged) => unchanged.clone(),
        None => published.manifest(head)?,
    };

    let source = LayerSource::Published(published);
    Ok(Some(OverrideLayer { name: name.clone(), manifest, recorded, source }))
}

/// Receives an override by rsync into the receive directory.
pub(in crate::update) fn receive_override(
    run: &Run<'_>,
    name: &ImageName,
    receive_dir: &ReceiveDir,
    record: Option<&OverrideRecord>,
) -> Result<OverrideLayer, UpdateError> {
    let Some(server) = &run.request.rsync else {
        return Err(NoFullSync::NoServerForOverride { name: name.clone() }.into());
    };
    let route = UnsignedRoute::Override { name: name.clone() };
    refuse_unsigned(&run.session.root, &run.request.trust, route)?;
    let layer = Layer::Override(name.clone());
    let module = Module {
        server,
        layer: &layer,
        directory: &TreePath::root(),
        rules: &run.filter.rsync_rules(),
        comparison: Comparison::Checksum,
        times: &run.times,
        deadline: run.rsync_deadline(),
    };
    let received = receive_unpublished(&module, &run.session.root, receive_dir, run.monitor)
        .map_err(|error| UpdateError::from_full_sync(error, server))?;

    Ok(OverrideLayer {
        name: name.clone(),
        manifest: received.manifest.clone(),
        recorded: record.and_then(OverrideRecord::manifest),
        source: LayerSource::Received(Box::new(received)),
    })
}
