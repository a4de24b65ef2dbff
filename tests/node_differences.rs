//! Differences between an image and real nodes, and their treatment by updates.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, ItemKind};
use crate::common::{ROOT_AND_RSYNC, copy_tree, judge, read, require};

/// Files that differ on every node; the default excludes name them.
const NODE_FILES: [&str; 14] = [
    "etc/machine-id",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_rsa_key.pub",
    "etc/hostname",
    "etc/fstab",
    "etc/resolv.conf",
    "var/lib/systemd/random-seed",
    "var/lib/dhcp/dhclient.leases",
    "var/lib/NetworkManager/internal.lease",
    "var/log/syslog",
    "var/log/app/today",
    "var/cache/apt/pkgcache.bin",
    "usr/lib/app/__pycache__/one.cpython-311.pyc",
    "tmp/socket-directory/file",
];

#[test]
fn node_specific_files_survive_default_excludes() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    let mut tree = trees::system();
    for path in NODE_FILES {
        trees::put(&mut tree, path, Item::file("the golden client's"));
    }
    site.publish(&tree);
    site.install_node();
    for path in NODE_FILES {
        trees::write_text(&site.node().join(path), "this node's");
    }
    trees::write_text(&site.node().join("var/log/more"), "this node's");

    // Each added or removed entry changes the time of its directory, which is no drift.
    let run = Run::from_output(site.command_with_node_excludes().output().expect("runs"));
    run.ended(0, &["taken for generation", ": 0 of", "is up to date"]);
    assert!(!run.out.contains("repaired"), "{run:#?}");

    for path in NODE_FILES {
        trees::put(
            &mut tree,
            path,
            Item::file("the golden client's, newer").mtime(1_700_000_000, 0),
        );
    }

    trees::put(&mut tree, "usr/bin/tool", Item::file("a newer tool"));
    site.publish(&tree);
    let run = Run::from_output(
        site.command_with_node_excludes().arg("--no-fallback").output().expect("runs"),
    );

    run.ended(0, &["following one diff", "updated to node", "1 path changed"]);

    for path in NODE_FILES {
        assert_eq!(read(&site.node().join(path)), "this node's", "{path}");
    }
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/updateclient.local.exclude");
    let rules = [format!("merge {rules}")];
    let mut rsync = Command::new("rsync");
    rsync.args(["-aHAXn", "--delete", "--checksum", "--numeric-ids", "-i", "--exclude=/.si-*"]);
    rsync.args(["--exclude=/var/lib/systemimager", "--exclude=/etc/systemimager"]);
    rsync.args(rules.iter().map(|rule| format!("--filter={}", rule.replace("merge ", "merge,- "))));
    rsync.arg(format!("{}/", site.image().display())).arg(format!("{}/", site.node().display()));
    let left = crate::common::run(&mut rsync);
    let above_own =
        [".d..t...... ./", ".d..t...... etc/", ".d..t...... var/lib/", ".d..t...... var/"];
    let left: Vec<&str> = left.lines().filter(|line| !above_own.contains(line)).collect();

    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn changed_directory_times_alone_start_no_update() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    for directory in ["etc", "tmp", "var/log"] {
        let path = site.node().join(directory);
        fs::File::open(&path)
            .and_then(|dir| dir.set_modified(std::time::SystemTime::now()))
            .expect("sets the time");
    }

    let before = fs::metadata(site.node().join("tmp")).expect("is there").mtime();
    let run = site.updated(&["--check", "stat"]);

    run.ended(0, &["up to date"]);
    assert!(!run.out.contains("repaired"), "{run:#?}");
    assert!(site.status().contains("deviations:  0"));
    assert_eq!(fs::metadata(site.node().join("tmp")).expect("is there").mtime(), before);

    // An update with other changes also restores these times.
    let mut next = trees::system();
    trees::put(&mut next, "etc/new", Item::file("new"));
    site.publish(&next);

    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn node_updated_by_another_program_matches_image() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    let mut large = trees::noise(200_000, 1);
    trees::put(&mut tree, "usr/lib/large", Item::file(large.clone()));
    trees::put(&mut tree, "usr/lib/other", Item::file(trees::noise(100_000, 2)));
    trees::put(&mut tree, "usr/lib/renamed-later", Item::file(trees::noise(50_000, 3)));
    let site = Site::at(&tree);
    let node = site.node();

    // As apt or the old client would do it: new inodes, some with the old time and size.
    let drifted = node.join("usr/lib/large");
    let time = fs::metadata(&drifted).expect("is there").modified().expect("a time");
    fs::remove_file(&drifted).expect("removes");
    fs::write(&drifted, trees::noise(200_000, 9)).expect("writes");
    fs::File::options()
        .write(true)
        .open(&drifted)
        .and_then(|file| file.set_modified(time))
        .expect("sets the time");
    fs::write(node.join("usr/lib/renamed-later"), "drift").expect("writes");
    fs::write(node.join("usr/bin/tool"), "drift in an unchanged file").expect("writes");
    fs::remove_dir_all(node.join("usr/lib/app")).expect("removes");
    trees::write_text(&node.join("usr/lib/added-by-apt"), "untracked");
    fs::remove_file(node.join("etc/passwd")).expect("removes");
    std::os::unix::fs::symlink("/nowhere", node.join("etc/passwd")).expect("links");

    // The sources of a delta and of a move have drifted, and one path to be removed is missing.
    large[100_000] ^= 1;
    trees::put(&mut tree, "usr/lib/large", Item::file(large));
    let renamed = tree.remove(&b"usr/lib/renamed-later"[..]).expect("is there");
    trees::put(&mut tree, "usr/lib/renamed", renamed);
    tree.remove(&b"usr/lib/app/one.py"[..]);

    // Files that apt has installed already, and that the image brings now.
    trees::put(&mut tree, "usr/lib/added-by-apt", Item::file("the image's"));
    site.publish(&tree);

    site.updated(&["--no-fallback"])
        .ended(0, &["whole, by digest", "repaired: /usr/bin/tool", "repaired: /etc/passwd"]);
    site.same();
    site.updated(&["--check", "content"]).ended(0, &["up to date"]);
}

#[test]
fn check_level_touched_examines_only_changed_paths() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    let mut large = trees::noise(200_000, 1);
    trees::put(&mut tree, "usr/lib/large", Item::file(large.clone()));
    let site = Site::at(&tree);
    let node = site.node();
    fs::write(node.join("usr/lib/large"), "drifted, and the source of a delta").expect("writes");
    fs::remove_file(node.join("usr/lib/app/one.py")).expect("removes");
    fs::write(node.join("usr/bin/tool"), "drifted elsewhere").expect("writes");

    // A directory in which nothing changes is not examined either.
    let ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    fs::File::open(node.join("usr/bin")).expect("opens").set_modified(ago).expect("sets");
    large[100_000] ^= 1;
    trees::put(&mut tree, "usr/lib/large", Item::file(large));
    trees::put(&mut tree, "usr/lib/app/one.py", Item::file("1, newer"));

    site.publish(&tree);
    site.updated(&["--no-fallback", "--check", "touched"]).ended(0, &["updated to node"]);
    assert_eq!(read(&node.join("usr/bin/tool")), "drifted elsewhere");
    assert_eq!(read(&node.join("usr/lib/app/one.py")), "1, newer");

    let left = judge::differences(&site.image(), &node, &[]);
    let paths: Vec<&str> = left.iter().filter_map(|line| line.split_whitespace().last()).collect();

    assert_eq!(paths, ["usr/bin/", "usr/bin/tool"], "{left:?}");

    site.updated(&["--check", "stat"]);
    site.same();
}

#[test]
fn deleted_directory_is_restored_when_drift_is_only_reported() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    let site = Site::at(&tree);
    fs::remove_dir_all(site.node().join("usr/lib/app")).expect("removes");
    fs::write(site.node().join("usr/bin/tool"), "drift").expect("writes");
    trees::put(&mut tree, "usr/lib/app/one.py", Item::file("1, newer"));
    site.publish(&tree);

    site.updated(&["--no-fallback", "--check", "touched", "--drift", "report"]);
    site.update(&["--check", "stat", "--drift", "report"])
        .ended(10, &["deviates: /usr/bin/tool: content"]);

    let status = site.status();
    assert!(status.contains("deviations:  1") && !status.contains("two.py"), "{status}");

    site.updated(&["--check", "stat"]);
    site.same();
}

#[test]
fn state_from_cloned_tree_is_not_trusted() {
    require!(ROOT_AND_RSYNC);

    let tree = trees::system();
    let site = Site::at(&tree);

    // The tree of the golden client becomes another node, which then loses a file.
    let golden = site.dir.path().join("golden");
    fs::rename(site.node(), &golden).expect("renames");
    copy_tree(&golden, &site.node());
    fs::remove_file(site.node().join("usr/bin/tool")).expect("removes");
    let mut next = tree.clone();
    trees::put(&mut next, "etc/new", Item::file("new"));
    site.publish(&next);

    site.updated(&["--no-fallback"]);
    site.same();

    // A tree on another filesystem belongs to another machine.
    let state = site.node().join("var/lib/systemimager/client/state.toml");
    let text = read(&state);
    let home = text.lines().find(|line| line.starts_with("home")).expect("a home");
    fs::write(&state, text.replace(home, "home = \"1234-2-0\"")).expect("writes");

    let status = site.status();
    assert!(status.contains("the recorded state was copied from another machine"), "{status}");

    fs::write(site.node().join("etc/passwd"), "drift").expect("writes");
    trees::put(&mut next, "etc/newer", Item::file("newer"));
    site.publish(&next);

    site.updated(&["--no-fallback"])
        .ended(0, &["it is not used", "taken for generation", "following one diff"]);
    site.same();
    site.updated(&[]).ended(0, &["up to date"]);
}

#[test]
fn image_without_agent_keeps_agent_configuration_and_keys() {
    require!(ROOT_AND_RSYNC);

    const AGENT_FILES: [&str; 6] = [
        "usr/sbin/si_updateclient",
        "etc/systemimager/updateclient.toml",
        "etc/systemimager/updateclient.local.exclude",
        "etc/systemimager/client.conf",
        "etc/systemimager/keys/ca.pem",
        "etc/systemimager/overrides",
    ];
    let mut tree = trees::system();
    let without_agent = tree.clone();
    for path in AGENT_FILES {
        trees::put(&mut tree, path, Item::file(format!("# of {path}\n")));
    }
    tree.insert(b"etc/systemimager/updateclient.local.exclude".to_vec(), Item::file("# nothing\n"));
    let site = Site::at(&tree).with_rsync();
    let assert_files_kept = |update: &str| {
        for path in AGENT_FILES {
            assert!(site.node().join(path).exists(), "{path} was removed by {update}");
        }
        let left = judge::same_except_untracked(&site.image(), &site.node(), &[]);
        assert!(
            left.iter()
                .all(|path| path.starts_with("etc/systemimager") || path.starts_with("usr/sbin")),
            "{left:?}"
        );
    };
    site.publish(&without_agent);

    site.updated(&["--no-fallback"]);
    assert_files_kept("a diff");

    // Again without a recorded state, when everything outside the image is removed.
    fs::remove_dir_all(site.node().join("var/lib/systemimager")).expect("removes");
    fs::remove_dir_all(site.node().join("usr/lib")).expect("removes");
    for path in ["etc/passwd", "etc/hostname", "usr/bin/tool", "boot/vmlinuz"] {
        trees::write_text(&site.node().join(path), "drift");
    }
    trees::write_text(&site.node().join("opt/stale"), "of an older image");

    site.updated(&["--max-delete", "100%"]).ended(0, &["full sync"]);
    assert!(!site.node().join("opt").exists());

    assert_files_kept("a full sync");

    // The files also survive if their directory becomes another type.
    let mut linked = without_agent.clone();
    trees::put(
        &mut linked,
        "etc/systemimager",
        Item::new(ItemKind::Symlink(b"/opt/systemimager".to_vec())),
    );
    site.publish(&linked);

    site.refused(&["--no-fallback"], 5, &["etc/systemimager"]);
}

#[test]
fn republished_older_generation_is_followed() {
    require!(ROOT_AND_RSYNC);

    let old = trees::system();
    let site = Site::at(&old);

    assert!(site.publish_image(&[]).is_empty() || site.archives("diffs").is_empty());
    site.updated(&[]).ended(0, &["serial 1"]);

    let mut new = old.clone();
    trees::put(&mut new, "etc/new", Item::file("new"));
    site.publish(&new);

    site.updated(&["--no-fallback"]).ended(0, &["serial 2"]);

    site.publish(&old);
    site.updated(&["--no-fallback"]).ended(0, &["serial 3"]);
    site.same();

    // A node that is two publishes behind has the content of the head already.
    let state = site.status();
    site.publish(&new);
    site.publish(&old);

    site.updated(&["--no-fallback"]).ended(0, &["up to date", "serial 5"]);
    assert_ne!(site.status(), state);
}
