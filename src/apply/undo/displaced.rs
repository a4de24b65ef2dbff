//! List of displaced paths: untracked paths that were moved to the backups with their directory.
//!
//! Their content exists nowhere else, so their slots are kept at any undo retention.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};

use crate::apply::filesystem::Filesystems;
use crate::apply::filesystem::stage_dirs::{self, Stages};
use crate::apply::on_disk::{DISPLACED_LIST, name, slot_name};
use crate::apply::plan::{Action, Change};
use crate::manifest::{parse_path, path_text};
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// Reads the list among the backups.
pub(in crate::apply) fn read_displaced(stages: &Stages) -> Result<Vec<TreePath>, RootError> {
    let Some(backups) = stages.backups(0) else { return Ok(Vec::new()) };
    let file = match backups.open_file(&name(DISPLACED_LIST)) {
        Err(error) if error.is_absent() => return Ok(Vec::new()),
        file => file?,
    };

    let mut paths = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|source| RootError {
            operation: "read",
            path: DISPLACED_LIST.to_owned(),
            source,
        })?;
        paths.extend(parse_path(&line).ok());
    }
    Ok(paths)
}

/// Writes the list, durable, to `backups`.
pub(super) fn write_displaced<'a>(
    backups: &Root,
    paths: impl Iterator<Item = &'a TreePath>,
) -> Result<(), RootError> {
    let list: String = paths.map(|path| path_text(path) + "\n").collect();
    backups.write_durably(&name(DISPLACED_LIST), list.as_bytes(), 0o600)
}

/// Appends paths to the list.
pub(in crate::apply) fn append_displaced(
    stages: &Stages,
    paths: &[TreePath],
) -> Result<(), RootError> {
    let Some(backups) = stages.backups(0) else { return Ok(()) };
    let listed = read_displaced(stages)?;
    write_displaced(backups, listed.iter().chain(paths))
}

/// Slots that contain a displaced path.
pub(in crate::apply) fn displaced_slots(
    root: &Root,
    filesystems: &Filesystems,
    changes: &[Change],
) -> Result<HashSet<(usize, TreePath)>, RootError> {
    let displaced = read_displaced(&stage_dirs::open_all(root, filesystems)?)?;

    let mut slots = HashSet::new();
    for change in changes {
        let (Action::Exchange { slot, .. }
        | Action::Install { slot }
        | Action::RemoveTree { slot }) = change.action
        else {
            continue;
        };
        if displaced.iter().any(|path| *path == change.path || path.is_below(&change.path)) {
            slots.insert((change.filesystem, slot_name(slot)));
        }
    }
    Ok(slots)
}
