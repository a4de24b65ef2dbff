//! Bytes that were checked.

use std::fs::File;

use crate::digest::Digest;

/// A file of the repository whose size and SHA-256 are those that the catalog names.
#[derive(Debug)]
pub struct Verified {
    file: File,
    size: u64,
    sha256: Digest,
}

impl Verified {
    /// The file, at its beginning when first asked for.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file, at its beginning unless [`file`](Self::file) was read from.
    pub fn into_file(self) -> File {
        self.file
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Of the whole file.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }
}
