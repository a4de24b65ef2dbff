//! The head of a layer: fetched, judged, and followed to its catalog.
//!
//! One small file is read from the repository before anything is known about it. Every other file
//! is named by a digest in what was accepted before.

use jiff::Timestamp;

use crate::apply::Untouched;
use crate::catalog::{Catalog, Head, MAX_CATALOG};
use crate::digest::Digest;
use crate::fetch::{FetchErrorKind, HeadAnswer, RepoUrl, Repository};
use crate::image::Layer;
use crate::state::SeenCatalog;
use crate::state::seen::{Freshness, SeenHead, SeenHeads};
use crate::update::error::{TrustError, UpdateError};
use crate::update::notice::UpdateNotice;
use crate::update::run::Run;
use crate::update::source::published::PublishedImage;

/// Name of the catalog in a repository of format 1.
const OLD_CATALOG: &str = "catalog.toml";

/// Answer of a repository to the question for a layer.
pub(in crate::update) enum LayerAnswer {
    /// Nothing is published of the layer.
    NotPublished,
    /// The newest catalog is the one that the caller has.
    Unchanged,
    /// The repository has an older head than the one that this node has seen.
    Stale,
    Published(Box<PublishedImage>),
}

/// A request for the newest catalog of a layer.
pub(in crate::update) struct LayerRequest<'a> {
    pub run: &'a Run<'a>,
    pub repo: &'a RepoUrl,
    pub layer: &'a Layer,
    /// The catalog that the tree was brought up to.
    pub known: Option<Digest>,
}

impl LayerRequest<'_> {
    /// Asks for the head, and fetches its catalog unless that is known.
    pub fn send(&self) -> Result<LayerAnswer, UpdateError> {
        let LayerRequest { run, repo, layer, known } = *self;
        let repository = Repository::open(repo, layer, &run.request.fetch, run.open_spool()?)?;
        let mut seen = SeenHeads::load(&run.session.root).map_err(Untouched::from)?;

        // A recorded etag makes the request conditional. The answer "not modified" stands for the
        // recorded head, so that head must be valid still.
        let recorded = seen
            .newest_from(layer, &repo.to_string())
            .filter(|head| known == Some(head.catalog) && !is_expired(head.expires));
        let etag = recorded.and_then(|head| head.etag.as_deref());
        let (bytes, etag) = match repository.fetch_head(etag) {
            Ok(HeadAnswer::NotModified) if etag.is_some() => return Ok(LayerAnswer::Unchanged),
            Ok(HeadAnswer::NotModified) => return Err(TrustError::UnexpectedNotModified.into()),
            Ok(HeadAnswer::Fetched { bytes, etag }) => (bytes, etag),
            Err(error) if error.kind == FetchErrorKind::NotFound => {
                return self.refuse_old_format(&repository);
            }
            Err(error) => return Err(error.into()),
        };

        let head = Head::parse(&bytes, layer).map_err(TrustError::Catalog)?;
        if self.judge(&head, seen.get(layer, None))?.is_some() {
            return Ok(LayerAnswer::Stale);
        }
        let is_known = known == Some(head.catalog);
        let catalog = if is_known { None } else { Some(fetch_catalog(&repository, &head)?) };

        seen.record(seen_head(&head, repo, etag));
        if !run.request.dry_run {
            seen.save(&run.session.root).map_err(Untouched::from)?;
        }
        let Some(catalog) = catalog else { return Ok(LayerAnswer::Unchanged) };
        let seen =
            SeenCatalog { repo: repo.to_string(), serial: head.serial, sha256: Some(head.catalog) };
        Ok(LayerAnswer::Published(Box::new(PublishedImage { repository, catalog, seen })))
    }

    /// Refuses a head that is expired, or older than one seen before; an older one may be stale.
    ///
    /// Otherwise an attacker could keep a node at a generation with known holes.
    fn judge(
        &self,
        head: &Head,
        seen: Option<&SeenHead>,
    ) -> Result<Option<Timestamp>, UpdateError> {
        let name = || self.layer.to_string();
        let offered = head.version();
        let freshness = seen.map_or(Freshness::Current, |seen| seen.compare(head));
        if !self.run.request.allow_downgrade {
            match freshness {
                Freshness::Current => {}
                Freshness::Stale => {
                    let issued = head.issued;
                    self.run.monitor.warn(UpdateNotice::StaleRepository { issued });
                    return Ok(Some(issued));
                }
                Freshness::Older(seen) => {
                    return Err(TrustError::OlderHead { name: name(), offered, seen }.into());
                }
                Freshness::TooHigh(seen) => {
                    return Err(TrustError::SerialTooHigh { name: name(), offered, seen }.into());
                }
                Freshness::Forked => {
                    return Err(TrustError::ForkedServer { name: name(), version: offered }.into());
                }
            }
        }

        if let Some(expires) = head.expires.filter(|_| is_expired(head.expires)) {
            return Err(TrustError::Expired { name: name(), expires }.into());
        }
        Ok(None)
    }

    /// Distinguishes a repository of the format before this one from one without the layer.
    fn refuse_old_format(&self, repository: &Repository) -> Result<LayerAnswer, UpdateError> {
        match repository.fetch_unverified(OLD_CATALOG, MAX_CATALOG) {
            Ok(_) => Err(TrustError::OldFormat { layer: self.layer.clone() }.into()),
            Err(error) if error.kind == FetchErrorKind::NotFound => Ok(LayerAnswer::NotPublished),
            Err(error) => Err(error.into()),
        }
    }
}

/// Fetches the catalog that `head` names.
fn fetch_catalog(repository: &Repository, head: &Head) -> Result<Catalog, UpdateError> {
    let file = head.catalog_file().map_err(TrustError::Catalog)?;
    let bytes = repository.fetch_small(&file, MAX_CATALOG).map_err(|error| match error.kind {
        FetchErrorKind::Corrupt => TrustError::CatalogDigest(error).into(),
        _ => UpdateError::from(error),
    })?;
    let catalog = Catalog::parse(&bytes, &head.layer).map_err(TrustError::Catalog)?;
    head.check(&catalog).map_err(TrustError::Catalog)?;
    Ok(catalog)
}

fn seen_head(head: &Head, repo: &RepoUrl, etag: Option<String>) -> SeenHead {
    SeenHead {
        kind: head.layer.kind(),
        name: head.layer.name().clone(),
        key: None,
        head_key: None,
        serial: head.serial,
        revision: head.revision,
        catalog: head.catalog,
        issued: head.issued,
        expires: head.expires,
        repo: repo.to_string(),
        etag,
    }
}

fn is_expired(expires: Option<Timestamp>) -> bool {
    expires.is_some_and(|expires| expires < Timestamp::now())
}
