//! The newest heads that this node has seen, per layer and publish key.
//!
//! The record is apart from `state.toml`, so that it survives a state that is set aside, an image
//! that the node follows in between, and a rollback. Without it an attacker could offer an old
//! catalog again.

use std::io::Read;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::{Head, MAX_SERIAL_STEP, Version};
use crate::digest::Digest;
use crate::image::{ImageName, Layer, LayerKind};
use crate::root::{Root, RootError};
use crate::state::{StateError, directory_path, file_path};

pub(super) const FILE: &str = "seen.toml";
/// Largest file that is read, in bytes: ten thousand records take less.
const MAX_FILE: u64 = 4 << 20;
/// The format that this program reads and writes.
const FORMAT: u32 = 1;

/// All records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenHeads {
    format: u32,
    #[serde(rename = "head", default, skip_serializing_if = "Vec::is_empty")]
    heads: Vec<SeenHead>,
}

/// The newest head of a layer whose catalog was signed by one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenHead {
    pub kind: LayerKind,
    pub name: ImageName,
    /// The key that signed the catalog; `None` if nothing was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key that signed the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_key: Option<String>,
    pub serial: u64,
    pub revision: u64,
    /// SHA-256 of the catalog.
    pub catalog: Digest,
    pub issued: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// URL of the repository that sent it.
    pub repo: String,
    /// ETag for a conditional request, if the server sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Whether the administrator has accepted an older head since; it bounds no other head then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overruled: bool,
}

/// Comparison of an offered head with the newest one seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The head is new, or the one that was seen.
    Current,
    /// The head is older in every respect: its carrier has not been updated.
    Stale,
    /// A smaller version was written later.
    Older(Version),
    /// The serial has grown too much.
    TooHigh(Version),
    /// The version is the same, and the catalog another.
    Forked,
}

impl SeenHeads {
    /// Reads the records of a tree; empty without a file.
    pub fn load(root: &Root) -> Result<Self, StateError> {
        SeenHeads::read(root).map_err(|error| match error {
            StateError::Root(_) => error,
            damaged => StateError::DamagedSeen(Box::new(damaged)),
        })
    }

    fn read(root: &Root) -> Result<Self, StateError> {
        let path = file_path(FILE);
        let file = match root.open_file(&path) {
            Err(error) if error.is_absent() => return Ok(SeenHeads::default()),
            answer => answer?,
        };

        let mut text = String::new();
        file.take(MAX_FILE)
            .read_to_string(&mut text)
            .map_err(|source| StateError::Read { path: root.show(&path), source })?;
        let seen: SeenHeads = toml::from_str(&text).map_err(|error| StateError::Malformed {
            path: root.show(&path),
            source: Box::new(error),
        })?;
        if seen.format != FORMAT {
            let path = root.show(&path);
            return Err(StateError::UnknownFormat { path, found: seen.format });
        }
        Ok(seen)
    }

    /// Writes the records durably.
    pub fn save(&self, root: &Root) -> Result<(), StateError> {
        super::create_dirs(root, &directory_path())?;
        Ok(root.write_durably(&file_path(FILE), toml::to_string(self)?.as_bytes(), 0o600)?)
    }

    /// Removes all records of a tree.
    pub fn forget(root: &Root) -> Result<(), RootError> {
        let path = file_path(FILE);
        if root.stat(&path)?.is_none() {
            return Ok(());
        }
        root.unlink(&path)?;
        root.sync_dir(&directory_path())
    }

    /// The records of a layer.
    pub fn of<'s>(&'s self, layer: &'s Layer) -> impl Iterator<Item = &'s SeenHead> {
        self.heads.iter().filter(|head| head.is_of_layer(layer))
    }

    /// All records.
    pub fn iter(&self) -> impl Iterator<Item = &SeenHead> {
        self.heads.iter()
    }

    /// Records `head`, in place of the one of the same layer and key.
    ///
    /// An older head of the same catalog does not replace the record: its time replaces a lost
    /// clock.
    pub fn record(&mut self, head: SeenHead) {
        let is_same =
            |old: &SeenHead| (old.kind, &old.name, &old.key) == (head.kind, &head.name, &head.key);
        let is_older = self
            .heads
            .iter()
            .any(|old| is_same(old) && old.catalog == head.catalog && old.issued > head.issued);
        if is_older {
            return;
        }
        self.heads.retain(|old| !is_same(old));
        self.heads.push(head);
    }

    /// Marks the heads of a layer that are newer than `version` as overruled.
    pub fn overrule(&mut self, layer: &Layer, version: Version) {
        let newer = self
            .heads
            .iter_mut()
            .filter(|head| head.is_of_layer(layer) && head.version() > version);
        newer.for_each(|head| head.overruled = true);
    }

    /// Removes the records of keys for which `is_revoked` is true.
    pub fn drop_revoked(&mut self, is_revoked: impl Fn(&str) -> bool) {
        self.heads.retain(|head| !head.key.as_deref().is_some_and(&is_revoked));
    }
}

impl Default for SeenHeads {
    fn default() -> Self {
        SeenHeads { format: FORMAT, heads: Vec::new() }
    }
}

impl SeenHead {
    /// Serial and revision.
    pub fn version(&self) -> Version {
        Version { serial: self.serial, revision: self.revision }
    }

    /// Compares `offered` with this head.
    pub fn compare(&self, offered: &Head) -> Freshness {
        let (seen, version) = (self.version(), offered.version());
        if version < seen {
            return if offered.issued < self.issued {
                Freshness::Stale
            } else {
                Freshness::Older(seen)
            };
        }
        if version == seen && offered.catalog != self.catalog {
            return Freshness::Forked;
        }
        if version.serial - seen.serial > MAX_SERIAL_STEP {
            return Freshness::TooHigh(seen);
        }
        Freshness::Current
    }

    /// Whether both heads are of one layer.
    pub fn is_of_same_layer(&self, other: &SeenHead) -> bool {
        self.kind == other.kind && self.name == other.name
    }

    fn is_of_layer(&self, layer: &Layer) -> bool {
        self.kind == layer.kind() && self.name == *layer.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(serial: u64, catalog: u8, issued: i64) -> SeenHead {
        SeenHead {
            kind: LayerKind::Image,
            name: "node".parse().expect("a name"),
            key: None,
            head_key: None,
            serial,
            revision: 0,
            catalog: Digest([catalog; 32]),
            issued: Timestamp::from_second(issued).expect("a time"),
            expires: None,
            repo: "http://server/".to_owned(),
            etag: None,
            overruled: false,
        }
    }

    #[test]
    fn older_head_of_same_catalog_replaces_no_record() {
        let layer = Layer::Image("node".parse().expect("a name"));
        let mut heads = SeenHeads::default();
        heads.record(seen(2, 2, 50));

        heads.record(seen(2, 2, 40));
        assert_eq!(heads.of(&layer).next(), Some(&seen(2, 2, 50)));

        heads.record(seen(2, 2, 60));
        assert_eq!(heads.of(&layer).next(), Some(&seen(2, 2, 60)));

        // A run that accepts an older catalog records it.
        heads.record(seen(1, 1, 30));
        assert_eq!(heads.of(&layer).next(), Some(&seen(1, 1, 30)));
    }
}
