//! Choice of the strategy if no single diff leads to the head, and the result of each strategy.
//!
//! Each test is a situation in the table of strategies, with the expected reaction. The judge
//! checks every run that changes the tree, and the next run is an update by a diff again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::fault_server::FaultServer;
use crate::common::site::Site;
use crate::common::trees::{self, Item, Tree, noise};
use crate::common::{ROOT_AND_RSYNC, judge, require, tardiff};
use jiff::{SignedDuration, Timestamp};
use systemimager::catalog::Head;

/// Tree of forty files, a large one, and a few that change with each `round`.
fn tree(round: u64) -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir()), (b"etc".to_vec(), Item::dir())]);
    tree.insert(b"usr".to_vec(), Item::dir());
    for number in 0..40 {
        let path = format!("usr/file-{number:02}");
        tree.insert(path.into_bytes(), Item::file(format!("content {number}")).owner(number, 0));
    }

    let mut large = noise(200_000, 1);
    large[100_000..100_100].copy_from_slice(&noise(100, round + 10));
    tree.insert(b"usr/large".to_vec(), Item::file(large).mtime(1_600_000_000 + round as i64, 0));
    tree.insert(b"etc/version".to_vec(), Item::file(format!("round {round}")));
    tree.insert(format!("etc/only-{round}").into_bytes(), Item::file(noise(2_000, round)));
    tree
}

/// Tree that has nothing in common with the others, with one path that the image lacks.
fn foreign() -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir()), (b"usr".to_vec(), Item::dir())]);
    for number in 0..40 {
        tree.insert(
            format!("usr/file-{number:02}").into_bytes(),
            Item::file(format!("another content {number}")),
        );
    }
    tree.insert(b"opt/of/nobody".to_vec(), Item::file("too much"));
    tree
}

/// Site whose node is at the first of `rounds` publishes.
fn behind(site: Site, rounds: u64) -> Site {
    site.publish(&tree(1));
    site.install_node();
    site.updated(&["--adopt"]);
    for round in 2..=rounds {
        site.publish(&tree(round));
    }
    site
}

/// Asserts that the node equals the image, and that the next update is a diff.
#[track_caller]
fn assert_updated(site: &Site) {
    site.same();
    assert_next_update_is_diff(site);
}

#[track_caller]
fn assert_next_update_is_diff(site: &Site) {
    site.publish(&tree(99));
    site.updated(&["--no-fallback"]).ended(0, &["following one diff"]);
    site.same();
}

fn write_tree(tree: &Tree, top: &Path) {
    let _ = fs::remove_dir_all(top);
    crate::common::trees::write(tree, top);
}

/// Turns one bit in the middle of a file.
fn corrupt(path: &Path) {
    let mut bytes = fs::read(path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("writes");
}

#[test]
fn unrecorded_tree_equal_to_generation_is_adopted() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    site.publish(&tree(1));
    site.publish(&tree(2));
    site.install_node();
    fs::write(site.node().join("usr/file-07"), "edited on the node").expect("writes");
    fs::remove_file(site.node().join("usr/file-08")).expect("removes");
    fs::write(site.node().join("local"), "the node's own").expect("writes");
    site.publish(&tree(3));

    let run = site.updated(&["--no-fallback"]);
    run.ended(
        0,
        &["the tree is taken for generation", "2 of 46 entries differ", "following one diff"],
    );
    assert_eq!(judge::same_except_untracked(&site.image(), &site.node(), &[]), ["local"]);

    fs::remove_file(site.node().join("local")).expect("removes");
    assert_updated(&site);
}

#[test]
fn unrecorded_tree_like_no_generation_needs_full_sync() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&tree(1));
    write_tree(&foreign(), &site.node());
    let before = site.snapshot();
    let reason = "full sync: no generation is recorded and the tree resembles none";

    // Paths that the image lacks are deleted, within the deletion budget.
    site.update(&["--max-delete", "2"])
        .ended(9, &[reason, "cannot delete 3 paths", "opt/of/nobody"]);

    site.unchanged_since(&before);
    site.update(&["--no-fallback"]).ended(8, &["--no-fallback forbids it"]);
    site.unchanged_since(&before);

    site.updated(&["--dry-run"]).ended(0, &[reason, "*deleting   /opt/of/nobody"]);
    site.unchanged_since(&before);

    site.updated(&[]).ended(0, &[reason]);
    assert_updated(&site);
}

#[test]
fn empty_tree_becomes_image() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&crate::common::trees::mutate(&crate::common::trees::everything(), 0));
    fs::create_dir(site.node()).expect("makes");

    site.updated(&[]).ended(0, &["full sync"]);
    site.same();

    site.publish(&crate::common::trees::mutate(&crate::common::trees::everything(), 1));
    site.updated(&["--no-fallback", "--max-delete", "100%"]).ended(0, &["following one diff"]);
    site.same();
}

#[test]
fn unpublished_generation_like_another_is_adopted() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new(), 2);
    write_tree(&tree(3), &site.image());
    site.publish_image(&["--full-share", "0"]);
    prune(&site, 1);
    fs::write(site.node().join("local"), "the node's own").expect("writes");

    let run = site.updated(&["--no-fallback"]);
    run.ended(0, &["the tree is taken for generation"]);

    // Paths of the recorded generation are stale; a path in no manifest is untracked and kept.
    assert_eq!(judge::same_except_untracked(&site.image(), &site.node(), &[]), ["local"]);

    fs::remove_file(site.node().join("local")).expect("removes");
    assert_updated(&site);
}

#[test]
fn unpublished_generation_like_none_needs_full_sync() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&foreign());
    site.install_node();

    site.updated(&["--adopt"]);
    site.publish(&tree(1));
    site.publish(&tree(2));
    prune(&site, 1);
    fs::write(site.node().join("local"), "the node's own").expect("writes");
    let before = site.snapshot();

    site.update(&["--no-fallback"]).ended(8, &["is not published and the tree resembles none"]);
    site.unchanged_since(&before);

    site.updated(&[]).ended(
        0,
        &["full sync: the recorded generation", "is not published and the tree resembles none"],
    );

    assert_eq!(judge::same_except_untracked(&site.image(), &site.node(), &[]), ["local"]);
    fs::remove_file(site.node().join("local")).expect("removes");
    assert_updated(&site);
}

fn remove_full_archives(site: &Site) {
    for archive in site.archives("full") {
        fs::remove_file(archive).expect("removes");
    }
}

fn prune(site: &Site, keep: u32) {
    let mut command = std::process::Command::new(tardiff());
    command
        .args(["prune", "--image", "node", "--keep", &keep.to_string(), "--repo"])
        .arg(site.repo());
    crate::common::run(&mut command);
}

#[test]
fn missing_archive_is_replaced_by_two_diffs() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new(), 3);
    fs::remove_file(site.diff(1, 3)).expect("removes");
    let run = site.updated(&["--no-fallback"]);

    run.ended(
        0,
        &["cannot be used", "there is no such file", "following 2 diffs", "as one transaction"],
    );
    assert_updated(&site);
}

#[test]
fn corrupt_archive_is_replaced_by_two_diffs() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new(), 3);
    corrupt(&site.diff(1, 3));
    let run = site.updated(&["--no-fallback"]);
    run.ended(0, &["cannot be used", "the server", "following 2 diffs"]);
    assert_updated(&site);
}

#[test]
fn archive_with_corrupt_listing_is_replaced_by_two_diffs() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new(), 3);
    let mut bytes = fs::read(site.diff(1, 3)).expect("reads");
    bytes[20] ^= 1;
    fs::write(site.diff(1, 3), bytes).expect("writes");
    site.updated(&["--no-fallback"]).ended(0, &["cannot be used", "following 2 diffs"]);
    assert_updated(&site);
}

#[test]
fn broken_chain_falls_back_to_full_sync() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 3);
    fs::remove_file(site.diff(1, 3)).expect("removes");
    corrupt(&site.diff(2, 3));
    fs::write(site.node().join("local"), "the node's own").expect("writes");
    let before = site.snapshot();
    let reason = "the chain of diffs is broken";

    site.update(&["--no-fallback"]).ended(8, &[reason, "missing or damaged on the server"]);
    site.unchanged_since(&before);

    site.updated(&[]).ended(0, &["full sync: ", reason]);
    // With a recorded base, untracked paths are known, and every strategy keeps them.
    assert_eq!(judge::same_except_untracked(&site.image(), &site.node(), &[]), ["local"]);

    fs::remove_file(site.node().join("local")).expect("removes");
    assert_updated(&site);
}

#[test]
fn missing_chain_falls_back_to_full_sync() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&tree(1));
    site.install_node();

    site.updated(&["--adopt"]);
    write_tree(&tree(2), &site.image());
    site.publish_image(&["--diffs", "0"]);
    site.updated(&[]).ended(0, &["full sync: no chain of diffs leads from generation"]);

    assert_updated(&site);
}

#[test]
fn chain_larger_than_image_falls_back_to_full_sync() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&tree(1));
    site.install_node();

    site.updated(&["--adopt"]);
    let mut bulky = tree(2);
    bulky.insert(b"usr/bulk".to_vec(), Item::file(noise(2_000_000, 5)));
    for tree in [bulky, tree(3)] {
        write_tree(&tree, &site.image());
        site.publish_image(&["--diffs", "1"]);
    }

    let run = site.updated(&[]);
    run.ended(0, &["full sync: the diffs have", "bytes, a full sync takes about"]);
    assert_updated(&site);
}

#[test]
fn drifted_delta_source_is_fetched_by_digest() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new(), 2);
    fs::write(site.node().join("usr/large"), "not the source of the delta").expect("writes");
    site.updated(&["--no-fallback"]).ended(0, &["whole, by digest"]);
    assert_updated(&site);
}

#[test]
fn drifted_delta_source_without_index_needs_full_sync() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 2);
    fs::write(site.node().join("usr/large"), "not the source of the delta").expect("writes");
    let index = site.catalog().content.expect("an index").file.file;
    fs::remove_file(site.repo().join("node").join(index.as_str())).expect("removes");
    let before = site.snapshot();
    let reason = "the repository does not have the content: ";

    site.update(&["--no-fallback"]).ended(8, &[reason]);
    site.unchanged_since(&before);

    site.updated(&[]).ended(0, &["full sync: ", reason]);
    assert_updated(&site);
}

#[test]
fn contents_no_longer_excluded_are_fetched_by_digest() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new(), 1);
    let rules = site.dir.path().join("rules");
    fs::write(&rules, "/usr/large\n/usr/file-0*\n").expect("writes");
    let rules = rules.display().to_string();

    site.updated(&["--exclude-file", &rules]);
    fs::remove_file(site.node().join("usr/large")).expect("removes");
    fs::write(site.node().join("usr/file-01"), "the node's own").expect("writes");
    site.publish(&tree(2));

    site.updated(&["--exclude-file", &rules, "--no-fallback"]);
    assert!(!site.node().join("usr/large").exists());
    judge::same(&site.image(), &site.node(), &["/usr/large", "/usr/file-0*"]);

    // The excludes also change without a new publish.
    site.updated(&["--no-fallback"]).ended(0, &["whole, by digest"]);
    site.same();

    site.updated(&["--exclude-file", &rules]);
    fs::write(site.node().join("usr/file-01"), "the node's own").expect("writes");
    site.publish(&tree(3));

    site.updated(&["--no-fallback"]);
    assert_updated(&site);
}

#[test]
fn unpublished_edits_of_image_are_not_installed() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&tree(1));
    let published = site.dir.path().join("published");
    crate::common::copy_tree(&site.image(), &published);
    write_tree(&foreign(), &site.node());
    fs::write(site.image().join("usr/file-03"), "edited, not published").expect("writes");
    fs::remove_file(site.image().join("usr/file-04")).expect("removes");
    fs::write(site.image().join("usr/more"), "not published").expect("writes");

    site.updated(&[]).ended(0, &["full sync"]);
    judge::same(&published, &site.node(), &[]);
    site.nothing_left();
    assert_next_update_is_diff(&site);
}

#[test]
fn unpublished_edits_without_published_content_refuse_update() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&tree(1));
    write_tree(&foreign(), &site.node());
    let before = site.snapshot();
    remove_full_archives(&site);

    fs::write(site.image().join("usr/file-03"), "edited, not published").expect("writes");
    let run = site.update(&[]);
    run.ended(8, &["is not the published head any more", "/usr/file-03", "nothing was changed"]);
    site.unchanged_since(&before);

    // A publish of the edited tree makes the update succeed.
    site.publish_image(&[]);
    site.updated(&[]);

    assert_updated(&site);
}

#[test]
fn constantly_edited_image_is_installed_as_published() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&tree(1));
    let published = site.dir.path().join("published");
    crate::common::copy_tree(&site.image(), &published);
    let (ended, image) = (AtomicBool::new(false), site.image());

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !ended.load(Ordering::SeqCst) {
                round += 1;
                let path = image.join(format!("usr/file-{:02}", round % 40));
                let beside = image.join("usr/.beside");
                let result = match round % 3 {
                    0 => fs::write(&path, format!("edited {round}")),
                    1 => fs::remove_file(&path),
                    _ => fs::write(&beside, noise(100_000, round))
                        .and_then(|()| fs::rename(&beside, &path)),
                };
                drop(result);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let runs = (0..4).map(|_| {
            write_tree(&foreign(), &site.node());
            site.update(&[])
        });
        let runs: Vec<_> = runs
            .inspect(|_| {
                judge::same(&published, &site.node(), &[]);
                site.nothing_left();
            })
            .collect();
        ended.store(true, Ordering::SeqCst);
        for run in runs {
            run.ended(0, &["full sync"]);
        }
    });
}

#[test]
fn older_head_stops_update_without_fallback() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 1);
    let first = site.head();
    site.publish(&tree(2));
    site.updated(&[]);
    let before = site.snapshot();
    let forged = Head { issued: Timestamp::now(), ..first };
    fs::write(site.head_path(), forged.to_toml().expect("text")).expect("writes");

    let run = site.update(&[]);

    run.ended(3, &["the server offers serial 1", "has seen 2", "--allow-downgrade"]);
    site.unchanged_since(&before);
}

/// A mirror that is behind is no attack: it has nothing new.
#[test]
fn stale_repository_has_nothing_new() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 1);
    let first = fs::read(site.head_path()).expect("a head");
    site.publish(&tree(2));
    site.updated(&[]);
    let before = site.snapshot();
    fs::write(site.head_path(), first).expect("writes");

    site.update(&[]).ended(0, &["nothing new", "up to date"]);

    site.unchanged_since(&before);
}

/// The node has seen a newer head, and could not install it.
#[test]
fn stale_repository_is_no_success_for_node_that_is_behind() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new(), 1);
    let first = fs::read(site.head_path()).expect("a head");
    site.publish(&tree(2));
    for archive in site.archives("diffs").into_iter().chain(site.archives("full")) {
        fs::remove_file(archive).expect("removes");
    }
    site.update(&[]).ended(8, &[]);
    let before = site.snapshot();
    fs::write(site.head_path(), first).expect("writes");

    site.update(&[]).ended(3, &["older than one that this node has seen", "not brought up"]);

    site.unchanged_since(&before);
}

#[test]
fn two_catalogs_of_one_version_are_refused() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 1);
    site.updated(&[]);
    let before = site.snapshot();
    site.replace_catalog(format!("{}# another server\n", site.catalog_text()));

    site.update(&[]).ended(3, &["serial 1 of image node with another content", "--serial"]);

    site.unchanged_since(&before);
}

#[test]
fn catalog_of_override_is_not_that_of_image() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 1);
    site.updated(&[]);
    let mut tardiff = Command::new(tardiff());
    tardiff.args(["publish", "--quiet", "--override", "node", "--overrides-dir"]);
    tardiff.arg(site.image().parent().expect("a parent")).arg("--repo").arg(site.repo());
    let _ = fs::remove_dir_all(site.image());
    trees::write(&tree(2), &site.image());
    crate::common::run(&mut tardiff);
    fs::rename(site.repo().join("node"), site.dir.path().join("away")).expect("renames");
    fs::rename(site.repo().join("overrides/node"), site.repo().join("node")).expect("renames");
    let before = site.snapshot();

    site.update(&[]).ended(3, &["of override node, not that of image node"]);

    site.unchanged_since(&before);
}

#[test]
fn not_modified_is_believed_until_head_expires() {
    require!(ROOT_AND_RSYNC);

    let mut site = behind(Site::new().with_rsync(), 1);
    let server = FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    let expires = Timestamp::now() + SignedDuration::from_secs(4);
    let head = Head { expires: Some(expires), ..site.head() };
    fs::write(site.head_path(), head.to_toml().expect("text")).expect("writes");
    site.updated(&[]);
    let before = site.snapshot();
    site.updated(&[]).ended(0, &["up to date"]);
    assert_eq!(server.seen().last().map(|seen| seen.status), Some(304));

    let left = expires.duration_since(Timestamp::now());
    std::thread::sleep(left.unsigned_abs() + Duration::from_millis(10));
    site.update(&[]).ended(3, &["expired at"]);

    site.unchanged_since(&before);
}

#[test]
fn repository_of_format_1_is_named() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 1);
    let before = site.snapshot();
    fs::rename(site.head_path(), site.repo().join("node/catalog.toml")).expect("renames");

    site.update(&[])
        .ended(3, &["format 1", "move its directory away", "si_tardiff publish --image node"]);

    site.unchanged_since(&before);
}

#[test]
fn untrusted_catalog_stops_update_without_fallback() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 2);
    site.publish(&tree(3));
    let newest = fs::read_to_string(site.head_path()).expect("a head");
    let catalog = site.catalog_text();
    let before = site.snapshot();
    let refused = |message: &str| {
        site.update(&[]).ended(3, &["the server is not trusted", message, "nothing was changed"]);
        site.unchanged_since(&before);
    };

    let expired = "expires = \"2001-01-01T00:00:00Z\"\nissued = ";
    let cases = |text: &str| {
        [
            (text.replace("format = 2", "format = 3"), "format 3"),
            (text.replace("\"node\"", "\"other\""), "of image other, not that of image node"),
            (text.replace("\"image\"", "\"override\""), "of override node, not that of image"),
            (text[..text.len() / 2].to_owned(), "the catalog is not valid"),
            (format!("\0\0{text}"), "the catalog is not valid"),
            (format!("wonder = true\n{text}"), "the catalog is not valid"),
            ("format = \"".to_owned(), "the catalog is not valid"),
        ]
    };
    for (content, message) in cases(&newest) {
        fs::write(site.head_path(), content).expect("writes");
        refused(message);
    }
    fs::write(site.head_path(), newest.replacen("issued = ", expired, 1)).expect("writes");
    refused("expired at");
    for (content, message) in cases(&catalog) {
        fs::write(site.head_path(), &newest).expect("writes");
        site.replace_catalog(content);
        refused(message);
    }

    // Bytes that the head does not name.
    fs::write(site.head_path(), &newest).expect("writes");
    let file = site.head().catalog_file().expect("a path").file;
    let path = site.repo().join("node").join(file.as_str());
    fs::write(&path, format!("{catalog}#")).expect("writes");
    refused("catalogs/");
    fs::write(&path, catalog.replace("node", "nodf")).expect("writes");
    refused("catalogs/");

    fs::write(&path, &catalog).expect("writes");
    site.updated(&["--no-fallback"]);
    assert_updated(&site);
}

#[test]
fn binary_or_missing_head_stops_update_without_fallback() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 2);
    let before = site.snapshot();

    fs::write(site.head_path(), [0xff; 100]).expect("writes");
    let binary = site.update(&[]);
    fs::remove_file(site.head_path()).expect("removes");
    let missing = site.update(&[]);

    binary.ended(3, &["the catalog is not valid"]);
    missing.ended(4, &["cannot find image node in", "has no catalog of it"]);
    site.unchanged_since(&before);
}

#[test]
fn older_catalog_is_accepted_with_allow_downgrade() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync(), 1);
    let published = site.dir.path().join("published");
    crate::common::copy_tree(&site.image(), &published);
    let first = fs::read(site.head_path()).expect("a head");
    site.publish(&tree(2));

    site.updated(&[]);
    fs::write(site.head_path(), &first).expect("writes");
    site.updated(&["--allow-downgrade"]);

    judge::same(&published, &site.node(), &[]);
    site.updated(&[]).ended(0, &["up to date"]);
}

#[test]
fn missing_rsync_program_and_server_have_own_errors() {
    require!(ROOT_AND_RSYNC);

    let mut site = Site::new();
    site.publish(&tree(1));
    remove_full_archives(&site);
    write_tree(&foreign(), &site.node());
    let before = site.snapshot();
    site.update(&[]).ended(8, &["no rsync server is configured (--server)", "nothing was changed"]);
    site.unchanged_since(&before);

    site = site.with_rsync();
    let mut command = site.command();
    let run = command.env("PATH", site.dir.path()).output().expect("si_updateclient runs");
    crate::common::site::Run::from_output(run)
        .ended(8, &["the rsync program is not installed on this node", "nothing was changed"]);
    site.unchanged_since(&before);

    site.stop_rsync();
    site.update(&[]).ended(8, &["cannot run a full sync", "nothing was changed"]);
    site.unchanged_since(&before);
}

#[test]
fn missing_rsync_module_is_named() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&tree(1));
    remove_full_archives(&site);
    write_tree(&foreign(), &site.node());
    let before = site.snapshot();
    fs::rename(site.image(), site.dir.path().join("images/elsewhere")).expect("renames");
    site.update(&[]).ended(8, &["cannot run a full sync", "/node/", "nothing was changed"]);
    site.unchanged_since(&before);
}

#[test]
fn rsync_daemon_alone_serves_all_strategies() {
    require!(ROOT_AND_RSYNC);

    let site = behind(Site::new().with_rsync_repository(), 2);
    site.updated(&["--no-fallback"]).ended(0, &["following one diff"]);
    site.same();

    site.updated(&[]).ended(0, &["up to date"]);
    fs::write(site.node().join("usr/large"), "drift").expect("writes");
    site.publish(&tree(3));

    site.updated(&["--no-fallback"]).ended(0, &["whole, by digest"]);
    site.same();

    write_tree(&foreign(), &site.node());
    site.updated(&[]).ended(0, &["full sync"]);
    assert_updated(&site);
}
