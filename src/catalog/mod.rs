//! The catalog: the small file that lists the publishes, archives and content index of an image.
//!
//! A node downloads it first. It has the size and digest of every other file of the repository, so
//! nothing that a server sends afterwards has to be trusted.
#![doc = include_str!("format.md")]

mod error;
mod sections;

use std::collections::HashSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::image::ImageName;

pub use error::{CatalogError, CatalogFault};

use sections::{Section, SectionKind};

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;
/// Size of the largest catalog in bytes: 10,000 publishes take about 5 MB.
pub const MAX_CATALOG: u64 = 16 << 20;
/// Size of the largest file of a repository in bytes: 16 TiB, the limit of ext4.
pub const MAX_FILE: u64 = 16 << 40;

/// The publishes and archives of one image or override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Name of the image or override.
    pub image: ImageName,
    /// Grows by one with each publish; a node refuses a smaller one than it has seen.
    pub serial: u64,
    /// Time of the last publish.
    pub published: Timestamp,
    /// A node refuses the catalog after this time.
    pub expires: Option<Timestamp>,
    /// The content index of all archives.
    pub content: Option<FileRef>,
    /// Oldest first, never empty; the last one is the head.
    pub publishes: Vec<Publish>,
    pub archives: Vec<Archive>,
}

/// A serial with the generation that it lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    pub serial: u64,
    pub generation: GenerationId,
    /// Free text of the administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub time: Timestamp,
    pub entries: u64,
    /// Bytes of all regular files; a hard-link group counts once.
    pub bytes: u64,
    pub manifest: FileRef,
}

/// A file of the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Relative to the directory of the catalog.
    pub file: RepoPath,
    /// Size in bytes.
    pub size: u64,
    pub sha256: Digest,
}

/// An archive of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    pub kind: ArchiveKind,
    pub file: FileRef,
    /// The head: the frame table, and the listing of a diff; a node fetches it alone, by range.
    pub first_frame: FirstFrame,
}

/// The generations that an archive starts from and produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArchiveKind {
    Full { target: GenerationId },
    Diff { base: GenerationId, target: GenerationId },
}

/// The first frame of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstFrame {
    /// In bytes, as stored.
    pub length: u64,
    pub sha256: Digest,
}

/// A path inside a repository: `A-Za-z0-9._-` in components that do not begin with a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoPath(String);

#[derive(Deserialize)]
struct CatalogFormat {
    format: i64,
}

#[derive(Serialize)]
struct WrittenCatalog {
    #[serde(flatten)]
    head: WrittenHead,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<FileRef>,
    #[serde(rename = "publish")]
    publishes: Vec<Publish>,
    #[serde(rename = "archive")]
    archives: Vec<WrittenArchive>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHead {
    format: u32,
    image: ImageName,
    serial: u64,
    published: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenContent {
    content: FileRef,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPublishes {
    #[serde(rename = "publish")]
    publishes: Vec<Publish>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenArchives {
    #[serde(rename = "archive")]
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
    /// Parses the catalog of `image`.
    pub fn parse(bytes: &[u8], image: &ImageName) -> Result<Self, CatalogError> {
        let text = std::str::from_utf8(bytes).map_err(CatalogFault::from)?;

        let mut sections = Section::split(text);
        let Some(head) = sections.next() else { return Err(CatalogFault::NoPublish.into()) };

        // The format first: a catalog of a later format may have any other content.
        let CatalogFormat { format } = head.parse()?;
        if format != i64::from(FORMAT) {
            return Err(CatalogError::UnknownFormat { format });
        }

        let head: WrittenHead = head.parse()?;
        if head.image != *image {
            return Err(CatalogError::OtherImage { wanted: image.clone(), found: head.image });
        }
        let mut catalog = Catalog {
            image: head.image,
            serial: head.serial,
            published: head.published,
            expires: head.expires,
            content: None,
            publishes: Vec::new(),
            archives: Vec::new(),
        };
        for section in sections {
            catalog.add_section(section)?;
        }
        catalog.check()?;
        Ok(catalog)
    }

    fn add_section(&mut self, section: Section<'_>) -> Result<(), CatalogFault> {
        match section.kind {
            SectionKind::Head => {}
            SectionKind::Content => {
                let WrittenContent { content } = section.parse()?;
                if self.content.replace(content).is_some() {
                    return Err(CatalogFault::TwoIndexes);
                }
            }
            SectionKind::Publish => {
                let WrittenPublishes { publishes } = section.parse()?;
                self.publishes.extend(publishes);
            }
            SectionKind::Archive => {
                let WrittenArchives { archives } = section.parse()?;
                for archive in archives {
                    self.archives.push(Archive::try_from(archive)?);
                }
            }
        }
        Ok(())
    }

    /// The text of the catalog.
    pub fn to_toml(&self) -> Result<String, CatalogError> {
        let written = WrittenCatalog {
            head: WrittenHead {
                format: FORMAT,
                image: self.image.clone(),
                serial: self.serial,
                published: self.published,
                expires: self.expires,
            },
            content: self.content.clone(),
            publishes: self.publishes.clone(),
            archives: self.archives.iter().map(WrittenArchive::from).collect(),
        };
        Ok(toml::to_string(&written).map_err(CatalogFault::from)?)
    }

    /// The last publish.
    pub fn head(&self) -> &Publish {
        // Each catalog has passed `check`, which refuses one without a publish.
        &self.publishes[self.publishes.len() - 1]
    }

    /// The last publish of `generation`.
    pub fn publish_of(&self, generation: GenerationId) -> Option<&Publish> {
        self.publishes.iter().rev().find(|p| p.generation == generation)
    }

    fn check(&self) -> Result<(), CatalogFault> {
        let head = self.publishes.last().ok_or(CatalogFault::NoPublish)?;
        if head.serial != self.serial {
            return Err(CatalogFault::OtherSerial);
        }
        if !self.publishes.is_sorted_by(|a, b| a.serial < b.serial) {
            return Err(CatalogFault::SerialOrder);
        }

        let known: HashSet<GenerationId> = self.publishes.iter().map(|p| p.generation).collect();
        for archive in &self.archives {
            if !known.contains(&archive.kind.target()) {
                return Err(CatalogFault::UnknownTarget);
            }
            if archive.first_frame.length > archive.file.size {
                return Err(CatalogFault::FrameTooLong);
            }
        }

        let manifests = self.publishes.iter().map(|publish| publish.manifest.size);
        let archives = self.archives.iter().map(|archive| archive.file.size);
        let content = self.content.iter().map(|content| content.size);
        if manifests.chain(archives).chain(content).any(|size| size > MAX_FILE) {
            return Err(CatalogFault::FileTooLarge);
        }
        Ok(())
    }
}

impl ArchiveKind {
    /// The generation that the archive produces.
    pub fn target(&self) -> GenerationId {
        match *self {
            ArchiveKind::Full { target } | ArchiveKind::Diff { target, .. } => target,
        }
    }
}

impl TryFrom<WrittenArchive> for Archive {
    type Error = CatalogFault;

    fn try_from(written: WrittenArchive) -> Result<Self, CatalogFault> {
        let target = written.target;
        let kind = match (written.kind.as_str(), written.base) {
            ("full", None) => ArchiveKind::Full { target },
            ("diff", Some(base)) => ArchiveKind::Diff { base, target },
            _ => return Err(CatalogFault::ArchiveFields { kind: written.kind }),
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
    pub fn new(text: &str) -> Result<Self, CatalogFault> {
        const MAX_LENGTH: usize = 512;
        let is_valid = text.len() <= MAX_LENGTH && text.split('/').all(is_repo_component);
        if is_valid {
            Ok(RepoPath(text.to_owned()))
        } else {
            Err(CatalogFault::Path { text: text.to_owned() })
        }
    }

    /// The path, relative to the directory of the catalog.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_repo_component(component: &str) -> bool {
    !component.is_empty()
        && !component.starts_with('.')
        && component.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
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
