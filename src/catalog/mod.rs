//! The catalog: the file that lists everything that is published of a layer.
//!
//! A node fetches the [`Head`] first, which names the catalog by its digest. The catalog has the
//! size and digest of every other file, so nothing that a server sends afterwards has to be
//! trusted.
#![doc = include_str!("format.md")]

mod error;
mod head;
mod sections;

use std::collections::HashSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::image::{ImageName, Layer, LayerKind};
use crate::replay::file::REPLAY_NEEDS;

pub use error::{CatalogError, CatalogFault, GenerationWordError};
pub use head::{HEAD_FILE, Head, MAX_HEAD, Rollout, Version};

use sections::{Section, SectionKind};

/// The format that this program reads and writes.
pub const FORMAT: u32 = 2;
/// Size of the largest catalog in bytes: 10,000 publishes take about 5 MB.
pub const MAX_CATALOG: u64 = 16 << 20;
/// Size of the largest file of a repository in bytes: 16 TiB, the limit of ext4.
pub const MAX_FILE: u64 = 16 << 40;
/// Largest number of publishes between two heads that a node sees: one an hour for ten years.
///
/// A node refuses all heads below the newest that it has seen. One head with an absurd serial would
/// shut it out for ever.
pub const MAX_SERIAL_STEP: u64 = 100_000;
/// Digits of a file's own digest in its name; two files never share 128 bits by accident.
const DIGITS_IN_NAME: usize = 32;
/// Abilities of a reader that archives can require, and that this program has.
const KNOWN_NEEDS: &[&str] = &REPLAY_NEEDS;

/// The publishes and archives of an image or an override, or the file of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    pub layer: Layer,
    /// Grows with each publish; a node refuses a smaller one than it has seen.
    pub serial: u64,
    /// Grows with each further catalog of the same serial, such as one that a prune writes.
    pub revision: u64,
    /// Time of writing.
    pub issued: Timestamp,
    /// SHA-256 of the catalog before this one.
    pub previous: Option<Digest>,
    /// The content index of all archives.
    pub content: Option<IndexFile>,
    /// Oldest first; the last one is the head. Empty only for a cluster.
    pub publishes: Vec<Publish>,
    /// The archives that this program can read.
    pub archives: Vec<Archive>,
    /// Archives that need abilities which this program lacks; they count as absent.
    pub unreadable: Vec<Archive>,
    /// The published `cluster.txt`; only a cluster has it, and nothing else.
    pub cluster_file: Option<FileRef>,
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

/// The content index of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFile {
    pub file: FileRef,
    /// The head: frame table, archives, and the first digest of each block.
    pub first_frame: FirstFrame,
}

/// An archive of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    pub kind: ArchiveKind,
    pub file: FileRef,
    /// The head: the frame table, and the listing of a diff; a node fetches it alone, by range.
    pub first_frame: FirstFrame,
    /// Abilities that a reader needs.
    pub needs: Vec<String>,
    pub torrent: Option<Torrent>,
}

/// A BitTorrent file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Torrent {
    /// Relative to the directory of the catalog.
    pub file: RepoPath,
    /// Size in bytes.
    pub size: u64,
    pub sha256: Digest,
    /// SHA-1 of the info dictionary, in hexadecimal.
    pub info_hash: String,
    /// URL of a tracker, or a path that the server of the repository answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracker: Option<String>,
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

/// Word that names the newest generation on a command line.
const HEAD_WORD: &str = "head";

#[derive(Deserialize)]
struct CatalogFormat {
    format: i64,
}

#[derive(Serialize)]
struct WrittenCatalog {
    #[serde(flatten)]
    identity: WrittenIdentity,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<WrittenIndex>,
    #[serde(rename = "file", skip_serializing_if = "Option::is_none")]
    cluster_file: Option<FileRef>,
    #[serde(rename = "publish", skip_serializing_if = "Vec::is_empty")]
    publishes: Vec<Publish>,
    #[serde(rename = "archive", skip_serializing_if = "Vec::is_empty")]
    archives: Vec<WrittenArchive>,
}

/// Keys before the first table.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenIdentity {
    format: u32,
    kind: LayerKind,
    name: ImageName,
    serial: u64,
    revision: u64,
    issued: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenContent {
    content: WrittenIndex,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenIndex {
    file: RepoPath,
    size: u64,
    sha256: Digest,
    first_frame: FirstFrame,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    file: FileRef,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    needs: Vec<String>,
    first_frame: FirstFrame,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    torrent: Option<Torrent>,
}

impl Catalog {
    /// Parses the catalog of `layer`, without its signatures.
    pub fn parse(bytes: &[u8], layer: &Layer) -> Result<Self, CatalogError> {
        let text = std::str::from_utf8(bytes).map_err(CatalogFault::from)?;

        let mut sections = Section::split(text);
        let Some(first) = sections.next() else { return Err(CatalogFault::NoPublish.into()) };

        // The format first: a catalog of a later format may have any other content.
        let CatalogFormat { format } = first.parse()?;
        if format != i64::from(FORMAT) {
            return Err(CatalogError::UnknownFormat { format });
        }

        let identity: WrittenIdentity = first.parse()?;
        let found = read_layer(identity.kind, identity.name)?;
        if found != *layer {
            return Err(CatalogError::OtherLayer { wanted: layer.clone(), found });
        }
        let mut catalog = Catalog {
            layer: found,
            serial: identity.serial,
            revision: identity.revision,
            issued: identity.issued,
            previous: identity.previous,
            content: None,
            publishes: Vec::new(),
            archives: Vec::new(),
            unreadable: Vec::new(),
            cluster_file: None,
        };
        for section in sections {
            catalog.add_section(section)?;
        }
        catalog.check()?;
        Ok(catalog)
    }

    fn add_section(&mut self, section: Section<'_>) -> Result<(), CatalogFault> {
        match section.kind {
            // The keys below `[optional]` are those of later programs.
            SectionKind::Identity | SectionKind::Optional => {}
            SectionKind::Content => {
                let WrittenContent { content } = section.parse()?;
                if self.content.replace(content.into()).is_some() {
                    return Err(CatalogFault::TwoIndexes);
                }
            }
            SectionKind::File => {
                let WrittenFile { file } = section.parse()?;
                if self.cluster_file.replace(file).is_some() {
                    return Err(CatalogFault::ClusterFile);
                }
            }
            SectionKind::Publish => {
                let WrittenPublishes { publishes } = section.parse()?;
                self.publishes.extend(publishes);
            }
            SectionKind::Archive => {
                let WrittenArchives { archives } = section.parse()?;
                for archive in archives {
                    let archive = Archive::try_from(archive)?;
                    if archive.is_readable() {
                        self.archives.push(archive);
                    } else {
                        self.unreadable.push(archive);
                    }
                }
            }
        }
        Ok(())
    }

    /// The text of the catalog.
    pub fn to_toml(&self) -> Result<String, CatalogError> {
        let written = WrittenCatalog {
            identity: WrittenIdentity {
                format: FORMAT,
                kind: self.layer.kind(),
                name: self.layer.name().clone(),
                serial: self.serial,
                revision: self.revision,
                issued: self.issued,
                previous: self.previous,
            },
            content: self.content.as_ref().map(WrittenIndex::from),
            cluster_file: self.cluster_file.clone(),
            publishes: self.publishes.clone(),
            archives: self.all_archives().map(WrittenArchive::from).collect(),
        };
        Ok(toml::to_string(&written).map_err(CatalogFault::from)?)
    }

    /// The last publish of an image or an override.
    pub fn head(&self) -> &Publish {
        // Each such catalog has passed `check`, which refuses one without a publish. That of a
        // cluster has other readers.
        &self.publishes[self.publishes.len() - 1]
    }

    /// The last publish of `generation`.
    pub fn publish_of(&self, generation: GenerationId) -> Option<&Publish> {
        self.publishes.iter().rev().find(|p| p.generation == generation)
    }

    /// Finds a publish by `head`, by its serial, or by the beginning of the generation's id.
    pub fn find_publish(&self, word: &str) -> Result<&Publish, GenerationWordError> {
        if word == HEAD_WORD {
            return Ok(self.head());
        }
        if let Some(publish) = self.publishes.iter().find(|p| p.serial.to_string() == word) {
            return Ok(publish);
        }

        let mut matching =
            self.publishes.iter().rev().filter(|p| p.generation.to_string().starts_with(word));
        let (layer, word) = (self.layer.clone(), word.to_owned());
        let Some(first) = matching.next() else {
            return Err(GenerationWordError::Unknown { layer, word });
        };
        if matching.any(|other| other.generation != first.generation) {
            return Err(GenerationWordError::Ambiguous { layer, word });
        }
        Ok(first)
    }

    /// Whether another generation was published after `generation`.
    ///
    /// It may be the head all the same: a fleet is taken back by publishing an old image again.
    pub fn is_superseded(&self, generation: GenerationId) -> bool {
        let is_it = |publish: &&Publish| publish.generation == generation;
        self.publishes.iter().rev().skip_while(is_it).any(|publish| is_it(&publish))
    }

    /// The archives, with those that this program cannot read.
    pub fn all_archives(&self) -> impl Iterator<Item = &Archive> {
        self.archives.iter().chain(&self.unreadable)
    }

    /// Each file that the catalog names.
    pub fn files(&self) -> impl Iterator<Item = FileRef> {
        let manifests = self.publishes.iter().map(|publish| publish.manifest.clone());
        let archives = self.all_archives().map(|archive| archive.file.clone());
        let torrents = self.all_archives().filter_map(|archive| archive.torrent.as_ref());
        let torrents = torrents.map(Torrent::file_ref);
        manifests
            .chain(archives)
            .chain(torrents)
            .chain(self.content.iter().map(|index| index.file.clone()))
            .chain(self.cluster_file.clone())
    }

    /// Serial and revision.
    pub fn version(&self) -> Version {
        Version { serial: self.serial, revision: self.revision }
    }

    /// Revision of the next catalog of this serial; no file can have the largest number.
    pub fn next_revision(&self) -> u64 {
        self.revision.saturating_add(1)
    }

    fn check(&self) -> Result<(), CatalogFault> {
        match self.layer {
            Layer::Image(_) | Layer::Override(_) => self.check_generations()?,
            Layer::Cluster => self.check_cluster()?,
        }

        for file in self.files() {
            if file.size > MAX_FILE {
                return Err(CatalogFault::FileTooLarge);
            }
            if !file.is_named_by_digest() {
                return Err(CatalogFault::NameWithoutDigest { file: file.file });
            }
        }
        Ok(())
    }

    fn check_cluster(&self) -> Result<(), CatalogFault> {
        let has_generations = !self.publishes.is_empty()
            || self.all_archives().next().is_some()
            || self.content.is_some();
        if has_generations || self.cluster_file.is_none() {
            return Err(CatalogFault::ClusterFile);
        }
        Ok(())
    }

    fn check_generations(&self) -> Result<(), CatalogFault> {
        if self.cluster_file.is_some() {
            return Err(CatalogFault::ClusterFile);
        }
        let head = self.publishes.last().ok_or(CatalogFault::NoPublish)?;
        if head.serial != self.serial {
            return Err(CatalogFault::OtherSerial);
        }
        if !self.publishes.is_sorted_by(|a, b| a.serial < b.serial) {
            return Err(CatalogFault::SerialOrder);
        }

        let known: HashSet<GenerationId> = self.publishes.iter().map(|p| p.generation).collect();
        for archive in self.all_archives() {
            if !known.contains(&archive.kind.target()) {
                return Err(CatalogFault::UnknownTarget);
            }
            if archive.first_frame.length > archive.file.size {
                return Err(CatalogFault::FrameTooLong);
            }
        }

        if self.content.iter().any(|index| index.first_frame.length > index.file.size) {
            return Err(CatalogFault::FrameTooLong);
        }
        Ok(())
    }
}

/// The layer that a head or a catalog names.
fn read_layer(kind: LayerKind, name: ImageName) -> Result<Layer, CatalogFault> {
    kind.layer(name.clone()).ok_or(CatalogFault::ClusterName { name })
}

impl FileRef {
    /// Digits of the digest that the name of a file has.
    pub fn digits(sha256: &Digest) -> String {
        let mut digits = sha256.to_string();
        digits.truncate(DIGITS_IN_NAME);
        digits
    }

    fn is_named_by_digest(&self) -> bool {
        self.file.as_str().contains(&FileRef::digits(&self.sha256))
    }
}

impl Torrent {
    fn file_ref(&self) -> FileRef {
        FileRef { file: self.file.clone(), size: self.size, sha256: self.sha256 }
    }
}

impl Archive {
    fn is_readable(&self) -> bool {
        self.needs.iter().all(|need| KNOWN_NEEDS.contains(&need.as_str()))
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

impl From<WrittenIndex> for IndexFile {
    fn from(written: WrittenIndex) -> Self {
        let file = FileRef { file: written.file, size: written.size, sha256: written.sha256 };
        IndexFile { file, first_frame: written.first_frame }
    }
}

impl From<&IndexFile> for WrittenIndex {
    fn from(index: &IndexFile) -> Self {
        let FileRef { file, size, sha256 } = index.file.clone();
        WrittenIndex { file, size, sha256, first_frame: index.first_frame }
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
        Ok(Archive {
            kind,
            file,
            first_frame: written.first_frame,
            needs: written.needs,
            torrent: written.torrent,
        })
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
            needs: archive.needs.clone(),
            first_frame: archive.first_frame,
            torrent: archive.torrent.clone(),
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
