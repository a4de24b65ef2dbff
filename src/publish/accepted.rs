//! Heads and catalogs that a publisher may sign again.
//!
//! An account that can write the repository has no key. Without a verification it could leave there
//! a catalog of its own, which the next `prune` of the administrator would sign.

use crate::publish::{PublishError, Published, SignedPart, Signing};
use crate::signature::SignatureError;

/// A head and its catalog that the keys of a publisher have verified, or that this run has written.
#[derive(Clone, Debug)]
pub struct Accepted(Published);

/// Use of the present head and its catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// The next catalog continues the present one.
    NextCatalog,
    /// The next head names the present catalog.
    NextHead,
    /// The next catalog is the first one with a signature; the administrator has looked at it.
    FirstSignature,
}

impl Accepted {
    /// Verifies head and catalog by the keys of a publisher, if it has any.
    ///
    /// The key for heads alone cannot verify the catalog: the head names its digest, and the nodes
    /// verify its signature.
    pub(super) fn verify(
        published: Published,
        signing: &Signing,
        reuse: Reuse,
    ) -> Result<Self, PublishError> {
        if !signing.has_keys() {
            return Ok(Accepted(published));
        }

        let keys = signing.accepted_keys();
        let is_unsigned_right = reuse == Reuse::FirstSignature && signing.trusted.is_empty();
        let head = (SignedPart::Head, published.verify_head(&keys));
        let catalog = (SignedPart::Catalog, published.verify_catalog(&keys));
        let parts = match reuse {
            Reuse::NextHead if signing.publish.is_none() => vec![head],
            _ => vec![catalog, head],
        };
        for (part, verified) in parts {
            match verified {
                Ok(()) => {}
                Err(SignatureError::Unsigned) if is_unsigned_right => {}
                Err(source) => {
                    let layer = published.head.layer.clone();
                    return Err(PublishError::NotAccepted { layer, part, source });
                }
            }
        }
        Ok(Accepted(published))
    }

    /// The result of a commit of this run.
    pub(super) fn written(published: Published) -> Self {
        Accepted(published)
    }

    /// Head and catalog.
    pub fn published(&self) -> &Published {
        &self.0
    }
}
