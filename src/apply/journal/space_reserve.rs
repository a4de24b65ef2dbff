//! Preallocated space for the roll forward.
//!
//! All new content is staged before the commit point, and a rename needs no space of its own. But a
//! directory may grow by an entry, and the state has to be written. If another process fills the
//! disk meanwhile, the run would stop between two generations. So files without content occupy the
//! space that may be needed. If a disk is full, they are removed and the roll forward is repeated.

use std::collections::HashSet;

use crate::apply::filesystem::{Filesystems, stage_dirs};
use crate::apply::journal::CommitRecord;
use crate::apply::on_disk::{RESERVE_PREFIX, name};
use crate::apply::plan::{Action, ChangePlan};
use crate::root::{Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

/// Bytes on each filesystem that takes part and for the state, in addition to what is counted.
const MIN_BYTES: u64 = 64 << 10;
/// Most bytes on one filesystem: more is never used by directories that grow.
const MAX_BYTES: u64 = 16 << 20;
/// Blocks by which a directory may grow for one entry: one for it, one for the index.
const BLOCKS_PER_DIR: u64 = 2;
/// Bytes of a slot's name in its directory, about.
const BYTES_PER_SLOT: u64 = 64;
/// Inodes for the state: the state, a manifest, `IMAGE_LAST_SYNCED_TO` and one more file, each of
/// which is written beside its place.
const STATE_FILES: usize = 4;

/// Reserves space for the changes of `plan` on each of its filesystems, and for `record`.
pub(in crate::apply) fn preallocate(
    root: &Root,
    filesystems: &Filesystems,
    plan: &ChangePlan,
    record: &CommitRecord,
) -> Result<(), RootError> {
    for at in plan.participating() {
        let Some(stage) = stage_dirs::open(root, filesystems, at)? else { continue };
        let space = stage.free_space()?;
        let creates_dir = |action| matches!(action, Action::MakeDir { .. });
        let directories = plan
            .changes
            .iter()
            .filter(|change| change.filesystem == at && creates_dir(change.action))
            .count();
        let inodes = if space.has_inodes { directories } else { 0 };
        create_files(&stage, name, directory_growth(plan, at, space.block), 1 + inodes)?;
    }

    let text =
        record.state.as_deref().map_or(0, str::len) + record.pinned.as_deref().map_or(0, str::len);
    let bytes = record.manifest.as_deref().map_or(0, <[u8]>::len) + 2 * text;
    root.create_dirs(&state::directory_path())?;
    create_files(root, state::file_path, bytes as u64 + MIN_BYTES, STATE_FILES)
}

/// Removes the reserves; returns whether there were any.
pub(in crate::apply) fn release(root: &Root, filesystems: &Filesystems) -> Result<bool, RootError> {
    let released = remove_files(root, &state::directory_path())?;
    Ok(release_in_stages(root, filesystems)? | released)
}

/// Removes the reserves in the stages alone; the state directory is not mounted.
pub(in crate::apply) fn release_in_stages(
    root: &Root,
    filesystems: &Filesystems,
) -> Result<bool, RootError> {
    let mut released = false;
    for at in 0..filesystems.mount_roots().len() {
        if let Some(stage) = stage_dirs::open(root, filesystems, at)? {
            released |= remove_files(&stage, &TreePath::root())?;
        }
    }
    Ok(released)
}

/// Bytes by which the directories of a filesystem may grow.
fn directory_growth(plan: &ChangePlan, at: usize, block: u64) -> u64 {
    let mut entries = 0;
    let mut parents: HashSet<TreePath> = HashSet::new();
    for change in plan.changes.iter().filter(|change| change.filesystem == at) {
        if change.action.adds_entry() {
            entries += 1;
            parents.extend(change.path.parent());
        }
    }
    let growth = parents.len() as u64 * BLOCKS_PER_DIR * block + entries * BYTES_PER_SLOT;
    (MIN_BYTES + growth).min(MAX_BYTES)
}

/// Creates `count` reserves, the first of which occupies `bytes`.
fn create_files(
    tree: &Root,
    path_of: impl Fn(&str) -> TreePath,
    bytes: u64,
    count: usize,
) -> Result<(), RootError> {
    for number in 0..count {
        let path = path_of(&format!("{RESERVE_PREFIX}{number}"));
        tree.unlink(&path)?;
        tree.create_reserve(&path, if number == 0 { bytes } else { 0 })?;
    }
    Ok(())
}

/// Whether any stage or the state directory has a reserve.
pub(in crate::apply) fn exists(root: &Root, filesystems: &Filesystems) -> Result<bool, RootError> {
    let mut found = !list_files(root, &state::directory_path())?.is_empty();
    for at in 0..filesystems.mount_roots().len() {
        if let Some(stage) = stage_dirs::open(root, filesystems, at)? {
            found |= !list_files(&stage, &TreePath::root())?.is_empty();
        }
    }
    Ok(found)
}

fn list_files(tree: &Root, directory: &TreePath) -> Result<Vec<TreePath>, RootError> {
    let children = match tree.children(directory) {
        Err(error) if error.is_absent() => return Ok(Vec::new()),
        answer => answer?,
    };
    let paths = children.into_iter().map(|(path, _)| path);
    Ok(paths.filter(|path| path.name().starts_with(RESERVE_PREFIX.as_bytes())).collect())
}

fn remove_files(tree: &Root, directory: &TreePath) -> Result<bool, RootError> {
    let files = list_files(tree, directory)?;
    files.iter().try_for_each(|path| tree.unlink(path))?;
    Ok(!files.is_empty())
}
