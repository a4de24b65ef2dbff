//! The generation that a rollback fled from: the node does not go back to it by itself.

use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::root::{Root, RootError};
use crate::state::{StateError, place, place_dir};

const FILE: &str = "held.toml";
/// A larger file is not ours.
const MAX: u64 = 64 << 10;

/// A generation that is not installed again until the administrator says so or a newer one is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// The image that it is of.
    pub image: ImageName,
    /// The generation.
    pub generation: GenerationId,
    /// The serial of the publish that was left.
    pub serial: u64,
    /// What the tree was made, where something was laid over the image: see [`State::made`](crate::state::State::made).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<GenerationId>,
    /// When, by the node's clock; for people only.
    pub since: jiff::Timestamp,
}

impl Pinned {
    /// What the tree was made.
    pub fn made(&self) -> GenerationId {
        self.made.unwrap_or(self.generation)
    }

    /// As it is recorded.
    pub fn to_toml(&self) -> Result<String, StateError> {
        toml::to_string(self)
            .map_err(|e| StateError::Invalid { path: FILE.to_owned(), why: e.to_string() })
    }
}

/// What is held on the tree at `root`, if anything is.
pub fn load(root: &Root) -> Result<Option<Pinned>, StateError> {
    let path = place(FILE);
    let file = match root.open_file(&path) {
        Err(e) if e.is_absent() => return Ok(None),
        answer => answer?,
    };
    let mut text = String::new();
    let read = file.take(MAX).read_to_string(&mut text);
    read.map_err(|source| RootError { what: "read", path: root.show(&path), source })?;
    let invalid = |why: &str| StateError::Invalid { path: root.show(&path), why: why.to_owned() };
    toml::from_str(&text).map(Some).map_err(|e| invalid(e.message()))
}

/// Records what is held, or that nothing is, durably.
pub fn record(root: &Root, held: Option<&str>) -> Result<(), RootError> {
    let path = place(FILE);
    match held {
        Some(text) => {
            root.create_dirs(&place_dir())?;
            root.write_durably(&path, text.as_bytes(), 0o600)
        }
        None if root.stat(&path)?.is_some() => {
            root.unlink(&path)?;
            root.sync_dir(&place_dir())
        }
        None => Ok(()),
    }
}
