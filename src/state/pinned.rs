//! The pinned generation: the one that a rollback left.
//!
//! Without this record the next run, perhaps by a timer, would install at once the generation that
//! an administrator has just rolled back.

use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::root::{Root, RootError};
use crate::state::{StateError, directory_path, file_path};

pub(super) const FILE: &str = "held.toml";
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// A generation that no run installs until a newer one is published or the administrator permits
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    pub image: ImageName,
    pub generation: GenerationId,
    /// Serial of the publish that the rollback left.
    pub serial: u64,
    /// See [`State::composed_id`](crate::state::State::composed_id); `None` without overrides.
    #[serde(rename = "made", default, skip_serializing_if = "Option::is_none")]
    pub composed_id: Option<GenerationId>,
    /// Time of the rollback by the node's clock; for people only.
    pub since: jiff::Timestamp,
}

impl Pinned {
    /// Id of the image with its overrides.
    pub fn composed_id(&self) -> GenerationId {
        self.composed_id.unwrap_or(self.generation)
    }

    /// The text of the file.
    pub fn to_toml(&self) -> Result<String, StateError> {
        Ok(toml::to_string(self)?)
    }
}

/// Reads the pinned generation of a tree, if there is one.
pub fn load(root: &Root) -> Result<Option<Pinned>, StateError> {
    let path = file_path(FILE);
    let file = match root.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(None),
        answer => answer?,
    };

    let mut text = String::new();
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(|source| StateError::Read { path: root.show(&path), source })?;

    toml::from_str(&text)
        .map(Some)
        .map_err(|error| StateError::Malformed { path: root.show(&path), source: Box::new(error) })
}

/// Records the pinned generation durably; `None` removes the record.
pub fn record(root: &Root, pinned: Option<&str>) -> Result<(), RootError> {
    let path = file_path(FILE);
    match pinned {
        Some(text) => {
            root.create_dirs(&directory_path())?;
            root.write_durably(&path, text.as_bytes(), 0o600)
        }
        None if root.stat(&path)?.is_some() => {
            root.unlink(&path)?;
            root.sync_dir(&directory_path())
        }
        None => Ok(()),
    }
}
