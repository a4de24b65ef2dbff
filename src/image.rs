//! Names of images and overrides, and the layers of a repository.
//!
//! A name becomes a directory name, a part of URLs and the name of an rsync module. It is checked
//! once, so that no name can lead out of a directory or be taken for an option.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// Name of an image or override: 1 to 128 of `A-Za-z0-9._-`, not beginning with a dot or dash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

/// Anything that has a head and a catalog in a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    Image(ImageName),
    Override(ImageName),
    /// The file `cluster.txt`, which assigns image and overrides to each host.
    Cluster,
}

/// Kind of a layer, as heads and catalogs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerKind {
    Image,
    Override,
    Cluster,
}

/// Directory of the overrides in a repository.
pub const OVERRIDES: &str = "overrides";
/// Directory of the published `cluster.txt` in a repository, and the name in its catalog.
const CLUSTER: &str = "cluster";
/// Other directories of a repository, and rsync modules of an image server.
const RESERVED_NAMES: [&str; 5] = [OVERRIDES, "scripts", "boot", "torrents", CLUSTER];

static CLUSTER_NAME: LazyLock<ImageName> = LazyLock::new(|| ImageName(CLUSTER.to_owned()));

/// Text that is not a valid image name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} cannot name an image: 1 to 128 letters, digits, dots, dashes and underscores, not beginning with a dot or a dash"
)]
pub struct BadImageName(String);

impl ImageName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Layer {
    /// The name; an image and an override may have the same.
    pub fn name(&self) -> &ImageName {
        match self {
            Layer::Image(name) | Layer::Override(name) => name,
            Layer::Cluster => &CLUSTER_NAME,
        }
    }

    /// The kind.
    pub fn kind(&self) -> LayerKind {
        match self {
            Layer::Image(_) => LayerKind::Image,
            Layer::Override(_) => LayerKind::Override,
            Layer::Cluster => LayerKind::Cluster,
        }
    }

    /// The directory in the repository: `NAME`, `overrides/NAME` or `cluster`.
    pub fn repository_path(&self) -> String {
        match self {
            Layer::Image(name) => name.to_string(),
            Layer::Override(name) => format!("{OVERRIDES}/{name}"),
            Layer::Cluster => CLUSTER.to_owned(),
        }
    }

    /// The option of `si_tardiff publish` that publishes it.
    pub fn publish_option(&self) -> String {
        match self {
            Layer::Image(name) => format!("--image {name}"),
            Layer::Override(name) => format!("--override {name}"),
            Layer::Cluster => "--cluster FILE".to_owned(),
        }
    }

    /// Whether it is an image with a reserved name, which cannot be published.
    pub fn is_reserved(&self) -> bool {
        matches!(self, Layer::Image(name) if RESERVED_NAMES.contains(&name.as_str()))
    }
}

impl LayerKind {
    /// The layer of this kind and name; `None` for a cluster with another name.
    pub fn layer(self, name: ImageName) -> Option<Layer> {
        match self {
            LayerKind::Image => Some(Layer::Image(name)),
            LayerKind::Override => Some(Layer::Override(name)),
            LayerKind::Cluster => (name == *CLUSTER_NAME).then_some(Layer::Cluster),
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LayerKind::Image => "image",
            LayerKind::Override => "override",
            LayerKind::Cluster => "cluster",
        })
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layer::Image(name) => write!(f, "image {name}"),
            Layer::Override(name) => write!(f, "override {name}"),
            Layer::Cluster => f.write_str("cluster.txt"),
        }
    }
}

impl FromStr for ImageName {
    type Err = BadImageName;

    fn from_str(text: &str) -> Result<Self, BadImageName> {
        let good = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !text.starts_with(['.', '-']);
        if good { Ok(ImageName(text.to_owned())) } else { Err(BadImageName(text.to_owned())) }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for ImageName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ImageName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_out_of_directory_refused() {
        for bad in ["", ".", "..", "a/b", ".hidden", "-rf", "a b", "a\n", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
        for good in ["node", "compute-12.5_gpu", "N"] {
            assert!(good.parse::<ImageName>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn image_and_override_names_do_not_collide() {
        let name = |text: &str| text.parse::<ImageName>().expect(text);

        assert_eq!(Layer::Image(name("node")).repository_path(), "node");
        assert_eq!(Layer::Override(name("node")).repository_path(), "overrides/node");
        assert_eq!(Layer::Cluster.repository_path(), "cluster");
        for module in RESERVED_NAMES {
            assert!(
                Layer::Image(name(module)).is_reserved()
                    && !Layer::Override(name(module)).is_reserved()
            );
        }
    }

    #[test]
    fn cluster_has_one_name() {
        let name = |text: &str| text.parse::<ImageName>().expect(text);

        assert_eq!(LayerKind::Cluster.layer(Layer::Cluster.name().clone()), Some(Layer::Cluster));
        assert_eq!(LayerKind::Cluster.layer(name("node")), None);
    }
}
