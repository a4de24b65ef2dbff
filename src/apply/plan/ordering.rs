//! Orders the installs so that no path is absent in between.
//!
//! A path that exists before and after the transaction may be reached through a symbolic link that
//! changes. It stays reachable in this order:
//!
//! 1. Files and whole new directories: no other change depends on their order.
//! 2. New symbolic links at paths that did not exist: their targets may be in group 1.
//! 3. Changes of the path resolution: a symbolic link that is replaced or becomes a file, and an
//!    exchange of a directory with another object. Their new targets exist by now, and nothing of
//!    their old targets has been removed.
//!
//! Only changes of group 3 depend on one another. A change whose new target leads through another
//! changed path is made after that change. A change whose old target leads through it is made
//! before. If two changes depend on each other, no order is right, and the first one is made first.
//!
//! Targets are resolved by their text: symbolic links on the way that do not change are ignored.

use std::collections::HashMap;

use crate::apply::plan::change_plan::{Action, Change};
use crate::root::{FileKind, Root};
use crate::tree_path::TreePath;

/// An install without its place in the order, with everything that decides about that place.
pub(in crate::apply) struct PendingInstall {
    /// The change.
    pub change: Change,
    /// Whether an object exists at the path now.
    pub exists: bool,
    /// Target of the symbolic link that is at the path now.
    pub old_target: Option<Box<[u8]>>,
    /// Target of the symbolic link to be installed.
    pub new_target: Option<Box<[u8]>>,
}

/// Sorts the installs into the order in which they are made.
pub(in crate::apply) fn sort_installs(installs: Vec<PendingInstall>) -> Vec<Change> {
    let (resolving, mut others): (Vec<PendingInstall>, Vec<PendingInstall>) =
        installs.into_iter().partition(PendingInstall::changes_resolution);
    others.sort_by_key(|install| install.new_target.is_some());

    let order = topological_order(&resolving);
    let mut resolving: Vec<Option<Change>> =
        resolving.into_iter().map(|install| Some(install.change)).collect();
    let resolving = order.into_iter().filter_map(|index| resolving[index].take());
    others.into_iter().map(|install| install.change).chain(resolving).collect()
}

impl PendingInstall {
    /// Whether the change makes existing paths resolve to other objects.
    fn changes_resolution(&self) -> bool {
        let is_exchange = matches!(self.change.action, Action::Exchange { .. });
        is_exchange || (self.exists && (self.new_target.is_some() || self.old_target.is_some()))
    }
}

/// Target of the symbolic link at `path` of `tree`; `None` if `kind` is another type.
///
/// A link that cannot be read has no target: then the order matters less than the update.
pub(in crate::apply) fn link_target(
    tree: &Root,
    path: &TreePath,
    kind: Option<FileKind>,
) -> Option<Box<[u8]>> {
    if kind? != FileKind::Symlink {
        return None;
    }
    tree.read_link(path).ok()
}

/// Computes an order of indices in which each install follows those that it depends on.
fn topological_order(installs: &[PendingInstall]) -> Vec<usize> {
    let predecessors = predecessors(installs);
    let mut order = Vec::with_capacity(installs.len());
    let mut is_visited = vec![false; installs.len()];

    // Depth first, with an explicit stack: a chain of links may have any length.
    for start in 0..installs.len() {
        let mut stack = vec![Step::Enter(start)];
        while let Some(step) = stack.pop() {
            match step {
                Step::Leave(index) => order.push(index),
                Step::Enter(index) => {
                    if std::mem::replace(&mut is_visited[index], true) {
                        continue;
                    }
                    stack.push(Step::Leave(index));
                    stack.extend(predecessors[index].iter().rev().copied().map(Step::Enter));
                }
            }
        }
    }

    order
}

/// Step of the depth-first search, at the install with this index.
enum Step {
    Enter(usize),
    Leave(usize),
}

/// Lists, for each install, the installs that have to precede it.
fn predecessors(installs: &[PendingInstall]) -> Vec<Vec<usize>> {
    let index_of: HashMap<&TreePath, usize> =
        installs.iter().enumerate().map(|(index, install)| (&install.change.path, index)).collect();
    let passed = |index: usize, target: &Option<Box<[u8]>>| -> Vec<usize> {
        let target = target.as_ref().and_then(|text| resolve(&installs[index].change.path, text));
        std::iter::successors(target, TreePath::parent)
            .filter_map(|path| index_of.get(&path).copied())
            .filter(|&other| other != index)
            .collect()
    };

    let mut predecessors: Vec<Vec<usize>> = installs
        .iter()
        .enumerate()
        .map(|(index, install)| passed(index, &install.new_target))
        .collect();
    for (index, install) in installs.iter().enumerate() {
        for other in passed(index, &install.old_target) {
            if !predecessors[index].contains(&other) {
                predecessors[other].push(index);
            }
        }
    }
    predecessors
}

/// Path that the symbolic link at `path` leads to, by its text.
fn resolve(path: &TreePath, text: &[u8]) -> Option<TreePath> {
    let parent = path.parent().filter(|_| !text.starts_with(b"/"));
    let parent = parent.as_ref().map_or(&b""[..], TreePath::as_bytes);
    let mut names: Vec<&[u8]> = Vec::new();

    for name in parent.split(|&byte| byte == b'/').chain(text.split(|&byte| byte == b'/')) {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    TreePath::new(names.join(&b'/')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(path: &str, action: Action, old: Option<&str>, new: Option<&str>) -> PendingInstall {
        let text = |text: &str| text.as_bytes().into();
        PendingInstall {
            change: Change { filesystem: 0, path: TreePath::new(path).expect("good"), action },
            exists: old.is_some(),
            old_target: old.filter(|old| !old.is_empty()).map(text),
            new_target: new.map(text),
        }
    }

    /// Sorts installs of (path, old target, new target); an empty old target is no symbolic link.
    fn sorted(installs: &[(&str, Option<&str>, Option<&str>)]) -> Vec<String> {
        let action = Action::Install { slot: 1 };
        let installs =
            installs.iter().map(|&(path, old, new)| pending(path, action, old, new)).collect();
        paths(sort_installs(installs))
    }

    fn paths(changes: Vec<Change>) -> Vec<String> {
        changes
            .iter()
            .map(|change| String::from_utf8_lossy(change.path.as_bytes()).into_owned())
            .collect()
    }

    #[test]
    fn symlink_target_is_installed_first() {
        let library = [("lib.so", Some("lib.so.1"), Some("lib.so.2")), ("lib.so.2", None, None)];
        let alternative = [
            ("editor", Some(""), Some("etc/editor")),
            ("etc/editor", None, Some("../vim")),
            ("vim", None, None),
        ];

        assert_eq!(sorted(&library), ["lib.so.2", "lib.so"]);
        assert_eq!(sorted(&alternative), ["vim", "etc/editor", "editor"]);
    }

    #[test]
    fn inner_symlink_changes_before_symlink_through_it() {
        let cases = [
            // a will lead through b
            ([("a", Some("x"), Some("b/in")), ("b", Some("y"), Some("z"))], ["b", "a"]),
            // b has led through a
            ([("a", Some("y"), Some("z")), ("b", Some("/a/in"), Some("x"))], ["b", "a"]),
            ([("d/a", Some("./../b"), Some("z")), ("b", Some("y"), Some("x"))], ["d/a", "b"]),
            // a leads through b before and after
            ([("a", Some("b/1"), Some("b/2")), ("b", Some("y"), Some("x"))], ["b", "a"]),
        ];

        for (installs, expected) in cases {
            assert_eq!(sorted(&installs), expected, "{installs:?}");
        }
    }

    #[test]
    fn directory_becomes_symlink_after_its_target_exists() {
        let exchange = |path, slot, to_directory, new| {
            pending(path, Action::Exchange { slot, to_directory }, Some(""), new)
        };
        let install = |path, old, new| pending(path, Action::Install { slot: 9 }, old, new);
        let installs = vec![
            exchange("bin", 1, false, Some("usr/bin")),
            exchange("usr", 2, false, Some("system")),
            install("system", Some("old"), Some("new")),
            install("new", None, None),
        ];

        assert_eq!(paths(sort_installs(installs)), ["new", "system", "usr", "bin"]);
    }

    #[test]
    fn circular_symlinks_are_all_sorted() {
        let circle = [("a", Some("x"), Some("b")), ("b", Some("x"), Some("a"))];
        let own_parent = [("a", Some("x"), Some("a")), ("b", Some("x"), Some("../.."))];

        assert_eq!(sorted(&circle).len(), 2);
        assert_eq!(sorted(&own_parent), ["a", "b"]);
    }

    #[test]
    fn long_chain_of_symlinks_overflows_no_stack() {
        let names: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
        let chain: Vec<_> =
            names.windows(2).map(|two| (&*two[0], Some("x"), Some(&*two[1]))).collect();

        assert_eq!(sorted(&chain)[0], "99998");
    }
}
