//! Contents of a delta group, in the forms that its patch needs and yields.

use crate::digest::Digest;
use crate::replay::file::Forms;
use crate::tree_path::TreePath;

/// A content that a patch needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSource {
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Probable path; a hint, the digest decides.
    pub path: TreePath,
    /// The plain form, if the patch needs that.
    pub plain: Option<PlainForm>,
}

/// The plain form of a compressed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainForm {
    /// Length in bytes.
    pub length: u64,
    /// Container that it is read from.
    pub container: Container,
}

/// Container of a plain form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A gzip file.
    Gzip,
    /// A file with parts of these forms, whose decisions the patch may use too.
    Replayed(Forms),
}

/// A content that a patch yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupTarget {
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Set if the patch yields the parts of a compressed file, which is rebuilt from them.
    pub rebuilt: Option<RebuiltParts>,
}

/// Parts of a compressed file in the output of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebuiltParts {
    /// Those of a gzip file.
    Gzip(GzipParts),
    /// The plain form of a file with parts of these forms; the decision stream has the rest.
    Replayed(PlainForm),
}

/// Lengths of the parts of a gzip file in the output of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GzipParts {
    /// Length of the corrections, which are first.
    pub corrections: u64,
    /// Length of the plain form.
    pub plain: u64,
}

impl GroupSource {
    /// Length of the form that the patch needs.
    pub fn length(&self) -> u64 {
        self.plain.map_or(self.size, |plain| plain.length)
    }
}

impl GroupTarget {
    /// Length of the form that the patch yields.
    pub fn length(&self) -> u64 {
        match self.rebuilt {
            None => self.size,
            Some(RebuiltParts::Gzip(gzip)) => gzip.corrections.saturating_add(gzip.plain),
            Some(RebuiltParts::Replayed(plain)) => plain.length,
        }
    }

    /// The plain form from which the decision stream rebuilds it, if that is so.
    pub(super) fn replayed(&self) -> Option<PlainForm> {
        match self.rebuilt {
            Some(RebuiltParts::Replayed(plain)) => Some(plain),
            _ => None,
        }
    }
}
