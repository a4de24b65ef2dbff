//! Changes the directory of one image in a repository, under a lock.
//!
//! New files are written to `.new/`, synced, and renamed when a publish commits. The next holder of
//! the lock removes the files that a killed publish left there. Names that begin with a dot are not
//! served.

// A repository belongs to the server; it is not a target tree.
#![allow(clippy::disallowed_methods)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::catalog::{Catalog, RepoPath};
use crate::publish::store::CATALOG;
use crate::publish::{PublishError, RepositoryMode, Store};

/// The directory of files that are not published yet.
const NEW_DIR: &str = ".new";
/// Permissions of files before they are published, and of files that nobody else needs.
const PRIVATE_FILE: u32 = 0o600;
/// Permissions of directories before theirs are set, and of [`NEW_DIR`].
const PRIVATE_DIR: u32 = 0o700;

/// The exclusive right to change a [`Store`]. At most one process has it at a time.
pub struct LockedStore {
    store: Store,
    mode: RepositoryMode,
    _lock: File,
}

impl LockedStore {
    /// Creates the directories, locks the store, and removes files that a killed publish left.
    ///
    /// Without a `setting` new files are readable for those who can read the present catalog.
    pub fn lock(
        store: Store,
        setting: Option<RepositoryMode>,
    ) -> Result<LockedStore, PublishError> {
        if store.layer.is_reserved() {
            return Err(PublishError::ReservedName(store.layer));
        }

        let present = RepositoryMode::from_catalog(&store.dir.join(CATALOG));
        let mode = setting.or(present).unwrap_or_default();
        for part in ["", "manifests", "full", "diffs"] {
            let dir = store.dir.join(part);
            create_dir(&dir, mode).map_err(|e| PublishError::file("create", &dir, e))?;
            if setting.is_some() {
                let changed = mode.set_directory(&dir);
                changed.map_err(|e| PublishError::file("set the permissions of", &dir, e))?;
            }
        }
        let dir = store.dir.join(NEW_DIR);
        let created = DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(&dir);
        created.map_err(|e| PublishError::file("create", &dir, e))?;

        let path = store.dir.join(".lock");
        let lock = private_file().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|e| PublishError::file("open", &path, e))?;

        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(PublishError::Busy(store.layer)),
            Err(e) => return Err(PublishError::file("lock", &path, e.into())),
        }

        let locked = LockedStore { store, mode, _lock: lock };
        locked.clear()?;
        Ok(locked)
    }

    /// The store, for reading.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The permissions of new files.
    pub fn mode(&self) -> RepositoryMode {
        self.mode
    }

    /// Creates a new file in `.new/`. [`rename_into_place`](Self::rename_into_place) publishes it.
    pub fn create(&self, file: &RepoPath) -> Result<File, PublishError> {
        let path = self.new_path(file);
        private_file()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|file| self.mode.set_file(&file).map(|()| file))
            .map_err(|e| PublishError::file("create", &path, e))
    }

    /// Creates a file without a name, which exists as long as it is open.
    pub fn unnamed_file(&self) -> Result<File, PublishError> {
        let path = self.store.dir.join(NEW_DIR).join("unnamed");
        let file = private_file().read(true).write(true).create_new(true).open(&path);
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

/// Creates a directory, with those above it, unless it exists.
fn create_dir(dir: &Path, mode: RepositoryMode) -> io::Result<()> {
    match DirBuilder::new().mode(PRIVATE_DIR).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_dir(dir.parent().ok_or(e)?, mode)?;
            DirBuilder::new().mode(PRIVATE_DIR).create(dir)?;
            mode.set_directory(dir)
        }
        created => created.and_then(|()| mode.set_directory(dir)),
    }
}

fn private_file() -> OpenOptions {
    let mut options = File::options();
    options.mode(PRIVATE_FILE);
    options
}

fn sync_dir(dir: &Path) -> Result<(), PublishError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| PublishError::file("sync", dir, e))
}
