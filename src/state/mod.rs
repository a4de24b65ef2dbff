//! What a node knows of itself, and the lock that lets one run at a time work on it.
//!
//! Everything lies in `var/lib/systemimager/client/` below the root: `state.toml`, the manifest of the
//! recorded generation under a name that holds its id, the spool, and the lock. The manifest is
//! durable before the state that names it, so that the rename of `state.toml` commits both.
//!
#![doc = include_str!("format.md")]

mod lock;
mod overrides;
pub mod pinned;

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::{MAX_TEXT, Manifest, ManifestError, parse_path, path_text};
use crate::root::{FileKind, Root, RootError};
use crate::tree_path::TreePath;

pub use lock::Lock;
pub use overrides::{OverrideRecord, made};

/// The directory, below the root.
pub const DIRECTORY: &str = "var/lib/systemimager/client";
/// The file that the old client left behind, and that other tools read.
pub const LAST_SYNCED: &str = "etc/systemimager/IMAGE_LAST_SYNCED_TO";
/// A state file larger than this is not ours: a million deviations take less.
const MAX_STATE: u64 = 256 << 20;
/// The names under which a state and its manifest are kept elsewhere.
const KEPT_STATE: &str = "state.toml";
const KEPT_MANIFEST: &str = "manifest";
/// The format that this program reads and writes.
const FORMAT: u32 = 1;

/// What is recorded of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    /// The image that the node follows.
    pub image: ImageName,
    /// The serial of the publish that it is at; 0 where what it is came by rsync and was never published.
    pub serial: u64,
    /// The generation that it is at, but for the deviations; of what was never published, the id of what came.
    pub generation: GenerationId,
    /// The filter under which that is true.
    pub filter: Digest,
    /// The tree that this was written for: a copy elsewhere is not believed.
    pub home: String,
    /// When this was written, by the node's clock; for people only.
    pub written: jiff::Timestamp,
    /// Untracked paths that were seen, by their topmost directory; unknown before the first walk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untracked: Option<u64>,
    /// The catalog that this follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<SeenCatalog>,
    /// Tracked paths known not to match, with what is different.
    #[serde(default)]
    pub deviations: BTreeMap<String, String>,
    /// What waits for the next boot to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelPaths>,
    /// What is laid over the image, each over the ones before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<OverrideRecord>,
}

/// Paths that the image does not have any more, and that stay as long as the kernel runs that they
/// belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelPaths {
    /// The kernel, as `uname -r` prints it.
    pub release: String,
    /// All of them, directories as well as what they hold, written as in manifests.
    pub paths: Vec<String>,
}

/// The last catalog that was believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenCatalog {
    /// Where it came from.
    pub repo: String,
    /// Its serial: an older one is refused.
    pub serial: u64,
    /// What to ask the server with, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// Why the state of a node cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk said no.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Another run works on this tree.
    #[error("another update of {0} is running")]
    Locked(String),
    /// What is written there is not a state.
    #[error("{path} is not valid: {why}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

impl State {
    /// The state of a node at `generation` without deviations.
    pub fn new(
        image: ImageName,
        serial: u64,
        generation: GenerationId,
        filter: Digest,
        home: String,
    ) -> Self {
        State {
            format: FORMAT,
            image,
            serial,
            generation,
            filter,
            home,
            written: jiff::Timestamp::now(),
            untracked: None,
            catalog: None,
            deviations: BTreeMap::new(),
            kernel: None,
            overrides: Vec::new(),
        }
    }

    /// Whether the node is at a publish.
    pub fn is_published(&self) -> bool {
        self.serial > 0
    }

    /// What the tree was made, as one name: the generation, and where something is laid over the image,
    /// a digest of it and of all that is.
    pub fn made(&self) -> GenerationId {
        made(self.generation, self.overrides.iter().map(|laid| laid.generation))
    }

    /// Records that `path` does not match, and how.
    pub fn deviate(&mut self, path: &TreePath, what: impl Into<String>) {
        self.deviations.insert(path_text(path), what.into());
    }

    /// The paths that are known not to match.
    pub fn deviating(&self) -> impl Iterator<Item = TreePath> {
        self.deviations.keys().filter_map(|text| parse_path(text.as_bytes()).ok())
    }

    /// The state as text.
    pub fn to_toml(&self) -> Result<String, StateError> {
        toml::to_string(self).map_err(|e| StateError::Invalid {
            path: "the new state".to_owned(),
            why: e.to_string(),
        })
    }

    /// Reads a state from `text`, which came from `path`.
    pub fn parse(text: &str, path: &str) -> Result<Self, StateError> {
        let invalid = |why: String| StateError::Invalid { path: path.to_owned(), why };
        let state: State = toml::from_str(text).map_err(|e| invalid(e.message().to_owned()))?;
        if state.format != FORMAT {
            return Err(invalid(format!(
                "it has format {}, this program reads format {FORMAT}",
                state.format
            )));
        }
        Ok(state)
    }
}

impl KernelPaths {
    /// `paths` of the kernel with this `release`; `None` where there are none.
    pub fn new(release: &str, paths: &[TreePath]) -> Option<Self> {
        let paths: Vec<String> = paths.iter().map(path_text).collect();
        (!paths.is_empty()).then(|| KernelPaths { release: release.to_owned(), paths })
    }

    /// The paths, in tree order.
    pub fn paths(&self) -> Vec<TreePath> {
        let mut paths: Vec<TreePath> =
            self.paths.iter().filter_map(|text| parse_path(text.as_bytes()).ok()).collect();
        paths.sort_unstable();
        paths
    }
}

/// What is found where a node keeps its state.
#[derive(Debug)]
pub enum StoredState {
    /// No state.
    Nothing,
    /// A state that was written for this tree.
    State(Box<State>),
    /// A state that came with a copy of another tree on this filesystem: true if the copy was exact.
    Copied(Box<State>),
    /// A state that cannot be believed, and why.
    SetAside(String),
}

/// Reads the state of the tree at `root`.
pub fn load(root: &Root) -> Result<StoredState, StateError> {
    let path = place("state.toml");
    let file = match root.open_file(&path) {
        Err(e) if e.is_absent() => return Ok(StoredState::Nothing),
        answer => answer?,
    };
    let mut text = String::new();
    if let Err(e) = file.take(MAX_STATE).read_to_string(&mut text) {
        return Ok(StoredState::SetAside(format!("{} cannot be read: {e}", root.show(&path))));
    }
    let home = root.identity()?;
    let filesystem = |home: &str| home.split('-').next().map(str::to_owned);
    match State::parse(&text, &root.show(&path)) {
        Err(e) => Ok(StoredState::SetAside(e.to_string())),
        Ok(state) if state.home == home => Ok(StoredState::State(Box::new(state))),
        Ok(state) if filesystem(&state.home) == filesystem(&home) => Ok(StoredState::Copied(Box::new(state))),
        Ok(_) => Ok(StoredState::SetAside(
            "the recorded state was written for another machine's tree and came here with a copy of it".to_owned(),
        )),
    }
}

/// The manifest of a recorded generation; `None` where it is lost or damaged.
pub fn load_manifest(
    root: &Root,
    generation: GenerationId,
) -> Result<Option<Manifest>, StateError> {
    let file = match root.open_file(&manifest_place(generation)) {
        Err(e) if e.is_absent() => return Ok(None),
        answer => answer?,
    };
    let manifest: Result<Manifest, ManifestError> = Manifest::read_zstd(file, MAX_TEXT);
    Ok(manifest.ok().filter(|manifest| manifest.id() == generation))
}

/// Records `state` (as text, which [`State::parse`] accepts) and the manifest that it names, durably;
/// `manifest` is compressed as in the repository, and `None` where it is recorded already.
pub fn save(root: &Root, state: &State, manifest: Option<&[u8]>) -> Result<(), StateError> {
    make_dirs(root, &place_dir())?;
    if let Some(bytes) = manifest {
        root.write_durably(&manifest_place(state.generation), bytes, 0o600)?;
    }
    root.write_durably(&place("state.toml"), state.to_toml()?.as_bytes(), 0o600)?;
    note_synced(root, &state.image)?;
    remove_manifests(root, Some(state.generation))
}

/// Leaves the name of the image where the old client left it.
pub fn note_synced(root: &Root, image: &ImageName) -> Result<(), RootError> {
    let last = tree_path(LAST_SYNCED);
    let parent = last.parent().unwrap_or_else(TreePath::root);
    let before = root.stat(&parent)?;
    make_dirs(root, &parent)?;
    root.write_durably(&last, format!("{image}\n").as_bytes(), 0o644)?;
    if let Some(before) = before {
        // The image may have the directory, and its time.
        root.set_times(&parent, before.mtime)?;
    }
    Ok(())
}

/// Records that no generation is known of the tree; `synced` is the image that it was made of, if any.
pub fn forget(root: &Root, synced: Option<&ImageName>) -> Result<(), StateError> {
    root.unlink(&place("state.toml"))?;
    match synced {
        Some(image) => note_synced(root, image)?,
        None => root.unlink(&tree_path(LAST_SYNCED))?,
    }
    if root.stat(&place_dir())?.is_some() {
        root.sync_dir(&place_dir())?;
    }
    remove_manifests(root, None)
}

/// What was recorded when something was kept: the state as text, and the manifest as it is stored.
#[derive(Clone, Debug, Default)]
pub struct StoredManifest {
    /// The state; `None` where nothing was known.
    pub state: Option<String>,
    /// The manifest that it names.
    pub manifest: Option<Vec<u8>>,
}

/// Keeps in the directory `to` what is recorded now of the tree at `root`, durable once `to` is synced.
pub fn keep(root: &Root, to: &Root) -> Result<(), RootError> {
    let Ok(StoredState::State(state) | StoredState::Copied(state)) = load(root) else {
        return Ok(());
    };
    for (from, name) in
        [(place("state.toml"), KEPT_STATE), (manifest_place(state.generation), KEPT_MANIFEST)]
    {
        match to.create_link(&tree_path(name), root, &from) {
            Err(error) if error.is_absent() => {}
            // The state directory may lie on another filesystem.
            Err(_) => root.copy(&from, to, &tree_path(name))?,
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Reads what [`keep`] kept.
pub fn kept(from: &Root) -> Result<StoredManifest, RootError> {
    let read = |name: &str, most: u64| -> Result<Option<Vec<u8>>, RootError> {
        let path = tree_path(name);
        let file = match from.open_file(&path) {
            Err(e) if e.is_absent() => return Ok(None),
            answer => answer?,
        };
        let mut bytes = Vec::new();
        let read = file.take(most).read_to_end(&mut bytes);
        read.map_err(|source| RootError { what: "read", path: from.show(&path), source })?;
        Ok(Some(bytes))
    };
    let state = read(KEPT_STATE, MAX_STATE)?.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(StoredManifest { state, manifest: read(KEPT_MANIFEST, MAX_TEXT)? })
}

/// Refuses a tree in which [`save`] would fail: that must be known before anything is changed.
pub fn check_places(root: &Root, generation: GenerationId) -> Result<(), StateError> {
    let invalid = |path: &TreePath, why: &str| StateError::Invalid {
        path: root.show(path),
        why: why.to_owned(),
    };
    let places = [place("state.toml"), manifest_place(generation), tree_path(LAST_SYNCED)];
    for path in places {
        // They are written beside their place.
        let beside = [path.as_bytes(), b".new"].concat();
        for path in [Some(path), TreePath::new(beside).ok()].into_iter().flatten() {
            if root.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
                return Err(invalid(&path, "it is a directory where the agent keeps a file"));
            }
            let mut above = path.parent();
            while let Some(dir) = above {
                if root.stat(&dir)?.is_some_and(|stat| stat.kind != FileKind::Directory) {
                    return Err(invalid(
                        &dir,
                        "it is no directory, and the agent keeps files in it",
                    ));
                }
                above = dir.parent();
            }
        }
    }
    Ok(())
}

fn remove_manifests(root: &Root, but: Option<GenerationId>) -> Result<(), StateError> {
    let keep = but.map(manifest_place);
    for (path, _) in root.children(&place_dir())? {
        if path.name().starts_with(b"manifest-") && Some(&path) != keep.as_ref() {
            root.unlink(&path)?;
        }
    }
    Ok(())
}

/// A place in the state directory.
pub fn place(name: &str) -> TreePath {
    tree_path(&format!("{DIRECTORY}/{name}"))
}

/// Whether `path` is a directory above the agent's own files, and so there because of them.
pub fn is_above_own(path: &TreePath) -> bool {
    place("state.toml").is_below(path) || tree_path(LAST_SYNCED).is_below(path)
}

/// Makes a directory for the agent's own files, unless it is there; the one above, which may be the image's,
/// keeps its time.
pub fn make_dirs(root: &Root, path: &TreePath) -> Result<(), RootError> {
    if root.stat(path)?.is_some() {
        return root.create_dirs(path);
    }
    let mut above = path.parent();
    while let Some(at) = above {
        if let Some(stat) = root.stat(&at)? {
            root.create_dirs(path)?;
            return root.set_times(&at, stat.mtime);
        }
        above = at.parent();
    }
    root.create_dirs(path)
}

/// The state directory.
pub fn place_dir() -> TreePath {
    tree_path(DIRECTORY)
}

fn manifest_place(generation: GenerationId) -> TreePath {
    place(&format!("manifest-{generation}.mtree.zst"))
}

/// Only for the fixed paths of this module, which are good.
fn tree_path(text: &str) -> TreePath {
    TreePath::new(text).unwrap_or_else(|_| TreePath::root())
}
