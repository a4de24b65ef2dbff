//! Content by digest.

use std::io::Read;

use crate::catalog::FileRef;
use crate::fetch::FetchError;

/// Reads parts of a repository's files.
pub trait Ranges {
    /// The `length` bytes of `file` from `offset` on. They are not verified: the caller knows their digest.
    fn range(&self, file: &FileRef, offset: u64, length: u64) -> Result<Box<dyn Read + '_>, FetchError>;
}
