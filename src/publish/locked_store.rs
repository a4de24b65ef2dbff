//! Changes the directory of one image in a repository, under a lock.
//!
//! New files are written to `.new/`, synced, and renamed when a publish commits. The next holder of
//! the lock removes the files that a killed publish left there. Names that begin with a dot are not
//! served.

// A repository belongs to the server; it is not a target tree.
#![allow(clippy::disallowed_methods)]

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::catalog::{Catalog, RepoPath};
use crate::publish::store::CATALOG;
use crate::publish::{PublishError, Store};

/// The directory of files that are not published yet.
const NEW_DIR: &str = ".new";

/// The exclusive right to change a [`Store`]. At most one process has it at a time.
pub struct LockedStore {
    store: Store,
    _lock: File,
}

impl LockedStore {
    /// Creates the directories, locks the store, and removes files that a killed publish left.
    pub fn lock(store: Store) -> Result<LockedStore, PublishError> {
        if store.layer.is_reserved() {
            return Err(PublishError::ReservedName(store.layer));
        }

        for part in ["manifests", "full", "diffs", NEW_DIR] {
            let dir = store.dir.join(part);
            let mode = if part == NEW_DIR { 0o700 } else { 0o755 };
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&dir)
                .map_err(|e| PublishError::file("create", &dir, e))?;
        }

        let path = store.dir.join(".lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|e| PublishError::file("open", &path, e))?;

        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(PublishError::Busy(store.layer)),
            Err(e) => return Err(PublishError::file("lock", &path, e.into())),
        }

        let locked = LockedStore { store, _lock: lock };
        locked.clear()?;
        Ok(locked)
    }

    /// The store, for reading.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Creates a new file in `.new/`. [`rename_into_place`](Self::rename_into_place) publishes it.
    pub fn create(&self, file: &RepoPath) -> Result<File, PublishError> {
        let path = self.new_path(file);
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|e| PublishError::file("create", &path, e))
    }

    /// Creates a file without a name, which exists as long as it is open.
    pub fn unnamed_file(&self) -> Result<File, PublishError> {
        let path = self.store.dir.join(NEW_DIR).join("unnamed");
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|e| PublishError::file("create", &path, e))?;
        fs::remove_file(&path).map_err(|e| PublishError::file("remove", &path, e))?;
        Ok(file)
    }

    /// Makes a file that [`create`](Self::create) made durable.
    pub fn sync(&self, file: &RepoPath, written: &File) -> Result<(), PublishError> {
        written.sync_all().map_err(|e| PublishError::file("sync", &self.new_path(file), e))
    }

    /// Renames new files into place, and syncs their directories.
    pub fn rename_into_place<'f>(
        &self,
        files: impl IntoIterator<Item = &'f RepoPath>,
    ) -> Result<(), PublishError> {
        let mut dirs = vec![self.store.dir.clone()];
        for file in files {
            let to = self.store.path(file);
            fs::rename(self.new_path(file), &to)
                .map_err(|e| PublishError::file("rename into place", &to, e))?;
            dirs.extend(to.parent().map(Path::to_owned));
        }
        dirs.sort();
        dirs.dedup();
        dirs.iter().try_for_each(|dir| sync_dir(dir))
    }

    /// Writes the catalog, whose rename is the commit point. All files that it names are durable.
    pub fn commit(&self, catalog: &Catalog) -> Result<(), PublishError> {
        let path = self.store.dir.join(CATALOG);
        let invalid = |source| PublishError::Catalog { path: path.display().to_string(), source };
        let text = catalog.to_toml().map_err(invalid)?;
        // A catalog that no node can read must not be published.
        Catalog::parse(text.as_bytes(), self.store.layer.name()).map_err(invalid)?;
        let name = RepoPath::new(CATALOG).map_err(|fault| invalid(fault.into()))?;
        let mut file = self.create(&name)?;
        file.write_all(text.as_bytes()).map_err(|e| PublishError::file("write", &path, e))?;
        self.sync(&name, &file)?;
        self.rename_into_place([&name])
    }

    /// Removes a file that no catalog names.
    pub fn remove(&self, file: &RepoPath) -> Result<(), PublishError> {
        let path = self.store.path(file);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(PublishError::file("remove", &path, e))
            }
            _ => Ok(()),
        }
    }

    /// Removes all files in `.new/`.
    pub fn clear(&self) -> Result<(), PublishError> {
        let dir = self.store.dir.join(NEW_DIR);
        for entry in fs::read_dir(&dir).map_err(|e| PublishError::file("list", &dir, e))? {
            let path = entry.map_err(|e| PublishError::file("list", &dir, e))?.path();
            fs::remove_file(&path).map_err(|e| PublishError::file("remove", &path, e))?;
        }
        Ok(())
    }

    fn new_path(&self, file: &RepoPath) -> PathBuf {
        self.store.dir.join(NEW_DIR).join(file.as_str().replace('/', "_"))
    }
}

fn sync_dir(dir: &Path) -> Result<(), PublishError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| PublishError::file("sync", dir, e))
}
