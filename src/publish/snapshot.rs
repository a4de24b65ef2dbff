//! The head's files as clones that share their blocks with the image: where the filesystem can do that, the next
//! publish has the content of its base at hand.
//!
//! An image tree is edited in place, so its own files are no base, and neither are hardlinks of them; a clone
//! stays as it is and takes no room until the image changes. Clones lie in `.head/` beside the catalog, by
//! their digests, and are not served. They are a convenience: each is checked when it is used, and without
//! them everything comes out of the archives.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::Store;
use crate::delta::ReadAt;
use crate::diff_archive::Sources;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

const DIR: &str = ".head";

/// Clones of the files of a head.
pub struct Snapshot {
    dir: PathBuf,
}

impl Snapshot {
    /// Those of the image that `store` is for; there may be none.
    pub fn of(store: &Store) -> Self {
        Snapshot { dir: store.dir().join(DIR) }
    }

    /// Whether there is a clone of this content, as far as its size tells.
    pub(super) fn has(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.place(digest))
            .is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// Makes the clones those of `head`, whose files `open` opens. Where the filesystem shares no blocks, or
    /// the repository is on another than the image, there will be none.
    pub fn follow(
        &self,
        head: &Manifest,
        open: impl Fn(&Entry) -> io::Result<File>,
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
            match self.clone_of(&open(entry)?, &digest) {
                Err(e) if cannot_share(&e) => return self.remove(),
                done => done?,
            }
        }
        self.remove_but(&wanted)
    }

    fn clone_of(&self, file: &File, digest: &Digest) -> io::Result<()> {
        let place = self.place(digest);
        if let Some(above) = place.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(above)?;
        }
        // A clone that a killed publish left behind may be empty.
        let clone = File::options().write(true).create(true).truncate(true).open(&place)?;
        rustix::fs::ioctl_ficlone(&clone, file).inspect_err(|_| drop(fs::remove_file(&place)))?;
        Ok(())
    }

    fn remove_but(&self, wanted: &HashSet<Digest>) -> io::Result<()> {
        let shelves = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            shelves => shelves?,
        };
        for shelf in shelves {
            let shelf = shelf?;
            for file in fs::read_dir(shelf.path())? {
                let file = file?;
                let name = [shelf.file_name(), file.file_name()]
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

    fn place(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let (shelf, name) = name.split_at(2);
        self.dir.join(shelf).join(name)
    }
}

/// The digest is for the caller to check.
impl Sources for Snapshot {
    fn read(&self, digest: &Digest, size: u64, _: &TreePath) -> io::Result<Option<Vec<u8>>> {
        if !self.has(digest, size) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::open(self.place(digest))?.take(size + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        _: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        match self.has(digest, size) {
            true => Ok(Some(Box::new(File::open(self.place(digest))?))),
            false => Ok(None),
        }
    }
}

/// What FICLONE says of filesystems that do not share blocks, or not with each other.
fn cannot_share(error: &io::Error) -> bool {
    let known =
        [Errno::OPNOTSUPP, Errno::NOTTY, Errno::XDEV, Errno::INVAL, Errno::NOSYS, Errno::PERM];
    error.raw_os_error().is_some_and(|code| known.iter().any(|errno| errno.raw_os_error() == code))
}
