//! The repository as a publish finds it: its catalog, and the archives that are still usable.

use crate::catalog::{Archive, Catalog};
use crate::diff_archive::DeltaGroup;
use crate::diff_archive::content_index::ContentIndex;
use crate::manifest::Manifest;
use crate::publish::notice::PublishNotice;
use crate::publish::{LockedStore, PublishError, Published, Store};

/// A repository before a publish. It is read while the image is still being scanned.
#[derive(Default)]
pub struct ExistingRepository {
    pub(super) published: Option<Published>,
    pub(super) valid: ValidArchives,
    /// The manifest of the newest publish, if it can be read.
    pub(super) head: Option<Manifest>,
}

impl ExistingRepository {
    /// The head and catalog, if anything is published.
    pub fn published(&self) -> Option<&Published> {
        self.published.as_ref()
    }

    /// Reads the repository. Damage is recorded, and reported when something is published.
    pub fn read(locked: &LockedStore) -> Result<Self, PublishError> {
        let store = locked.store();
        let Some(published) = store.published()? else {
            return Ok(ExistingRepository::default());
        };

        let catalog = &published.catalog;
        let (valid, head) =
            rayon::join(|| ValidArchives::read(store, catalog), || store.manifest(catalog.head()));

        // An unreadable manifest is reported by the code that needs it.
        Ok(ExistingRepository { valid, head: head.ok(), published: Some(published) })
    }
}

/// The archives and the content index that a publish can build upon.
#[derive(Default)]
pub(super) struct ValidArchives {
    /// Archives whose size is right and whose listing can be read.
    pub archives: Vec<Archive>,
    /// The delta groups of these archives.
    pub groups: Vec<DeltaGroup>,
    pub index: ContentIndex,
    /// Damage that the publish repairs.
    pub faults: Vec<PublishNotice>,
}

impl ValidArchives {
    /// Reads the listings of all archives.
    ///
    /// An archive that is missing or damaged is left out. If the index cannot be read, it counts as
    /// empty, so that the publish writes a full archive.
    fn read(store: &Store, catalog: &Catalog) -> Self {
        let mut valid = ValidArchives::default();

        match store.index(catalog) {
            Ok(index) => valid.index = index,
            Err(error) => valid.faults.push(PublishNotice::IndexUnreadable(error)),
        }

        for archive in &catalog.archives {
            let groups = store
                .frame_head(archive)
                .and_then(|_| store.delta_groups(std::slice::from_ref(archive)));
            match groups {
                Ok(groups) => {
                    valid.groups.extend(groups);
                    valid.archives.push(archive.clone());
                }
                Err(error) => valid.faults.push(PublishNotice::ArchiveDropped(error)),
            }
        }
        valid
    }
}
