//! Clones of the head's files that share their blocks with the image tree (FICLONE).
//!
//! An image tree is edited in place, so neither its files nor hard links of them preserve the base
//! of the next diff. A clone does, and occupies no space until the image changes. The clones are in
//! `.head/` beside the catalog, named by digest, and are not served. They are optional: each is
//! verified when it is read, and without them the contents are read from the archives.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::delta::ReadAt;
use crate::diff_archive::Sources;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::publish::Store;
use crate::root::BoundedFile;
use crate::tree_path::TreePath;

const DIR: &str = ".head";

/// The clones of the head's files.
pub struct HeadClones {
    dir: PathBuf,
}

impl HeadClones {
    /// The clones in `store`, possibly none.
    pub fn open(store: &Store) -> Self {
        HeadClones { dir: store.dir().join(DIR) }
    }

    /// Whether a clone of this content exists; only its size is compared.
    pub(super) fn has(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.clone_path(digest))
            .is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// Updates the clones to the files of `head`, which `open` opens.
    ///
    /// If the filesystem cannot share blocks, or the repository is on another filesystem than the
    /// image, all clones are removed.
    pub fn update(
        &self,
        head: &Manifest,
        open: impl Fn(&Entry) -> io::Result<BoundedFile>,
    ) -> io::Result<()> {
        let mut wanted = HashSet::new();
        for entry in head.entries() {
            let Some((size, digest)) =
                entry.file().filter(|(size, digest)| *size > 0 && wanted.insert(*digest))
            else {
                continue;
            };
            if self.has(&digest, size) {
                continue;
            }

            match self.make_clone(&open(entry)?, &digest) {
                Err(e) if cannot_share(&e) => return self.remove(),
                done => done?,
            }
        }
        self.remove_except(&wanted)
    }

    fn make_clone(&self, file: &BoundedFile, digest: &Digest) -> io::Result<()> {
        let path = self.clone_path(digest);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }

        // A killed publish may have left an empty file.
        let clone = File::options().write(true).create(true).truncate(true).open(&path)?;
        rustix::fs::ioctl_ficlone(&clone, file).inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(())
    }

    fn remove_except(&self, wanted: &HashSet<Digest>) -> io::Result<()> {
        let subdirs = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            subdirs => subdirs?,
        };

        for subdir in subdirs {
            let subdir = subdir?;
            for file in fs::read_dir(subdir.path())? {
                let file = file?;
                let name = [subdir.file_name(), file.file_name()]
                    .map(|name| name.to_string_lossy().into_owned())
                    .concat();
                if !name.parse().is_ok_and(|digest| wanted.contains(&digest)) {
                    fs::remove_file(file.path())?;
                }
            }
        }
        Ok(())
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn clone_path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let (subdir, name) = name.split_at(2);
        self.dir.join(subdir).join(name)
    }
}

/// The caller verifies the digest.
impl Sources for HeadClones {
    fn read(&self, digest: &Digest, size: u64, _: &TreePath) -> io::Result<Option<Vec<u8>>> {
        if !self.has(digest, size) {
            return Ok(None);
        }

        let mut bytes = Vec::new();
        File::open(self.clone_path(digest))?.take(size + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        _: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        if !self.has(digest, size) {
            return Ok(None);
        }
        Ok(Some(Box::new(File::open(self.clone_path(digest))?)))
    }
}

/// Whether FICLONE failed because the filesystems cannot share blocks.
fn cannot_share(error: &io::Error) -> bool {
    let known =
        [Errno::OPNOTSUPP, Errno::NOTTY, Errno::XDEV, Errno::INVAL, Errno::NOSYS, Errno::PERM];
    error.raw_os_error().is_some_and(|code| known.iter().any(|errno| errno.raw_os_error() == code))
}
