//! The record of a downloaded update.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::apply::error::DownloadedFault;
use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::image::{ImageName, LayerKind};
use crate::manifest::{parse_path, path_text};
use crate::tree_path::TreePath;

/// The format that this program reads and writes.
const FORMAT: u32 = 1;
/// Most filesystems of a record: a node has far fewer.
const MAX_FILESYSTEMS: usize = 4096;
/// Most layers of a record.
const MAX_LAYERS: usize = 1024;

/// Everything that a switch needs to know about a downloaded update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownloadRecord {
    format: u32,
    /// Version of the program that wrote it.
    pub agent: String,
    /// Address of the repository.
    pub repository: String,
    /// The tree for which it was downloaded.
    #[serde(rename = "home")]
    pub tree_identity: String,
    /// Time of the download by the node's clock.
    pub downloaded: Timestamp,
    /// Composed id that was recorded; `None` if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<GenerationId>,
    /// Composed id of the update.
    pub target: GenerationId,
    /// Generation of the image.
    pub generation: GenerationId,
    /// Serial of the image.
    pub serial: u64,
    /// Digest of the configured exclude rules.
    pub rules: Digest,
    pub check: RecordedCheck,
    /// Bytes of all contents.
    pub bytes: u64,
    /// Mount roots, written as in manifests.
    filesystems: Vec<String>,
    /// The list of contents.
    pub contents: DataFile,
    /// Image, then overrides, then `cluster.txt`.
    #[serde(rename = "layer")]
    pub layers: Vec<LayerRecord>,
}

/// Target and size of a downloaded update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DownloadSummary {
    /// Generation of the image.
    pub generation: GenerationId,
    /// Serial of its publish.
    pub serial: u64,
    /// Time of the download.
    pub downloaded: Timestamp,
    /// Bytes of its contents on disk.
    pub bytes: u64,
}

/// Level at which the tree was compared for the download.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedCheck {
    Stat,
    Content,
}

/// A layer of a downloaded update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRecord {
    pub kind: LayerKind,
    pub name: ImageName,
    /// Id of the manifest; `None` for `cluster.txt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationId>,
    /// Head as it was received; `None` if the layer is not published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<DataFile>,
    /// Catalog as it was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<DataFile>,
    /// Compressed manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<DataFile>,
    /// Paths whose times a filesystem cannot hold, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unheld: BTreeMap<String, String>,
}

/// A file beside the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    pub sha256: Digest,
    /// Size in bytes.
    pub size: u64,
}

impl DataFile {
    /// Digest and size of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        DataFile { sha256: Digest::of(bytes), size: bytes.len() as u64 }
    }
}

impl DownloadRecord {
    /// Record of an update without contents and layers, downloaded now by this program.
    pub fn new(target: GenerationId, generation: GenerationId, serial: u64) -> Self {
        DownloadRecord {
            format: FORMAT,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            repository: String::new(),
            tree_identity: String::new(),
            downloaded: Timestamp::now(),
            base: None,
            target,
            generation,
            serial,
            rules: Digest([0; 32]),
            check: RecordedCheck::Stat,
            bytes: 0,
            filesystems: vec![path_text(&TreePath::root())],
            contents: DataFile { sha256: Digest([0; 32]), size: 0 },
            layers: Vec::new(),
        }
    }

    /// Whether this version of the program wrote it.
    pub fn is_of_this_agent(&self) -> bool {
        self.agent == env!("CARGO_PKG_VERSION")
    }

    /// Summarizes the update.
    pub fn summary(&self) -> DownloadSummary {
        DownloadSummary {
            generation: self.generation,
            serial: self.serial,
            downloaded: self.downloaded,
            bytes: self.bytes,
        }
    }

    /// Image of the update.
    pub fn image(&self) -> Option<&ImageName> {
        self.layers_of(LayerKind::Image).next().map(|layer| &layer.name)
    }

    /// Layers of one kind, in their order.
    pub fn layers_of(&self, kind: LayerKind) -> impl Iterator<Item = &LayerRecord> {
        self.layers.iter().filter(move |layer| layer.kind == kind)
    }

    /// Mount roots of the filesystems with contents; the first is the root.
    pub fn mount_roots(&self) -> Vec<TreePath> {
        self.filesystems.iter().filter_map(|text| parse_path(text.as_bytes()).ok()).collect()
    }

    /// Sets the mount roots; the first is the root.
    pub(super) fn set_mount_roots(&mut self, mount_roots: &[TreePath]) {
        self.filesystems = mount_roots.iter().map(path_text).collect();
    }

    /// The same record, downloaded now, with heads and catalogs that were verified now.
    pub fn renewed(&self, layers: Vec<LayerRecord>, repository: String) -> Self {
        DownloadRecord { downloaded: Timestamp::now(), repository, layers, ..self.clone() }
    }

    /// Files beside the record.
    pub(super) fn data_files(&self) -> impl Iterator<Item = DataFile> {
        let of_layers = self
            .layers
            .iter()
            .flat_map(|layer| [layer.head, layer.catalog, layer.manifest].into_iter().flatten());
        of_layers.chain([self.contents])
    }

    /// The text of the record.
    pub fn to_toml(&self) -> Result<String, DownloadedFault> {
        toml::to_string(self).map_err(|error| DownloadedFault::NotWritten(Box::new(error)))
    }

    /// Parses the text of a record.
    pub fn parse(text: &str) -> Result<Self, DownloadedFault> {
        let record: DownloadRecord =
            toml::from_str(text).map_err(|error| DownloadedFault::Record(Box::new(error)))?;
        if record.format != FORMAT {
            return Err(DownloadedFault::UnknownFormat { found: record.format });
        }

        let mount_roots = record.mount_roots();
        let is_ordered = mount_roots.windows(2).all(|pair| pair[0] < pair[1]);
        let has_filesystems = mount_roots.len() == record.filesystems.len()
            && mount_roots.len() <= MAX_FILESYSTEMS
            && mount_roots.first().is_some_and(TreePath::is_root)
            && is_ordered;
        if !has_filesystems {
            return Err(DownloadedFault::Filesystems);
        }
        if record.layers.len() > MAX_LAYERS || !record.has_valid_layers() {
            return Err(DownloadedFault::Layers);
        }
        Ok(record)
    }

    /// Whether the layers are one image, different overrides, and at most one `cluster.txt`.
    fn has_valid_layers(&self) -> bool {
        let kinds: Vec<LayerKind> = self.layers.iter().map(|layer| layer.kind).collect();
        let count = |kind| kinds.iter().filter(|other| **other == kind).count();
        let mut names = HashSet::new();
        kinds.is_sorted()
            && count(LayerKind::Image) == 1
            && count(LayerKind::Cluster) <= 1
            && self.layers.iter().all(|layer| {
                let is_published = layer.head.is_some() && layer.catalog.is_some();
                let is_unpublished = layer.head.is_none() && layer.catalog.is_none();
                let has_tree = layer.generation.is_some() && layer.manifest.is_some();
                names.insert((layer.kind, &layer.name))
                    && match layer.kind {
                        LayerKind::Image => is_published && has_tree,
                        LayerKind::Override => (is_published || is_unpublished) && has_tree,
                        LayerKind::Cluster => is_published,
                    }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> DownloadRecord {
        let id = |byte| GenerationId(Digest([byte; 32]));
        let data = |byte| DataFile { sha256: Digest([byte; 32]), size: 3 };
        let mut record = DownloadRecord::new(id(1), id(2), 4);
        record.base = Some(id(3));
        record.set_mount_roots(&[TreePath::root(), TreePath::new("boot").expect("a path")]);
        let layer = |kind, name: &str| LayerRecord {
            kind,
            name: name.parse().expect("a name"),
            generation: Some(id(2)),
            head: Some(data(4)),
            catalog: Some(data(5)),
            manifest: Some(data(6)),
            unheld: BTreeMap::new(),
        };
        let received = LayerRecord {
            head: None,
            catalog: None,
            unheld: BTreeMap::from([("./a".to_owned(), "reason".to_owned())]),
            ..layer(LayerKind::Override, "b")
        };
        record.layers =
            vec![layer(LayerKind::Image, "node"), layer(LayerKind::Override, "a"), received];
        record
    }

    #[test]
    fn record_round_trips() {
        let record = record();

        let parsed = DownloadRecord::parse(&record.to_toml().expect("text")).expect("is valid");

        assert_eq!(parsed, record);
        assert!(parsed.is_of_this_agent());
        assert_eq!(parsed.mount_roots().len(), 2);
        assert_eq!(parsed.data_files().count(), 8);
    }

    #[test]
    fn damaged_record_is_refused() {
        let text = record().to_toml().expect("text");
        for (old, new) in [
            ("format = 1", "format = 2"),
            ("serial = 4", "serial = 4\nother = 1"),
            ("check = \"stat\"", "check = \"none\""),
            ("\".\", \"./boot\"", "\"./boot\", \".\""),
            ("\".\", \"./boot\"", "\".\", \"../boot\""),
            ("\".\", \"./boot\"", "\"./boot\""),
            ("kind = \"image\"", "kind = \"override\""),
            ("name = \"b\"", "name = \"a\""),
            ("name = \"b\"", "name = \"../b\""),
        ] {
            let damaged = text.replacen(old, new, 1);
            assert_ne!(damaged, text, "{old}");
            assert!(DownloadRecord::parse(&damaged).is_err(), "{old} as {new}");
        }
    }
}
