//! One entry of an image: what stands at a path.
//!
//! A sum type: a directory has no size, a FIFO no digest, only leaves belong to hardlink groups.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::digest::Digest;
use crate::tree_path::TreePath;

/// What stands at one path of an image.
///
/// Shared by all clones until one of them is changed: most of a generation is as it was in the one before, and
/// a node holds what a tree was, what it becomes, both without what is excluded, and what happens between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry(Arc<Facts>);

/// What an [`Entry`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where.
    pub path: TreePath,
    /// What every entry has.
    pub meta: Meta,
    /// What it is.
    pub node: Node,
}

/// Owner, permissions, time and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky (`0o7777`); always `0o777` for a symlink.
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Mtime,
    /// Extended attributes by raw name, ACLs and capabilities among them.
    pub xattrs: Xattrs,
}

/// Extended attributes by raw name.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// A time as the kernel keeps it: seconds since the epoch, rounded down, and nanoseconds above that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Seconds since 1970-01-01 UTC; negative before.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// A directory, or something that has no entries of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// Anything else.
    Leaf(Leaf),
}

/// Anything but a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// What it is.
    pub kind: LeafKind,
    /// The first path (in tree order) of the hardlink group that this entry belongs to, which for
    /// the first member is its own; `None` where nothing else in the image is a link of it.
    pub group: Option<TreePath>,
}

/// The kinds of entry that are not directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// A regular file.
    File {
        /// In bytes.
        size: u64,
        /// Of the content.
        digest: Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Its text, 1 to 4,095 bytes without NUL.
        target: Box<[u8]>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    Char(Device),
    /// A block device.
    Block(Device),
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

impl Deref for Entry {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl DerefMut for Entry {
    /// Makes this one its own, if it is shared.
    fn deref_mut(&mut self) -> &mut Facts {
        Arc::make_mut(&mut self.0)
    }
}

impl Entry {
    /// That this stands at `path`.
    pub fn new(path: TreePath, meta: Meta, node: Node) -> Self {
        Entry(Arc::new(Facts { path, meta, node }))
    }

    /// The same at `path`.
    pub fn at(&self, path: TreePath) -> Self {
        Entry::new(path, self.meta.clone(), self.node.clone())
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.node, Node::Directory)
    }

    /// The leaf, if this is one.
    pub fn leaf(&self) -> Option<&Leaf> {
        match &self.node {
            Node::Directory => None,
            Node::Leaf(leaf) => Some(leaf),
        }
    }

    /// Size and digest, if this is a regular file.
    pub fn file(&self) -> Option<(u64, Digest)> {
        match self.leaf()?.kind {
            LeafKind::File { size, digest } => Some((size, digest)),
            _ => None,
        }
    }

    /// The digest alone, if this is a regular file.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.leaf()?.kind {
            LeafKind::File { digest, .. } => Some(digest),
            _ => None,
        }
    }

    /// The hardlink group that this entry belongs to.
    pub fn group(&self) -> Option<&TreePath> {
        self.leaf()?.group.as_ref()
    }

    /// What it is, in mtree's words.
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

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (seconds, nanos) = text.split_once('.').ok_or(())?;
        let nanos = nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000).ok_or(())?;
        Ok(Mtime { seconds: seconds.parse().map_err(drop)?, nanos })
    }
}

/// Whether an extended attribute belongs to an image.
///
/// What a filesystem, a security module or an overlay keeps for itself does not travel: a label that
/// is right on the image server is wrong on a node, and what xfs shows as `trusted.SGI_ACL_FILE` is an ACL
/// once more.
pub fn xattr_travels(name: &[u8]) -> bool {
    let of_trusted = |name: &[u8]| !name.starts_with(b"overlay.") && !name.starts_with(b"SGI_ACL_");
    name.starts_with(b"user.")
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || name.strip_prefix(b"trusted.").is_some_and(of_trusted)
}
