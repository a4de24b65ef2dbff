//! Lays one tree over another: an override over an image.

use super::{Manifest, ManifestError, regroup};
use crate::entry::Entry;

impl Manifest {
    /// The tree that this one becomes where `over` is copied over it: a directory gets the other's metadata and
    /// keeps what it holds, anything else makes way with all that is below it.
    pub fn overlaid(&self, over: &Manifest) -> Result<Self, ManifestError> {
        let hides = |entry: &Entry| {
            let mut at = Some(entry.path.clone());
            while let Some(path) = at {
                match over.get(&path) {
                    // Of two directories the other's metadata counts; what this one holds is asked for by itself.
                    Some(_) if path == entry.path => return true,
                    Some(above) if !above.is_dir() => return true,
                    _ => at = path.parent(),
                }
            }
            false
        };
        let mut kept: Vec<Entry> =
            self.entries.iter().filter(|entry| !hides(entry)).cloned().collect();
        // Before the others come, whose groups may be named by paths that were ours.
        regroup(&mut kept);
        kept.extend(over.entries.iter().cloned());
        Manifest::new(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Leaf, LeafKind, Meta, Mtime, Node};
    use crate::tree_path::TreePath;

    /// Entries by words: `dir/`, `file`, `file=group`; `owner` tells the layers apart.
    fn tree(owner: u32, words: &[&str]) -> Manifest {
        let path = |text: &str| TreePath::new(text).expect("a good path");
        let meta = Meta {
            mode: 0o755,
            uid: owner,
            gid: 0,
            mtime: Mtime { seconds: 0, nanos: 0 },
            xattrs: Default::default(),
        };
        let entry = |word: &&str| {
            let (name, group) = word
                .split_once('=')
                .map_or((*word, None), |(name, group)| (name, Some(path(group))));
            let node = match name.strip_suffix('/') {
                Some(_) => Node::Directory,
                None => {
                    Node::Leaf(Leaf { kind: LeafKind::Symlink { target: b"x"[..].into() }, group })
                }
            };
            let mode = if matches!(node, Node::Directory) { 0o755 } else { 0o777 };
            Entry::new(path(name.trim_end_matches('/')), Meta { mode, ..meta.clone() }, node)
        };
        let top = Entry::new(TreePath::root(), meta.clone(), Node::Directory);
        Manifest::new(words.iter().map(entry).chain([top]).collect()).expect("a good manifest")
    }

    fn shown(manifest: &Manifest) -> Vec<String> {
        let group =
            |entry: &Entry| entry.group().map_or(String::new(), |group| format!("={group}"));
        manifest
            .entries()
            .iter()
            .map(|e| format!("{}{}:{}", e.path, group(e), e.meta.uid))
            .collect()
    }

    #[test]
    fn directories_are_merged_and_all_else_makes_way() {
        let image = tree(0, &["a/", "a/x", "a/y", "d/", "d/deep/", "d/deep/z", "f", "keep"]);
        let over = tree(1, &["a/", "a/x", "d", "f/", "f/new"]);
        let laid = image.overlaid(&over).expect("lies over it");
        assert_eq!(
            shown(&laid),
            ["/:1", "/a:1", "/a/x:1", "/a/y:0", "/d:1", "/f:1", "/f/new:1", "/keep:0"]
        );
        assert_eq!(laid.overlaid(&over).expect("once more"), laid);
    }

    #[test]
    fn a_hardlink_group_is_what_is_left_of_it() {
        let image = tree(0, &["a=a", "b=a", "c=a", "d=d", "e=d"]);
        let over = tree(1, &["a=a", "d", "z=a"]);
        let laid = image.overlaid(&over).expect("lies over it");
        assert_eq!(
            shown(&laid),
            ["/:1", "/a=/a:1", "/b=/b:0", "/c=/b:0", "/d:1", "/e:0", "/z=/a:1"]
        );
    }
}
