//! What is laid over the image, as it is recorded: such trees are small.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::Manifest;
use crate::state::SeenCatalog;

/// A small tree that was laid over the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverrideRecord {
    /// The override.
    pub name: ImageName,
    /// The id of its manifest, as far as the filter let it come.
    pub generation: GenerationId,
    /// Its manifest in canonical text: such a tree is small.
    manifest: String,
    /// Its catalog, where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<SeenCatalog>,
}

impl OverrideRecord {
    /// The override `name` with what it holds.
    pub fn new(name: ImageName, manifest: &Manifest, catalog: Option<SeenCatalog>) -> Self {
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = manifest.write_to(&mut text);
        // Canonical text is ASCII.
        let text = String::from_utf8_lossy(&text).into_owned();
        OverrideRecord { name, generation: manifest.id(), catalog, manifest: text }
    }

    /// What it holds; `None` where that is damaged.
    pub fn manifest(&self) -> Option<Manifest> {
        let manifest = Manifest::parse(self.manifest.as_bytes()).ok()?;
        (manifest.id() == self.generation).then_some(manifest)
    }
}

/// The name of a tree that is an image at `generation` with `overrides` laid over it.
pub fn made(
    generation: GenerationId,
    overrides: impl IntoIterator<Item = GenerationId>,
) -> GenerationId {
    let laid: Vec<GenerationId> = overrides.into_iter().collect();
    if laid.is_empty() {
        return generation;
    }
    let ids = std::iter::once(generation).chain(laid).map(|id| format!("{id}\n"));
    GenerationId(Digest::of(ids.collect::<String>().as_bytes()))
}
