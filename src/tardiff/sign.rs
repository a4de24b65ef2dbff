//! Signs a repository, and issues its heads again.

use jiff::Timestamp;

use crate::catalog::{Catalog, Head};
use crate::publish::{LockedStore, PublishError, Published};

/// Signs the newest catalog and its head, under a new revision.
pub fn sign(locked: &LockedStore) -> Result<Head, PublishError> {
    let published = published(locked)?;
    let catalog = Catalog {
        revision: published.catalog.revision + 1,
        issued: Timestamp::now(),
        previous: Some(published.head.catalog),
        ..published.catalog.clone()
    };
    locked.commit(&catalog, Some(&published))
}

/// Issues the head again, with a new end of its validity.
pub fn refresh(locked: &LockedStore) -> Result<Head, PublishError> {
    locked.refresh(&published(locked)?)
}

fn published(locked: &LockedStore) -> Result<Published, PublishError> {
    let layer = || locked.store().layer().clone();
    locked.store().published()?.ok_or_else(|| PublishError::NothingPublished(layer()))
}
