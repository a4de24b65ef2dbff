//! The fstab of a tree.

use std::io::Read;

use crate::apply::Untouched;
use crate::host;
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;

/// Reads the fstab of a tree; empty if there is none.
pub(super) fn read(root: &Root) -> Result<Vec<u8>, UpdateError> {
    let path = TreePath::new("etc/fstab").unwrap_or_else(|_| TreePath::root());
    let file = match root.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(Vec::new()),
        answer => answer.map_err(Untouched::from)?,
    };

    let mut content = Vec::new();
    file.take(host::MAX_FILE as u64).read_to_end(&mut content).map_err(|source| {
        Untouched::from(RootError { operation: "read", path: root.show(&path), source })
    })?;
    Ok(content)
}
