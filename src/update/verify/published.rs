//! The published side of a verification: catalogs and manifests. Nothing of it is recorded.

use crate::catalog::Publish;
use crate::fetch::FetchOptions;
use crate::image::{ImageName, Layer};
use crate::manifest::Manifest;
use crate::report::Monitor;
use crate::root::Root;
use crate::state::OverrideRecord;
use crate::update::error::{Refusal, TrustError, UpdateError, UsageError};
use crate::update::requester::Requester;
use crate::update::source::head::{LayerAnswer, LayerRequest};
use crate::update::source::overrides;
use crate::update::source::published::PublishedImage;
use crate::update::verify::tree::RecordedTree;
use crate::update::verify::{Publication, VerifyRequest};

/// Catalogs of an image and of its overrides.
pub(super) struct Generations {
    image: Box<PublishedImage>,
    /// `None` for an override that is not published.
    overrides: Vec<(ImageName, Option<Box<PublishedImage>>)>,
}

/// A published generation with its overrides.
pub(super) struct PublishedTree {
    pub publication: Publication,
    pub composed: Manifest,
}

impl Generations {
    /// Fetches the catalogs of `image` and of `overrides`.
    pub fn ask(
        request: &VerifyRequest,
        root: &Root,
        (image, overrides): (&ImageName, Vec<ImageName>),
        monitor: &dyn Monitor,
    ) -> Result<Self, UpdateError> {
        let repo = request.require_repo()?;
        // A server that cannot be reached must not delay the answer about the node itself.
        let fetch = match request.against {
            Some(_) => request.fetch.clone(),
            None => FetchOptions { attempts: 1, ..request.fetch.clone() },
        };
        let node = Requester {
            root,
            fetch: &fetch,
            trust: &request.trust,
            allow_downgrade: request.allow_downgrade,
            dry_run: true,
            spool_limit: 0,
            monitor,
        };
        let ask = |layer: &Layer| {
            let answer = LayerRequest { node, repo, layer, known: None }.send()?;
            match answer {
                LayerAnswer::Published(published) => match &published.not_fresh {
                    Some(reason) => Err(TrustError::NotFresh(reason.clone()).into()),
                    None => Ok(Some(published)),
                },
                LayerAnswer::NotPublished => Ok(None),
                // Without a known catalog there is no answer without a catalog.
                LayerAnswer::Unchanged | LayerAnswer::Stale => {
                    Err(UpdateError::from(TrustError::UnexpectedNotModified))
                }
            }
        };

        let Some(published) = ask(&Layer::Image(image.clone()))? else {
            let (image, repository) = (image.clone(), repo.to_string());
            return Err(UpdateError::UnknownImage { image, repository });
        };
        let ask_override = |name: ImageName| {
            let published = ask(&Layer::Override(name.clone()))?;
            Ok((name, published))
        };
        let overrides = overrides.into_iter().map(ask_override).collect::<Result<_, UpdateError>>();
        Ok(Generations { image: published, overrides: overrides? })
    }

    /// The manifest of the recorded generation, which this node has lost, with the overrides.
    pub fn recorded(&self, recorded: &RecordedTree) -> Result<Manifest, UpdateError> {
        let state = &recorded.state;
        let Some(publish) = self.image.catalog.publish_of(state.generation) else {
            let generation = state.generation;
            return Err(Refusal::ManifestLost { generation }.into());
        };
        Ok(overrides::compose_recorded(self.image.manifest(publish)?, state))
    }

    /// The newest generation.
    pub fn head(&self, recorded: Option<&RecordedTree>) -> Result<PublishedTree, UpdateError> {
        self.tree(self.image.catalog.head(), recorded)
    }

    /// The generation that `word` names, with the newest overrides.
    pub fn named(
        &self,
        word: &str,
        recorded: Option<&RecordedTree>,
    ) -> Result<PublishedTree, UpdateError> {
        let publish = self.image.catalog.find_publish(word).map_err(UsageError::Generation)?;
        self.tree(publish, recorded)
    }

    fn tree(
        &self,
        publish: &Publish,
        recorded: Option<&RecordedTree>,
    ) -> Result<PublishedTree, UpdateError> {
        let kept = recorded.and_then(|recorded| recorded.image.as_ref());
        let image = read_manifest(&self.image, publish, kept)?;

        let mut layers = Vec::new();
        for (name, published) in &self.overrides {
            let record = recorded.and_then(|recorded| recorded.override_record(name));
            let kept = record.and_then(OverrideRecord::manifest);
            layers.push(match (published, kept) {
                (Some(published), kept) => {
                    read_manifest(published, published.catalog.head(), kept.as_ref())?
                }
                // An override that is not published has no newer generation.
                (None, Some(kept)) => kept,
                (None, None) => {
                    return Err(Refusal::OverrideNotPublished { name: name.clone() }.into());
                }
            });
        }

        let (generation, serial) = (Some(publish.generation), Some(publish.serial));
        Ok(PublishedTree {
            publication: Publication { generation, serial },
            composed: overrides::compose(&image, &layers)?,
        })
    }
}

/// Returns the manifest of a publish; `kept` if that is the one.
fn read_manifest(
    published: &PublishedImage,
    publish: &Publish,
    kept: Option<&Manifest>,
) -> Result<Manifest, UpdateError> {
    match kept.filter(|kept| kept.id() == publish.generation) {
        Some(kept) => Ok(kept.clone()),
        None => published.manifest(publish),
    }
}
