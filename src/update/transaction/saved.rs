//! Copies of drifted files, made before a transaction replaces them (`drift = "save-aside"`).
//!
//! They are in the state directory, which only root can enter and which no rule, image or
//! `--purge-untracked` reaches. Beside the original, programs that read whole directories would
//! read them: cron, sudo, systemd and many others. A copy is durable before the commit point, so
//! that no power cut loses both versions. If the transaction then fails, the copy stays, and the
//! next run finds it.

use std::collections::HashSet;

use crate::apply::Untouched;
use crate::apply::plan::{Action, ChangePlan};
use crate::digest::Digest;
use crate::entry::{Entry, LeafKind};
use crate::manifest::Manifest;
use crate::root::{FileKind, Root, RootError, Stat};
use crate::state;
use crate::tree_path::TreePath;
use crate::update::error::{Refusal, UpdateError};
use crate::update::notice::DriftCopy;
use crate::update::run::Run;
use crate::update::transaction::target::Target;

/// Directory of the copies, in the state directory.
const SAVED: &str = "saved";
/// Most versions of one path; a node on which a program edits a file again and again has enough.
const MAX_VERSIONS: u32 = 1000;

/// Copies every file that `plan` replaces or removes although it was edited on the node.
///
/// The copies have owner, mode, time and attributes of the originals. A content that is there
/// already is not copied again, and no copy is ever replaced.
pub(super) fn save_drift(
    run: &Run<'_>,
    target: &Target,
    plan: &ChangePlan,
) -> Result<(), UpdateError> {
    let Some(installed) = &target.installed else { return Ok(()) };
    let drift = DriftSearch { run, installed, target: &target.tracked, plan };
    let mut places = Vec::new();
    for path in drift.edited_paths()? {
        let place = save(run, &path)?;
        run.monitor.note(DriftCopy::Saved { path: &path, place: &place });
        places.push(place);
    }

    let root = &run.session.root;
    let Some(first) = places.first().and_then(TreePath::parent) else { return Ok(()) };
    let filesystem = root.below(&first).map_err(Untouched::from_root)?;
    Ok(filesystem.sync_filesystem().map_err(Untouched::from_root)?)
}

/// Search for objects that a plan replaces and that are neither as recorded nor as wanted.
struct DriftSearch<'a> {
    run: &'a Run<'a>,
    installed: &'a Manifest,
    target: &'a Manifest,
    plan: &'a ChangePlan,
}

impl DriftSearch<'_> {
    fn edited_paths(&self) -> Result<Vec<TreePath>, UpdateError> {
        let replaces = |action: Action| {
            !matches!(action, Action::SetTime(_) | Action::SetDirMetadata | Action::MakeDir { .. })
        };
        let changes = self.plan.changes.iter().filter(|change| replaces(change.action));
        let mut seen = HashSet::new();
        let mut edited = Vec::new();
        for change in changes {
            let Some(old) = self.installed.get(&change.path) else { continue };
            if !seen.insert(&change.path) {
                continue;
            }
            match self.is_edited(old) {
                Ok(true) => edited.push(change.path.clone()),
                Ok(false) => {}
                // A user must not be able to stop an update by a file that cannot be read.
                Err(error) if self.is_of_user(&change.path, &error) => {
                    self.run.monitor.warn(DriftCopy::NotSaved(error));
                }
                Err(error) => return Err(Untouched::from_root(error).into()),
            }
        }
        edited.sort_unstable();
        Ok(edited)
    }

    fn is_of_user(&self, path: &TreePath, error: &RootError) -> bool {
        let root = &self.run.session.root;
        error.is_absent() || error.is_leased() || root.is_unknown(path, error)
    }

    /// Whether the live object has a content that neither manifest has at this path.
    fn is_edited(&self, old: &Entry) -> Result<bool, RootError> {
        let root = &self.run.session.root;
        let Some(stat) = root.stat(&old.path)? else { return Ok(false) };
        let new = self.target.get(&old.path);
        match stat.kind {
            FileKind::File if self.looks_recorded(old, &stat) => Ok(false),
            FileKind::File => {
                let found = digest_of(root, &old.path)?;
                let known = [Some(old), new].into_iter().flatten();
                Ok(known.filter_map(Entry::digest).all(|digest| *digest != found))
            }
            FileKind::Symlink => {
                let found = root.read_link(&old.path)?;
                let known = [Some(old), new].into_iter().flatten();
                Ok(known.filter_map(|entry| entry.leaf()).all(|leaf| match &leaf.kind {
                    LeafKind::Symlink { target } => *target != found,
                    _ => true,
                }))
            }
            // They have no content; paths in a directory are displaced, and kept.
            _ => Ok(false),
        }
    }

    /// Whether size and time are those of the record, and nothing says that the path deviates.
    fn looks_recorded(&self, old: &Entry, stat: &Stat) -> bool {
        old.file().is_some_and(|(size, _)| size == stat.size)
            && old.meta.mtime == stat.mtime
            && !self.plan.repaired.contains_key(&old.path)
    }
}

/// Copies the object at `path` to its first free place, unless it is there; returns the place.
fn save(run: &Run<'_>, path: &TreePath) -> Result<TreePath, UpdateError> {
    let root = &run.session.root;
    let directory = state::file_path(SAVED);
    create_private_dir(root, &directory).map_err(Untouched::from_root)?;
    for version in 1..=MAX_VERSIONS {
        let Some(place) = place_of(&directory, version, path) else { break };
        match root.stat(&place).map_err(Untouched::from_root)? {
            None => match copy(run, path, &place) {
                // An older copy is in the way of a directory.
                Err(error) if error.is_absent() => {}
                copied => {
                    return copied.map(|()| place).map_err(|e| Untouched::from_root(e).into());
                }
            },
            Some(_) if is_same_content(root, path, &place).map_err(Untouched::from_root)? => {
                return Ok(place);
            }
            Some(_) => {}
        }
    }
    Err(Refusal::TooManySaved { path: path.clone(), limit: MAX_VERSIONS }.into())
}

fn create_private_dir(root: &Root, directory: &TreePath) -> Result<(), RootError> {
    state::create_dirs(root, &state::directory_path())?;
    match root.stat(directory)? {
        Some(_) => Ok(()),
        None => root.create_dir(directory),
    }
}

fn place_of(directory: &TreePath, version: u32, path: &TreePath) -> Option<TreePath> {
    let top = directory.join(version.to_string().as_bytes()).ok()?;
    TreePath::new([top.as_bytes(), path.as_bytes()].join(&b'/')).ok()
}

fn copy(run: &Run<'_>, path: &TreePath, place: &TreePath) -> Result<(), RootError> {
    let root = &run.session.root;
    if let Some(parent) = place.parent() {
        root.create_dirs(&parent)?;
    }
    let copied = root.copy(path, root, place, &|| run.monitor.is_cancelled());
    if copied.is_err() {
        // Half a copy would count as another version.
        let _ = root.unlink(place);
    }
    copied
}

/// Whether two paths are files with the same bytes, or symbolic links with the same target.
fn is_same_content(root: &Root, path: &TreePath, place: &TreePath) -> Result<bool, RootError> {
    let kinds = (root.stat(path)?.map(|stat| stat.kind), root.stat(place)?.map(|stat| stat.kind));
    match kinds {
        (Some(FileKind::File), Some(FileKind::File)) => {
            Ok(digest_of(root, path)? == digest_of(root, place)?)
        }
        (Some(FileKind::Symlink), Some(FileKind::Symlink)) => {
            Ok(root.read_link(path)? == root.read_link(place)?)
        }
        _ => Ok(false),
    }
}

fn digest_of(root: &Root, path: &TreePath) -> Result<Digest, RootError> {
    let file = root.open_file(path)?;
    let read = Digest::of_reader(file);
    read.map(|(digest, _)| digest).map_err(|source| RootError {
        operation: "read",
        path: root.show(path),
        source,
    })
}
