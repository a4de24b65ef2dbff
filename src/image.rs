//! Names of images and overrides, checked: they become directory names, URLs and rsync modules.

use std::fmt;
use std::str::FromStr;

/// The name of an image: 1 to 128 of `A-Za-z0-9._-`, not beginning with a dot or a dash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

/// One of the trees that a node is made of: what a directory of a repository is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// An image.
    Image(ImageName),
    /// A small tree that is laid over an image.
    Override(ImageName),
}

/// Where overrides lie below a repository.
pub const OVERRIDES: &str = "overrides";
/// Other modules of an image server: images with these names would hide them, or be hidden.
const MODULES: [&str; 4] = [OVERRIDES, "scripts", "boot", "torrents"];

/// Text that cannot name an image.
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
    /// Its name, which an image and an override may share.
    pub fn name(&self) -> &ImageName {
        match self {
            Layer::Image(name) | Layer::Override(name) => name,
        }
    }

    /// Its place below a repository: `NAME` or `overrides/NAME`.
    pub fn place(&self) -> String {
        match self {
            Layer::Image(name) => name.to_string(),
            Layer::Override(name) => format!("{OVERRIDES}/{name}"),
        }
    }

    /// Whether it is an image by the name of another module of the image server, which cannot be published.
    pub fn is_taken(&self) -> bool {
        matches!(self, Layer::Image(name) if MODULES.contains(&name.as_str()))
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layer::Image(name) => write!(f, "image {name}"),
            Layer::Override(name) => write!(f, "override {name}"),
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
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", ".hidden", "-rf", "a b", "a\n", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
        for good in ["node", "compute-12.5_gpu", "N"] {
            assert!(good.parse::<ImageName>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn an_image_and_an_override_of_one_name_lie_apart() {
        let name = |text: &str| text.parse::<ImageName>().expect(text);
        assert_eq!(Layer::Image(name("node")).place(), "node");
        assert_eq!(Layer::Override(name("node")).place(), "overrides/node");
        for module in MODULES {
            assert!(
                Layer::Image(name(module)).is_taken() && !Layer::Override(name(module)).is_taken()
            );
        }
    }
}
