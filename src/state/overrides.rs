//! Record of the overrides of a tree.
//!
//! The state has their whole manifests, since an override is a small tree. So no other file has to
//! be kept consistent with the state.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::Manifest;
use crate::state::SeenCatalog;

/// An override that is part of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverrideRecord {
    pub name: ImageName,
    /// Id of its manifest without excluded paths.
    pub generation: GenerationId,
    /// The manifest in canonical text.
    manifest: String,
    /// Its catalog; `None` if it is not published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<SeenCatalog>,
}

impl OverrideRecord {
    /// The record of an override with this manifest.
    pub fn new(name: ImageName, manifest: &Manifest, catalog: Option<SeenCatalog>) -> Self {
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = manifest.write_to(&mut text);
        // Canonical text is ASCII.
        let text = String::from_utf8_lossy(&text).into_owned();
        OverrideRecord { name, generation: manifest.id(), catalog, manifest: text }
    }

    /// The manifest; `None` if its text is damaged.
    pub fn manifest(&self) -> Option<Manifest> {
        let manifest = Manifest::parse(self.manifest.as_bytes()).ok()?;
        (manifest.id() == self.generation).then_some(manifest)
    }
}

/// Id of an image at `generation` with overrides: the digest of all their ids.
///
/// Without overrides it is the id of the generation itself.
pub fn composed_id(
    generation: GenerationId,
    overrides: impl IntoIterator<Item = GenerationId>,
) -> GenerationId {
    let overrides: Vec<GenerationId> = overrides.into_iter().collect();
    if overrides.is_empty() {
        return generation;
    }

    let ids = std::iter::once(generation).chain(overrides).map(|id| format!("{id}\n"));
    GenerationId(Digest::of(ids.collect::<String>().as_bytes()))
}
