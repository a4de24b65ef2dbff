//! Modification times of mount roots, restored after stages were created and removed there.
//!
//! Creating `.si-stage` changes the time of its directory. At the end the directory has the time of
//! the image, or its earlier one. The times are saved in the state directory, so that a later run
//! restores them after a kill. The file is not synced: a wrong time after a power cut is harmless.

use std::collections::HashMap;
use std::io::{Read, Write};

use crate::apply::filesystem::Filesystems;
use crate::entry::Mtime;
use crate::manifest::{parse_path, path_text};
use crate::root::{Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

/// The file in the state directory.
const FILE: &str = "times";
/// A larger file was not written by this program.
const MAX_FILE: u64 = 1 << 20;

/// Reads the present times of `mount_roots`.
pub(in crate::apply) fn read_live<'a>(
    root: &Root,
    mount_roots: impl Iterator<Item = &'a TreePath>,
) -> Result<HashMap<TreePath, Mtime>, RootError> {
    let mut times = HashMap::new();
    for mount_root in mount_roots {
        if let Some(stat) = root.stat(mount_root)? {
            times.insert(mount_root.clone(), stat.mtime);
        }
    }
    Ok(times)
}

/// Saves the present times, unless an interrupted run has saved earlier ones.
pub(in crate::apply) fn save_if_absent(
    root: &Root,
    filesystems: &Filesystems,
) -> Result<(), RootError> {
    if read_saved(root)?.is_empty() {
        save(root, &read_live(root, filesystems.mount_roots().iter())?)
    } else {
        Ok(())
    }
}

/// Saves the present time of the root, before a directory is created in it.
pub fn save_root_time(root: &Root) -> Result<(), RootError> {
    state::create_dirs(root, &state::directory_path())?;
    save_if_absent(root, &Filesystems::new(Vec::new()))
}

/// Saves `times`, and replaces those that were saved.
pub(in crate::apply) fn save(
    root: &Root,
    times: &HashMap<TreePath, Mtime>,
) -> Result<(), RootError> {
    let path = state::file_path(FILE);
    let text: String = times
        .iter()
        .map(|(mount_root, time): (&TreePath, &Mtime)| {
            format!("{time} {}\n", path_text(mount_root))
        })
        .collect();

    root.unlink(&path)?;
    root.create_file(&path)?.write_all(text.as_bytes()).map_err(|source| RootError {
        operation: "write",
        path: root.show(&path),
        source,
    })
}

/// Reads the saved times; there are none unless a run was interrupted.
pub(in crate::apply) fn read_saved(root: &Root) -> Result<HashMap<TreePath, Mtime>, RootError> {
    let path = state::file_path(FILE);
    let mut text = String::new();
    match root.open_file(&path) {
        Err(error) if error.is_absent() => {}
        file => {
            file?.take(MAX_FILE).read_to_string(&mut text).map_err(|source| RootError {
                operation: "read",
                path: root.show(&path),
                source,
            })?;
        }
    }

    Ok(text
        .lines()
        .filter_map(|line| {
            let (time, mount_root) = line.split_once(' ')?;
            Some((parse_path(mount_root.as_bytes()).ok()?, time.parse().ok()?))
        })
        .collect())
}

/// Restores the saved times and removes the file.
pub fn restore(root: &Root) -> Result<(), RootError> {
    for (mount_root, time) in read_saved(root)? {
        let Some(directory) = root.hold_dir(&mount_root)? else { continue };
        if directory.stat().mtime == time {
            continue;
        }
        match directory.set_mtime(time) {
            // A directory that cannot be written has its own time: no stage was created in it.
            Err(error) if error.is_forbidden() => {}
            answer => answer?,
        }
    }
    root.unlink(&state::file_path(FILE))
}
