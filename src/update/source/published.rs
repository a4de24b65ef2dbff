//! An image or an override as a repository has it.

use crate::catalog::{Catalog, Publish};
use crate::fetch::{FetchError, FetchErrorKind, Repository, Side};
use crate::manifest::{MAX_TEXT, Manifest};
use crate::state::SeenCatalog;
use crate::update::UpdateError;

/// A compressed manifest larger than this is not fetched: ten million entries take less.
const MAX_STORED: u64 = 1 << 30;

/// A catalog that is believed, and the files that it names.
pub(in crate::update) struct PublishedImage {
    pub repository: Repository,
    pub catalog: Catalog,
    /// As it is recorded.
    pub seen: SeenCatalog,
}

impl PublishedImage {
    /// The manifest of a publish.
    pub fn manifest(&self, publish: &Publish) -> Result<Manifest, UpdateError> {
        let stored = self.repository.fetch_small(&publish.manifest, MAX_STORED)?;
        let corrupt = |why: String| {
            FetchError::new(
                FetchErrorKind::Corrupt,
                Side::Server,
                publish.manifest.file.as_str(),
                why,
            )
        };
        let manifest =
            Manifest::read_zstd(stored.as_slice(), MAX_TEXT).map_err(|e| corrupt(e.to_string()))?;
        if manifest.id() != publish.generation {
            return Err(corrupt(
                "it is not the manifest of the generation that names it".to_owned(),
            )
            .into());
        }
        Ok(manifest)
    }
}
