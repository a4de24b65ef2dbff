//! Reads the directory of one image, or of one override, in a repository on this machine.

// A repository belongs to the server; it is not a target tree.
#![allow(clippy::disallowed_methods)]

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::catalog::{
    Archive, ArchiveKind, Catalog, FileRef, HEAD_FILE, Head, MAX_CATALOG, MAX_HEAD, Publish,
    RepoPath,
};
use crate::diff_archive::content_index::ContentIndex;
use crate::diff_archive::{
    ArchiveLimits, DeltaGroup, FrameCompression, FrameHead, FramedFile, Listing, read_listing,
};
use crate::digest::Digest;
use crate::fetch::{FetchError, FetchErrorKind, Ranges, Side};
use crate::host::named_file;
use crate::image::Layer;
use crate::manifest::Manifest;
use crate::publish::PublishError;
use crate::publish::error::FileFault;
use crate::signature::{KeyId, KeySet, Role, SignatureBlock, SignatureError, SignedText};

/// Directories of an image or an override in a repository of this format.
const TREE_DIRECTORIES: [&str; 7] =
    ["", "catalogs", "manifests", "full", "diffs", "content", "torrents"];
/// Directories of a cluster.
const CLUSTER_DIRECTORIES: [&str; 3] = ["", "catalogs", "files"];
/// Name of the catalog in a repository of format 1.
const OLD_CATALOG: &str = "catalog.toml";

/// The head of a layer with the catalog that it names.
#[derive(Clone, Debug)]
pub struct Published {
    pub head: Head,
    pub catalog: Catalog,
    /// Keys that the signatures of the head name.
    pub head_keys: Vec<KeyId>,
    /// Keys that the signatures of the catalog name.
    pub catalog_keys: Vec<KeyId>,
    /// Bytes of the two files: their signatures are verified without reading them again.
    head_file: Vec<u8>,
    catalog_file: Vec<u8>,
}

impl Published {
    /// A head and a catalog that this program has written as these files.
    pub(super) fn written(
        (head, head_file): (Head, Vec<u8>),
        (catalog, catalog_file): (Catalog, Vec<u8>),
    ) -> Result<Self, SignatureError> {
        let head_keys = key_ids(&SignedText::split(&head_file)?);
        let catalog_keys = key_ids(&SignedText::split(&catalog_file)?);
        Ok(Published { head, catalog, head_keys, catalog_keys, head_file, catalog_file })
    }

    /// Verifies a signature of the head.
    pub fn verify_head(&self, keys: &KeySet) -> Result<(), SignatureError> {
        SignedText::split(&self.head_file)?.verify(keys, Role::Head).map(drop)
    }

    /// Verifies a signature of the catalog.
    pub fn verify_catalog(&self, keys: &KeySet) -> Result<(), SignatureError> {
        SignedText::split(&self.catalog_file)?.verify(keys, Role::Publish).map(drop)
    }
}

/// The directory of a layer in a repository.
pub struct Store {
    pub(super) layer: Layer,
    pub(super) dir: PathBuf,
}

impl Store {
    /// The directory of `layer`, which need not exist yet.
    pub fn open(repo: &Path, layer: &Layer) -> Self {
        Store { layer: layer.clone(), dir: repo.join(layer.repository_path()) }
    }

    /// The image, override or cluster.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Whether there is a directory with a head, readable or not; no symbolic link counts.
    pub fn has_head(&self) -> bool {
        let kind = |path: &Path| fs::symlink_metadata(path).map(|found| found.file_type());
        kind(&self.dir).is_ok_and(|kind| kind.is_dir())
            && [HEAD_FILE, OLD_CATALOG]
                .iter()
                .any(|name| kind(&self.dir.join(name)).is_ok_and(|kind| kind.is_file()))
    }

    /// The path of the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directories of the format, relative to that of the layer, which is the first.
    pub(super) fn directories(&self) -> &'static [&'static str] {
        match self.layer {
            Layer::Image(_) | Layer::Override(_) => &TREE_DIRECTORIES,
            Layer::Cluster => &CLUSTER_DIRECTORIES,
        }
    }

    /// The path of `file`.
    pub fn path(&self, file: &RepoPath) -> PathBuf {
        self.dir.join(file.as_str())
    }

    /// The catalog; `None` if nothing was published.
    pub fn catalog(&self) -> Result<Option<Catalog>, PublishError> {
        Ok(self.published()?.map(|published| published.catalog))
    }

    /// The head and its catalog; `None` if nothing was published.
    pub fn published(&self) -> Result<Option<Published>, PublishError> {
        let path = self.dir.join(HEAD_FILE);
        let invalid = |source| PublishError::Catalog { path: path.display().to_string(), source };
        let file = match named_file::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.nothing_published(),
            answer => answer.map_err(|e| PublishError::file("open", &path, e))?,
        };

        let bytes =
            read_at_most(file, MAX_HEAD).map_err(|e| PublishError::file("read", &path, e))?;
        let signed = self.divide(&path, &bytes)?;
        let head = Head::parse(signed.unverified_text(), &self.layer).map_err(invalid)?;
        let head_keys = key_ids(&signed);
        let (catalog, catalog_keys, catalog_file) = self.catalog_of(&head)?;
        let head_file = bytes;
        Ok(Some(Published { head, catalog, head_keys, catalog_keys, head_file, catalog_file }))
    }

    /// The catalog that `head` names, the keys of its signatures, and its bytes.
    fn catalog_of(&self, head: &Head) -> Result<(Catalog, Vec<KeyId>, Vec<u8>), PublishError> {
        let name = head.catalog_file();
        let path = self.dir.join("catalogs").join(format!("{}.toml", head.catalog));
        let invalid = |source| PublishError::Catalog { path: path.display().to_string(), source };

        let mut bytes = Vec::new();
        self.read(&name.map_err(invalid)?)?
            .take(head.size)
            .read_to_end(&mut bytes)
            .map_err(|e| PublishError::file("read", &path, e))?;
        if Digest::of(&bytes) != head.catalog {
            return Err(PublishError::file("read", &path, FileFault::Digest.into()));
        }
        let signed = self.divide(&path, &bytes)?;
        let catalog = Catalog::parse(signed.unverified_text(), &self.layer).map_err(invalid)?;
        head.check(&catalog).map_err(invalid)?;
        let keys = key_ids(&signed);
        Ok((catalog, keys, bytes))
    }

    /// Verifies the signatures of the present head and of its catalog; returns the faults.
    pub fn verify_signatures(&self, published: &Published, keys: &KeySet) -> Vec<PublishError> {
        let head = self.dir.join(HEAD_FILE);
        let catalog = self.dir.join("catalogs").join(format!("{}.toml", published.head.catalog));
        let files =
            [(head, published.verify_head(keys)), (catalog, published.verify_catalog(keys))];
        let faults = files.into_iter().filter_map(|(path, verified)| {
            let path = path.display().to_string();
            verified.err().map(|source| PublishError::Signature { path, source })
        });
        faults.collect()
    }

    /// Each file that a head named after `since`, except those of `published` itself.
    ///
    /// A reader may have fetched such a head, and may still ask for its files. The history ends
    /// with the first catalog that cannot be read.
    pub fn files_named_since(&self, published: &Published, since: Timestamp) -> Vec<RepoPath> {
        let mut files = Vec::new();
        let (mut replaced_at, mut previous) =
            (published.catalog.issued, published.catalog.previous);
        while let Some(digest) = previous.filter(|_| replaced_at >= since) {
            let Ok((file, catalog)) = self.old_catalog(digest) else { break };
            files.push(file);
            files.extend(catalog.files().map(|file| file.file));
            (replaced_at, previous) = (catalog.issued, catalog.previous);
        }
        files
    }

    fn old_catalog(&self, digest: Digest) -> Result<(RepoPath, Catalog), PublishError> {
        let name = format!("catalogs/{digest}.toml");
        let path = self.dir.join(&name);
        let invalid = |source| PublishError::Catalog { path: path.display().to_string(), source };

        let bytes = named_file::open(&path)
            .and_then(|file| read_at_most(file, MAX_CATALOG))
            .map_err(|e| PublishError::file("read", &path, e))?;
        if Digest::of(&bytes) != digest {
            return Err(PublishError::file("read", &path, FileFault::Digest.into()));
        }
        let file = RepoPath::new(&name).map_err(|fault| invalid(fault.into()))?;
        let text = self.divide(&path, &bytes)?.unverified_text();
        Ok((file, Catalog::parse(text, &self.layer).map_err(invalid)?))
    }

    /// Divides a file of this server into text and signatures; verifies nothing.
    fn divide<'b>(&self, path: &Path, bytes: &'b [u8]) -> Result<SignedText<'b>, PublishError> {
        SignedText::split(bytes)
            .map_err(|source| PublishError::Signature { path: path.display().to_string(), source })
    }

    /// Refuses a directory of the format before this one.
    fn nothing_published(&self) -> Result<Option<Published>, PublishError> {
        let old = self.dir.join(OLD_CATALOG);
        match fs::symlink_metadata(&old) {
            Ok(_) => Err(PublishError::OldFormat {
                directory: self.dir.display().to_string(),
                layer: self.layer.clone(),
            }),
            Err(_) => Ok(None),
        }
    }

    /// Opens `file` for reading; fails if its size is not the catalog's.
    pub fn read(&self, file: &FileRef) -> Result<File, PublishError> {
        let path = self.path(&file.file);
        open_sized(&path, file.size).map_err(|e| PublishError::file("read", &path, e))
    }

    /// Opens `file` for reading after its digest has been verified.
    pub fn read_checked(&self, file: &FileRef) -> Result<File, PublishError> {
        let mut opened = self.read(file)?;
        let path = self.path(&file.file);
        check_digest(&mut opened, &file.sha256)
            .map_err(|e| PublishError::file("read", &path, e))?;
        Ok(opened)
    }

    /// The manifest of `publish`, verified by its digest and by the generation id.
    pub fn manifest(&self, publish: &Publish) -> Result<Manifest, PublishError> {
        let file = self.read_checked(&publish.manifest)?;
        let path = self.path(&publish.manifest.file);
        let shown = || path.display().to_string();
        let manifest = Manifest::read_published(BufReader::new(file), publish.entries)
            .map_err(|source| PublishError::Manifest { path: shown(), source })?;
        if manifest.id() != publish.generation {
            return Err(PublishError::file("read", &path, FileFault::OtherGeneration.into()));
        }
        Ok(manifest)
    }

    /// The content index that `catalog` names.
    pub fn index(&self, catalog: &Catalog) -> Result<ContentIndex, PublishError> {
        let Some(index) = &catalog.content else { return Ok(ContentIndex::default()) };
        let file = &index.file;
        let opened = self.read_checked(file)?;
        let opened = BufReader::with_capacity(128 << 10, opened);
        let index = ContentIndex::read_published(opened, file.size, Some(index.first_frame));
        index.map_err(|e| PublishError::file("read", &self.path(&file.file), io::Error::other(e)))
    }

    /// The head of `archive`, whose digest the catalog has.
    pub fn frame_head(&self, archive: &Archive) -> Result<FrameHead, PublishError> {
        let path = self.path(&archive.file.file);
        let compression = compression(archive).map_err(|e| PublishError::file("read", &path, e))?;
        let mut file = FramedFile {
            bytes: self.read(&archive.file)?,
            size: archive.file.size,
            compression,
            head: Some(archive.first_frame),
        };
        FrameHead::read(&mut file)
            .map_err(|fault| PublishError::file("read", &path, io::Error::other(fault)))
    }

    /// The listing of the diff `archive`, from its head.
    pub fn listing(&self, archive: &Archive) -> Result<Listing, PublishError> {
        read_listing(&self.frame_head(archive)?, &ArchiveLimits::default())
            .map_err(|source| PublishError::Archive { file: archive.file.file.clone(), source })
    }

    /// The delta groups of all diffs among `archives`, from their listings.
    pub fn delta_groups(&self, archives: &[Archive]) -> Result<Vec<DeltaGroup>, PublishError> {
        let mut groups = Vec::new();
        for archive in archives {
            if matches!(archive.kind, ArchiveKind::Diff { .. }) {
                groups.extend_from_slice(self.listing(archive)?.groups());
            }
        }
        Ok(groups)
    }

    /// Each file in the directories of the format, to find unreferenced ones.
    pub fn files(&self) -> Result<Vec<RepoPath>, PublishError> {
        let mut files = Vec::new();
        for part in self.directories() {
            let dir = self.dir.join(part);
            let entries = match fs::read_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(|e| PublishError::file("list", &dir, e))?,
            };

            for entry in entries {
                let entry = entry.map_err(|e| PublishError::file("list", &dir, e))?;
                let name = Path::new(part).join(entry.file_name());
                let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
                if let Some(name) =
                    name.to_str().filter(|_| is_file).and_then(|name| RepoPath::new(name).ok())
                {
                    files.push(name);
                }
            }
        }

        files.sort();
        Ok(files)
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
        match open_at(&path, offset) {
            Ok(file) => Ok(Box::new(file.take(length))),
            Err(error) => Err(FetchError::new(
                FetchErrorKind::Other,
                Side::Server,
                path.display().to_string(),
                error,
            )),
        }
    }
}

fn key_ids(signed: &SignedText<'_>) -> Vec<KeyId> {
    signed.signatures().iter().map(SignatureBlock::key_id).collect()
}

/// Reads a file of at most `limit` bytes.
fn read_at_most(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(FileFault::TooLarge { limit }.into());
    }
    Ok(bytes)
}

/// Opens a file of `size` bytes for reading.
fn open_sized(path: &Path, size: u64) -> io::Result<File> {
    let file = named_file::open(path)?;
    let actual = file.metadata()?.len();
    if actual == size { Ok(file) } else { Err(FileFault::Size { actual, expected: size }.into()) }
}

/// Opens a file for reading from `offset`.
fn open_at(path: &Path, offset: u64) -> io::Result<File> {
    let mut file = named_file::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

/// Verifies the digest of a file, and returns to its start.
fn check_digest(file: &mut File, expected: &Digest) -> io::Result<()> {
    let (digest, _) = Digest::of_reader(&mut *file)?;
    file.seek(SeekFrom::Start(0))?;
    if digest == *expected { Ok(()) } else { Err(FileFault::Digest.into()) }
}

/// The compression of an archive, by the extension of its name.
pub(crate) fn compression(archive: &Archive) -> io::Result<FrameCompression> {
    FrameCompression::from_name(archive.file.file.as_str())
        .ok_or_else(|| FileFault::UnknownExtension.into())
}
