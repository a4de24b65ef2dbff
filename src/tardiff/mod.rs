//! The jobs of the image server: build, publish, list, show, verify, prune and serve.

// Image trees are read through `root`. Files opened here by name are archives and repositories of
// the server, named on the command line.
#![allow(clippy::disallowed_methods)]

pub mod artifact;
pub mod build;
pub mod cluster;
mod error;
pub mod image_tar;
pub mod list;
pub(crate) mod notice;
pub mod prune;
pub mod publish;
pub mod serve;
pub mod show;
pub mod sign;
pub mod verify;

use std::io;

use crate::delta::ReadAt;
use crate::diff_archive::{ContentProvider, Sources};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::root::{BoundedFile, Root};
use crate::tree_path::TreePath;

pub use error::{ArtifactError, BuildError, ServeError};

/// Contents of a tree, by path.
struct TreeInput<'r>(&'r Root);

impl ContentProvider for TreeInput<'_> {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn io::Read + Send + '_>> {
        let file = self.0.open_file(&entry.path).map_err(|e| e.source)?;
        let size = entry.file().map_or(0, |(size, _)| size);
        Ok(Box::new(file.limited_to(size)))
    }
}

impl Sources for TreeInput<'_> {
    fn read(&self, _: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, size.saturating_add(1)), &mut bytes)?;
        Ok(Some(bytes))
    }

    fn open(
        &self,
        _: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        Ok(self.file(path)?.map(|file| Box::new(file.limited_to(size)) as _))
    }
}

impl TreeInput<'_> {
    fn file(&self, path: &TreePath) -> io::Result<Option<BoundedFile>> {
        match self.0.open_file(path) {
            Err(e) if e.is_absent() => Ok(None),
            file => Ok(Some(file.map_err(|e| e.source)?)),
        }
    }
}
