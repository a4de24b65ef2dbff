//! Deletion is bounded: by a budget, and by paths that stay whatever an image says. It is the same whether
//! an update comes by a diff, by a full sync of a known tree, or by one of a tree that nobody knows.

mod common;

use std::fs;

use common::interrupted::read;
use common::site::Site;
use common::trees::{self, Item, Tree};
use common::{ROOT_AND_RSYNC, judge, require};

/// What the agent could not do without.
const PROTECTED: [&str; 6] = [
    "usr/sbin/si_updateclient",
    "etc/systemimager/updateclient.toml",
    "etc/systemimager/updateclient.local.exclude",
    "etc/systemimager/client.conf",
    "etc/systemimager/keys/site.pub",
    "etc/systemimager/overrides",
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Diff,
    /// The node is at a recorded generation from which no diff leads on.
    Full,
    /// Nothing is recorded: stale and untracked look alike.
    Unknown,
}

const WAYS: [Way; 3] = [Way::Diff, Way::Full, Way::Unknown];

/// A node that is the tree `first`, with `second` published.
fn site(way: Way, first: &Tree, second: &Tree) -> Site {
    let site = Site::new().with_rsync();
    site.publish(first);
    site.install_node();
    match way {
        Way::Unknown => fs::remove_dir_all(site.repo()).expect("removes"),
        Way::Diff | Way::Full => drop(site.updated(&["--adopt"])),
    }
    site.publish(second);
    if way == Way::Full {
        site.archives("diffs").into_iter().for_each(|diff| fs::remove_file(diff).expect("removes"));
    }
    site
}

/// A hundred files in ten directories; in the second generation `gone` directories less, and so much that
/// is new that no node resembles it which is not at the first.
fn tree(gone: usize) -> Tree {
    let mut tree = trees::system();
    for number in 0..if gone > 0 { 60 } else { 0 } {
        trees::put(&mut tree, &format!("opt/{number}"), Item::file("new"));
    }
    for number in gone * 10..100 {
        trees::put(
            &mut tree,
            &format!("srv/{:02}/{number:02}", number / 10),
            Item::file(format!("data {number}")),
        );
    }
    tree
}

#[test]
fn what_the_agent_needs_stays_though_the_image_lacks_it() {
    require!(ROOT_AND_RSYNC);

    for way in WAYS {
        let (mut first, mut second) = (tree(0), tree(0));
        for path in PROTECTED {
            trees::put(
                &mut first,
                path,
                Item::file(if path.ends_with("toml") { "" } else { "# this node's\n" }),
            );
        }
        trees::put(&mut first, "etc/systemimager/other", Item::file("goes"));
        trees::put(&mut second, "etc/passwd", Item::file("newer"));
        // it is something else that makes the tree unknown
        for number in 0..90 {
            trees::put(&mut second, &format!("opt/{number}"), Item::file("new"));
        }
        let site = site(way, &first, &second);
        // one path goes, and no other is counted: not what stays, nor the directories that hold it
        let by = if way == Way::Diff { "following one diff" } else { "full sync" };
        site.update(&["--max-delete", "1"]).ended(0, &[by, "updated to node"]);
        for path in PROTECTED {
            assert!(site.node().join(path).exists(), "{way:?}: {path} is gone");
        }
        let mut left = judge::same_except_untracked(&site.image(), &site.node(), &[]);
        left.retain(|path| !path.ends_with('/'));
        left.sort();
        let mut kept = PROTECTED.to_vec();
        kept.sort_unstable();
        assert_eq!(left, kept, "{way:?}");
        assert_eq!(read(&site.node().join("etc/passwd")), "newer");
        // and stays, whatever is asked for
        site.update(&["--purge-untracked", "--max-delete", "0", "--check", "content"])
            .ended(0, &["is up to date"]);
        assert!(PROTECTED.iter().all(|path| site.node().join(path).exists()), "{way:?}");
    }
}

#[test]
fn more_deletions_than_are_allowed_stop_every_way_with_the_list() {
    require!(ROOT_AND_RSYNC);

    for way in WAYS {
        // forty-four paths of a hundred and twenty-odd
        let site = site(way, &tree(0), &tree(4));
        let before = site.snapshot();
        for more in [&[][..], &["--max-delete", "43"]] {
            let run = site.update(more);
            run.ended(
                9,
                &[
                    "44 paths would be deleted and",
                    "  /srv/00",
                    "--max-delete",
                    "nothing was changed",
                ],
            );
            site.unchanged_since(&before);
            // the list comes before the refusal in a dry run, and all of it
            let run = site.update(&[more, &["--dry-run"]].concat());
            run.ended(9, &["44 paths would be deleted and"]);
            assert_eq!(
                run.out.lines().filter(|line| line.starts_with("*deleting")).count(),
                44,
                "{way:?}"
            );
        }
        site.update(&["--max-delete", "44"]).ended(0, &["updated to node"]);
        judge::same(&site.image(), &site.node(), &[]);
    }
}

#[test]
fn an_empty_image_empties_no_node() {
    require!(ROOT_AND_RSYNC);

    let empty = Tree::from([(Vec::new(), Item::dir())]);
    for way in WAYS {
        let site = site(way, &tree(0), &empty);
        let before = site.snapshot();
        // where nothing is recorded, all that a node has is its own beside an image that has nothing
        let code = if way == Way::Unknown { 0 } else { 9 };
        site.update(&[]).ended(
            code,
            if code == 9 { &["paths would be deleted and", "nothing was changed"] } else { &[] },
        );
        judge::same(&before, &site.node(), &[]);
        site.nothing_left();
    }
}
