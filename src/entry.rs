//! One entry of an image: a path with its type and all its metadata.
//!
//! The type is a sum type: a directory has no size, a FIFO no digest, and only leaves can be
//! members of a hard-link group. So no code has to check for combinations that cannot exist.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::digest::Digest;
use crate::tree_path::TreePath;

/// An entry of an image.
///
/// Clones share their data until one of them is changed. A node holds several manifests at once:
/// recorded and target, each with and without excluded paths. They have most entries in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry(Arc<EntryData>);

/// The data of an [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryData {
    pub path: TreePath,
    /// Metadata that entries of all types have.
    pub meta: Meta,
    /// Type, with the data of this type.
    pub node: Node,
}

/// Owner, permissions, time and extended attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky (`0o7777`); always `0o777` for a symlink.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    /// Extended attributes by raw name; ACLs and capabilities are among them.
    pub xattrs: Xattrs,
}

/// Extended attributes by raw name.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// A time as the kernel stores it: seconds since the epoch, rounded down, and the nanoseconds
/// above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Seconds since 1970-01-01 UTC; negative for earlier times.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// A directory, or an entry without content of its own in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Directory,
    Leaf(Leaf),
}

/// An entry that is not a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub kind: LeafKind,
    /// First path, in tree order, of the hard-link group; `None` if the image has no other link.
    ///
    /// For the first member it is the member's own path.
    pub group: Option<TreePath>,
}

/// Type of an entry that is not a directory, with the data of this type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// A regular file.
    File {
        /// Size in bytes.
        size: u64,
        digest: Digest,
    },
    Symlink {
        /// 1 to 4,095 bytes without NUL.
        target: Box<[u8]>,
    },
    Fifo,
    Char(Device),
    Block(Device),
}

/// The distinction that exclude rules make between entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    Directory,
    Other,
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl Deref for Entry {
    type Target = EntryData;

    fn deref(&self) -> &EntryData {
        &self.0
    }
}

impl DerefMut for Entry {
    /// Copies the data first if another entry shares it.
    fn deref_mut(&mut self) -> &mut EntryData {
        Arc::make_mut(&mut self.0)
    }
}

impl Entry {
    /// An entry with data of its own.
    pub fn new(path: TreePath, meta: Meta, node: Node) -> Self {
        Entry(Arc::new(EntryData { path, meta, node }))
    }

    /// The same entry at another path.
    pub fn at(&self, path: TreePath) -> Self {
        Entry::new(path, self.meta.clone(), self.node.clone())
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.node, Node::Directory)
    }

    /// The kind by which exclude rules match this entry.
    pub fn kind(&self) -> EntryKind {
        match self.node {
            Node::Directory => EntryKind::Directory,
            Node::Leaf(_) => EntryKind::Other,
        }
    }

    /// The leaf; `None` for a directory.
    pub fn leaf(&self) -> Option<&Leaf> {
        match &self.node {
            Node::Directory => None,
            Node::Leaf(leaf) => Some(leaf),
        }
    }

    /// Size and digest of a regular file.
    pub fn file(&self) -> Option<(u64, Digest)> {
        match self.leaf()?.kind {
            LeafKind::File { size, digest } => Some((size, digest)),
            _ => None,
        }
    }

    /// Digest of a regular file.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.leaf()?.kind {
            LeafKind::File { digest, .. } => Some(digest),
            _ => None,
        }
    }

    /// Name of the hard-link group: its first path.
    pub fn group(&self) -> Option<&TreePath> {
        self.leaf()?.group.as_ref()
    }

    /// The type as mtree(5) names it.
    pub fn type_name(&self) -> &'static str {
        match &self.node {
            Node::Directory => "dir",
            Node::Leaf(leaf) => match leaf.kind {
                LeafKind::File { .. } => "file",
                LeafKind::Symlink { .. } => "link",
                LeafKind::Fifo => "fifo",
                LeafKind::Char(_) => "char",
                LeafKind::Block(_) => "block",
            },
        }
    }
}

impl fmt::Display for Mtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanos)
    }
}

impl std::str::FromStr for Mtime {
    type Err = ();

    /// Parses the text that [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (seconds, nanos) = text.split_once('.').ok_or(())?;
        let nanos = nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000).ok_or(())?;
        Ok(Mtime { seconds: seconds.parse().map_err(drop)?, nanos })
    }
}

/// Whether an extended attribute is part of an image.
///
/// Attributes that a filesystem, a security module or an overlay uses for itself are not: a
/// security label of the image server is wrong on a node. On xfs `trusted.SGI_ACL_FILE` repeats an
/// ACL.
pub fn xattr_travels(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || name.strip_prefix(b"trusted.").is_some_and(|name: &[u8]| {
            !name.starts_with(b"overlay.") && !name.starts_with(b"SGI_ACL_")
        })
}
