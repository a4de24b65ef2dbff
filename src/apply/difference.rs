//! Differences between an entry of a manifest and the object in the live tree.

use std::fmt;

use crate::entry::{Entry, LeafKind, Node};
use crate::root::{FileKind, Root, RootError, Stat};

/// Attributes that differ; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// No object exists at the path.
    pub missing: bool,
    /// The type differs, the number of a device, or the target of a symbolic link.
    pub kind: bool,
    /// The content, by size or by digest.
    pub content: bool,
    /// Permission bits, with setuid, setgid and sticky bit.
    pub mode: bool,
    /// Owner.
    pub uid: bool,
    /// Group.
    pub gid: bool,
    /// Time of last modification.
    pub time: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// The set of paths that are hard links of the inode.
    pub links: bool,
}

impl Difference {
    /// Compares by a stat alone, as rsync's quick check does.
    ///
    /// A stat shows type, size, mode, owner, mtime and device number.
    pub fn from_stat(entry: &Entry, stat: Option<&Stat>) -> Self {
        let Some(stat) = stat else {
            return Difference { missing: true, ..Difference::default() };
        };
        if !same_kind(entry, stat.kind) {
            return Difference { kind: true, ..Difference::default() };
        }

        // The mode of a symbolic link has no effect and cannot be set.
        let is_symlink = stat.kind == FileKind::Symlink;
        Difference {
            content: entry.file().is_some_and(|(size, _)| size != stat.size),
            mode: !is_symlink && entry.meta.mode != stat.mode,
            uid: entry.meta.uid != stat.uid,
            gid: entry.meta.gid != stat.gid,
            // Each new or removed entry changes the mtime of a directory: that is no drift.
            time: !entry.is_dir() && entry.meta.mtime != stat.mtime,
            ..Difference::default()
        }
    }

    /// Compares two entries of one path, except for their hard-link groups.
    pub fn between(entry: &Entry, found: &Entry) -> Self {
        let device = |entry: &Entry| match entry.leaf().map(|leaf| &leaf.kind) {
            Some(LeafKind::Char(device) | LeafKind::Block(device)) => Some(*device),
            _ => None,
        };
        if entry.type_name() != found.type_name() || device(entry) != device(found) {
            return Difference { kind: true, ..Difference::default() };
        }

        let link_target = |entry: &Entry| match entry.leaf().map(|leaf| leaf.kind.clone()) {
            Some(LeafKind::Symlink { target }) => Some(target),
            _ => None,
        };
        let (meta, other) = (&entry.meta, &found.meta);
        Difference {
            kind: link_target(entry) != link_target(found),
            content: entry.file() != found.file(),
            mode: meta.mode != other.mode,
            uid: meta.uid != other.uid,
            gid: meta.gid != other.gid,
            time: !entry.is_dir() && meta.mtime != other.mtime,
            xattrs: meta.xattrs != other.xattrs,
            ..Difference::default()
        }
    }

    /// Adds the differences of symbolic link target and extended attributes.
    pub fn with_details(mut self, root: &Root, entry: &Entry) -> Result<Self, RootError> {
        if self.missing || self.kind {
            return Ok(self);
        }

        if let Some(LeafKind::Symlink { target }) = entry.leaf().map(|leaf| &leaf.kind) {
            self.kind |= root.read_link(&entry.path)? != *target;
        }
        self.xattrs = root.xattrs(&entry.path)? != entry.meta.xattrs;
        Ok(self)
    }

    /// Whether anything differs.
    pub fn any(&self) -> bool {
        *self != Difference::default()
    }

    /// Whether only the mtime differs.
    pub fn is_only_time(&self) -> bool {
        *self == Difference { time: true, ..Difference::default() }
    }

    /// The change in rsync's itemized form: eleven characters.
    pub fn itemize(&self, entry: &Entry) -> String {
        self.itemize_as(match &entry.node {
            Node::Directory => 'd',
            Node::Leaf(leaf) => match leaf.kind {
                LeafKind::File { .. } => 'f',
                LeafKind::Symlink { .. } => 'L',
                LeafKind::Char(_) | LeafKind::Block(_) => 'D',
                LeafKind::Fifo => 'S',
            },
        })
    }

    /// The itemized form for an object of the type that rsync has the letter `kind` for.
    pub fn itemize_as(&self, kind: char) -> String {
        // rsync reports another target of a symbolic link as a change of its content.
        let is_new = self.missing || self.kind && kind != 'L';
        let update = match kind {
            'f' if is_new || self.content => '>',
            'f' | 'd' if !is_new => '.',
            _ if is_new || self.kind => 'c',
            _ => '.',
        };
        if is_new {
            return format!("{update}{kind}+++++++++");
        }

        let content = self.content || self.kind;
        let mark = |differs, letter| if differs { letter } else { '.' };
        format!(
            "{update}{kind}{}{}{}{}{}{}..{}",
            mark(content, 'c'),
            mark(self.content, 's'),
            mark(self.time, 't'),
            mark(self.mode, 'p'),
            mark(self.uid, 'o'),
            mark(self.gid, 'g'),
            mark(self.xattrs, 'x'),
        )
    }
}

impl fmt::Display for Difference {
    /// Formats the differences in words, as `--status` lists them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.missing, "missing"),
            (self.kind, "something else"),
            (self.content, "content"),
            (self.mode, "mode"),
            (self.uid, "owner"),
            (self.gid, "group"),
            (self.time, "time"),
            (self.xattrs, "extended attributes"),
            (self.links, "hardlinks"),
        ];
        let words: Vec<&str> =
            words.into_iter().filter_map(|(differs, word)| differs.then_some(word)).collect();
        f.write_str(&words.join(", "))
    }
}

fn same_kind(entry: &Entry, kind: FileKind) -> bool {
    match (&entry.node, kind) {
        (Node::Directory, FileKind::Directory) => true,
        (Node::Leaf(leaf), kind) => match (&leaf.kind, kind) {
            (LeafKind::File { .. }, FileKind::File)
            | (LeafKind::Symlink { .. }, FileKind::Symlink)
            | (LeafKind::Fifo, FileKind::Fifo) => true,
            (LeafKind::Char(wanted), FileKind::Char(found)) => *wanted == found,
            (LeafKind::Block(wanted), FileKind::Block(found)) => *wanted == found,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::entry::{Leaf, Meta, Mtime, Xattrs};
    use crate::tree_path::TreePath;

    fn file() -> Entry {
        let mtime = Mtime { seconds: 1, nanos: 0 };
        let kind = LeafKind::File { size: 1, digest: Digest([0; 32]) };
        Entry::new(
            TreePath::new("f").expect("good"),
            Meta { mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Xattrs::new() },
            Node::Leaf(Leaf { kind, group: None }),
        )
    }

    #[test]
    fn differences_are_itemized_as_by_rsync() {
        let none = Difference::default();
        let dir = Entry::new(file().path.clone(), file().meta.clone(), Node::Directory);
        let cases = [
            (file(), Difference { missing: true, ..none }, ">f+++++++++"),
            (file(), Difference { content: true, time: true, ..none }, ">fcst......"),
            (file(), Difference { time: true, mode: true, uid: true, ..none }, ".f..tpo...."),
            (dir, Difference { missing: true, ..none }, "cd+++++++++"),
        ];

        for (entry, difference, expected) in cases {
            assert_eq!(difference.itemize(&entry), expected, "{difference:?}");
        }
    }

    #[test]
    fn differences_are_listed_in_words() {
        let difference = Difference { content: true, time: true, ..Difference::default() };

        assert_eq!(difference.to_string(), "content, time");
        assert!(!difference.is_only_time());
    }
}
