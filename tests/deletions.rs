//! Limits of deletions: the deletion budget, and protected paths. Both hold for updates by a diff,
//! for a full sync of a recorded tree, and for one of an unrecorded tree.

use std::fs;

use crate::common::read;
use crate::common::site::Site;
use crate::common::trees::{self, Item, Tree};
use crate::common::{ROOT_AND_RSYNC, judge, require};

/// Paths that the agent needs.
const PROTECTED: [&str; 6] = [
    "usr/sbin/si_updateclient",
    "etc/systemimager/updateclient.toml",
    "etc/systemimager/updateclient.local.exclude",
    "etc/systemimager/client.conf",
    "etc/systemimager/keys/ca.pem",
    "etc/systemimager/overrides",
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Strategy {
    Diff,
    /// The node has a recorded generation that is the base of no diff.
    Full,
    /// The node has no state, so that stale paths look like untracked ones.
    Unknown,
}

const STRATEGIES: [Strategy; 3] = [Strategy::Diff, Strategy::Full, Strategy::Unknown];

/// Site whose node is the tree `first`, with `second` published.
fn site(strategy: Strategy, first: &Tree, second: &Tree) -> Site {
    let site = Site::new().with_rsync();
    site.publish(first);
    site.install_node();
    match strategy {
        Strategy::Unknown => fs::remove_dir_all(site.repo()).expect("removes"),
        Strategy::Diff | Strategy::Full => drop(site.updated(&["--adopt"])),
    }
    site.publish(second);
    if strategy == Strategy::Full {
        site.archives("diffs").into_iter().for_each(|diff| fs::remove_file(diff).expect("removes"));
    }

    site
}

/// Tree of a hundred files in ten directories, without the first `removed` of them. A tree with
/// removals also has many new files, so that adoption does not take the first tree for it.
fn tree(removed: usize) -> Tree {
    let mut tree = trees::system();
    for number in 0..if removed > 0 { 60 } else { 0 } {
        trees::put(&mut tree, &format!("opt/{number}"), Item::file("new"));
    }

    for number in removed * 10..100 {
        trees::put(
            &mut tree,
            &format!("srv/{:02}/{number:02}", number / 10),
            Item::file(format!("data {number}")),
        );
    }

    tree
}

#[test]
fn image_without_agent_files_keeps_them() {
    require!(ROOT_AND_RSYNC);

    for strategy in STRATEGIES {
        let (mut first, mut second) = (tree(0), tree(0));
        for path in PROTECTED {
            let content = match path.rsplit_once('.') {
                Some((_, "toml")) => "",
                _ => "# this node's\n",
            };
            trees::put(&mut first, path, Item::file(content));
        }

        trees::put(&mut first, "etc/systemimager/other", Item::file("stale"));
        trees::put(&mut second, "etc/passwd", Item::file("newer"));

        // The new files make the node's tree resemble no generation.
        for number in 0..90 {
            trees::put(&mut second, &format!("opt/{number}"), Item::file("new"));
        }

        let site = site(strategy, &first, &second);
        // One path is removed. Protected paths and their directories are not counted.
        let message = if strategy == Strategy::Diff { "following one diff" } else { "full sync" };

        site.update(&["--max-delete", "1"]).ended(0, &[message, "updated to node"]);
        for path in PROTECTED {
            assert!(site.node().join(path).exists(), "{strategy:?}: {path} is missing");
        }

        let mut left = judge::same_except_untracked(&site.image(), &site.node(), &[]);
        left.retain(|path| !path.ends_with('/'));
        left.sort();
        let mut expected = PROTECTED.to_vec();
        expected.sort_unstable();
        assert_eq!(left, expected, "{strategy:?}");
        assert_eq!(read(&site.node().join("etc/passwd")), "newer");

        // Protected paths survive every option.
        site.update(&["--purge-untracked", "--max-delete", "0", "--check", "content"])
            .ended(0, &["is up to date"]);

        assert!(PROTECTED.iter().all(|path| site.node().join(path).exists()), "{strategy:?}");
    }
}

#[test]
fn too_many_deletions_are_refused_with_list() {
    require!(ROOT_AND_RSYNC);

    for strategy in STRATEGIES {
        // The update removes 44 of about 120 paths.
        let site = site(strategy, &tree(0), &tree(4));
        let before = site.snapshot();
        for more in [&[][..], &["--max-delete", "43"]] {
            let run = site.update(more);
            run.ended(
                9,
                &[
                    "cannot delete 44 paths: at most",
                    "  /srv/00",
                    "--max-delete",
                    "nothing was changed",
                ],
            );
            site.unchanged_since(&before);
            // A dry run prints the complete list before the refusal.
            let run = site.update(&[more, &["--dry-run"]].concat());
            run.ended(9, &["cannot delete 44 paths: at most"]);
            assert_eq!(
                run.out.lines().filter(|line| line.starts_with("*deleting")).count(),
                44,
                "{strategy:?}"
            );
        }

        site.update(&["--max-delete", "44"]).ended(0, &["updated to node"]);
        judge::same(&site.image(), &site.node(), &[]);
    }
}

#[test]
fn empty_image_deletes_nothing() {
    require!(ROOT_AND_RSYNC);

    let empty = Tree::from([(Vec::new(), Item::dir())]);
    for strategy in STRATEGIES {
        let site = site(strategy, &tree(0), &empty);
        let before = site.snapshot();

        // Without a state, an empty image makes all paths of the node untracked.
        let code = if strategy == Strategy::Unknown { 0 } else { 9 };
        site.update(&[])
            .ended(code, if code == 9 { &["cannot delete", "nothing was changed"] } else { &[] });

        judge::same(&before, &site.node(), &[]);
        site.nothing_left();
    }
}
