//! The state: record of a node's image, generation, filter, overrides and deviations.
//!
//! All files are in `var/lib/systemimager/client/` below the root. The manifest of the recorded
//! generation is durable before the `state.toml` that names it. So the rename of `state.toml`
//! commits both, and a power cut cannot leave a state without its manifest.
#![doc = include_str!("format.md")]

mod backup;
mod error;
mod lock;
mod overrides;
pub mod pinned;
pub mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::catalog::Head;
use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::{MAX_TEXT, Manifest, parse_path, path_text};
use crate::root::{FileKind, Root, RootError};
use crate::tree_path::TreePath;

pub use crate::client_paths::{LAST_SYNCED, STATE_DIR as DIRECTORY};
pub use backup::{StateBackup, back_up, read_backup};
pub use error::StateError;
pub use lock::Lock;
pub use overrides::{OverrideRecord, composed_id};

/// The state, in the state directory, beside the journal and in an undo set.
pub const STATE_FILE: &str = "state.toml";
/// Largest state that is read, in bytes: a million deviations take less.
const MAX_STATE: u64 = 256 << 20;
/// The format that this program reads and writes.
const FORMAT: u32 = 1;

/// The recorded state of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    pub image: ImageName,
    /// Serial of the installed publish; 0 if the image came by rsync and was never published.
    pub serial: u64,
    /// The installed generation; of an image that was never published, the id of its manifest.
    pub generation: GenerationId,
    /// Digest of the filter under which the tree equals the generation.
    pub filter: Digest,
    /// The tree that this was written for; see [`Root::identity`].
    #[serde(rename = "home")]
    pub tree_identity: String,
    /// Time of writing by the node's clock; for people only.
    pub written: jiff::Timestamp,
    /// Untracked paths, a directory counted once with its content; `None` before the first walk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untracked: Option<u64>,
    /// The catalog that named the generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<SeenCatalog>,
    /// Tracked paths that are known not to match, each with the difference.
    #[serde(default)]
    pub deviations: BTreeMap<String, String>,
    /// Paths that the last transaction left out; the next run tries them again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left_out: BTreeSet<String>,
    /// Paths to be removed after the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelPaths>,
    /// Overrides, each copied over those before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<OverrideRecord>,
}

/// Paths that the target does not have, and that stay as long as their kernel runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelPaths {
    /// The kernel, as `uname -r` prints it.
    pub release: String,
    /// Each directory and all its content, written as in manifests.
    pub paths: Vec<String>,
}

/// The catalog that the last run accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenCatalog {
    /// URL of the repository.
    pub repo: String,
    pub serial: u64,
    /// Digest of the catalog, if the tree was brought up to its head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

impl SeenCatalog {
    /// The catalog of a head from the repository `repo`, to which the tree was brought up.
    pub fn of(head: &Head, repo: String) -> Self {
        SeenCatalog { repo, serial: head.serial, sha256: Some(head.catalog) }
    }
}

impl State {
    /// The state of a tree that equals `generation` without deviations.
    pub fn new(
        image: ImageName,
        serial: u64,
        generation: GenerationId,
        filter: Digest,
        tree_identity: String,
    ) -> Self {
        State {
            format: FORMAT,
            image,
            serial,
            generation,
            filter,
            tree_identity,
            written: jiff::Timestamp::now(),
            untracked: None,
            catalog: None,
            deviations: BTreeMap::new(),
            left_out: BTreeSet::new(),
            kernel: None,
            overrides: Vec::new(),
        }
    }

    /// Whether the generation was published.
    pub fn is_published(&self) -> bool {
        self.serial > 0
    }

    /// Id of the image with its overrides; without overrides the id of the generation.
    pub fn composed_id(&self) -> GenerationId {
        composed_id(self.generation, self.overrides.iter().map(|record| record.generation))
    }

    /// Records that `path` does not match, with the difference.
    pub fn record_deviation(&mut self, path: &TreePath, difference: impl Into<String>) {
        self.deviations.insert(path_text(path), difference.into());
    }

    /// Records that the transaction left out `path`, with the reason.
    pub fn record_left_out(&mut self, path: &TreePath, reason: impl Into<String>) {
        self.record_deviation(path, reason);
        self.left_out.insert(path_text(path));
    }

    /// The paths that the last transaction left out.
    pub fn left_out_paths(&self) -> impl Iterator<Item = TreePath> {
        self.left_out.iter().filter_map(|text| parse_path(text.as_bytes()).ok())
    }

    /// The paths that are known not to match.
    pub fn deviating_paths(&self) -> impl Iterator<Item = TreePath> {
        self.deviations.keys().filter_map(|text| parse_path(text.as_bytes()).ok())
    }

    /// The text of `state.toml`.
    pub fn to_toml(&self) -> Result<String, StateError> {
        Ok(toml::to_string(self)?)
    }

    /// Parses the text of the state at `path`.
    pub fn parse(text: &str, path: &str) -> Result<Self, StateError> {
        let state: State = toml::from_str(text).map_err(|error| StateError::Malformed {
            path: path.to_owned(),
            source: Box::new(error),
        })?;
        if state.format != FORMAT {
            return Err(StateError::UnknownFormat { path: path.to_owned(), found: state.format });
        }
        Ok(state)
    }
}

impl KernelPaths {
    /// Paths of the kernel with this release; `None` if there are none.
    pub fn new(release: &str, paths: &[TreePath]) -> Option<Self> {
        let paths: Vec<String> = paths.iter().map(path_text).collect();
        (!paths.is_empty()).then(|| KernelPaths { release: release.to_owned(), paths })
    }

    /// The paths in tree order.
    pub fn paths(&self) -> Vec<TreePath> {
        let mut paths: Vec<TreePath> =
            self.paths.iter().filter_map(|text| parse_path(text.as_bytes()).ok()).collect();
        paths.sort_unstable();
        paths
    }
}

/// Result of reading the state of a tree.
#[derive(Debug)]
pub enum LoadedState {
    /// No state is recorded.
    Missing,
    /// The state was written for this tree.
    Valid(Box<State>),
    /// The state was written for another tree on this filesystem; it is true if the copy was exact.
    FromCopy(Box<State>),
    /// The state cannot be used.
    Rejected(StateError),
}

/// Reads the state of a tree.
pub fn load(root: &Root) -> Result<LoadedState, StateError> {
    let path = file_path(STATE_FILE);
    let file = match root.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(LoadedState::Missing),
        answer => answer?,
    };
    let mut text = String::new();
    if let Err(source) = file.take(MAX_STATE).read_to_string(&mut text) {
        return Ok(LoadedState::Rejected(StateError::Read { path: root.show(&path), source }));
    }

    let state = match State::parse(&text, &root.show(&path)) {
        Ok(state) => Box::new(state),
        Err(error) => return Ok(LoadedState::Rejected(error)),
    };
    let identity = root.identity()?;
    if state.tree_identity == identity {
        Ok(LoadedState::Valid(state))
    } else if filesystem_of(&state.tree_identity) == filesystem_of(&identity) {
        Ok(LoadedState::FromCopy(state))
    } else {
        Ok(LoadedState::Rejected(StateError::OtherTree))
    }
}

/// The part of a tree identity that names the filesystem.
fn filesystem_of(identity: &str) -> Option<&str> {
    identity.split('-').next()
}

/// Reads the manifest of a recorded generation; `None` if it is lost or damaged.
pub fn load_manifest(
    root: &Root,
    generation: GenerationId,
) -> Result<Option<Manifest>, StateError> {
    let file = match root.open_file(&manifest_path(generation)) {
        Err(error) if error.is_absent() => return Ok(None),
        answer => answer?,
    };
    let manifest = Manifest::read_zstd(file, MAX_TEXT).ok();
    Ok(manifest.filter(|manifest| manifest.id() == generation))
}

/// Records a state and its manifest, durably.
///
/// `manifest` is compressed as in a repository; `None` if it is recorded already.
pub fn save(root: &Root, state: &State, manifest: Option<&[u8]>) -> Result<(), StateError> {
    create_dirs(root, &directory_path())?;

    // The manifest first: the rename of the state commits both.
    if let Some(bytes) = manifest {
        root.write_durably(&manifest_path(state.generation), bytes, 0o600)?;
    }
    root.write_durably(&file_path(STATE_FILE), state.to_toml()?.as_bytes(), 0o600)?;

    // The state is recorded. A path that refuses the rest, such as a flagged one, is retried by the
    // next run.
    match record_last_synced(root, &state.image) {
        Err(error) if error.is_of_path() => {
            let written = TreePath::new(format!("{LAST_SYNCED}.new"));
            let _ = written.map(|path| root.unlink(&path));
        }
        recorded => recorded?,
    }
    match remove_manifests(root, Some(state.generation)) {
        Err(StateError::Root(error)) if error.is_of_path() => Ok(()),
        removed => removed,
    }
}

/// Writes the file with the image's name that the old client wrote.
pub fn record_last_synced(root: &Root, image: &ImageName) -> Result<(), RootError> {
    let path = tree_path(LAST_SYNCED);
    let parent = path.parent().unwrap_or_else(TreePath::root);
    let parent_before = root.stat(&parent)?;

    create_dirs(root, &parent)?;
    root.write_durably(&path, format!("{image}\n").as_bytes(), 0o644)?;

    // The directory may be tracked, and has its mtime from the image.
    match parent_before.zip(root.hold_dir(&parent)?) {
        Some((stat, directory)) => directory.set_mtime(stat.mtime),
        None => Ok(()),
    }
}

/// Records that the generation of a tree is unknown; `synced` is the image that it came from, if
/// any.
pub fn forget(root: &Root, synced: Option<&ImageName>) -> Result<(), StateError> {
    root.unlink(&file_path(STATE_FILE))?;
    match synced {
        Some(image) => record_last_synced(root, image)?,
        None => root.unlink(&tree_path(LAST_SYNCED))?,
    }

    if root.stat(&directory_path())?.is_some() {
        root.sync_dir(&directory_path())?;
    }
    remove_manifests(root, None)
}

/// The files that [`save`] replaces or creates for a generation.
pub fn recorded_paths(generation: GenerationId) -> [TreePath; 4] {
    let pinned = file_path(pinned::FILE);
    [file_path(STATE_FILE), manifest_path(generation), tree_path(LAST_SYNCED), pinned]
}

/// Refuses a tree in which [`save`] would fail.
///
/// It is called before anything is changed: after the commit point [`save`] must succeed.
pub fn check_writable(root: &Root, generation: GenerationId) -> Result<(), StateError> {
    for path in recorded_paths(generation) {
        // A file is first written under another name in the same directory.
        let temporary = TreePath::new([path.as_bytes(), b".new"].concat()).ok();
        for path in [Some(path), temporary].into_iter().flatten() {
            if root.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
                return Err(StateError::IsDirectory { path: root.show(&path) });
            }

            let mut ancestor = path.parent();
            while let Some(dir) = ancestor {
                if root.stat(&dir)?.is_some_and(|stat| stat.kind != FileKind::Directory) {
                    return Err(StateError::NotDirectory { path: root.show(&dir) });
                }
                ancestor = dir.parent();
            }
        }
    }
    Ok(())
}

/// Removes all recorded manifests except for that of `current`.
fn remove_manifests(root: &Root, current: Option<GenerationId>) -> Result<(), StateError> {
    let current = current.map(manifest_path);
    for (path, _) in root.children(&directory_path())? {
        if path.name().starts_with(b"manifest-") && Some(&path) != current.as_ref() {
            root.unlink(&path)?;
        }
    }
    Ok(())
}

/// Whether `path` is a directory above the agent's own files, and so exists because of them.
pub fn is_above_own(path: &TreePath) -> bool {
    file_path(STATE_FILE).is_below(path) || tree_path(LAST_SYNCED).is_below(path)
}

/// Creates a directory for the agent's own files with its missing parents.
///
/// The lowest directory that exists may be tracked: it keeps its mtime.
pub fn create_dirs(root: &Root, path: &TreePath) -> Result<(), RootError> {
    if root.stat(path)?.is_some() {
        return root.create_dirs(path);
    }

    let mut ancestor = path.parent();
    while let Some(dir) = ancestor {
        if let Some(directory) = root.hold_dir(&dir)? {
            root.create_dirs(path)?;
            return directory.set_mtime(directory.stat().mtime);
        }
        ancestor = dir.parent();
    }
    root.create_dirs(path)
}

/// Path of the state directory.
pub fn directory_path() -> TreePath {
    tree_path(DIRECTORY)
}

/// Path of a file in the state directory.
pub fn file_path(name: &str) -> TreePath {
    tree_path(&format!("{DIRECTORY}/{name}"))
}

fn manifest_path(generation: GenerationId) -> TreePath {
    file_path(&format!("manifest-{generation}.mtree.zst"))
}

/// For the fixed paths of this module only: all of them are valid.
fn tree_path(text: &str) -> TreePath {
    TreePath::new(text).unwrap_or_else(|_| TreePath::root())
}
