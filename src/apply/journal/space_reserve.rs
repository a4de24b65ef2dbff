//! Room that is kept for what comes after the seal: directories that grow by a name, and what is recorded.
//!
//! New content is staged before the seal, and renames need no room of their own; still, on a disk that is
//! filled to the last block meanwhile, a run would stop between two generations. What is kept here is
//! given up when that happens, and what failed is tried once more.

use std::collections::HashSet;

use crate::apply::filesystem::Filesystems;
use crate::apply::journal::CommitRecord;
use crate::apply::on_disk::{RESERVE_PREFIX, name};
use crate::apply::plan::{Action, ChangePlan};
use crate::root::{Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

/// Bytes on each filesystem that takes part, and where the state is recorded, apart from what is counted.
const LEAST: u64 = 64 << 10;
/// No filesystem has to keep more for its directories.
const MOST: u64 = 16 << 20;
/// A directory that gets a name may grow by a block for it, and by another for its index.
const BLOCKS: u64 = 2;
/// About the bytes of the name of a slot in its directory.
const NAME: u64 = 64;
/// A state, a manifest and the old client's file are written beside their places, and one file more.
const RECORDED: usize = 4;

/// Keeps room for the changes of `transaction` on each of its filesystems, and for `record`.
pub(in crate::apply) fn preallocate(
    root: &Root,
    filesystems: &Filesystems,
    transaction: &ChangePlan,
    record: &CommitRecord,
) -> Result<(), RootError> {
    for at in transaction.participating() {
        let Some(stage) = filesystems.stage_of(root, at)? else { continue };
        let room = stage.room()?;
        let made = transaction
            .changes
            .iter()
            .filter(|c| c.filesystem == at && matches!(c.action, Action::MakeDir { .. }));
        let files = if room.has_inodes { made.count() } else { 0 };
        keep(&stage, &name, growth(transaction, at, room.block), 1 + files)?;
    }
    let text =
        record.state.as_ref().map_or(0, String::len) + record.held.as_ref().map_or(0, String::len);
    let bytes = record.manifest.as_ref().map_or(0, Vec::len) + 2 * text;
    root.create_dirs(&state::place_dir())?;
    keep(root, &state::place, bytes as u64 + LEAST, RECORDED)
}

/// Gives up what was kept; whether anything was.
pub(in crate::apply) fn release(root: &Root, filesystems: &Filesystems) -> Result<bool, RootError> {
    let mut found = give_up(root, &state::place_dir())?;
    for at in 0..filesystems.mount_roots().len() {
        if let Some(stage) = filesystems.stage_of(root, at)? {
            found |= give_up(&stage, &TreePath::root())?;
        }
    }
    Ok(found)
}

/// How much the directories of a filesystem may grow.
fn growth(transaction: &ChangePlan, at: usize, block: u64) -> u64 {
    let here = || transaction.changes.iter().filter(|change| change.filesystem == at);
    let parents: HashSet<TreePath> = here()
        .filter(|change| change.action.adds_entry())
        .filter_map(|change| change.path.parent())
        .collect();
    let directories = parents.len() as u64 * BLOCKS * block;
    (LEAST + directories + here().filter(|change| change.action.adds_entry()).count() as u64 * NAME)
        .min(MOST)
}

/// Makes the files, the first of which holds `bytes`.
fn keep(
    tree: &Root,
    place: &dyn Fn(&str) -> TreePath,
    bytes: u64,
    files: usize,
) -> Result<(), RootError> {
    for number in 0..files {
        let path = place(&format!("{RESERVE_PREFIX}{number}"));
        tree.unlink(&path)?;
        tree.create_reserve(&path, if number == 0 { bytes } else { 0 })?;
    }
    Ok(())
}

fn give_up(tree: &Root, directory: &TreePath) -> Result<bool, RootError> {
    let children = match tree.children(directory) {
        Err(error) if error.is_absent() => return Ok(false),
        answer => answer?,
    };
    let kept =
        children.into_iter().filter(|(path, _)| path.name().starts_with(RESERVE_PREFIX.as_bytes()));
    let kept: Vec<TreePath> = kept.map(|(path, _)| path).collect();
    kept.iter().try_for_each(|path| tree.unlink(path))?;
    Ok(!kept.is_empty())
}
