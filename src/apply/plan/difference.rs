//! How what stands at a path differs from an entry.

use std::fmt;

use crate::entry::{Entry, LeafKind, Node};
use crate::root::{FileKind, Root, RootError, Stat};

/// What differs; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Nothing stands there.
    pub missing: bool,
    /// It is something else: a directory for a file, another device, another symlink text.
    pub kind: bool,
    /// The content, by size or by digest.
    pub content: bool,
    /// Permission bits.
    pub mode: bool,
    /// Owner.
    pub uid: bool,
    /// Group.
    pub gid: bool,
    /// Time of last modification.
    pub time: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// Which other paths are links of it.
    pub links: bool,
}

impl Difference {
    /// What `stat` alone tells, as rsync's quick check: type, size, permissions, owner, time, device.
    pub fn from_stat(entry: &Entry, stat: Option<&Stat>) -> Self {
        let Some(stat) = stat else { return Difference { missing: true, ..Difference::default() } };
        if !same_kind(entry, stat.kind) {
            return Difference { kind: true, ..Difference::default() };
        }
        let symlink = stat.kind == FileKind::Symlink;
        Difference {
            content: entry.file().is_some_and(|(size, _)| size != stat.size),
            mode: !symlink && entry.meta.mode != stat.mode,
            uid: entry.meta.uid != stat.uid,
            gid: entry.meta.gid != stat.gid,
            // A directory's time changes with every entry that comes or goes: no drift.
            time: !entry.is_dir() && entry.meta.mtime != stat.mtime,
            ..Difference::default()
        }
    }

    /// Adds what has to be read: symlink text and extended attributes.
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

    /// Whether the time differs, and nothing else.
    pub fn is_only_time(&self) -> bool {
        *self == Difference { time: true, ..Difference::default() }
    }

    /// The change in rsync's itemised form: eleven characters.
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

    /// As [`Self::itemised`], for something of the `kind` that rsync gives this letter.
    pub fn itemize_as(&self, kind: char) -> String {
        let new = self.missing || self.kind && kind != 'L';
        let update = match kind {
            'f' if new || self.content => '>',
            'f' | 'd' if !new => '.',
            _ if new || self.kind => 'c',
            _ => '.',
        };
        if new {
            return format!("{update}{kind}+++++++++");
        }
        let mark = |different: bool, letter: char| if different { letter } else { '.' };
        let content = self.content || self.kind;
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
    /// The differences in words, as `--status` lists them.
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
            words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
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
    fn changes_are_itemised_as_rsync_does() {
        let none = Difference::default();
        assert_eq!(Difference { missing: true, ..none }.itemize(&file()), ">f+++++++++");
        assert_eq!(
            Difference { content: true, time: true, ..none }.itemize(&file()),
            ">fcst......"
        );
        assert_eq!(
            Difference { time: true, mode: true, uid: true, ..none }.itemize(&file()),
            ".f..tpo...."
        );
        let dir = Entry::new(file().path.clone(), file().meta.clone(), Node::Directory);
        assert_eq!(Difference { missing: true, ..none }.itemize(&dir), "cd+++++++++");
    }

    #[test]
    fn differences_are_told_in_words() {
        let some = Difference { content: true, time: true, ..Difference::default() };
        assert_eq!(some.to_string(), "content, time");
        assert!(!some.is_only_time());
    }
}
