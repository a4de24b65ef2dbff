//! The times of the directories in which stages are made: each stage changes them, and in the end they are
//! what they were, or what the image says.
//!
//! They are noted among the agent's own files, so that a run that was killed at any moment does not leave
//! others. That is about how a tree looks and nothing else: the note is not synced.

use std::collections::HashMap;
use std::io::{Read, Write};

use crate::apply::filesystem::Filesystems;
use crate::entry::Mtime;
use crate::manifest::{parse_path, path_text};
use crate::root::{Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

/// The file.
const NOTE: &str = "times";
/// A larger one is not ours.
const MAX_NOTE: u64 = 1 << 20;

/// The times that `tops` have now.
pub(in crate::apply) fn now<'a>(
    root: &Root,
    tops: impl Iterator<Item = &'a TreePath>,
) -> Result<HashMap<TreePath, Mtime>, RootError> {
    let stats = tops.map(|top| Ok(root.stat(top)?.map(|stat| (top.clone(), stat.mtime))));
    stats.filter_map(Result::transpose).collect()
}

/// Notes the times that the tops of `filesystems` have now, unless an interrupted run noted better ones.
pub(in crate::apply) fn save_if_absent(
    root: &Root,
    filesystems: &Filesystems,
) -> Result<(), RootError> {
    if noted(root)?.is_empty() {
        save(root, &now(root, filesystems.mount_roots().iter())?)
    } else {
        Ok(())
    }
}

/// Notes the time that the top of the tree has now, before something is made in it.
pub fn note_top(root: &Root) -> Result<(), RootError> {
    state::make_dirs(root, &state::place_dir())?;
    save_if_absent(root, &Filesystems::new(Vec::new()))
}

/// Notes `times`, in place of what was noted.
pub(in crate::apply) fn save(
    root: &Root,
    times: &HashMap<TreePath, Mtime>,
) -> Result<(), RootError> {
    let place = state::place(NOTE);
    root.unlink(&place)?;
    let lines: String =
        times.iter().map(|(top, time)| format!("{time} {}\n", path_text(top))).collect();
    let written = root.create_file(&place)?.write_all(lines.as_bytes());
    written.map_err(|source| RootError { what: "write", path: root.show(&place), source })
}

/// What is noted; nothing where no run was interrupted.
pub(in crate::apply) fn noted(root: &Root) -> Result<HashMap<TreePath, Mtime>, RootError> {
    let place = state::place(NOTE);
    let mut text = String::new();
    match root.open_file(&place) {
        Err(error) if error.is_absent() => {}
        file => {
            let read = file?.take(MAX_NOTE).read_to_string(&mut text);
            read.map_err(|source| RootError { what: "read", path: root.show(&place), source })?;
        }
    }
    let parsed = text.lines().filter_map(|line| {
        let (time, top) = line.split_once(' ')?;
        Some((parse_path(top.as_bytes()).ok()?, time.parse().ok()?))
    });
    Ok(parsed.collect())
}

/// Gives the directories the times that are noted, and forgets them.
pub fn restore(root: &Root) -> Result<(), RootError> {
    for (top, time) in noted(root)? {
        if root.stat(&top)?.is_some_and(|stat| stat.mtime != time) {
            match root.set_times(&top, time) {
                // It may not be written to: then it is not another one's time.
                Err(error) if !error.is_forbidden() => return Err(error),
                _ => {}
            }
        }
    }
    root.unlink(&state::place(NOTE))
}
