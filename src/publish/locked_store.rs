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

use jiff::Timestamp;
use rustix::fs::FlockOperation;

use crate::catalog::{Catalog, CatalogFault, FileRef, HEAD_FILE, Head, MAX_HEAD, RepoPath};
use crate::digest::Digest;
use crate::publish::{Accepted, PublishError, Published, RepositoryMode, Reuse, Signing, Store};
use crate::signature::KeySet;

/// The directory of files that are not published yet.
const NEW_DIR: &str = ".new";
/// Permissions of files before they are published, and of files that nobody else needs.
const PRIVATE_FILE: u32 = 0o600;
/// Permissions of directories before theirs are set, and of [`NEW_DIR`].
const PRIVATE_DIR: u32 = 0o700;

/// A file in `.new/`, with the name that it has once it is published.
#[derive(Clone, Debug)]
pub struct NewFile {
    temporary: String,
    pub file: RepoPath,
}

/// The exclusive right to change a [`Store`]. At most one process has it at a time.
pub struct LockedStore {
    store: Store,
    mode: RepositoryMode,
    signing: Signing,
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

        let present = RepositoryMode::from_head(&store.dir.join(HEAD_FILE));
        let mode = setting.or(present).unwrap_or_default();
        for part in store.directories() {
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

        let signing = Signing::default();
        let locked = LockedStore { store, mode, signing, _lock: lock };
        locked.clear()?;
        Ok(locked)
    }

    /// Signs what is written from now on.
    pub fn with_signing(mut self, signing: Signing) -> Self {
        self.signing = signing;
        self
    }

    /// Refuses from now on to write what `keys` do not verify.
    pub fn set_image_keys(&mut self, keys: Option<KeySet>) {
        self.signing.image_keys = keys;
    }

    /// The keys, and the validity of heads.
    pub fn signing(&self) -> &Signing {
        &self.signing
    }

    /// The store, for reading.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The permissions of new files.
    pub fn mode(&self) -> RepositoryMode {
        self.mode
    }

    /// Creates a new file in `.new/`; its published name is not known yet.
    pub fn create(&self, temporary: &str) -> Result<File, PublishError> {
        let path = self.new_path(temporary);
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
    pub fn sync(&self, temporary: &str, written: &File) -> Result<(), PublishError> {
        written.sync_all().map_err(|e| PublishError::file("sync", &self.new_path(temporary), e))
    }

    /// Writes a durable file that fits in memory.
    ///
    /// `name` returns the name by the first digits of the digest, which it must contain.
    pub fn write_small(
        &self,
        temporary: &str,
        bytes: &[u8],
        name: impl FnOnce(&str) -> RepoPath,
    ) -> Result<(NewFile, FileRef), PublishError> {
        let mut to = self.create(temporary)?;
        to.write_all(bytes)
            .map_err(|e| PublishError::file("write", &self.new_path(temporary), e))?;
        self.sync(temporary, &to)?;

        let sha256 = Digest::of(bytes);
        let file = name(&FileRef::digits(&sha256));
        let new = NewFile::new(temporary, file.clone());
        Ok((new, FileRef { file, size: bytes.len() as u64, sha256 }))
    }

    /// Renames new files into place, and syncs their directories.
    pub fn rename_into_place<'f>(
        &self,
        files: impl IntoIterator<Item = &'f NewFile>,
    ) -> Result<(), PublishError> {
        let mut dirs = vec![self.store.dir.clone()];
        for NewFile { temporary, file } in files {
            let to = self.store.path(file);
            fs::rename(self.new_path(temporary), &to)
                .map_err(|e| PublishError::file("rename into place", &to, e))?;
            dirs.extend(to.parent().map(Path::to_owned));
        }
        dirs.sort();
        dirs.dedup();
        dirs.iter().try_for_each(|dir| sync_dir(dir))
    }

    /// Writes the catalog and its head, whose rename is the commit point.
    ///
    /// All files that the catalog names are durable. `before` is replaced.
    pub fn commit(
        &self,
        catalog: Catalog,
        before: Option<&Published>,
    ) -> Result<Accepted, PublishError> {
        let expires = self.end_of_head(catalog.issued, before)?;
        let path = self.store.dir.join("catalogs");
        let invalid = |source| PublishError::Catalog { path: path.display().to_string(), source };
        let text = catalog.to_toml().map_err(invalid)?;
        // A catalog that no node can read must not be published.
        Catalog::parse(text.as_bytes(), self.store.layer()).map_err(invalid)?;
        self.signing.check(before, &self.store)?;
        let bytes = self.signing.sign_catalog(&catalog, &text)?;

        let sha256 = Digest::of(&bytes);
        let file = RepoPath::new(&format!("catalogs/{sha256}.toml"));
        let file = file.map_err(|fault| invalid(fault.into()))?;
        let (new, file) = self.write_small("catalog", &bytes, |_| file)?;
        self.rename_into_place([&new])?;

        let mut head = Head::new(&catalog, &file, catalog.issued);
        head.expires = expires;
        let head_bytes = self.write_head(&head)?;
        let written = Published::written((head, head_bytes), (catalog, bytes));
        let path = path.display().to_string();
        let written = written.map_err(|source| PublishError::Signature { path, source })?;
        Ok(Accepted::written(written))
    }

    /// Reads the present head and its catalog, which the keys of the publisher have to verify.
    pub fn accepted(&self, reuse: Reuse) -> Result<Accepted, PublishError> {
        let published = self.store.published()?;
        let layer = || self.store.layer().clone();
        self.accept(published.ok_or_else(|| PublishError::NothingPublished(layer()))?, reuse)
    }

    /// Verifies a head and its catalog by the keys of the publisher.
    pub fn accept(&self, published: Published, reuse: Reuse) -> Result<Accepted, PublishError> {
        Accepted::verify(published, &self.signing, reuse)
    }

    /// Issues the present head again, with a new time.
    pub fn refresh(&self, accepted: &Accepted) -> Result<Head, PublishError> {
        let published = accepted.published();
        if !published.head_keys.is_empty() && !self.signing.signs_heads() {
            let directory = self.store.dir.display().to_string();
            return Err(PublishError::KeyNeeded { directory });
        }
        let issued = Timestamp::now();
        let expires = self.end_of_head(issued, Some(published))?;
        let head = Head { issued, expires, ..published.head.clone() };
        self.write_head(&head)?;
        Ok(head)
    }

    /// The end of a new head, which must be later than its beginning.
    fn end_of_head(
        &self,
        issued: Timestamp,
        before: Option<&Published>,
    ) -> Result<Option<Timestamp>, PublishError> {
        match self.signing.validity.end(issued, before.map(|before| &before.head)) {
            Some(end) if end <= issued => {
                Err(PublishError::EndInPast { layer: self.store.layer.clone(), end })
            }
            end => Ok(end),
        }
    }

    /// Replaces the head; returns the bytes of its file.
    fn write_head(&self, head: &Head) -> Result<Vec<u8>, PublishError> {
        let path = self.store.dir.join(HEAD_FILE);
        let invalid = |source| PublishError::Catalog { path: path.display().to_string(), source };
        let text = head.to_toml().map_err(invalid)?;
        Head::parse(text.as_bytes(), self.store.layer()).map_err(invalid)?;

        let name = RepoPath::new(HEAD_FILE).map_err(|fault| invalid(fault.into()))?;
        let bytes = self.signing.sign_head(head, &text)?;
        if bytes.len() as u64 > MAX_HEAD {
            return Err(invalid(CatalogFault::LongHead { limit: MAX_HEAD }.into()));
        }
        let (new, _) = self.write_small("head", &bytes, |_| name)?;
        self.rename_into_place([&new])?;
        Ok(bytes)
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

    fn new_path(&self, temporary: &str) -> PathBuf {
        self.store.dir.join(NEW_DIR).join(temporary)
    }
}

impl NewFile {
    /// The file that [`LockedStore::create`] made as `temporary` will be published as `file`.
    pub fn new(temporary: &str, file: RepoPath) -> Self {
        NewFile { temporary: temporary.to_owned(), file }
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
