//! The judge reports every difference that trees can have; without that, every other test would
//! pass.

use std::path::Path;

use crate::common::trees::{self, Item, ItemKind, Tree};
use crate::common::{ROOT_AND_RSYNC, copy_tree, judge, require, scratch};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[test]
fn copy_is_equal_despite_files_of_agent() {
    require!(ROOT_AND_RSYNC);

    let dir = scratch();
    let (image, node) = (dir.path().join("image"), dir.path().join("node"));
    trees::write(&trees::mutate(&trees::everything(), 0), &image);
    copy_tree(&image, &node);

    judge::same(&image, &node, &[]);

    std::fs::create_dir_all(node.join("var/lib/systemimager/client")).expect("client state");
    std::fs::create_dir(node.join(".si-stage")).expect("a stage");

    judge::same(&image, &node, &[]);

    std::fs::write(node.join("var/lib/else"), "").expect("an untracked file");
    assert_eq!(judge::same_except_untracked(&image, &node, &[]), ["var/lib/else"]);
    judge::same(&image, &node, &["/var/lib/else"]);
}

#[test]
fn each_single_change_is_reported() {
    require!(ROOT_AND_RSYNC);

    let tree = trees::everything();
    let change = |path: &'static str, change: &dyn Fn(&mut Item)| {
        let mut changed = tree.clone();
        change(changed.get_mut(path.as_bytes()).expect("a path of the tree"));
        (path, changed)
    };
    let changes: Vec<(&str, Tree)> = vec![
        change("etc/passwd", &|item| item.kind = Item::file("root:x:0:0::/root:/bin/SH\n").kind),
        change("etc/passwd", &|item| item.mtime.1 += 1),
        change("etc/passwd", &|item| item.mode = 0o600),
        change("etc/passwd", &|item| item.owner.1 = 7),
        change("etc", &|item| item.mtime.1 -= 1),
        change("etc/acl", &|item| item.xattrs.clear()),
        change("etc/user-xattr", &|item| item.xattrs[0].1.push(b'x')),
        change("usr/bin/ping", &|item| item.xattrs.clear()),
        change("etc/dangling", &|item| item.kind = ItemKind::Symlink(b"else".to_vec())),
        change("etc/dangling", &|item| item.mtime.1 += 1),
        change("dev/null", &|item| item.kind = ItemKind::Char(1, 4)),
        change("run/pipe", &|item| item.kind = ItemKind::Char(1, 4)),
        change("usr/lib/b", &|item| *item = Item::file("one inode, three names").owner(1000, 100)),
    ];
    let dir = scratch();
    let image = dir.path().join("image");
    trees::write(&tree, &image);

    for (number, (path, changed)) in changes.iter().enumerate() {
        let node = dir.path().join(number.to_string());
        trees::write(changed, &node);
        let differences = judge::differences(&image, &node, &[]);
        assert!(!differences.is_empty(), "change {number} of {path} was not seen");
    }
}

#[test]
fn any_two_trees_are_distinguished() {
    require!(ROOT_AND_RSYNC);

    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let check = |(a, b): (Tree, Tree)| {
        let dir = scratch();
        let places = ["a", "again", "b"].map(|name| dir.path().join(name));
        let [first, again, other] = &places;
        trees::write(&a, first);
        trees::write(&a, again);
        trees::write(&b, other);
        let seen = |node: &Path| judge::differences(first, node, &[]);
        prop_assert!(seen(again).is_empty(), "{:?}", seen(again));
        // The time of the top is ignored, because the agent's stage is in it.
        prop_assert_eq!(seen(other).is_empty(), a == b);
        Ok(())
    };
    TestRunner::new(config)
        .run(&(trees::any_tree(), trees::any_tree()), check)
        .unwrap_or_else(|e| panic!("{e}"));
}
