//! The order in which what is new comes to its place: nothing that is reached through a symlink, before as
//! after, is absent in between.
//!
//! First comes what no other change waits for: files, and whole new directories. Then symlinks where
//! nothing stood: they may lead to those. Then what changes how a path is resolved, symlinks that were
//! something else, and symlinks and directories that change places: by now all that they lead to is there,
//! and nothing of what they led to has been removed yet. Only these can need one another: one that will
//! lead through another comes after it, one that has led through another comes before that.
//!
//! Where a symlink leads is taken as it reads, without looking at symlinks on the way that stay. Where
//! two changes each need the other to be first, no order helps, and one of them is.

use std::collections::HashMap;

use crate::apply::plan::{Action, Change};
use crate::root::{FileKind, Root};
use crate::tree_path::TreePath;

/// A change by which something comes, with what its place in the order depends on.
pub(in crate::apply) struct PendingInstall {
    /// The change.
    pub change: Change,
    /// Whether something stands there now.
    pub exists: bool,
    /// Where what stands there leads, if that is a symlink.
    pub old_target: Option<Box<[u8]>>,
    /// Where what comes leads, if that is a symlink.
    pub new_target: Option<Box<[u8]>>,
}

/// The changes in an order in which they can be made; otherwise as they were.
pub(in crate::apply) fn sort_installs(arrivals: Vec<PendingInstall>) -> Vec<Change> {
    let (turning, mut first): (Vec<PendingInstall>, Vec<PendingInstall>) =
        arrivals.into_iter().partition(PendingInstall::changes_resolution);
    first.sort_by_key(|arrival| arrival.new_target.is_some());
    let order = by_need(&turning);
    let mut turning: Vec<Option<Change>> =
        turning.into_iter().map(|arrival| Some(arrival.change)).collect();
    let turning = order.into_iter().filter_map(|at| turning[at].take());
    first.into_iter().map(|arrival| arrival.change).chain(turning).collect()
}

impl PendingInstall {
    /// Whether paths that are there are resolved otherwise after it.
    fn changes_resolution(&self) -> bool {
        let exchange = matches!(self.change.action, Action::Exchange { .. });
        exchange || (self.exists && (self.new_target.is_some() || self.old_target.is_some()))
    }
}

/// Where what is at `path` of `tree` leads, if it is of the `kind` of a symlink. What cannot be read is taken
/// for leading nowhere: it is about an order, and every other order is as good for it.
pub(in crate::apply) fn link_target(
    tree: &Root,
    path: &TreePath,
    kind: Option<FileKind>,
) -> Option<Box<[u8]>> {
    kind.filter(|kind| *kind == FileKind::Symlink).and_then(|_| tree.read_link(path).ok())
}

/// The order of `arrivals` in which those that others need come before them.
fn by_need(arrivals: &[PendingInstall]) -> Vec<usize> {
    let places: HashMap<&TreePath, usize> =
        arrivals.iter().enumerate().map(|(at, a)| (&a.change.path, at)).collect();
    let through = |at: usize, leads: &Option<Box<[u8]>>| {
        let leads = leads.as_ref().and_then(|text| resolved(&arrivals[at].change.path, text));
        let above = std::iter::successors(leads, TreePath::parent);
        above
            .filter_map(|path| places.get(&path).copied())
            .filter(|&other| other != at)
            .collect::<Vec<_>>()
    };
    let mut before: Vec<Vec<usize>> =
        arrivals.iter().enumerate().map(|(at, a)| through(at, &a.new_target)).collect();
    for (at, arrival) in arrivals.iter().enumerate() {
        for other in through(at, &arrival.old_target) {
            if !before[at].contains(&other) {
                before[other].push(at);
            }
        }
    }
    let mut order = Vec::with_capacity(arrivals.len());
    let mut seen = vec![false; arrivals.len()];
    for at in 0..arrivals.len() {
        // Depth first, with the way back on the same stack.
        let mut open = vec![(at, false)];
        while let Some((at, done)) = open.pop() {
            if done {
                order.push(at);
            } else if !std::mem::replace(&mut seen[at], true) {
                open.push((at, true));
                open.extend(before[at].iter().rev().map(|&other| (other, false)));
            }
        }
    }
    order
}

/// The path that the symlink at `path` leads to, as it reads.
fn resolved(path: &TreePath, text: &[u8]) -> Option<TreePath> {
    let parent = path.parent().filter(|_| !text.starts_with(b"/"));
    let above = parent.as_ref().map_or(&b""[..], TreePath::as_bytes);
    let mut names: Vec<&[u8]> = Vec::new();
    for name in above.split(|&byte| byte == b'/').chain(text.split(|&byte| byte == b'/')) {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    TreePath::new(names.join(&b'/')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(path: &str, action: Action, from: Option<&str>, to: Option<&str>) -> PendingInstall {
        let text = |text: Option<&str>| text.map(|text| text.as_bytes().into());
        let change = Change { filesystem: 0, path: TreePath::new(path).expect("good"), action };
        PendingInstall {
            change,
            exists: from.is_some(),
            old_target: text(from.filter(|from| !from.is_empty())),
            new_target: text(to),
        }
    }

    /// Arrivals as (path, where what stands leads, where what comes leads); an empty text is no symlink.
    fn order(arrivals: &[(&str, Option<&str>, Option<&str>)]) -> Vec<String> {
        let install = Action::Install { slot: 1 };
        let arrivals =
            arrivals.iter().map(|&(path, from, to)| arrival(path, install, from, to)).collect();
        names(sort_installs(arrivals))
    }

    fn names(changes: Vec<Change>) -> Vec<String> {
        changes
            .iter()
            .map(|change| String::from_utf8_lossy(change.path.as_bytes()).into_owned())
            .collect()
    }

    #[test]
    fn what_a_symlink_leads_to_comes_before_it() {
        let library = [("lib.so", Some("lib.so.1"), Some("lib.so.2")), ("lib.so.2", None, None)];
        assert_eq!(order(&library), ["lib.so.2", "lib.so"]);
        let alternative = [
            ("editor", Some(""), Some("etc/editor")),
            ("etc/editor", None, Some("../vim")),
            ("vim", None, None),
        ];
        assert_eq!(order(&alternative), ["vim", "etc/editor", "editor"]);
    }

    #[test]
    fn of_two_that_change_the_one_that_is_led_through_comes_first_and_goes_last() {
        assert_eq!(
            order(&[("a", Some("x"), Some("b/in")), ("b", Some("y"), Some("z"))]),
            ["b", "a"]
        );
        assert_eq!(
            order(&[("a", Some("y"), Some("z")), ("b", Some("/a/in"), Some("x"))]),
            ["b", "a"]
        );
        assert_eq!(
            order(&[("d/a", Some("./../b"), Some("z")), ("b", Some("y"), Some("x"))]),
            ["d/a", "b"]
        );
        // through it before and after
        assert_eq!(
            order(&[("a", Some("b/1"), Some("b/2")), ("b", Some("y"), Some("x"))]),
            ["b", "a"]
        );
    }

    #[test]
    fn a_directory_that_becomes_a_symlink_waits_for_what_that_leads_to() {
        let turn = |path, slot, to_directory, to| {
            arrival(path, Action::Exchange { slot, to_directory }, Some(""), to)
        };
        let install = |path, from, to| arrival(path, Action::Install { slot: 9 }, from, to);
        let arrivals = vec![
            turn("bin", 1, false, Some("usr/bin")),
            turn("usr", 2, false, Some("system")),
            install("system", Some("old"), Some("new")),
            install("new", None, None),
        ];
        assert_eq!(names(sort_installs(arrivals)), ["new", "system", "usr", "bin"]);
    }

    #[test]
    fn a_ring_has_some_order_and_a_long_chain_no_deep_stack() {
        assert_eq!(order(&[("a", Some("x"), Some("b")), ("b", Some("x"), Some("a"))]).len(), 2);
        assert_eq!(
            order(&[("a", Some("x"), Some("a")), ("b", Some("x"), Some("../.."))]),
            ["a", "b"]
        );
        let chain: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
        let chain: Vec<_> =
            chain.windows(2).map(|two| (&*two[0], Some("x"), Some(&*two[1]))).collect();
        assert_eq!(order(&chain)[0], "99998");
    }
}
