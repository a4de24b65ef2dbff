use std::iter;

use super::*;
use crate::entry::{Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::tree_path::TreePath;

fn manifest(files: &[(&str, u64, u8)]) -> Manifest {
    let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: Mtime { seconds: 0, nanos: 0 }, xattrs: Xattrs::new() };
    let mut entries = vec![Entry { path: TreePath::root(), meta: meta.clone(), node: Node::Directory }];
    let mut dirs = HashSet::new();
    for (path, size, content) in files {
        let path = TreePath::new(*path).expect("a good path");
        let above: Vec<TreePath> = iter::successors(path.parent(), TreePath::parent).collect();
        for dir in above.into_iter().filter(|dir| !dir.is_root()) {
            if dirs.insert(dir.clone()) {
                entries.push(Entry { path: dir, meta: meta.clone(), node: Node::Directory });
            }
        }
        let kind = LeafKind::File { size: *size, digest: Digest([*content; 32]) };
        entries.push(Entry { path, meta: meta.clone(), node: Node::Leaf(Leaf { kind, group: None }) });
    }
    Manifest::new(entries).expect("a good manifest")
}

fn pairs(base: &[(&str, u64, u8)], target: &[(&str, u64, u8)]) -> Vec<(Vec<String>, Vec<String>)> {
    let names = |entries: &[&Entry]| entries.iter().map(|e| e.path.to_string()).collect();
    let (base, target) = (manifest(base), manifest(target));
    Pairing::by_names(&base, &target, Effort::Best, &Effort::Fast.opening())
        .into_pairs()
        .groups
        .iter()
        .map(|g| (names(&g.sources), names(&g.targets)))
        .collect()
}

fn group(sources: &[&str], targets: &[&str]) -> (Vec<String>, Vec<String>) {
    let own = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
    (own(sources), own(targets))
}

#[test]
fn the_same_path_comes_first_then_the_version_then_the_name() {
    let base = [("a/k-1.0", 10, 1), ("a/k-2.0", 90, 2), ("b/tool", 50, 3), ("c/tool", 11, 4)];
    assert_eq!(pairs(&base, &[("a/k-1.0", 90, 9)]), [group(&["/a/k-1.0"], &["/a/k-1.0"])]);
    assert_eq!(pairs(&base, &[("a/k-3.0", 80, 9)]), [group(&["/a/k-2.0"], &["/a/k-3.0"])]);
    assert_eq!(pairs(&base, &[("new/tool", 12, 9)]), [group(&["/c/tool"], &["/new/tool"])]);
    assert!(pairs(&base, &[("new/other", 12, 9)]).is_empty());
}

#[test]
fn what_the_base_holds_needs_no_delta() {
    assert!(pairs(&[("a", 10, 1), ("b", 10, 2)], &[("a", 10, 2), ("b", 10, 1)]).is_empty());
}

#[test]
fn groups_are_bounded_and_compressed_files_apart() {
    let mib = 1 << 20;
    let base = [("a", 3 * mib, 1), ("b", 2 * mib, 2), ("c.gz", mib, 3), ("d", mib, 4), ("e", 60 * mib, 5)];
    let target = [("a", 3 * mib, 11), ("b", 2 * mib, 12), ("c.gz", mib, 13), ("d", mib, 14), ("e", mib, 15)];
    let expected = [group(&["/a"], &["/a"]), group(&["/b", "/d"], &["/b", "/d"]), group(&["/c.gz"], &["/c.gz"])];
    assert_eq!(pairs(&base, &target), expected);
}

#[test]
fn compressed_files_are_opened_the_smallest_first_as_far_as_the_time_goes() {
    let mib = 1 << 20;
    let base = [("a.gz", 4000, 1), ("b.gz", 5000, 2), ("initrd.img-1", 30 * mib, 3)];
    let target = [("a.gz", 4001, 11), ("b.gz", 5001, 12), ("initrd.img-2", 30 * mib, 13)];
    let (base, target) = (manifest(&base), manifest(&target));
    let classes = |seconds| {
        let pairs = Pairing::by_names(&base, &target, Effort::Best, &Opening { seconds, gain: 0 }).into_pairs();
        let classes: Vec<(Class, usize)> = pairs.groups.iter().map(|g| (g.class, g.targets.len())).collect();
        (classes, pairs.archives.len())
    };
    assert_eq!(classes(0), (vec![(Class::Packed, 2)], 0));
    assert_eq!(classes(1), (vec![(Class::Opened, 2)], 0));
    assert_eq!(classes(60), (vec![(Class::Opened, 2)], 1));
}

#[test]
fn what_is_too_large_for_a_group_is_paired_all_the_same() {
    let mib = 1 << 20;
    let base = [("a", 60 * mib, 1), ("b-1", 5 * mib, 2), ("c.xz", 60 * mib, 3)];
    let target = [("a", 60 * mib, 11), ("b-2", 5 * mib, 12), ("c.xz", 60 * mib, 13), ("d", 60 * mib, 14)];
    let (base, target) = (manifest(&base), manifest(&target));
    let large = |effort: Effort| {
        let pairs = Pairing::by_names(&base, &target, effort, &effort.opening()).into_pairs();
        pairs.large.iter().map(|(from, to)| format!("{} {}", from.path, to.path)).collect::<Vec<_>>()
    };
    assert_eq!(large(Effort::Best), ["/a /a"]);
    assert_eq!(large(Effort::Normal), ["/a /a", "/b-1 /b-2"]);
}

#[test]
fn one_source_serves_many_and_is_held_once() {
    let base = [("k-1", 10, 1)];
    let target = [("k-2", 10, 2), ("k-3", 10, 3)];
    assert_eq!(pairs(&base, &target), [group(&["/k-1"], &["/k-2", "/k-3"])]);
}
