//! Images, overrides and the cluster of a repository, with their catalogs.

use std::fs;
use std::io;
use std::path::Path;

use crate::image::{ImageName, Layer, OVERRIDES};
use crate::publish::{PublishError, Published, Store};

/// A layer with its head and catalog, or the reason that they cannot be read.
pub type Listed = (Layer, Result<Published, PublishError>);

/// The head and catalog of `layer`, or those of all layers in the order of [`layers`].
pub fn list(repo: &Path, layer: Option<&Layer>) -> Result<Vec<Listed>, PublishError> {
    if let Some(layer) = layer {
        return Ok(vec![(layer.clone(), Ok(read(repo, layer)?))]);
    }
    let layers = layers(repo)?.into_iter();
    Ok(layers.map(|layer| (layer.clone(), read(repo, &layer))).collect())
}

/// The head and catalog of `layer`, which has to be published.
pub fn read(repo: &Path, layer: &Layer) -> Result<Published, PublishError> {
    let published = Store::open(repo, layer).published()?;
    published.ok_or_else(|| PublishError::NothingPublished(layer.clone()))
}

/// All layers that `repo` has: images by name, then overrides by name, then the cluster.
///
/// Files, symbolic links and directories without a head belong to the administrator.
pub fn layers(repo: &Path) -> Result<Vec<Layer>, PublishError> {
    let images = names(repo)?.into_iter().map(Layer::Image).filter(|image| !image.is_reserved());
    let overrides = repo.join(OVERRIDES);
    let has_overrides = fs::symlink_metadata(&overrides).is_ok_and(|found| found.is_dir());
    let overrides = if has_overrides { names(&overrides)? } else { Vec::new() };
    let overrides = overrides.into_iter().map(Layer::Override);
    let layers = images.chain(overrides).chain([Layer::Cluster]);
    Ok(layers.filter(|layer| Store::open(repo, layer).has_head()).collect())
}

fn names(dir: &Path) -> Result<Vec<ImageName>, PublishError> {
    let error = |source: io::Error| PublishError::File {
        operation: "list",
        path: dir.display().to_string(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(error)? {
        let entry = entry.map_err(error)?;
        names.extend(entry.file_name().to_str().and_then(|name| name.parse::<ImageName>().ok()));
    }
    names.sort();
    Ok(names)
}
