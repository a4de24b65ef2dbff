//! The directory of one image, or of one override, in a repository on this machine.
//!
//! New files are made in `.new/` beside their place, synced, and renamed when a publish commits; what a
//! publish that was killed left there is removed by the next one. Names that begin with a dot are not
//! served.

// A repository is the server's own, no target tree.
#![allow(clippy::disallowed_methods)]

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::PublishError;
use crate::catalog::{Archive, Catalog, FileRef, MAX_CATALOG, Publish, RepoPath};
use crate::diff_archive::content_index::ContentIndex;
use crate::diff_archive::{ArchiveLimits, FrameCompression, Listing, read_listing};
use crate::digest::Digest;
use crate::fetch::{FetchError, FetchErrorKind, Ranges, Side};
use crate::image::Layer;
use crate::manifest::{MAX_TEXT, Manifest};

const NEW: &str = ".new";
const CATALOG: &str = "catalog.toml";

/// The directory of an image or an override in a repository.
pub struct Store {
    layer: Layer,
    dir: PathBuf,
}

/// The right to change a [`Store`]; one process has it at a time.
pub struct Locked {
    store: Store,
    _lock: File,
}

impl Store {
    /// Opens the directory of `layer`, which need not be there yet.
    pub fn open(repo: &Path, layer: &Layer) -> Self {
        Store { layer: layer.clone(), dir: repo.join(layer.place()) }
    }

    /// Whose directory it is.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where `file` lies.
    pub fn path(&self, file: &RepoPath) -> PathBuf {
        self.dir.join(file.as_str())
    }

    /// The catalog; `None` where nothing was published.
    pub fn catalog(&self) -> Result<Option<Catalog>, PublishError> {
        let path = self.dir.join(CATALOG);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            answer => answer.map_err(|e| failed("open", &path, e))?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_CATALOG + 1).read_to_end(&mut bytes).map_err(|e| failed("read", &path, e))?;
        if bytes.len() as u64 > MAX_CATALOG {
            return Err(failed("read", &path, io::Error::other("it is larger than 16 MiB")));
        }
        let invalid = |source| PublishError::Catalog { path: path.display().to_string(), source };
        Catalog::parse(&bytes, self.layer.name()).map(Some).map_err(invalid)
    }

    /// Opens `file` for reading; fails where it has another size.
    pub fn read(&self, file: &FileRef) -> Result<File, PublishError> {
        let path = self.path(&file.file);
        let open = || {
            let opened = File::open(&path)?;
            let found = opened.metadata()?.len();
            if found == file.size {
                return Ok(opened);
            }
            Err(io::Error::other(format!("it has {found} bytes, the catalog says {}", file.size)))
        };
        open().map_err(|e| failed("read", &path, e))
    }

    /// Opens `file` for reading once its digest has been checked.
    pub fn read_checked(&self, file: &FileRef) -> Result<File, PublishError> {
        let mut opened = self.read(file)?;
        let path = self.path(&file.file);
        let mut check = || {
            let (digest, _) = Digest::of_reader(&mut opened)?;
            opened.seek(SeekFrom::Start(0))?;
            if digest == file.sha256 {
                Ok(())
            } else {
                Err(io::Error::other("its digest is not the catalog's"))
            }
        };
        check().map_err(|e| failed("read", &path, e))?;
        Ok(opened)
    }

    /// The manifest of `publish`, checked against the catalog and the id of the generation.
    pub fn manifest(&self, publish: &Publish) -> Result<Manifest, PublishError> {
        let file = self.read_checked(&publish.manifest)?;
        let path = self.path(&publish.manifest.file);
        let shown = || path.display().to_string();
        let manifest = Manifest::read_zstd(BufReader::new(file), MAX_TEXT)
            .map_err(|source| PublishError::Manifest { path: shown(), source })?;
        if manifest.id() != publish.generation {
            return Err(failed(
                "read",
                &path,
                io::Error::other("it is the manifest of another generation"),
            ));
        }
        Ok(manifest)
    }

    /// The content index that `catalog` names.
    pub fn index(&self, catalog: &Catalog) -> Result<ContentIndex, PublishError> {
        let Some(file) = &catalog.content else { return Ok(ContentIndex::default()) };
        let opened = self.read_checked(file)?;
        let index = ContentIndex::read_zstd(BufReader::with_capacity(128 << 10, opened));
        index.map_err(|e| failed("read", &self.path(&file.file), io::Error::other(e)))
    }

    /// What the diff `archive` says of itself, in its first frame.
    pub fn listing(&self, archive: &Archive) -> Result<Listing, PublishError> {
        let path = self.path(&archive.file.file);
        let mut frame = Vec::new();
        let opened = self.read(&archive.file)?;
        opened
            .take(archive.first_frame.length)
            .read_to_end(&mut frame)
            .map_err(|e| failed("read", &path, e))?;
        if Digest::of(&frame) != archive.first_frame.sha256 {
            return Err(failed(
                "read",
                &path,
                io::Error::other("its first frame is not the one that the catalog names"),
            ));
        }
        let compression = compression(archive).map_err(|e| failed("read", &path, e))?;
        let invalid = |source| PublishError::Archive { file: archive.file.file.clone(), source };
        read_listing(&frame, compression, &ArchiveLimits::default()).map_err(invalid)
    }

    /// Every file below the directory that the format knows, for those who look for what is left over.
    pub fn files(&self) -> Result<Vec<RepoPath>, PublishError> {
        let mut found = Vec::new();
        for part in ["", "manifests", "full", "diffs"] {
            let dir = self.dir.join(part);
            let entries = match fs::read_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(|e| failed("list", &dir, e))?,
            };
            for entry in entries {
                let entry = entry.map_err(|e| failed("list", &dir, e))?;
                let name = Path::new(part).join(entry.file_name());
                let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
                if let Some(name) =
                    name.to_str().filter(|_| is_file).and_then(|name| RepoPath::new(name).ok())
                {
                    found.push(name);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Makes the directories, takes the lock and removes what a killed publish left behind.
    pub fn lock(self) -> Result<Locked, PublishError> {
        if self.layer.is_taken() {
            return Err(PublishError::Taken(self.layer));
        }
        for part in ["manifests", "full", "diffs", NEW] {
            let dir = self.dir.join(part);
            let mode = if part == NEW { 0o700 } else { 0o755 };
            let made = DirBuilder::new().recursive(true).mode(mode).create(&dir);
            made.map_err(|e| failed("create", &dir, e))?;
        }
        let path = self.dir.join(".lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|e| failed("open", &path, e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(PublishError::Busy(self.layer)),
            Err(e) => return Err(failed("lock", &path, e.into())),
        }
        let locked = Locked { store: self, _lock: lock };
        locked.clear()?;
        Ok(locked)
    }
}

impl Ranges for Store {
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        let path = self.path(&file.file);
        let open = || {
            let mut opened = File::open(&path)?;
            opened.seek(SeekFrom::Start(offset))?;
            Ok(opened.take(length))
        };
        match open() {
            Ok(range) => Ok(Box::new(range)),
            Err(e) => {
                let e: io::Error = e;
                Err(FetchError::new(
                    FetchErrorKind::Other,
                    Side::Server,
                    path.display().to_string(),
                    e.to_string(),
                ))
            }
        }
    }
}

impl Locked {
    /// What can be read.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A new file, not yet in its place: to be written, synced, and put there by [`keep`](Self::keep).
    pub fn create(&self, file: &RepoPath) -> Result<File, PublishError> {
        let path = self.beside(file);
        let made = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        made.map_err(|e| failed("create", &path, e))
    }

    /// A file without a name, for what is needed only while the process lives.
    pub fn unnamed(&self) -> Result<File, PublishError> {
        let path = self.store.dir.join(NEW).join("unnamed");
        let made = File::options().read(true).write(true).create_new(true).open(&path);
        let made = made.map_err(|e| failed("create", &path, e))?;
        fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
        Ok(made)
    }

    /// Syncs what was written to a file made by [`create`](Self::create).
    pub fn sync(&self, file: &RepoPath, written: &File) -> Result<(), PublishError> {
        written.sync_all().map_err(|e| failed("sync", &self.beside(file), e))
    }

    /// Puts new files into their places, durably.
    pub fn keep<'f>(
        &self,
        files: impl IntoIterator<Item = &'f RepoPath>,
    ) -> Result<(), PublishError> {
        let mut dirs = vec![self.store.dir.clone()];
        for file in files {
            let to = self.store.path(file);
            fs::rename(self.beside(file), &to).map_err(|e| failed("rename into place", &to, e))?;
            dirs.extend(to.parent().map(Path::to_owned));
        }
        dirs.sort();
        dirs.dedup();
        dirs.iter().try_for_each(|dir| sync_dir(dir))
    }

    /// Writes the catalog: the commit. Everything that it names is in its place and durable.
    pub fn commit(&self, catalog: &Catalog) -> Result<(), PublishError> {
        let path = self.store.dir.join(CATALOG);
        let invalid = |source| PublishError::Catalog { path: path.display().to_string(), source };
        let text = catalog.to_toml().map_err(invalid)?;
        // What cannot be read back must not be published.
        Catalog::parse(text.as_bytes(), self.store.layer.name()).map_err(invalid)?;
        let name = RepoPath::new(CATALOG).map_err(invalid)?;
        let mut file = self.create(&name)?;
        file.write_all(text.as_bytes()).map_err(|e| failed("write", &path, e))?;
        self.sync(&name, &file)?;
        self.keep([&name])
    }

    /// Removes a file that no catalog names any more.
    pub fn remove(&self, file: &RepoPath) -> Result<(), PublishError> {
        let path = self.store.path(file);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// Removes what is in `.new/`.
    pub fn clear(&self) -> Result<(), PublishError> {
        let dir = self.store.dir.join(NEW);
        for entry in fs::read_dir(&dir).map_err(|e| failed("list", &dir, e))? {
            let path = entry.map_err(|e| failed("list", &dir, e))?.path();
            fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
        }
        Ok(())
    }

    fn beside(&self, file: &RepoPath) -> PathBuf {
        self.store.dir.join(NEW).join(file.as_str().replace('/', "_"))
    }
}

/// How an archive is compressed, which its name tells.
pub(crate) fn compression(archive: &Archive) -> io::Result<FrameCompression> {
    let found = FrameCompression::of_name(archive.file.file.as_str());
    found.ok_or_else(|| io::Error::other("its name does not tell how it is compressed"))
}

fn sync_dir(dir: &Path) -> Result<(), PublishError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| failed("sync", dir, e))
}

pub(super) fn failed(what: &'static str, path: &Path, source: io::Error) -> PublishError {
    PublishError::File { what, path: path.display().to_string(), source }
}
