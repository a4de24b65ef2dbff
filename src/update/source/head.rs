//! The head of a layer: fetched, judged, and followed to its catalog.
//!
//! One small file is read from the repository before anything is known about it. Every other file
//! is named by a digest in what was accepted before.

use crate::apply::Untouched;
use crate::catalog::{Head, MAX_CATALOG};
use crate::digest::Digest;
use crate::fetch::{FetchErrorKind, HeadAnswer, RepoUrl, Repository};
use crate::image::Layer;
use crate::state::SeenCatalog;
use crate::state::seen::{Freshness, SeenHead, SeenHeads};
use crate::update::error::{FreshnessError, TrustError, UpdateError};
use crate::update::notice::UpdateNotice;
use crate::update::request::SignedFiles;
use crate::update::requester::Requester;
use crate::update::source::published::PublishedImage;
use crate::update::source::trust::{Trust, TrustedHead};

/// Name of the catalog in a repository of format 1.
const OLD_CATALOG: &str = "catalog.toml";

/// Answer of a repository to the question for a layer.
pub(in crate::update) enum LayerAnswer {
    /// Nothing is published of the layer.
    NotPublished,
    /// The newest catalog is the one that the caller has.
    Unchanged,
    /// The tree was brought up to the newest catalog seen, and the repository has an older one.
    Stale,
    Published(Box<PublishedImage>),
}

/// A request for the newest catalog of a layer.
pub(in crate::update) struct LayerRequest<'a> {
    pub node: Requester<'a>,
    pub repo: &'a RepoUrl,
    pub layer: &'a Layer,
    /// The catalog that the tree was brought up to.
    pub known: Option<Digest>,
}

impl LayerRequest<'_> {
    /// Asks for the head, and fetches its catalog unless that is known.
    pub fn send(&self) -> Result<LayerAnswer, UpdateError> {
        let LayerRequest { node, repo, layer, known } = *self;
        let repository = Repository::open(repo, layer, node.fetch, node.open_spool()?)?;
        let trust = Trust::load(node.root, node.trust)?;
        let mut seen = SeenHeads::load(node.root).map_err(Untouched::from)?;
        seen.drop_revoked(|key| trust.revokes(key));

        // No head below the newest one is accepted, whichever trusted key signed that: a rotation
        // has two of them, and the older one must not lead back.
        let counted = || seen.of(layer).filter(|head| trust.counts(head));
        let floors = || counted().filter(|head| !head.overruled && !node.allow_downgrade);
        let newest = floors().max_by_key(|seen| seen.version());

        // A recorded etag makes the request conditional. The answer "not modified" stands for the
        // recorded head, so that head must be the newest one, and valid still.
        let recorded = newest.filter(|head| {
            known == Some(head.catalog) && head.repo == repo.to_string() && trust.believes(head)
        });
        let etag = recorded.and_then(|head| head.etag.as_deref());
        let (bytes, new_etag) = match repository.fetch_head(etag) {
            Ok(HeadAnswer::NotModified) if etag.is_some() => return Ok(LayerAnswer::Unchanged),
            Ok(HeadAnswer::NotModified) => return Err(TrustError::UnexpectedNotModified.into()),
            Ok(HeadAnswer::Fetched { bytes, etag }) => (bytes, etag),
            Err(error) if error.kind == FetchErrorKind::NotFound => {
                return self.refuse_old_format(&repository);
            }
            Err(error) => return Err(error.into()),
        };

        let trusted = trust.read_head(&bytes, layer)?;
        let not_fresh = if let Some(newer) =
            newest.filter(|newest| newest.compare(&trusted.head) == Freshness::Stale)
        {
            let issued = trusted.head.issued;
            node.monitor.warn(UpdateNotice::StaleRepository { issued });
            if known == Some(newer.catalog) {
                return Ok(LayerAnswer::Stale);
            }
            Some(self.stale(newer))
        } else {
            let counting = seen.iter().filter(|head| trust.counts(head));
            trust.check_times(node.monitor, &trusted, counting.map(|head| head.issued).max()).err()
        };

        // A catalog that this node has verified before needs no second transfer.
        let verified = counted()
            .find(|seen| seen.catalog == trusted.head.catalog && known == Some(seen.catalog));
        let (catalog, key) = match (verified, &not_fresh) {
            // The tree was brought up to this catalog, so there is nothing to repair either.
            (Some(_), Some(refused)) => return Err(TrustError::from(refused.clone()).into()),
            (Some(seen), None) => (None, seen.key.clone()),
            (None, _) => {
                let bytes = self.fetch_catalog(&repository, &trusted)?;
                let (catalog, key) = trust.read_catalog(&bytes, &trusted.head)?;
                (Some((catalog, bytes)), key.map(|key| key.to_string()))
            }
        };
        self.judge(&trusted.head, newest)?;

        if not_fresh.is_none() {
            seen.overrule(layer, trusted.head.version());
            seen.record(self.seen_head(&trusted, key, new_etag));
            if !node.dry_run {
                seen.save(node.root).map_err(Untouched::from)?;
            }
        }
        let Some((catalog, catalog_bytes)) = catalog else { return Ok(LayerAnswer::Unchanged) };
        let seen = SeenCatalog::of(&trusted.head, repo.to_string());
        Ok(LayerAnswer::Published(Box::new(PublishedImage {
            repository,
            catalog,
            not_fresh,
            signed: SignedFiles { layer: layer.clone(), head: bytes, catalog: catalog_bytes },
            seen,
            downloaded: None,
        })))
    }

    fn stale(&self, newer: &SeenHead) -> FreshnessError {
        match self.layer {
            Layer::Image(_) => FreshnessError::StaleImage { newest: newer.catalog },
            Layer::Override(name) => FreshnessError::StaleOverride { name: name.clone() },
            Layer::Cluster => FreshnessError::StaleCluster,
        }
    }

    /// Refuses a head that is older than the newest one seen, or another of the same version.
    ///
    /// Otherwise an attacker could keep a node at a generation with known holes.
    fn judge(&self, head: &Head, seen: Option<&SeenHead>) -> Result<(), TrustError> {
        let name = self.layer.to_string();
        let offered = head.version();
        match seen.map_or(Freshness::Current, |seen| seen.compare(head)) {
            Freshness::Current | Freshness::Stale => Ok(()),
            Freshness::Older(seen) => Err(TrustError::OlderHead { name, offered, seen }),
            Freshness::TooHigh(seen) => Err(TrustError::SerialTooHigh { name, offered, seen }),
            Freshness::Forked => Err(TrustError::ForkedServer { name, version: offered }),
        }
    }

    /// Fetches the catalog that a head names.
    fn fetch_catalog(
        &self,
        repository: &Repository,
        trusted: &TrustedHead,
    ) -> Result<Vec<u8>, UpdateError> {
        let file = trusted.head.catalog_file().map_err(TrustError::Catalog)?;
        let fetched = repository.fetch_small(&file, MAX_CATALOG);
        let bytes = fetched.map_err(|error| match error.kind {
            FetchErrorKind::Corrupt => TrustError::CatalogDigest(error).into(),
            _ => UpdateError::from(error),
        })?;
        // A run that ends without an update keeps its downloads to be resumed, and this one is done.
        repository.discard(&file)?;
        Ok(bytes)
    }

    /// Distinguishes a repository of the format before this one from one without the layer.
    fn refuse_old_format(&self, repository: &Repository) -> Result<LayerAnswer, UpdateError> {
        match repository.fetch_unverified(OLD_CATALOG, MAX_CATALOG) {
            Ok(_) => Err(TrustError::OldFormat { layer: self.layer.clone() }.into()),
            Err(error) if error.kind == FetchErrorKind::NotFound => Ok(LayerAnswer::NotPublished),
            Err(error) => Err(error.into()),
        }
    }

    fn seen_head(
        &self,
        trusted: &TrustedHead,
        key: Option<String>,
        etag: Option<String>,
    ) -> SeenHead {
        let TrustedHead { head, key: head_key } = trusted;
        SeenHead {
            kind: head.layer.kind(),
            name: head.layer.name().clone(),
            key,
            head_key: head_key.map(|key| key.to_string()),
            serial: head.serial,
            revision: head.revision,
            catalog: head.catalog,
            issued: head.issued,
            expires: head.expires,
            repo: self.repo.to_string(),
            etag,
            overruled: false,
        }
    }
}
