//! Signs a repository, and issues its heads again.

use jiff::Timestamp;

use crate::catalog::{Catalog, Head};
use crate::publish::{Accepted, LockedStore, PublishError};

/// Signs the present catalog and its head, under a new revision.
pub fn sign(locked: &LockedStore, accepted: &Accepted) -> Result<Head, PublishError> {
    let published = accepted.published();
    let catalog = Catalog {
        revision: published.catalog.next_revision(),
        issued: Timestamp::now(),
        previous: Some(published.head.catalog),
        ..published.catalog.clone()
    };
    let written = locked.commit(catalog, Some(published))?;
    Ok(written.published().head.clone())
}

/// Issues the head again, with a new end of its validity.
pub fn refresh(locked: &LockedStore, accepted: &Accepted) -> Result<Head, PublishError> {
    locked.refresh(accepted)
}
