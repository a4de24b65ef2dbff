//! Identities of the filesystems of an undo set.
//!
//! A filesystem may be replaced after the update: another disk is mounted at its mount root. A
//! rollback must not write to that one. A limited filesystem has no undo set of its own by which it
//! could be recognised.

use std::collections::HashMap;
use std::io::Read;

use crate::apply::on_disk::{IDENTITIES, name};
use crate::manifest::{parse_path, path_text};
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// A larger file was not written by this program.
const MAX_FILE: u64 = 1 << 20;

/// Identities by mount root.
pub(super) type Identities = HashMap<TreePath, String>;

/// Writes the identities of all filesystems at `mount_roots` but the root's, durably.
pub(super) fn write_identities(
    root: &Root,
    backups: &Root,
    mount_roots: &[TreePath],
) -> Result<(), RootError> {
    let mut text = String::new();
    for mount_root in mount_roots.iter().filter(|mount_root| !mount_root.is_root()) {
        if let Some(identity) = root.below(mount_root)?.filesystem_identity()? {
            text += &format!("{identity} {}\n", path_text(mount_root));
        }
    }

    if text.is_empty() {
        return Ok(());
    }
    backups.write_durably(&name(IDENTITIES), text.as_bytes(), 0o600)
}

/// Reads the identities in an undo set; an older program wrote none.
pub(super) fn read_identities(dir: &Root) -> Result<Identities, RootError> {
    let path = name(IDENTITIES);
    let file = match dir.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(Identities::new()),
        answer => answer?,
    };
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|source| RootError {
        operation: "read",
        path: dir.show(&path),
        source,
    })?;

    Ok(text
        .lines()
        .filter_map(|line| {
            let (identity, mount_root) = line.split_once(' ')?;
            Some((parse_path(mount_root.as_bytes()).ok()?, identity.to_owned()))
        })
        .collect())
}
