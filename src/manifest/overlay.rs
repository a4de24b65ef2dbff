//! Copies one tree over another: an override over an image.

use super::{Manifest, ManifestError, regroup};
use crate::entry::Entry;

impl Manifest {
    /// The tree that results from copying `over` over this one.
    ///
    /// If both have a directory, it gets the metadata of `over` and keeps its content. Any other
    /// entry of `over` replaces this tree's entry, with everything below it.
    pub fn overlaid(&self, over: &Manifest) -> Result<Self, ManifestError> {
        let is_replaced = |entry: &Entry| {
            let mut current = Some(entry.path.clone());
            while let Some(path) = current {
                match over.get(&path) {
                    Some(_) if path == entry.path => return true,
                    Some(ancestor) if !ancestor.is_dir() => return true,
                    _ => current = path.parent(),
                }
            }
            false
        };

        let mut entries: Vec<Entry> =
            self.entries.iter().filter(|entry| !is_replaced(entry)).cloned().collect();
        // Before the entries of `over` are added: their groups may have the same names.
        regroup(&mut entries);
        entries.extend(over.entries.iter().cloned());
        Manifest::new(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Leaf, LeafKind, Meta, Mtime, Node};
    use crate::tree_path::TreePath;

    /// A tree of `dir/`, `file` and `file=group`; `owner` marks the layer of each entry.
    fn tree(owner: u32, words: &[&str]) -> Manifest {
        let path = |text: &str| TreePath::new(text).expect("a good path");
        let meta = Meta {
            mode: 0o755,
            uid: owner,
            gid: 0,
            mtime: Mtime { seconds: 0, nanos: 0 },
            xattrs: Default::default(),
        };
        let top = Entry::new(TreePath::root(), meta.clone(), Node::Directory);
        Manifest::new(
            words
                .iter()
                .map(|word| {
                    let (name, group) = word
                        .split_once('=')
                        .map_or((*word, None), |(name, group)| (name, Some(path(group))));
                    let node = match name.strip_suffix('/') {
                        Some(_) => Node::Directory,
                        None => Node::Leaf(Leaf {
                            kind: LeafKind::Symlink { target: b"x"[..].into() },
                            group,
                        }),
                    };
                    let mode = if matches!(node, Node::Directory) { 0o755 } else { 0o777 };
                    Entry::new(
                        path(name.trim_end_matches('/')),
                        Meta { mode, ..meta.clone() },
                        node,
                    )
                })
                .chain([top])
                .collect(),
        )
        .expect("a good manifest")
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
    fn directories_merged_and_other_entries_replaced() {
        let image = tree(0, &["a/", "a/x", "a/y", "d/", "d/deep/", "d/deep/z", "f", "keep"]);
        let over = tree(1, &["a/", "a/x", "d", "f/", "f/new"]);

        let overlaid = image.overlaid(&over).expect("a valid tree");

        assert_eq!(
            shown(&overlaid),
            ["/:1", "/a:1", "/a/x:1", "/a/y:0", "/d:1", "/f:1", "/f/new:1", "/keep:0"]
        );
        assert_eq!(overlaid.overlaid(&over).expect("a valid tree"), overlaid, "again");
    }

    #[test]
    fn hardlink_group_keeps_remaining_members() {
        let image = tree(0, &["a=a", "b=a", "c=a", "d=d", "e=d"]);
        let over = tree(1, &["a=a", "d", "z=a"]);

        let overlaid = image.overlaid(&over).expect("a valid tree");

        assert_eq!(
            shown(&overlaid),
            ["/:1", "/a=/a:1", "/b=/b:0", "/c=/b:0", "/d:1", "/e:0", "/z=/a:1"]
        );
    }
}
