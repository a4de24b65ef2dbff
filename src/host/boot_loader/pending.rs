//! The pending boot loader run: record of boot files that the boot loader does not know yet.
//!
//! The record is written before the seal of an update, and removed after the boot loader's program
//! has succeeded. So a run that is killed in between, or a program that fails, leaves the work to
//! the next run.

use std::io::Read;

use crate::host::MAX_FILE;
use crate::host::boot_loader::{BootChanges, BootFileChange};
use crate::manifest::{parse_path, path_text};
use crate::root::{Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

const NAME: &str = "boot-loader-due";

/// Reads the pending changes; empty if there are none.
pub fn load(root: &Root) -> Result<BootChanges, RootError> {
    let path = state::file_path(NAME);
    let file = match root.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(BootChanges::new()),
        answer => answer?,
    };

    let mut text = String::new();
    file.take(MAX_FILE as u64).read_to_string(&mut text).map_err(|source| RootError {
        operation: "read",
        path: root.show(&path),
        source,
    })?;
    Ok(text.lines().filter_map(parse_line).collect())
}

fn parse_line(line: &str) -> Option<(TreePath, BootFileChange)> {
    let (word, path) = line.split_once(' ')?;
    let change = match word {
        "went" => BootFileChange::Removed,
        _ => BootFileChange::Installed,
    };
    Some((parse_path(path.as_bytes()).ok()?, change))
}

/// Records the pending changes durably; removes the record if there are none.
pub fn save(root: &Root, changes: &BootChanges) -> Result<(), RootError> {
    let path = state::file_path(NAME);
    if changes.is_empty() {
        return root.unlink(&path);
    }

    let mut text = String::new();
    for (path, change) in changes {
        let word = match change {
            BootFileChange::Installed => "came",
            BootFileChange::Removed => "went",
        };
        text += &format!("{word} {}\n", path_text(path));
    }
    state::create_dirs(root, &state::directory_path())?;
    root.write_durably(&path, text.as_bytes(), 0o600)
}
