//! Layers of a downloaded update: verified like those of a repository, without a network.
//!
//! Keys, revocations and the newest heads seen are those of now. The freshness of the heads was
//! judged at the download; after it, only its age is.

use std::sync::Arc;

use jiff::Timestamp;

use crate::apply::Untouched;
use crate::apply::downloaded::{DownloadedUpdate, LayerRecord};
use crate::catalog::{CatalogError, CatalogFault, Head, MAX_CATALOG, MAX_HEAD};
use crate::digest::Digest;
use crate::fetch::{RepoUrl, Repository};
use crate::image::{Layer, LayerKind};
use crate::manifest::parse_path;
use crate::state::seen::{Freshness, SeenHead, SeenHeads};
use crate::state::{OverrideRecord, SeenCatalog, State};
use crate::update::error::{NotNow, Refusal, TrustError, UpdateError};
use crate::update::request::SignedFiles;
use crate::update::run::Run;
use crate::update::source::overrides::{LayerSource, OverrideLayer};
use crate::update::source::published::{PublishedImage, read_stored_manifest};
use crate::update::source::trust::Trust;

/// A downloaded update, and the repository from which it came.
pub(in crate::update) struct StoredSource<'a> {
    pub run: &'a Run<'a>,
    pub repo: &'a RepoUrl,
    pub downloaded: &'a Arc<DownloadedUpdate>,
}

/// Everything that a switch installs.
pub(in crate::update) struct StoredLayers {
    pub image: PublishedImage,
    pub overrides: Vec<OverrideLayer>,
    /// Heads of the published layers, in the order in which the server is asked for newer ones.
    pub heads: Vec<Head>,
}

impl StoredSource<'_> {
    /// Verifies all layers; `state` is the recorded one.
    pub fn read(&self, state: Option<&State>) -> Result<StoredLayers, UpdateError> {
        self.check_age()?;
        let trust = Trust::load(&self.run.session.root, &self.run.request.trust)?;
        let mut seen = SeenHeads::load(&self.run.session.root).map_err(Untouched::from)?;
        seen.drop_revoked(|key| trust.revokes(key));

        let record = &self.downloaded.record;
        let mut heads = Vec::new();
        let image = record.layers_of(LayerKind::Image).next().ok_or(Refusal::DownloadDropped)?;
        let image = self.read_published(image, &trust, &seen, &mut heads)?;
        let mut overrides = Vec::new();
        for layer in record.layers_of(LayerKind::Override) {
            let recorded = state
                .and_then(|state| state.overrides.iter().find(|other| other.name == layer.name))
                .and_then(OverrideRecord::manifest);
            let source = if layer.head.is_some() {
                let published = self.read_published(layer, &trust, &seen, &mut heads)?;
                LayerSource::Published(Box::new(published))
            } else {
                trust.refuse_unsigned_override(&layer.name)?;
                let unheld = layer.unheld.iter().filter_map(|(path, reason)| {
                    Some((parse_path(path.as_bytes()).ok()?, reason.clone()))
                });
                LayerSource::Stored { unheld_times: unheld.collect() }
            };
            let generation = layer.generation.ok_or(Refusal::DownloadDropped)?;
            let name = Layer::Override(layer.name.clone());
            let manifest = read_stored_manifest(self.downloaded, &name, generation)?;
            overrides.push(OverrideLayer { name: layer.name.clone(), manifest, recorded, source });
        }
        Ok(StoredLayers { image, overrides, heads })
    }

    /// Refuses an update that was downloaded too long ago.
    fn check_age(&self) -> Result<(), UpdateError> {
        let downloaded = self.downloaded.record.downloaded;
        let age = Timestamp::now().duration_since(downloaded);
        let limit = self.run.request.staged_max_age;
        // A clock that was set back, or was lost, shows no age.
        if age.is_positive() && age.unsigned_abs() > limit {
            return Err(Refusal::OldDownload { downloaded, limit }.into());
        }
        Ok(())
    }

    /// Verifies head and catalog of a published layer by the keys of this node.
    fn read_published(
        &self,
        record: &LayerRecord,
        trust: &Trust,
        seen: &SeenHeads,
        heads: &mut Vec<Head>,
    ) -> Result<PublishedImage, UpdateError> {
        let layer = record.kind.layer(record.name.clone()).ok_or(Refusal::DownloadDropped)?;
        let (Some(head_file), Some(catalog_file)) = (record.head, record.catalog) else {
            return Err(Refusal::DownloadDropped.into());
        };
        let read =
            |file, limit| self.downloaded.read_data(file, limit).map_err(Refusal::Downloaded);
        let head_bytes = read(head_file, MAX_HEAD)?;
        let catalog_bytes = read(catalog_file, MAX_CATALOG)?;

        let head = trust.read_head(&head_bytes, &layer)?.head;
        if Digest::of(&catalog_bytes) != head.catalog {
            return Err(TrustError::from(CatalogError::from(CatalogFault::OtherHead)).into());
        }
        let (catalog, _) = trust.read_catalog(&catalog_bytes, &head)?;
        if Some(catalog.head().generation) != record.generation {
            return Err(TrustError::from(CatalogError::from(CatalogFault::OtherHead)).into());
        }
        self.compare_with_seen(&layer, &head, trust, seen)?;

        let request = self.run.request;
        let spool = self.run.open_spool()?;
        let repository = Repository::open(self.repo, &layer, &request.fetch, spool)?;
        let seen = SeenCatalog::of(&head, self.downloaded.record.repository.clone());
        heads.push(head);
        Ok(PublishedImage {
            repository,
            catalog,
            not_fresh: None,
            signed: SignedFiles { layer, head: head_bytes, catalog: catalog_bytes },
            seen,
            downloaded: Some(Arc::clone(self.downloaded)),
        })
    }

    /// Refuses a head that is not the newest one that this node has seen since the download.
    fn compare_with_seen(
        &self,
        layer: &Layer,
        head: &Head,
        trust: &Trust,
        seen: &SeenHeads,
    ) -> Result<(), UpdateError> {
        if self.run.request.allow_downgrade {
            return Ok(());
        }
        let counted = seen.of(layer).filter(|other| trust.counts(other) && !other.overruled);
        let Some(newest) = counted.max_by_key(|other| other.version()) else { return Ok(()) };
        let name = layer.to_string();
        match newest.compare(head) {
            Freshness::Current => Ok(()),
            Freshness::Stale | Freshness::Older(_) => {
                let newer = SeenHead::version(newest);
                Err(UpdateError::NotNow(NotNow::Superseded { name, newer }))
            }
            Freshness::TooHigh(seen) => {
                let offered = head.version();
                Err(TrustError::SerialTooHigh { name, offered, seen }.into())
            }
            Freshness::Forked => {
                Err(TrustError::ForkedServer { name, version: head.version() }.into())
            }
        }
    }
}
