//! Public keys in a tree: the files that decide which signatures a node accepts.

use std::io::Read;

use crate::client_paths::{KEY_DIR, KEY_SUFFIX};
use crate::host::error::KeysError;
use crate::root::{FileKind, Root};
use crate::signature::{KeySet, MAX_KEY_FILE, Role};
use crate::tree_path::TreePath;

/// Number of files in a directory of keys; a site has a few.
const MAX_KEYS: usize = 1024;

/// A directory of public keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDir {
    /// Keys that sign catalogs and heads.
    Publish,
    /// Keys that sign heads only.
    Head,
    /// Keys that never count.
    Revoked,
}

/// A file with a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    pub dir: KeyDir,
    pub path: TreePath,
    /// Content of the file, up to one byte more than a key file may have.
    pub bytes: Vec<u8>,
}

impl KeyDir {
    pub const ALL: [KeyDir; 3] = [KeyDir::Publish, KeyDir::Head, KeyDir::Revoked];

    /// Path of the directory below the root.
    pub fn path(self) -> TreePath {
        let below = match self {
            KeyDir::Publish => "",
            KeyDir::Head => "/head",
            KeyDir::Revoked => "/revoked",
        };
        // The text is constant, and a valid path.
        TreePath::new(format!("{KEY_DIR}{below}")).unwrap_or_else(|_| TreePath::root())
    }

    /// The directory in which `path` is a key file.
    pub fn of(path: &TreePath) -> Option<Self> {
        let parent = path.parent().filter(|_| path.name().ends_with(KEY_SUFFIX.as_bytes()))?;
        KeyDir::ALL.into_iter().find(|dir| dir.path() == parent)
    }
}

impl KeyFile {
    /// Reads the key file at `path`.
    fn read(root: &Root, dir: KeyDir, path: TreePath) -> Result<Self, KeysError> {
        let mut bytes = Vec::new();
        root.open_file(&path)?
            .take(MAX_KEY_FILE as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| KeysError::Unreadable { path: root.show(&path), source })?;
        Ok(KeyFile { dir, path, bytes })
    }
}

/// Reads all key files in these directories of a tree.
pub fn read_key_files(root: &Root, dirs: &[KeyDir]) -> Result<Vec<KeyFile>, KeysError> {
    list_key_files(root, dirs)?
        .into_iter()
        .map(|(dir, path)| KeyFile::read(root, dir, path))
        .collect()
}

/// Collects the keys of `files` by role; `show` names a file in an error.
pub fn collect_keys<'f>(
    files: impl IntoIterator<Item = &'f KeyFile>,
    show: impl Fn(&TreePath) -> String,
) -> Result<KeySet, KeysError> {
    let mut keys = KeySet::new();
    for file in files {
        let name = show(&file.path);
        let added = match file.dir {
            KeyDir::Publish => keys.add(Role::Publish, &name, &file.bytes),
            KeyDir::Head => keys.add(Role::Head, &name, &file.bytes),
            KeyDir::Revoked => keys.revoke(&name, &file.bytes),
        };
        added.map_err(KeysError::Key)?;
    }
    Ok(keys)
}

/// Lists the paths of the key files of a tree, by directory and name.
fn list_key_files(root: &Root, dirs: &[KeyDir]) -> Result<Vec<(KeyDir, TreePath)>, KeysError> {
    let mut files = Vec::new();
    for &dir in dirs {
        let path = dir.path();
        match root.stat(&path)? {
            None => continue,
            Some(stat) if stat.kind != FileKind::Directory => {
                return Err(KeysError::NotDirectory { path: root.show(&path) });
            }
            Some(_) => {}
        }

        let names = root.children(&path)?.into_iter().map(|(path, _)| path);
        let names: Vec<TreePath> =
            names.filter(|path| path.name().ends_with(KEY_SUFFIX.as_bytes())).collect();
        if names.len() > MAX_KEYS {
            return Err(KeysError::TooMany { path: root.show(&path), limit: MAX_KEYS });
        }
        files.extend(names.into_iter().map(|path| (dir, path)));
    }
    Ok(files)
}
