//! Interfaces to the contents that archives are written from and patches are applied to.

use std::io::{self, Read};

use crate::delta::ReadAt;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// The files of an image, by entry.
pub trait ContentProvider: Sync {
    /// Opens the regular file `entry`.
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + Send + '_>>;
}

/// Available contents, by digest: those of the base on the server, or of the live tree on a node.
///
/// A caller must check the digest of the content that it gets.
pub trait Sources: Sync {
    /// The content with `digest`, of `size` bytes, probably at `path`; `None` if it is missing.
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>>;

    /// Appends the content to `to`; if false is returned, the appended bytes are meaningless.
    fn append(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
        to: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let read = self.read(digest, size, path)?;
        read.iter().for_each(|bytes| to.extend_from_slice(bytes));
        Ok(read.is_some())
    }

    /// Opens the content for reads at any offset.
    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        Ok(self.read(digest, size, path)?.map(|bytes| Box::new(bytes) as Box<dyn ReadAt>))
    }
}

/// Contents that a patch may need while its archive is written: of the base and of the target.
pub struct BaseAndTarget<'a> {
    /// The contents of the base.
    pub base: &'a dyn Sources,
    /// The entries of the target.
    pub target: &'a Manifest,
    /// The files of the target.
    pub content: &'a dyn ContentProvider,
}

impl Sources for BaseAndTarget<'_> {
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let Some(entry) = self.target_file(digest, size, path) else {
            return self.base.read(digest, size, path);
        };

        let mut bytes = Vec::new();
        self.content.open(entry)?.take(size).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        match self.target_file(digest, size, path) {
            None => self.base.open(digest, size, path),
            Some(_) => Ok(self.read(digest, size, path)?.map(|bytes| Box::new(bytes) as _)),
        }
    }
}

impl BaseAndTarget<'_> {
    /// The file of the target at `path`, if it has this content.
    fn target_file(&self, digest: &Digest, size: u64, path: &TreePath) -> Option<&Entry> {
        self.target.get(path).filter(|entry| entry.file() == Some((size, *digest)))
    }
}
