//! What a repository publishes.

use std::path::Path;
use std::{fs, io};

use crate::catalog::Catalog;
use crate::image::ImageName;
use crate::publish::{PublishError, Store};

/// The catalogs of the images in `repo`, by name; of `image` alone where one is named.
pub fn list(repo: &Path, image: Option<&ImageName>) -> Result<Vec<Catalog>, PublishError> {
    let names = match image {
        Some(image) => vec![image.clone()],
        None => images(repo)?,
    };
    let mut catalogs = Vec::new();
    for name in &names {
        match Store::open(repo, name).catalog()? {
            Some(catalog) => catalogs.push(catalog),
            None if image.is_some() => return Err(PublishError::NothingPublished(name.clone())),
            None => {}
        }
    }
    Ok(catalogs)
}

fn images(repo: &Path) -> Result<Vec<ImageName>, PublishError> {
    let failed = |source: io::Error| PublishError::File { what: "list", path: repo.display().to_string(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(repo).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        names.extend(entry.file_name().to_str().and_then(|name| name.parse::<ImageName>().ok()));
    }
    names.sort();
    Ok(names)
}
