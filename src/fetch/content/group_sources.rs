//! Sources of a delta group.

use std::collections::HashMap;
use std::io;

use crate::delta::ReadAt;
use crate::diff_archive::Sources;
use crate::digest::Digest;
use crate::tree_path::TreePath;

/// Sources of a delta group: fetched ones, then local ones.
pub(super) struct GroupSources<'g> {
    pub local: &'g dyn Sources,
    pub fetched: HashMap<Digest, Vec<u8>>,
}

impl Sources for GroupSources<'_> {
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        match self.fetched.get(digest) {
            Some(bytes) => Ok(Some(bytes.clone())),
            None => self.local.read(digest, size, path),
        }
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        path: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        match self.fetched.get(digest) {
            Some(bytes) => Ok(Some(Box::new(&bytes[..]))),
            None => self.local.open(digest, size, path),
        }
    }
}
