//! The catalog: the one small file that names what a repository publishes of an image.
//!
#![doc = include_str!("format.md")]

use std::collections::HashSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::image::ImageName;

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;
/// A catalog larger than this is refused unread: 10,000 publishes take about 5 MB.
pub const MAX_CATALOG: u64 = 16 << 20;
/// No file of a repository may claim to be larger: 16 TiB is what ext4 holds in one file.
pub const MAX_FILE: u64 = 16 << 40;

/// What a repository publishes of one image, or of one override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Whose catalog this is: the name of the image, or of the override.
    pub image: ImageName,
    /// Grows by one with every publish; a node refuses to go back.
    pub serial: u64,
    /// When this catalog was written.
    pub published: Timestamp,
    /// After this time the catalog is no longer to be believed.
    pub expires: Option<Timestamp>,
    /// Where each content lies: the content index over all archives published.
    pub content: Option<FileRef>,
    /// Oldest first, never empty; the last one is the head.
    pub publishes: Vec<Publish>,
    /// Full archives and diffs.
    pub archives: Vec<Archive>,
}

/// One publish of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The serial of the catalog that first listed it.
    pub serial: u64,
    /// What was published.
    pub generation: GenerationId,
    /// A word of the administrator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When.
    pub time: Timestamp,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of all distinct regular files (a hardlink group counts once).
    pub bytes: u64,
    /// Its manifest.
    pub manifest: FileRef,
}

/// A file of the repository, relative to the image's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Where.
    pub file: RepoPath,
    /// In bytes.
    pub size: u64,
    /// Of the whole file.
    pub sha256: Digest,
}

/// An archive of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// From where to where.
    pub kind: ArchiveKind,
    /// The file.
    pub file: FileRef,
    /// Its first frame (gzip: member), which holds the listing and is fetched by range.
    pub first_frame: FirstFrame,
}

/// What an archive leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArchiveKind {
    /// The whole image.
    Full {
        /// The generation that it holds.
        target: GenerationId,
    },
    /// What changed.
    Diff {
        /// The generation that it applies to.
        base: GenerationId,
        /// The generation that it makes.
        target: GenerationId,
    },
}

/// The beginning of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstFrame {
    /// In bytes, as stored.
    pub length: u64,
    /// Of these bytes.
    pub sha256: Digest,
}

/// A path inside a repository: `A-Za-z0-9._-` in components that do not begin with a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoPath(String);

/// Why bytes are not a catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A newer program wrote it.
    #[error("the catalog has format {0}, this program reads format {FORMAT}; update the agent")]
    UnknownFormat(i64),
    /// It is another image's.
    #[error("the catalog is of image {found}, not of {wanted}")]
    OtherImage {
        /// The image asked for.
        wanted: ImageName,
        /// The image that it names.
        found: ImageName,
    },
    /// It is not what the format says.
    #[error("the catalog is not valid: {0}")]
    Invalid(String),
}

#[derive(Deserialize)]
struct CatalogFormat {
    format: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCatalog {
    format: u32,
    image: ImageName,
    serial: u64,
    published: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<FileRef>,
    #[serde(rename = "publish")]
    publishes: Vec<Publish>,
    #[serde(rename = "archive", default)]
    archives: Vec<WrittenArchive>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenArchive {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<GenerationId>,
    target: GenerationId,
    file: RepoPath,
    size: u64,
    sha256: Digest,
    first_frame: FirstFrame,
}

impl Catalog {
    /// Reads a catalog of `image`.
    pub fn parse(bytes: &[u8], image: &ImageName) -> Result<Self, CatalogError> {
        let invalid = |why: &dyn fmt::Display| CatalogError::Invalid(why.to_string());
        let text = std::str::from_utf8(bytes).map_err(|e| invalid(&e))?;
        let CatalogFormat { format } = toml::from_str(text).map_err(|e| invalid(&e.message()))?;
        if format != i64::from(FORMAT) {
            return Err(CatalogError::UnknownFormat(format));
        }
        let written: WrittenCatalog = toml::from_str(text).map_err(|e| invalid(&e.message()))?;
        if written.image != *image {
            return Err(CatalogError::OtherImage { wanted: image.clone(), found: written.image });
        }
        let archives =
            written.archives.into_iter().map(Archive::try_from).collect::<Result<_, _>>()?;
        let catalog = Catalog {
            image: written.image,
            serial: written.serial,
            published: written.published,
            expires: written.expires,
            content: written.content,
            publishes: written.publishes,
            archives,
        };
        catalog.check()?;
        Ok(catalog)
    }

    /// The catalog as text.
    pub fn to_toml(&self) -> Result<String, CatalogError> {
        let written = WrittenCatalog {
            format: FORMAT,
            image: self.image.clone(),
            serial: self.serial,
            published: self.published,
            expires: self.expires,
            content: self.content.clone(),
            publishes: self.publishes.clone(),
            archives: self.archives.iter().map(WrittenArchive::from).collect(),
        };
        toml::to_string(&written).map_err(|e| CatalogError::Invalid(e.to_string()))
    }

    /// The newest publish.
    pub fn head(&self) -> &Publish {
        // `check` refuses a catalog without a publish.
        &self.publishes[self.publishes.len() - 1]
    }

    /// The newest publish of `generation`.
    pub fn publish_of(&self, generation: GenerationId) -> Option<&Publish> {
        self.publishes.iter().rev().find(|p| p.generation == generation)
    }

    fn check(&self) -> Result<(), CatalogError> {
        let invalid = |why: &str| Err(CatalogError::Invalid(why.to_owned()));
        let Some(head) = self.publishes.last() else { return invalid("it lists no publish") };
        if head.serial != self.serial {
            return invalid("its serial is not the one of its last publish");
        }
        if !self.publishes.is_sorted_by(|a, b| a.serial < b.serial) {
            return invalid("its publishes are not in the order of their serials");
        }
        let known: HashSet<GenerationId> = self.publishes.iter().map(|p| p.generation).collect();
        for archive in &self.archives {
            if !known.contains(&archive.kind.target()) {
                return invalid("an archive leads to a generation that it does not list");
            }
            if archive.first_frame.length > archive.file.size {
                return invalid("the first frame of an archive is longer than the archive");
            }
        }
        let sizes = self.publishes.iter().map(|p| p.manifest.size);
        let sizes = sizes
            .chain(self.archives.iter().map(|a| a.file.size))
            .chain(self.content.iter().map(|c| c.size));
        if sizes.into_iter().any(|size| size > MAX_FILE) {
            return invalid("a file claims to be larger than 16 TiB");
        }
        Ok(())
    }
}

impl ArchiveKind {
    /// The generation that the archive leads to.
    pub fn target(&self) -> GenerationId {
        match *self {
            ArchiveKind::Full { target } | ArchiveKind::Diff { target, .. } => target,
        }
    }
}

impl TryFrom<WrittenArchive> for Archive {
    type Error = CatalogError;

    fn try_from(written: WrittenArchive) -> Result<Self, CatalogError> {
        let target = written.target;
        let kind = match (written.kind.as_str(), written.base) {
            ("full", None) => ArchiveKind::Full { target },
            ("diff", Some(base)) => ArchiveKind::Diff { base, target },
            (kind, _) => {
                return Err(CatalogError::Invalid(format!(
                    "an archive of kind {kind:?} has the wrong fields"
                )));
            }
        };
        let file = FileRef { file: written.file, size: written.size, sha256: written.sha256 };
        Ok(Archive { kind, file, first_frame: written.first_frame })
    }
}

impl From<&Archive> for WrittenArchive {
    fn from(archive: &Archive) -> Self {
        let (kind, base) = match archive.kind {
            ArchiveKind::Full { .. } => ("full", None),
            ArchiveKind::Diff { base, .. } => ("diff", Some(base)),
        };
        WrittenArchive {
            kind: kind.to_owned(),
            base,
            target: archive.kind.target(),
            file: archive.file.file.clone(),
            size: archive.file.size,
            sha256: archive.file.sha256,
            first_frame: archive.first_frame,
        }
    }
}

impl RepoPath {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<Self, CatalogError> {
        let good = text.len() <= 512
            && text.split('/').all(|component| {
                !component.is_empty()
                    && !component.starts_with('.')
                    && component.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            });
        if good {
            Ok(RepoPath(text.to_owned()))
        } else {
            Err(CatalogError::Invalid(format!("{text:?} is not a path of a repository")))
        }
    }

    /// The path, relative to the image's directory in the repository.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RepoPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RepoPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        RepoPath::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
