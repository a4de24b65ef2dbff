//! `--rollback`: what an update displaced comes back, bit for bit, and the node does not run into the same
//! generation again.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::site::Site;
use common::small_disk::{DISK, SmallDisk};
use common::trees::{self, Item, ItemKind, write_text};
use common::{ROOT_AND_RSYNC, judge, require};

const ANY: [&str; 2] = ["--max-delete", "100%"];

fn generation(site: &Site, serial: u64) -> String {
    let catalog = site.catalog();
    let publish =
        catalog.publishes.iter().find(|publish| publish.serial == serial).expect("a publish");
    publish.generation.short().to_string()
}

/// Inodes, owners and times of all paths but directories, for what rsync does not compare.
fn inodes(tree: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut open = vec![tree.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("reads") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(tree).expect("below").display().to_string();
            if name.starts_with(".si-")
                || name.starts_with("var/lib/systemimager")
                || name.starts_with("etc/systemimager")
            {
                continue;
            }
            let meta = fs::symlink_metadata(&path).expect("stat");
            if meta.is_dir() { open.push(path) } else { found.push((name, meta.ino())) }
        }
    }
    found.sort();
    found
}

#[test]
fn every_kind_of_change_is_undone_and_made_again() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::mutate(&trees::everything(), 0);
    let site = Site::at(&tree);
    for round in 1..6 {
        tree = trees::mutate(&tree, round);
        site.publish(&tree);
        let (before, was) = (site.snapshot(), inodes(&site.node()));
        let state = site.status();
        let updated = site.updated(&ANY);
        site.same();
        let now = inodes(&site.node());
        let undone = site.rollback(&[]);
        undone.ended(0, &["rolled back to", &generation(&site, u64::from(round))]);
        // A name of a file that goes is no edit of its other names.
        assert!(
            !updated.err.contains("was changed after") && !undone.err.contains("was changed after"),
            "{undone:#?}"
        );
        judge::same(&before, &site.node(), &[]);
        site.nothing_left();
        // The very same files, so that whatever links or watches them is right again.
        assert_eq!(inodes(&site.node()), was);
        let line = |status: &str| {
            status.lines().find(|line| line.starts_with("generation")).map(str::to_owned)
        };
        assert_eq!(line(&site.status()), line(&state));
        site.update(&["--check", "content"]).ended(12, &["--unhold"]);
        judge::same(&before, &site.node(), &[]);
        site.rollback(&[]).ended(0, &["rolled back to", &generation(&site, u64::from(round) + 1)]);
        site.same();
        assert_eq!(inodes(&site.node()), now);
        site.updated(&["--check", "content"]).ended(0, &["up to date"]);
    }
}

#[test]
fn what_had_drifted_or_was_the_nodes_own_comes_back_as_it_was() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "srv/app/data", Item::file("data"));
    trees::put(&mut tree, "srv/gone/one", Item::file("one"));
    let site = Site::at(&tree);
    let node = site.node();
    let mut next = tree.clone();
    next.retain(|path, _| !path.starts_with(b"srv/app/") && !path.starts_with(b"srv/gone"));
    trees::put(&mut next, "srv/app", Item::new(ItemKind::Symlink(b"elsewhere".to_vec())));
    trees::put(&mut next, "etc/passwd", Item::file("the new passwd"));
    trees::put(&mut next, "opt/new/tool", Item::file("tool"));
    site.publish(&next);
    write_text(&node.join("etc/passwd"), "edited by hand\n");
    fs::set_permissions(node.join("etc/passwd"), fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::hard_link(node.join("etc/passwd"), node.join("etc/passwd.saved")).expect("links");
    write_text(&node.join("srv/app/mine"), "mine\n");
    write_text(&node.join("srv/gone/mine"), "mine too\n");
    symlink("nowhere", node.join("srv/app/link")).expect("links");
    let (before, was) = (site.snapshot(), inodes(&node));
    site.updated(&ANY).ended(0, &["displaced, kept in .si-undo"]);
    write_text(&node.join("opt/new/mine"), "made after the update\n");
    site.rollback(&["--dry-run"]).ended(0, &["would roll back", "/opt/new/tool"]);
    assert!(node.join("opt/new/tool").exists(), "a dry run changes nothing");
    site.rollback(&[]).ended(0, &["rolled back"]);
    // What came after the update stays the node's.
    assert_eq!(
        judge::same_except_untracked(&before, &node, &[]),
        ["opt/new/mine", "opt/new/", "opt/"]
    );
    fs::remove_dir_all(node.join("opt")).expect("removes");
    assert_eq!(inodes(&node), was);
    assert_eq!(fs::metadata(node.join("etc/passwd.saved")).expect("is there").nlink(), 2);
}

#[test]
fn the_generation_that_was_left_is_held() {
    require!(ROOT_AND_RSYNC);

    let tree = trees::system();
    let site = Site::at(&tree);
    let mut second = tree.clone();
    trees::put(&mut second, "etc/version", Item::file("two"));
    site.publish(&second);
    site.updated(&[]);
    let status = site.status();
    assert!(
        status.contains(&format!("undo:        to serial 1 (generation {})", generation(&site, 1))),
        "{status}"
    );
    let before = site.snapshot();
    site.rollback(&[]).ended(0, &["is pinned"]);
    assert!(
        site.status()
            .contains(&format!("pinned:      serial 2 (generation {})", generation(&site, 2)))
    );
    for more in [&[][..], &["--check", "stat"], &["--dry-run"], &["--purge-untracked"]] {
        site.update(more).ended(12, &[&generation(&site, 2), "nothing was changed"]);
    }
    // Published again, it is the same generation still.
    site.publish(&second);
    site.update(&[]).ended(12, &[]);
    site.updated(&["--unhold"]);
    judge::same(&before, &site.node(), &[]);
    assert!(!site.status().contains("pinned:"));
    site.rollback(&[]).ended(0, &[]);
    let catalog = site.repo().join("node/catalog.toml");
    let older = fs::read(&catalog).expect("reads");
    let mut third = second.clone();
    trees::put(&mut third, "etc/version", Item::file("three"));
    site.publish(&third);
    site.updated(&[]);
    site.same();
    assert!(!site.status().contains("pinned:"));
    // An older catalog is as little accepted as before the rollback.
    site.rollback(&[]).ended(0, &[]);
    fs::write(&catalog, older).expect("writes");
    site.update(&[]).ended(3, &["has seen 3"]);
}

#[test]
fn a_full_sync_can_be_undone_also_where_nothing_was_recorded() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&trees::mutate(&trees::everything(), 0));
    site.install_node();
    let node = site.node();
    for number in 0..40 {
        write_text(&node.join(format!("etc/unknown-{number}")), "the image does not have it\n");
    }
    fs::remove_dir_all(node.join("usr")).expect("removes");
    common::run(
        std::process::Command::new("find")
            .arg(&node)
            .args(["-type", "f", "-exec", "touch", "{}", "+"]),
    );
    let (before, was) = (site.snapshot(), inodes(&node));
    site.updated(&ANY).ended(0, &["full sync"]);
    site.same();
    site.rollback(&[]).ended(0, &["before anything was recorded", "is pinned"]);
    judge::same(&before, &node, &[]);
    assert_eq!(inodes(&node), was);
    assert!(site.status().contains("nothing is recorded of this tree"));
    site.update(&ANY).ended(12, &[]);
    site.updated(&[&ANY[..], &["--unhold"]].concat());
    site.same();
}

#[test]
fn what_is_kept_is_bounded_by_the_configuration() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "usr/big", Item::file(trees::noise(3_000_000, 1)));
    let site = Site::at(&tree);
    let config = site.node().join("etc/systemimager/updateclient.toml");
    let configured = |text: &str| {
        fs::create_dir_all(config.parent().expect("a directory")).expect("makes");
        fs::write(&config, text).expect("writes");
    };
    let mut round = 1;
    let mut publish = |tree: &mut trees::Tree| {
        round += 1;
        trees::put(tree, "usr/big", Item::file(trees::noise(3_000_000, round)));
        site.publish(tree);
    };
    let undo = site.node().join(".si-undo");
    let exclude = ["--exclude-file", "/dev/null"];
    publish(&mut tree);
    site.updated(&exclude);
    let status = site.status();
    let line = status.lines().find(|line| line.starts_with("undo:")).expect("a line").to_owned();
    let bytes: u64 = line
        .rsplit_once('(')
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .expect("bytes");
    assert!((3_000_000..3_200_000).contains(&bytes), "{line}");

    configured("keep_undo = \"never\"\n");
    publish(&mut tree);
    site.updated(&exclude);
    assert!(!undo.exists());
    assert!(site.status().contains("undo:        nothing"));
    site.rollback(&[]).ended(5, &["nothing can be undone"]);

    configured("undo_share = 0.0\n");
    publish(&mut tree);
    site.updated(&exclude).ended(0, &["will not be undoable", "undo_share"]);
    assert!(!undo.exists());

    configured("keep_undo = \"always\"\nundo_share = 0.0\n");
    publish(&mut tree);
    site.updated(&exclude);
    site.rollback(&[]).ended(0, &["rolled back"]);
}

#[test]
fn repairing_drift_does_not_cost_the_way_back_to_the_generation_before() {
    require!(ROOT_AND_RSYNC);

    let tree = trees::system();
    let site = Site::at(&tree);
    let before = site.snapshot();
    let mut next = tree.clone();
    trees::put(&mut next, "etc/version", Item::file("two"));
    site.publish(&next);
    site.updated(&[]);
    write_text(&site.node().join("etc/passwd"), "drifted\n");
    write_text(&site.node().join("etc/version"), "drifted\n");
    site.updated(&["--check", "content"]).ended(0, &["repaired"]);
    site.same();
    site.rollback(&[]).ended(0, &[&generation(&site, 1)]);
    judge::same(&before, &site.node(), &[]);
}

#[test]
fn what_a_repair_displaces_lies_beside_the_way_back() {
    require!(ROOT_AND_RSYNC);

    let tree = trees::system();
    let site = Site::at(&tree);
    let node = site.node();
    let before = site.snapshot();
    let mut next = tree.clone();
    trees::put(&mut next, "etc/version", Item::file("two"));
    site.publish(&next);
    site.updated(&[]);
    let holds = |text: &str| {
        let mut grep = std::process::Command::new("grep");
        let found =
            grep.args(["-rl", text]).arg(node.join(".si-undo")).output().expect("grep runs");
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    write_text(&node.join("etc/version"), "precious\n");
    site.updated(&["--check", "content"]);
    assert!(holds("precious").contains("/repaired-1/"));
    fs::remove_file(node.join("etc/passwd")).expect("removes");
    write_text(&node.join("etc/passwd/mine"), "what only the node had\n");
    site.updated(&["--check", "stat"]).ended(0, &["/etc/passwd/mine"]);
    site.same();
    assert!(holds("what only the node had").contains("/repaired-2/"));
    assert!(
        site.status()
            .contains(&format!("undo:        to serial 1 (generation {})", generation(&site, 1)))
    );
    site.rollback(&[]).ended(0, &[&generation(&site, 1)]);
    judge::same(&before, &node, &[]);
    assert!(
        holds("precious").contains("/repaired-1/")
            && holds("what only the node had").contains("/repaired-2/")
    );
    site.updated(&["--unhold"]);
    let mut third = next.clone();
    trees::put(&mut third, "etc/version", Item::file("three"));
    site.publish(&third);
    site.updated(&[]);
    assert_eq!(holds("precious") + &holds("what only the node had"), "");
}

#[test]
fn an_undo_set_that_is_in_the_way_goes_first_or_the_update_stops() {
    require!(ROOT_AND_RSYNC, DISK);

    let big = |round| {
        let mut tree = trees::system();
        trees::put(&mut tree, "usr/big", Item::file(trees::noise(25_000_000, round)));
        tree
    };
    let site = Site::at(&big(1));
    let disk = SmallDisk::for_node(&site, 128, 2000);
    let config = site.node().join("etc/systemimager/updateclient.toml");
    site.updated(&["--adopt"]);
    site.publish(&big(2));
    site.updated(&[]);
    site.publish(&big(3));
    disk.fill(45_000_000);
    write_text(&config, "keep_undo = \"always\"\n");
    site.update(&[]).ended(5, &["bytes free and the update needs", "nothing was changed"]);
    assert!(site.status().contains("undo:        to serial"));
    write_text(&config, "keep_undo = \"auto\"\nundo_share = 0.9\n");
    site.update(&["--dry-run"]).ended(0, &["is in the way and would be removed first"]);
    assert!(site.status().contains("undo:        to serial"));
    site.updated(&[]).ended(0, &["is in the way and is removed"]);
    assert!(
        site.status()
            .contains(&format!("undo:        to serial 2 (generation {})", generation(&site, 2)))
    );
}

#[test]
fn limits_hold_also_where_the_node_alone_had_something() {
    require!(ROOT_AND_RSYNC);

    for configuration in ["keep_undo = \"never\"\n", "undo_share = 0.0\n"] {
        let mut tree = trees::system();
        trees::put(&mut tree, "srv/app/data", Item::file("data"));
        trees::put(&mut tree, "srv/other", Item::file("other"));
        let site = Site::at(&tree);
        write_text(&site.node().join("etc/systemimager/updateclient.toml"), configuration);
        write_text(&site.node().join("srv/app/mine"), "mine\n");
        tree.remove(&b"srv/app/data"[..]);
        trees::put(&mut tree, "srv/app", Item::file("no directory any more"));
        trees::put(&mut tree, "srv/other", Item::file("changed"));
        site.publish(&tree);
        let run = site.updated(&ANY);
        run.ended(0, &["displaced, kept in .si-undo"]);
        assert_eq!(
            run.err.contains("will not be undoable"),
            configuration.starts_with("undo_share"),
            "{run:#?}"
        );
        assert!(site.status().contains("undo:        nothing"));
        let undo = site.node().join(".si-undo");
        let kept: Vec<_> =
            fs::read_dir(&undo).expect("reads").map(|e| e.expect("an entry").path()).collect();
        assert_eq!(kept.len(), 2, "{kept:?}");
        assert!(
            kept.iter().any(|path| path.join("mine").exists()) && undo.join("displaced").exists()
        );
    }
}

#[test]
fn a_directory_that_somebody_removed_does_not_stand_in_the_way() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "usr/lib/b/c/f", Item::file("one"));
    tree.get_mut(&b"usr/lib/b/c"[..]).expect("is there").mode = 0o750;
    let site = Site::at(&tree);
    let before = site.snapshot();
    trees::put(&mut tree, "usr/lib/b/c/f", Item::file("two"));
    site.publish(&tree);
    site.updated(&[]);
    fs::remove_dir_all(site.node().join("usr/lib/b")).expect("removes");
    site.rollback(&[]).ended(0, &["rolled back"]);
    judge::same(&before, &site.node(), &[]);
}

#[test]
fn what_comes_back_and_is_not_what_was_recorded_is_told() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "etc/log", Item::file("a long enough text"));
    let site = Site::at(&tree);
    trees::put(&mut tree, "etc/log", Item::file("two"));
    let open = fs::OpenOptions::new().write(true).open(site.node().join("etc/log")).expect("opens");
    site.publish(&tree);
    site.updated(&[]);
    // Some program has the old file open and goes on writing.
    open.set_len(4).expect("truncates");
    site.rollback(&[]).ended(0, &["1 deviation"]);
    assert!(site.status().contains("etc/log: content, time"));
}

#[test]
fn what_was_edited_after_the_update_is_not_passed_off_as_old() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "etc/dated", Item::file("same text").mtime(1_600_000_000, 5));
    trees::put(&mut tree, "etc/changed", Item::file("one"));
    let site = Site::at(&tree);
    let before = site.snapshot();
    trees::put(&mut tree, "etc/dated", Item::file("same text").mtime(1_700_000_000, 5));
    trees::put(&mut tree, "etc/changed", Item::file("two"));
    site.publish(&tree);
    site.updated(&[]);
    write_text(&site.node().join("etc/dated"), "other tex");
    write_text(&site.node().join("etc/changed"), "edited");
    site.rollback(&[]).ended(0, &[]);
    assert_eq!(fs::read(site.node().join("etc/changed")).expect("reads"), b"one");
    let left = judge::differences(&before, &site.node(), &[]);
    assert!(left.len() == 1 && left[0].ends_with(" etc/dated"), "{left:?}");
    assert!(site.status().contains("etc/dated: changed since the update that was undone"));
    // What was edited is in the undo set of the rollback.
    site.rollback(&[]).ended(0, &[]);
    assert_eq!(fs::read(site.node().join("etc/changed")).expect("reads"), b"edited");
}

#[test]
fn the_agent_that_an_update_brought_stays() {
    require!(ROOT_AND_RSYNC);

    let tree = trees::system();
    let site = Site::at(&tree);
    let before = site.snapshot();
    let mut next = tree.clone();
    trees::put(&mut next, "usr/sbin/si_updateclient", Item::file("the agent").mode(0o755));
    trees::put(&mut next, "usr/sbin/other", Item::file("another program").mode(0o755));
    site.publish(&next);
    site.updated(&[]);
    site.rollback(&[]).ended(0, &[]);
    let beyond = judge::same_except_untracked(&before, &site.node(), &[]);
    assert_eq!(beyond, ["usr/sbin/si_updateclient", "usr/sbin/"]);
    assert!(site.status().contains("usr/sbin/si_updateclient: stays, since it is the agent's own"));
}

#[test]
fn an_undo_set_that_is_damaged_or_foreign_changes_nothing() {
    require!(ROOT_AND_RSYNC);

    let tree = trees::system();
    let site = Site::at(&tree);
    site.rollback(&[]).ended(5, &["nothing can be undone"]);
    let mut next = tree.clone();
    trees::put(&mut next, "etc/passwd", Item::file("two"));
    trees::put(&mut next, "etc/new", Item::file("two"));
    site.publish(&next);
    site.updated(&[]);
    let before = site.snapshot();
    let undo = site.node().join(".si-undo");
    let kept = site.dir.path().join("kept");
    common::copy_tree(&undo, &kept);
    let way_back = fs::read_to_string(undo.join("way-back")).expect("reads");
    let slot = way_back
        .lines()
        .find_map(|line| line.strip_prefix("stood ")?.split(' ').next())
        .expect("a slot");
    fs::remove_file(undo.join(slot)).expect("removes");
    site.rollback(&[]).ended(5, &["not in the undo set any more", "nothing was changed"]);
    let head = way_back.lines().take(2).map(|line| format!("{line}\n")).collect::<String>();
    let after = |rest: &str| format!("{head}{rest}");
    for (what, words) in [
        ("si-undo 2\nend 0\n".to_owned(), "does not know"),
        (after("filesystem .\nstood 1 0 ./../outside\nend 1\n"), "cannot be followed"),
        (String::new(), "cannot be followed"),
        (after("filesystem .\nfilesystem ./etc\nnothing 0 1 ./etc/passwd\nend 1\n"), "not mounted"),
        ("si-undo 1\nmade nothing\nfilesystem .\nend 0\n".to_owned(), "nothing can be undone"),
    ] {
        fs::remove_dir_all(&undo).expect("removes");
        common::copy_tree(&kept, &undo);
        fs::write(undo.join("way-back"), what).expect("writes");
        site.rollback(&[]).ended(5, &[words, "nothing was changed"]);
        judge::same(&before, &site.node(), &[]);
    }
    fs::remove_dir_all(&undo).expect("removes");
    common::copy_tree(&kept, &undo);
    site.rollback(&[]).ended(0, &[]);
}

#[test]
fn repairs_do_not_fill_the_disk() {
    require!(DISK);

    let mut tree = trees::system();
    trees::put(&mut tree, "usr/bin/tool", Item::file(trees::noise(1_000_000, 1)));
    let site = Site::at(&tree);
    trees::put(&mut tree, "etc/version", Item::file("2"));
    site.publish(&tree);
    let _disk = SmallDisk::for_node(&site, 64, 2000);
    write_text(&site.node().join("etc/systemimager/updateclient.toml"), "undo_share = 0.1\n");
    site.updated(&["--adopt"]);
    site.updated(&ANY);
    let mut said = String::new();
    for round in 0..10 {
        fs::write(site.node().join("usr/bin/tool"), trees::noise(2_000_000, round))
            .expect("drifts");
        said += &site.updated(&["--check", "content"]).err;
    }
    assert!(
        said.contains("what this repair displaces is not kept")
            && said.contains("undo_share allows"),
        "{said}"
    );
    let kept = common::run(
        std::process::Command::new("du").args(["-sk"]).arg(site.node().join(".si-undo")),
    );
    let kept: u64 =
        kept.split_whitespace().next().and_then(|size| size.parse().ok()).expect("a size");
    assert!((2_000..6_600).contains(&kept), "{kept} kB of 64 MB");
    site.rollback(&[]).ended(0, &["rolled back"]);
}

#[test]
fn what_is_missing_afterwards_is_told() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    for path in ["srv/gone/a/b", "srv/gone/c"] {
        trees::put(&mut tree, path, Item::file(path));
    }
    let site = Site::at(&tree);
    let node = site.node();
    let mut next = tree.clone();
    next.retain(|path, _| !path.starts_with(b"srv/"));
    trees::put(&mut next, "etc/passwd", Item::file("the new passwd"));
    site.publish(&next);
    // It is missing before the update, so it is missing after the way back.
    fs::remove_dir_all(node.join("srv/gone/a")).expect("removes");
    fs::remove_file(node.join("etc/passwd")).expect("removes");
    let before = site.snapshot();
    site.updated(&ANY);
    // A file that the node made where a directory was.
    write_text(&node.join("srv/gone"), "the node's own");
    site.rollback(&[])
        .ended(0, &["displaced, kept in .si-undo until the next update: /srv/gone\n"]);
    judge::same(&before, &node, &[]);
    let status = site.status();
    for path in ["srv/gone/a", "srv/gone/a/b", "etc/passwd"] {
        assert!(status.contains(&format!("./{path}: missing")), "{path}: {status}");
    }
    assert!(!status.contains("srv/gone/c"), "{status}");
}

#[test]
fn what_became_immutable_under_another_name_is_refused_before_anything_is_touched() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let mut next = trees::system();
    trees::put(&mut next, "etc/passwd", Item::file("the new passwd"));
    site.publish(&next);
    fs::hard_link(site.node().join("etc/passwd"), site.node().join("etc/passwd.saved"))
        .expect("links");
    site.updated(&ANY);
    let chattr = |what: &str| {
        common::run(
            std::process::Command::new("chattr")
                .arg(what)
                .arg(site.node().join("etc/passwd.saved")),
        )
    };
    chattr("+i");
    let before = site.snapshot();
    let run = site.rollback(&[]);
    let same = judge::differences(&before, &site.node(), &[]);
    chattr("-i");
    run.ended(5, &["etc/passwd", "is immutable by now (chattr +i), perhaps under another name"]);
    assert_eq!(same, [""; 0]);
    site.rollback(&[]).ended(0, &["rolled back"]);
}

#[test]
fn what_went_after_the_update_is_told_where_nothing_brings_it_back() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "srv/dir/a", Item::file("a"));
    trees::put(&mut tree, "srv/dir/below/b", Item::file("b"));
    trees::put(&mut tree, "srv/dir", Item::dir().mode(0o755));
    let site = Site::at(&tree);
    trees::put(&mut tree, "srv/dir", Item::dir().mode(0o700));
    let same = tree.get(b"etc/passwd".as_slice()).expect("is there").clone();
    trees::put(&mut tree, "etc/passwd", same.mtime(1_700_000_000, 0));
    site.publish(&tree);
    site.updated(&ANY);
    fs::remove_dir_all(site.node().join("srv/dir")).expect("removes");
    fs::remove_file(site.node().join("etc/passwd")).expect("removes");
    site.rollback(&[]).ended(0, &["rolled back"]);
    let status = site.status();
    for path in ["srv/dir/a", "srv/dir/below", "srv/dir/below/b", "etc/passwd"] {
        assert!(status.contains(&format!("./{path}: missing")), "{path}: {status}");
    }
    assert!(!status.contains("./srv/dir: "), "{status}");
}
