//! Hard-link groups: in an image, on a node, and from one generation to the next.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::site::Site;
use crate::common::trees::{self, Item, ItemKind, Tree};
use crate::common::{ROOT_AND_RSYNC, judge, require};

/// A tree with hard-link groups, each given by its content and its paths.
fn grouped(groups: &[(&str, &[&str])]) -> Tree {
    let mut tree = trees::system();
    for directory in ["x", "y"] {
        trees::put(&mut tree, directory, Item::dir());
    }

    for (content, names) in groups {
        let (first, others) = names.split_first().expect("a group has a name");
        trees::put(&mut tree, first, Item::file(*content));
        for name in others {
            trees::put(&mut tree, name, Item::new(ItemKind::Link(first.as_bytes().to_vec())));
        }
    }

    tree
}

/// Generations in which groups split, join, gain and lose paths, with and without a change of
/// content.
fn generations() -> Vec<Tree> {
    let mut trees: Vec<Tree> = [
        &[("1", &["x/a", "x/b", "y/c"][..]), ("1", &["y/d"])][..],
        &[("1", &["x/a", "x/b"]), ("1", &["y/c"]), ("1", &["y/d"])],
        &[("1", &["x/a", "x/b", "y/c", "y/d"])],
        &[("1", &["x/b", "y/c", "y/d"]), ("1", &["x/a"])],
        &[("1", &["y/c", "y/d"]), ("1", &["x/a"])],
        &[("2", &["x/e", "y/c", "y/d", "y/f"]), ("1", &["x/a"])],
        &[("3", &["x/e", "y/c"]), ("2", &["y/d", "y/f"])],
        &[("3", &["y/c", "y/f"]), ("2", &["x/e", "y/d"])],
        &[("2", &["x/e", "y/c", "y/d", "y/f"])],
        &[("2", &["x/e"]), ("2", &["y/c"]), ("2", &["y/d"]), ("2", &["y/f"])],
        &[("2", &["x/a", "x/e", "y/d", "y/f"])],
    ]
    .iter()
    .map(|groups| grouped(groups))
    .collect();

    // Paths of a group become other types, and other types become its paths.
    let mut other = grouped(&[("2", &["x/a", "x/e"])]);
    trees::put(&mut other, "y/d/deeper", Item::new(ItemKind::Link(b"x/a".to_vec())));
    trees::put(&mut other, "y/f", Item::new(ItemKind::Symlink(b"../x/a".to_vec())));
    trees.push(other);
    trees.push(grouped(&[("2", &["x/a", "y/d", "y/f"]), ("4", &["x/e"])]));

    // A change of metadata only, then of the time only.
    let mut mode = trees[trees.len() - 1].clone();
    mode.get_mut(&b"x/a"[..]).expect("is there").mode = 0o600;
    trees.push(mode.clone());
    mode.get_mut(&b"x/a"[..]).expect("is there").mtime = (1_700_000_000, 7);
    trees.push(mode);

    trees
}

fn follow_all(more: &[&str]) {
    let generations = generations();
    let site = Site::at(&generations[0]);
    for (number, tree) in generations.iter().enumerate().skip(1) {
        site.publish(tree);
        let run = site.update(&[&["--no-fallback", "--max-delete", "100%"], more].concat());
        assert_eq!(run.code, 0, "generation {number}: {run:#?}");
        let left = judge::differences(&site.image(), &site.node(), &[]);
        assert!(left.is_empty(), "generation {number}: {left:?}");
    }
    site.same();
}

#[test]
fn hardlink_groups_change_in_single_steps() {
    require!(ROOT_AND_RSYNC);

    follow_all(&[]);
}

#[test]
fn hardlink_groups_change_at_check_level_touched() {
    require!(ROOT_AND_RSYNC);

    follow_all(&["--check", "touched"]);
}

#[test]
fn hardlink_groups_change_across_several_generations() {
    require!(ROOT_AND_RSYNC);

    let generations = generations();
    let site = Site::at(&generations[0]);

    for (number, tree) in generations.iter().enumerate().skip(1) {
        site.publish(tree);
        if number % 4 == 0 || number + 1 == generations.len() {
            site.updated(&["--no-fallback", "--max-delete", "100%"]);
            site.same();
        }
    }
}

#[test]
fn excluded_hardlink_keeps_content_and_metadata() {
    require!(ROOT_AND_RSYNC);

    let mut tree = grouped(&[("1", &["x/a", "x/keep", "y/b"]), ("pair", &["y/p", "y/keep"])]);
    let site = Site::new();
    site.publish(&tree);
    site.install_node();
    let rules = site.dir.path().join("rules");
    fs::write(&rules, "keep\n").expect("writes");
    let rules = rules.display().to_string();
    let excluding = ["--exclude-file", &rules];

    site.updated(&[&excluding[..], &["--adopt"]].concat()).ended(0, &[": 0 of"]);

    let meta = |path: &str| fs::metadata(site.node().join(path)).expect("is there");
    let kept = (meta("x/keep").ino(), meta("x/keep").mtime(), meta("x/keep").mode());
    let pair = (meta("y/keep").ino(), meta("y/keep").mtime(), meta("y/keep").mode());

    // The content of one group, the time of the other, the modes, then both groups become one.
    let steps: [&dyn Fn(&mut Tree); 4] = [
        &|tree| trees::put(tree, "x/a", Item::file("2")),
        &|tree| tree.get_mut(&b"y/p"[..]).expect("is there").mtime = (1_700_000_000, 1),
        &|tree| {
            ["x/a", "y/p"]
                .iter()
                .for_each(|at| tree.get_mut(at.as_bytes()).expect("is there").mode = 0o600)
        },
        &|tree| trees::put(tree, "y/p", Item::new(ItemKind::Link(b"x/a".to_vec()))),
    ];
    for (number, step) in steps.iter().enumerate() {
        step(&mut tree);
        if number == 3 {
            trees::put(&mut tree, "y/keep", Item::file("apart"));
        }
        site.publish(&tree);

        site.updated(&[&excluding[..], &["--no-fallback"]].concat());
        judge::same(&site.image(), &site.node(), &["keep"]);
        assert_eq!(
            (meta("x/keep").ino(), meta("x/keep").mtime(), meta("x/keep").mode()),
            kept,
            "step {number}"
        );
        assert_eq!(
            (meta("y/keep").ino(), meta("y/keep").mtime(), meta("y/keep").mode()),
            pair,
            "step {number}"
        );
    }

    assert_eq!(fs::read_to_string(site.node().join("x/keep")).expect("reads"), "1");
}

#[test]
fn split_hardlink_group_is_rejoined() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&grouped(&[("1", &["x/a", "x/b", "y/c"]), ("1", &["y/d"])]));
    let node = site.node();

    // An editor that writes a new file splits a group; a deduplicating tool joins files.
    let time = fs::metadata(node.join("x/b")).expect("is there").modified().expect("a time");
    fs::remove_file(node.join("x/b")).expect("removes");
    fs::write(node.join("x/b"), "1").expect("writes");
    fs::File::options()
        .write(true)
        .open(node.join("x/b"))
        .and_then(|f| f.set_modified(time))
        .expect("sets the time");
    fs::remove_file(node.join("y/d")).expect("removes");
    fs::hard_link(node.join("x/a"), node.join("y/d")).expect("links");

    site.update(&["--check", "stat", "--drift", "report"])
        .ended(10, &["/x/b: hardlinks", "/y/d: hardlinks"]);
    site.updated(&["--check", "stat"]).ended(0, &["repaired: /x/b", "repaired: /y/d"]);
    site.same();
}
