//! Any tree A, any tree B: published, updated, judged equal by rsync.

use crate::common::site::Site;
use crate::common::trees::{self, any_tree};
use crate::common::{ROOT_AND_RSYNC, judge, require};
use proptest::test_runner::{Config, TestRunner};

#[test]
fn any_tree_becomes_any_other_and_is_rolled_back() {
    require!(ROOT_AND_RSYNC);

    let config =
        Config { cases: 40, max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let done = TestRunner::new(config).run(&(any_tree(), any_tree()), |(a, b)| {
        let site = Site::new();
        site.publish(&a);
        site.install_node();
        site.updated(&["--adopt"]);
        site.publish(&b);
        let before = site.snapshot();
        site.updated(&["--max-delete", "100%", "--no-fallback"]);
        site.same();
        if a != b {
            site.rollback(&[]).ended(0, &[]);
            judge::same(&before, &site.node(), &[]);
            site.rollback(&[]).ended(0, &[]);
            site.same();
        }
        Ok(())
    });
    done.expect("every pair of trees");
}

#[test]
fn any_chain_of_three_is_one_transaction() {
    require!(ROOT_AND_RSYNC);

    let config =
        Config { cases: 25, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let done = TestRunner::new(config).run(&(any_tree(), any_tree(), any_tree()), |(a, b, c)| {
        let site = Site::new();
        site.publish(&a);
        site.install_node();
        site.updated(&["--adopt"]);
        site.publish(&b);
        site.publish_image(&[]);
        let _ = std::fs::remove_dir_all(site.image());
        trees::write(&c, &site.image());
        site.publish_image(&["--diffs", "1"]);
        site.updated(&["--max-delete", "100%", "--no-fallback"]);
        site.same();
        Ok(())
    });
    done.expect("every chain of trees");
}
