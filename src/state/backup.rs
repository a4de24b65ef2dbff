//! Backup of the recorded state, as a part of an undo set.

use std::io::Read;

use super::{LoadedState, MAX_STATE, STATE_FILE, file_path, load, manifest_path, tree_path};
use crate::manifest::MAX_TEXT;
use crate::root::{Root, RootError};

/// Name of the state's manifest in a backup; the state itself keeps its name.
const MANIFEST_BACKUP: &str = "manifest";

/// A state as it was recorded when the backup was made.
#[derive(Clone, Debug, Default)]
pub struct StateBackup {
    /// The text of the state; `None` if nothing was recorded.
    pub state: Option<String>,
    /// The manifest that it names, as stored.
    pub manifest: Option<Vec<u8>>,
}

/// Backs up the recorded state of a tree in the directory `to`; durable after `to` is synced.
pub fn back_up(root: &Root, to: &Root) -> Result<(), RootError> {
    let Ok(LoadedState::Valid(state) | LoadedState::FromCopy(state)) = load(root) else {
        return Ok(());
    };

    let files =
        [(file_path(STATE_FILE), STATE_FILE), (manifest_path(state.generation), MANIFEST_BACKUP)];
    for (from, name) in files {
        let Some(held) = root.hold(&from)? else { continue };
        // The state directory may be on another filesystem, which makes a link impossible.
        if held.link_to(to, &tree_path(name)).is_err() {
            held.copy_to(to, &tree_path(name), &|| false)?;
        }
    }
    Ok(())
}

/// Reads a backup that [`back_up`] made.
pub fn read_backup(from: &Root) -> Result<StateBackup, RootError> {
    let state = read(from, STATE_FILE, MAX_STATE)?;
    Ok(StateBackup {
        state: state.and_then(|bytes| String::from_utf8(bytes).ok()),
        manifest: read(from, MANIFEST_BACKUP, MAX_TEXT)?,
    })
}

/// Reads at most `limit` bytes of a file; `None` if it does not exist.
fn read(from: &Root, name: &str, limit: u64) -> Result<Option<Vec<u8>>, RootError> {
    let path = tree_path(name);
    let file = match from.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(None),
        answer => answer?,
    };

    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(|source| RootError {
        operation: "read",
        path: from.show(&path),
        source,
    })?;
    Ok(Some(bytes))
}
