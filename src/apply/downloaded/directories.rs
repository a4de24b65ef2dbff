//! The directories of a downloaded update: creation, check of the owner, removal.

use std::io::Read;

use super::RECORD;
use crate::apply::filesystem::{Filesystems, mount_root_times};
use crate::apply::on_disk::{DOWNLOADED_DIR, FILESYSTEM_LIST, name};
use crate::manifest::{parse_path, path_text};
use crate::root::{FileKind, Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

/// A larger list of filesystems was not written by this program.
const MAX_FILESYSTEM_LIST: u64 = 1 << 20;

/// Path of the directory on the filesystem of a mount root.
pub(super) fn path_at(mount_root: &TreePath) -> TreePath {
    // A mount point is far shorter than the longest path.
    mount_root.join(DOWNLOADED_DIR.as_bytes()).unwrap_or_else(|_| name(DOWNLOADED_DIR))
}

/// Opens the directory of a filesystem; `None` unless it is one that only root can enter.
///
/// A mount root may be writable by users, such as `/tmp`.
pub(super) fn open(root: &Root, mount_root: &TreePath) -> Result<Option<Root>, RootError> {
    let path = path_at(mount_root);
    if root.stat(&path)?.is_none_or(|stat| stat.kind != FileKind::Directory) {
        return Ok(None);
    }
    let directory = root.below(&path)?;
    let stat = directory.stat(&TreePath::root())?;
    let owner = rustix::process::geteuid().as_raw();
    let is_own = stat.is_some_and(|stat| stat.uid == owner && stat.mode & 0o077 == 0);
    Ok(is_own.then_some(directory))
}

/// Opens the directory of a filesystem, and creates it if there is none of this program.
///
/// Directories in it are removed: no file of a download could replace one by a rename.
pub(super) fn open_or_create(root: &Root, mount_root: &TreePath) -> Result<Root, RootError> {
    if let Some(directory) = open(root, mount_root)? {
        for (path, stat) in directory.children(&TreePath::root())? {
            if stat.kind == FileKind::Directory {
                directory.remove_tree(&path)?;
            }
        }
        return Ok(directory);
    }
    let path = path_at(mount_root);
    root.remove_tree(&path)?;
    root.create_dir(&path)?;
    root.below(&path)
}

/// Writes the list by which an incomplete download is removed from all filesystems.
pub(super) fn write_list(directory: &Root, mount_roots: &[TreePath]) -> Result<(), RootError> {
    let text: String = mount_roots.iter().map(|path| path_text(path) + "\n").collect();
    directory.write_durably(&name(FILESYSTEM_LIST), text.as_bytes(), 0o600)
}

/// Whether any filesystem has such a directory.
pub fn exists(root: &Root, filesystems: &Filesystems) -> Result<bool, RootError> {
    for mount_root in filesystems.mount_roots() {
        if root.stat(&path_at(mount_root))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes a downloaded update from all filesystems; the mount roots keep their mtimes.
///
/// The record is removed first: a part of a downloaded update must never be taken for one.
pub fn discard(root: &Root, present: &Filesystems) -> Result<(), RootError> {
    let filesystems = present.with_roots(read_list(root)?);
    if !exists(root, &filesystems)? {
        return Ok(());
    }
    state::create_dirs(root, &state::directory_path())?;
    mount_root_times::save_if_absent(root, &filesystems)?;

    if let Some(directory) = open(root, &TreePath::root())? {
        directory.remove_tree(&name(RECORD))?;
        directory.sync_dir(&TreePath::root())?;
    }
    // The root's directory is the last: it has the list of the others.
    for mount_root in filesystems.mount_roots().iter().rev() {
        root.remove_tree(&path_at(mount_root))?;
    }
    mount_root_times::restore(root)
}

/// Mount roots of all filesystems that have such a directory, whether they are mounted or not.
fn read_list(root: &Root) -> Result<Vec<TreePath>, RootError> {
    let Some(directory) = open(root, &TreePath::root())? else { return Ok(Vec::new()) };
    let path = name(FILESYSTEM_LIST);
    let file = match directory.open_file(&path) {
        Err(error) if error.is_absent() || error.is_not_plain_file() => return Ok(Vec::new()),
        answer => answer?,
    };

    let mut bytes = Vec::new();
    file.take(MAX_FILESYSTEM_LIST).read_to_end(&mut bytes).map_err(|source| RootError {
        operation: "read",
        path: directory.show(&path),
        source,
    })?;
    let lines = bytes.split(|byte| *byte == b'\n');
    Ok(lines.filter(|line| !line.is_empty()).filter_map(|line| parse_path(line).ok()).collect())
}
