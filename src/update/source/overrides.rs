//! What is laid over the image: overrides, published or received by rsync.

use crate::apply::Untouched;
use crate::catalog::Catalog;
use crate::fetch::{CatalogAnswer, FetchErrorKind, RepoUrl, Repository};
use crate::full_sync::{Comparison, Module, ReceiveDir, Received};
use crate::image::{ImageName, Layer};
use crate::manifest::Manifest;
use crate::state::{OverrideRecord, SeenCatalog, State};
use crate::tree_path::TreePath;
use crate::update::source::published::PublishedImage;
use crate::update::{Run, UpdateError};

/// An override with more entries than this is refused: it is recorded whole with the state of the node.
const MAX_ENTRIES: usize = 100_000;

/// An override as it is to be laid over the image.
pub(in crate::update) struct OverrideLayer {
    pub name: ImageName,
    /// What it holds.
    pub manifest: Manifest,
    /// What is recorded of it.
    pub base: Option<Manifest>,
    pub source: LayerSource,
}

/// Where the content of an override comes from.
pub(in crate::update) enum LayerSource {
    /// The repository.
    Published(Box<PublishedImage>),
    /// What rsync brought, under the filter.
    Received(Box<Received>),
}

/// Lays `over` over `image`, in order.
pub(in crate::update) fn composed<'m>(
    image: &Manifest,
    over: impl IntoIterator<Item = &'m Manifest>,
) -> Result<Manifest, UpdateError> {
    over.into_iter().try_fold(image.clone(), |below, over| {
        below.overlaid(over).map_err(|error| {
            Untouched::refused(format!("an override does not fit: {error}")).into()
        })
    })
}

/// What a tree is recorded to be: the image's `manifest` and all that is laid over it.
pub(in crate::update) fn as_recorded(manifest: Manifest, state: &State) -> Manifest {
    let over: Vec<Manifest> = state.overrides.iter().filter_map(OverrideRecord::manifest).collect();
    composed(&manifest, &over).unwrap_or(manifest)
}

impl OverrideLayer {
    /// As it is recorded.
    pub fn record(&self) -> OverrideRecord {
        let catalog = match &self.source {
            LayerSource::Published(published) => Some(published.seen.clone()),
            LayerSource::Received(_) => None,
        };
        OverrideRecord::new(self.name.clone(), &self.manifest, catalog)
    }
}

impl Run<'_> {
    /// The overrides of a run from the repository at `repo`, each published or else brought by rsync.
    pub(in crate::update) fn layers(
        &self,
        repo: &RepoUrl,
        state: Option<&State>,
    ) -> Result<Vec<OverrideLayer>, UpdateError> {
        let mut aside = None;
        let mut layers = Vec::new();
        for name in &self.request.overrides {
            let recorded =
                state.and_then(|state| state.overrides.iter().find(|laid| laid.name == *name));
            let laid = match self.published_override(repo, name, recorded)? {
                Some(laid) => laid,
                None => {
                    let aside = match &mut aside {
                        Some(aside) => aside,
                        empty => empty.insert(self.aside()?),
                    };
                    self.received_override(name, aside, recorded)?
                }
            };
            if laid.manifest.len() > MAX_ENTRIES {
                let why = format!(
                    "override {name} has {} entries, and {MAX_ENTRIES} are the most",
                    laid.manifest.len()
                );
                return Err(Untouched::refused(why).into());
            }
            layers.push(laid);
        }
        Ok(layers)
    }

    fn published_override(
        &self,
        repo: &RepoUrl,
        name: &ImageName,
        recorded: Option<&OverrideRecord>,
    ) -> Result<Option<OverrideLayer>, UpdateError> {
        let layer = Layer::Override(name.clone());
        let repository = Repository::open(repo, &layer, &self.request.fetch, self.spool()?)?;
        let (bytes, etag) = match repository.fetch_catalog(None) {
            Ok(CatalogAnswer::Fetched { bytes, etag }) => (bytes, etag),
            Ok(CatalogAnswer::NotModified) => return Ok(None),
            Err(error) if error.kind == FetchErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let catalog =
            Catalog::parse(&bytes, name).map_err(|e| UpdateError::Trust(e.to_string()))?;
        self.check_serial(
            &catalog,
            &format!("override {name}"),
            recorded.and_then(|laid| laid.catalog.as_ref()),
        )?;
        let seen = SeenCatalog { repo: repo.to_string(), serial: catalog.serial, etag };
        let published = PublishedImage { repository, catalog, seen };
        let base = recorded.and_then(OverrideRecord::manifest);
        let head = published.catalog.head();
        let manifest = match base.as_ref().filter(|base| base.id() == head.generation) {
            Some(same) => same.clone(),
            None => published.manifest(head)?,
        };
        Ok(Some(OverrideLayer {
            name: name.clone(),
            manifest,
            base,
            source: LayerSource::Published(Box::new(published)),
        }))
    }

    /// Brings an override that is not published by rsync.
    pub(in crate::update) fn received_override(
        &self,
        name: &ImageName,
        aside: &ReceiveDir,
        recorded: Option<&OverrideRecord>,
    ) -> Result<OverrideLayer, UpdateError> {
        let layer = Layer::Override(name.clone());
        let Some(server) = &self.request.rsync else {
            let why = format!(
                "override {name} is not published, and no rsync server is configured (--server)"
            );
            return Err(UpdateError::NoFullSync(why));
        };
        let module = Module {
            server,
            layer: &layer,
            directory: &TreePath::root(),
            rules: &self.filter.rsync_rules(),
            comparison: Comparison::Checksum,
            deadline: self.deadline(),
        };
        let received = module.receive_whole(&self.session.root, aside, self.monitor);
        let received = received
            .map_err(|error| crate::update::strategy::rsync_only::refused(error, server))?;
        let manifest = received.manifest.clone();
        let base = recorded.and_then(OverrideRecord::manifest);
        Ok(OverrideLayer {
            name: name.clone(),
            manifest,
            base,
            source: LayerSource::Received(Box::new(received)),
        })
    }
}
