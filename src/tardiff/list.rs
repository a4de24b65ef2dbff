//! Images, overrides and the cluster of a repository, with their catalogs.

use std::path::Path;
use std::{fs, io};

use crate::image::{ImageName, Layer, OVERRIDES};
use crate::publish::{PublishError, Published, Store};

/// The head and catalog of `layer`, or those of all layers in the order of [`layers`].
pub fn list(repo: &Path, layer: Option<&Layer>) -> Result<Vec<(Layer, Published)>, PublishError> {
    let layers = match layer {
        Some(layer) => vec![layer.clone()],
        None => layers(repo)?,
    };

    let mut catalogs = Vec::new();
    for current in layers {
        match Store::open(repo, &current).published()? {
            Some(published) => catalogs.push((current, published)),
            None if layer.is_some() => return Err(PublishError::NothingPublished(current)),
            None => {}
        }
    }
    Ok(catalogs)
}

/// All layers that `repo` can have: images by name, then overrides by name, then the cluster.
pub fn layers(repo: &Path) -> Result<Vec<Layer>, PublishError> {
    let images = names(repo)?.into_iter().map(Layer::Image).filter(|image| !image.is_reserved());
    let overrides = match names(&repo.join(OVERRIDES)) {
        Err(PublishError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Vec::new()
        }
        names => names?,
    };
    let overrides = overrides.into_iter().map(Layer::Override);
    Ok(images.chain(overrides).chain([Layer::Cluster]).collect())
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
