//! What an update changed that the boot loader has to be told of, or could not be told of yet.
//!
//! It is kept in the state directory from before the update's seal until the boot loader knows: also where
//! the run that made it is killed in between.

use std::io::Read;

use crate::host::MAX_FILE;
use crate::host::boot_loader::{BootChanges, Fate};
use crate::manifest::{parse_path, path_text};
use crate::root::{Root, RootError};
use crate::state;

const NAME: &str = "boot-loader-due";

/// What is due; empty where nothing is.
pub fn load(root: &Root) -> Result<BootChanges, RootError> {
    let path = state::place(NAME);
    let file = match root.open_file(&path) {
        Err(e) if e.is_absent() => return Ok(BootChanges::new()),
        answer => answer?,
    };
    let mut text = String::new();
    let read = file.take(MAX_FILE as u64).read_to_string(&mut text);
    read.map_err(|source| RootError { what: "read", path: root.show(&path), source })?;
    let change = |line: &str| {
        let (fate, path) = line.split_once(' ')?;
        let fate = if fate == "went" { Fate::Went } else { Fate::Came };
        Some((parse_path(path.as_bytes()).ok()?, fate))
    };
    Ok(text.lines().filter_map(change).collect())
}

/// Keeps what is due, durably; nothing, where that is nothing.
pub fn keep(root: &Root, changes: &BootChanges) -> Result<(), RootError> {
    let path = state::place(NAME);
    if changes.is_empty() {
        return root.unlink(&path);
    }
    let line = |(path, fate): (&_, &Fate)| {
        let fate = if *fate == Fate::Went { "went" } else { "came" };
        format!("{fate} {}\n", path_text(path))
    };
    let text: String = changes.iter().map(line).collect();
    state::make_dirs(root, &state::place_dir())?;
    root.write_durably(&path, text.as_bytes(), 0o600)
}
