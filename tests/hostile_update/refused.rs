//! Paths that refuse their change: those of users are left out, any other one reverses the update.

use std::os::unix::fs::chown;

use super::*;
use common::closed_mount::{ClosedMount, USER};

/// Image with a directory of a user, and one that everyone can write.
fn shared_tree(round: u64) -> Tree {
    let mut tree = tree(round);
    tree.insert(b"tmp".to_vec(), Item::dir().mode(0o1777));
    tree.insert(b"home".to_vec(), Item::dir());
    for dir in ["home/u", "home/u/dir", "home/u/other"] {
        tree.insert(dir.as_bytes().to_vec(), Item::dir().owner(USER, USER));
    }
    for file in ["home/u/dir/file", "home/u/other/file", "home/u/file"] {
        let item = Item::file(format!("{file} {round}"));
        let item = item.owner(USER, USER).mtime(1_600_000_000 + round as i64, 0);
        tree.insert(file.as_bytes().to_vec(), item);
    }
    tree.insert(b"home/u/gone".to_vec(), Item::file("x").owner(USER, USER));
    if round > 1 {
        tree.remove(&b"home/u/gone"[..]);
    }
    tree
}

fn shared_site() -> Site {
    let site = Site::new();
    site.publish(&shared_tree(1));
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&shared_tree(2));
    site
}

/// Mounts in the place of a user, or ends the test where this machine has no FUSE.
macro_rules! closed_mount {
    ($at:expr) => {
        match ClosedMount::new($at) {
            Some(mount) => mount,
            None => {
                eprintln!("NOT TESTED: /dev/fuse cannot be used");
                return;
            }
        }
    };
}

#[test]
fn closed_mount_in_shared_directory_stops_nothing() {
    require!(ROOT_AND_RSYNC);
    let site = shared_site();
    let at = site.node().join("tmp/x");
    fs::create_dir(&at).expect("makes");
    chown(&at, Some(USER), Some(USER)).expect("owns");

    let mount = closed_mount!(&at);
    for check in ["touched", "stat", "content"] {
        site.updated(&["--check", check, "--no-fallback"]);
    }
    site.rollback(&[]).ended(0, &[]);
    site.updated(&["--unhold", "--check", "stat"]);

    drop(mount);
    fs::remove_dir(&at).expect("removes");
    // Its time is that of the last change in it.
    site.same_except(&["/tmp"]);
}

#[test]
fn closed_mount_over_tracked_directory_is_left_alone() {
    require!(ROOT_AND_RSYNC);
    let site = shared_site();
    let mount = closed_mount!(&site.node().join("home/u/dir"));

    let run = site.update(&["--check", "stat", "--no-fallback"]);
    assert!(matches!(run.code, 0 | 15), "{run:?}");
    assert_eq!(fs::read_to_string(site.node().join("etc/version")).expect("reads"), "version 2");

    drop(mount);
    site.updated(&["--check", "stat"]);
    site.same();
}

#[test]
fn closed_mount_made_during_update_is_left_out_and_retried() {
    require!(ROOT_AND_RSYNC);
    let mut site = shared_site();
    let at = site.node().join("home/u/dir");

    let slow = SlowRun::start(&mut site, &["--no-fallback"]);
    let mount = closed_mount!(&at);
    let run = slow.end();

    run.ended(15, &["home/u/dir", "left out"]);
    assert!(site.status().contains("home/u/dir"), "{}", site.status());
    let read = |path: &str| fs::read_to_string(site.node().join(path)).expect("reads");
    assert_eq!(read("etc/version"), "version 2");
    assert_eq!(read("home/u/file"), "home/u/file 2");
    assert!(!site.node().join("home/u/gone").exists());

    // As long as the mount stays, each run says so; then the next one updates the rest.
    for _ in 0..2 {
        site.update(&["--no-fallback"]).ended(15, &["left out"]);
        assert!(site.status().contains("home/u/dir"), "{}", site.status());
    }
    drop(mount);
    site.updated(&[]);
    site.same();
    assert!(!site.status().contains("home/u/dir"), "{}", site.status());
}

#[test]
fn path_left_out_of_update_is_restored_by_no_rollback() {
    require!(ROOT_AND_RSYNC);
    let mut site = shared_site();
    let before = site.snapshot();
    let slow = SlowRun::start(&mut site, &["--no-fallback"]);
    let mount = closed_mount!(&site.node().join("home/u/dir"));
    slow.end().ended(15, &[]);
    drop(mount);

    site.rollback(&[]).ended(0, &[]);

    let differences = judge::differences(&before, &site.node(), &["/etc/systemimager"]);
    assert!(differences.is_empty(), "{differences:?}");
}

#[test]
fn removal_that_was_left_out_is_made_by_next_run() {
    require!(ROOT_AND_RSYNC);
    let image = |round: u64| {
        let mut tree = shared_tree(round);
        if round == 1 {
            for file in ["home/u/dir/old", "home/u/dir/sub/old"] {
                let item = Item::file("an old program").owner(USER, USER).mode(0o4755);
                tree.insert(file.as_bytes().to_vec(), item);
            }
            let dir = Item::dir().owner(USER, USER);
            tree.insert(b"home/u/dir/sub".to_vec(), dir);
        }
        tree
    };
    for made in ["before the run", "during the run"] {
        let mut site = Site::new();
        site.publish(&image(1));
        site.install_node();
        site.updated(&["--adopt"]);
        site.publish(&image(2));
        let at = site.node().join("home/u/dir");

        if made == "before the run" {
            let _mount = closed_mount!(&at);
            site.update(&["--no-fallback"]).ended(15, &["left out"]);
        } else {
            let slow = SlowRun::start(&mut site, &["--no-fallback"]);
            let _mount = closed_mount!(&at);
            slow.end().ended(15, &["left out"]);
        }
        assert!(at.join("old").exists(), "{made}");

        site.updated(&["--no-fallback"]);
        site.same();
        assert!(!at.join("old").exists(), "{made}");
    }
}

#[test]
fn rollback_names_paths_that_update_left_out_and_next_run_repaired() {
    require!(ROOT_AND_RSYNC);
    let mut site = shared_site();
    let slow = SlowRun::start(&mut site, &["--no-fallback"]);
    let mount = closed_mount!(&site.node().join("home/u/dir"));
    slow.end().ended(15, &[]);
    drop(mount);
    site.updated(&["--no-fallback"]);

    // Without this, a built-in rule excludes home directories.
    let run = site.rollback(&["--exclude-file", "/dev/null"]);
    run.ended(0, &["deviates: /home/u/dir/file: as after the update"]);
}

#[test]
fn closed_mount_in_directory_that_becomes_file_stops_nothing() {
    require!(ROOT_AND_RSYNC);
    let image = |round: u64| {
        let mut tree = shared_tree(round);
        tree.retain(|path, _| round == 1 || !path.starts_with(b"home/u/dir"));
        if round == 2 {
            tree.insert(b"home/u/dir".to_vec(), Item::file("a file now").owner(USER, USER));
        }
        tree
    };
    let site = Site::new();
    site.publish(&image(1));
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&image(2));
    let at = site.node().join("home/u/dir/mine");
    fs::create_dir(&at).expect("makes");
    chown(&at, Some(USER), Some(USER)).expect("owns");

    let mount = closed_mount!(&at);
    site.update(&["--no-fallback"]).ended(15, &["home/u/dir"]);
    let version = fs::read_to_string(site.node().join("etc/version")).expect("reads");
    assert_eq!(version, "version 2");
    site.update(&["--no-fallback", "--purge-untracked", "--max-delete", "100%"]);

    drop(mount);
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn closed_mount_stops_no_rollback() {
    require!(ROOT_AND_RSYNC);
    let site = shared_site();
    site.updated(&["--no-fallback"]);
    let mount = closed_mount!(&site.node().join("home/u/dir"));

    site.rollback(&[]).ended(15, &["home/u/dir"]);

    let read = |path: &str| fs::read_to_string(site.node().join(path)).expect("reads");
    assert_eq!(read("etc/version"), "version 1");
    assert_eq!(read("home/u/other/file"), "home/u/other/file 1");
    drop(mount);
    site.updated(&["--unhold", "--check", "stat"]);
    site.same();
}

#[test]
fn refusal_in_directory_of_root_undoes_update() {
    require!(ROOT_AND_RSYNC, Program("chattr"));
    let mut site = shared_site();
    let before = site.snapshot();
    let flagged = site.node().join("usr/lib/deep");

    // After the checks, root makes a file immutable: rename(2) over it is refused.
    let slow = SlowRun::start(&mut site, &["--no-fallback"]);
    common::run(Command::new("chattr").arg("+i").arg(&flagged));
    let run = slow.end();
    common::run(Command::new("chattr").arg("-i").arg(&flagged));

    run.ended(5, &["was undone", "usr/lib/deep"]);
    site.nothing_left();
    let differences = judge::differences(&before, &site.node(), &["/etc/systemimager"]);
    assert!(differences.is_empty(), "{differences:?}");
    site.updated(&["--check", "stat"]);
    site.same();
}

#[test]
fn user_file_in_place_of_directory_gets_no_set_id_bits() {
    require!(ROOT_AND_RSYNC);
    let site = Site::new();
    let image = |round: u64| {
        let mut tree = shared_tree(round);
        for number in 0..20 {
            let (owner, mode) = if round > 1 { (0, 0o6755) } else { (USER, 0o755) };
            let item = Item::dir().owner(owner, owner).mode(mode);
            tree.insert(format!("home/u/s{number:02}").into_bytes(), item);
        }
        tree
    };
    site.publish(&image(1));
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&image(2));

    // A program of the user alternates between directory and file at one of these paths.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let home = site.node().join("home/u");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for number in 0..20 {
                    let (at, aside) =
                        (home.join(format!("s{number:02}")), home.join(format!("old{number:02}")));
                    let _ = fs::rename(&at, &aside);
                    let _ = fs::write(&at, "#!/bin/sh\n");
                    let _ = chown(&at, Some(USER), Some(USER));
                    let _ = fs::remove_file(&at);
                    let _ = fs::rename(&aside, &at);
                }
            }
        });
        for _ in 0..3 {
            let run = site.update(&["--check", "stat"]);
            assert!(matches!(run.code, 0 | 5 | 15), "{run:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });

    for entry in fs::read_dir(&home).expect("lists") {
        let meta = entry.expect("an entry").metadata().expect("inspects");
        assert!(!meta.is_file() || meta.mode() & 0o6000 == 0, "a set-id file of the user");
    }
}
