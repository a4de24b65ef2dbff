//! The head: the one file of a repository that changes, and that nodes poll.
//!
//! It names the newest catalog by its digest. Everything else is immutable, so a reader finds the
//! repository before a publish or after it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::{ImageName, Layer, LayerKind};

use super::{
    Catalog, CatalogError, CatalogFault, FORMAT, FileRef, MAX_CATALOG, RepoPath, read_layer,
};

/// Size of the largest head in bytes, with its signatures.
pub const MAX_HEAD: u64 = 4 << 10;
/// Name of the head in the directory of a layer.
pub const HEAD_FILE: &str = "head.toml";

/// The newest catalog of a layer, and the time for which this is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub layer: Layer,
    pub serial: u64,
    /// Grows with each catalog of the same serial.
    pub revision: u64,
    /// SHA-256 of the catalog with its signatures.
    pub catalog: Digest,
    /// Size of the catalog in bytes.
    pub size: u64,
    /// Time of writing by the server's clock.
    pub issued: Timestamp,
    /// A node refuses the head after this time.
    pub expires: Option<Timestamp>,
    /// Whether nodes should wait with this update.
    pub paused: bool,
    /// Order in which nodes should install it.
    pub rollout: Option<Rollout>,
}

/// Order in which nodes should install an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Host names, with ranges in brackets, that are first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canary: Vec<String>,
    /// Time at which the first of all other nodes is due.
    pub start: Timestamp,
    /// Duration in which all nodes become due, such as `24h`.
    pub over: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHead {
    format: u32,
    kind: LayerKind,
    name: ImageName,
    serial: u64,
    revision: u64,
    catalog: Digest,
    size: u64,
    issued: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rollout: Option<Rollout>,
    /// Keys of later programs that this one may ignore.
    #[serde(default, skip_serializing)]
    #[allow(dead_code, reason = "read, so that it is not unknown, and ignored")]
    optional: Option<toml::Table>,
}

#[derive(Deserialize)]
struct HeadFormat {
    format: i64,
}

impl Head {
    /// Names `catalog`, whose file is `file`, from now on.
    pub fn new(catalog: &Catalog, file: &FileRef, issued: Timestamp) -> Self {
        Head {
            layer: catalog.layer.clone(),
            serial: catalog.serial,
            revision: catalog.revision,
            catalog: file.sha256,
            size: file.size,
            issued,
            expires: None,
            paused: false,
            rollout: None,
        }
    }

    /// Parses the head of `layer`, without its signatures.
    pub fn parse(bytes: &[u8], layer: &Layer) -> Result<Self, CatalogError> {
        if bytes.len() as u64 > MAX_HEAD {
            return Err(CatalogFault::LongHead { limit: MAX_HEAD }.into());
        }
        let text = std::str::from_utf8(bytes).map_err(CatalogFault::from)?;

        // The format first: a head of a later format may have any other content.
        let HeadFormat { format } = toml::from_str(text).map_err(CatalogFault::from)?;
        if format != i64::from(FORMAT) {
            return Err(CatalogError::UnknownFormat { format });
        }

        let head: WrittenHead = toml::from_str(text).map_err(CatalogFault::from)?;
        let found = read_layer(head.kind, head.name)?;
        if found != *layer {
            return Err(CatalogError::OtherLayer { wanted: layer.clone(), found });
        }
        if head.size > MAX_CATALOG {
            return Err(CatalogFault::LongCatalog.into());
        }
        Ok(Head {
            layer: found,
            serial: head.serial,
            revision: head.revision,
            catalog: head.catalog,
            size: head.size,
            issued: head.issued,
            expires: head.expires,
            paused: head.paused,
            rollout: head.rollout,
        })
    }

    /// The text of the head, without signatures.
    pub fn to_toml(&self) -> Result<String, CatalogError> {
        let written = WrittenHead {
            format: FORMAT,
            kind: self.layer.kind(),
            name: self.layer.name().clone(),
            serial: self.serial,
            revision: self.revision,
            catalog: self.catalog,
            size: self.size,
            issued: self.issued,
            expires: self.expires,
            paused: self.paused,
            rollout: self.rollout.clone(),
            optional: None,
        };
        Ok(toml::to_string(&written).map_err(CatalogFault::from)?)
    }

    /// The file of the catalog.
    pub fn catalog_file(&self) -> Result<FileRef, CatalogError> {
        let file = RepoPath::new(&format!("catalogs/{}.toml", self.catalog))?;
        Ok(FileRef { file, size: self.size, sha256: self.catalog })
    }

    /// Serial and revision: the larger, the newer.
    pub fn version(&self) -> Version {
        Version { serial: self.serial, revision: self.revision }
    }

    /// Fails if `catalog` is not the one that this head describes.
    pub fn check(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        if (&self.layer, self.version()) == (&catalog.layer, catalog.version()) {
            Ok(())
        } else {
            Err(CatalogFault::OtherHead.into())
        }
    }
}

/// Position of a catalog in the history of its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub serial: u64,
    pub revision: u64,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision {
            0 => write!(f, "{}", self.serial),
            revision => write!(f, "{}.{revision}", self.serial),
        }
    }
}
