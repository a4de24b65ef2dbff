//! `--rollback` restores the backups of an update bit for bit, and pins the generation that it
//! left, so that the node does not install it again.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::common::site::Site;
use crate::common::small_disk::{DISK, SmallDisk};
use crate::common::trees::{self, Item, ItemKind, write_text};
use crate::common::{ROOT_AND_RSYNC, judge, require};
use jiff::Timestamp;
use systemimager::catalog::Head;

const ANY: [&str; 2] = ["--max-delete", "100%"];

fn generation(site: &Site, serial: u64) -> String {
    let catalog = site.catalog();
    let publish =
        catalog.publishes.iter().find(|publish| publish.serial == serial).expect("a publish");
    publish.generation.short().to_string()
}

/// Inode numbers of all paths except directories, which rsync does not compare.
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
fn rollback_and_its_rollback_restore_every_kind_of_change() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::mutate(&trees::everything(), 0);
    let site = Site::at(&tree);
    for round in 1..6 {
        tree = trees::mutate(&tree, round);
        site.publish(&tree);
        let (before, old_inodes) = (site.snapshot(), inodes(&site.node()));
        let state = site.status();

        let updated = site.updated(&ANY);
        site.same();

        let new_inodes = inodes(&site.node());
        let rollback = site.rollback(&[]);
        rollback.ended(0, &["rolled back to", &generation(&site, u64::from(round))]);

        // Removing one hard link does not count as an edit of the others.
        assert!(
            !updated.err.contains("was changed after")
                && !rollback.err.contains("was changed after"),
            "{rollback:#?}"
        );
        judge::same(&before, &site.node(), &[]);
        site.nothing_left();

        // The inodes are the same, so that open files, hard links and watches are valid again.
        assert_eq!(inodes(&site.node()), old_inodes);

        let line = |status: &str| {
            status.lines().find(|line| line.starts_with("generation")).map(str::to_owned)
        };
        assert_eq!(line(&site.status()), line(&state));

        site.update(&["--check", "content"]).ended(12, &["--unhold"]);
        judge::same(&before, &site.node(), &[]);

        site.rollback(&[]).ended(0, &["rolled back to", &generation(&site, u64::from(round) + 1)]);
        site.same();
        assert_eq!(inodes(&site.node()), new_inodes);

        site.updated(&["--check", "content"]).ended(0, &["up to date"]);
    }
}

#[test]
fn rollback_restores_drifted_and_untracked_paths() {
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
    let (before, old_inodes) = (site.snapshot(), inodes(&node));

    site.updated(&ANY).ended(0, &["displaced, kept in .si-undo"]);
    write_text(&node.join("opt/new/mine"), "made after the update\n");
    site.rollback(&["--dry-run"]).ended(0, &["would roll back", "/opt/new/tool"]);

    assert!(node.join("opt/new/tool").exists(), "a dry run changes nothing");
    site.rollback(&[]).ended(0, &["rolled back"]);

    // Files created after the update are untracked and are kept.
    assert_eq!(
        judge::same_except_untracked(&before, &node, &[]),
        ["opt/new/mine", "opt/new/", "opt/"]
    );

    fs::remove_dir_all(node.join("opt")).expect("removes");
    assert_eq!(inodes(&node), old_inodes);
    assert_eq!(fs::metadata(node.join("etc/passwd.saved")).expect("is there").nlink(), 2);
}

#[test]
fn configuration_that_an_update_broke_stops_no_rollback() {
    require!(ROOT_AND_RSYNC);
    let tree = trees::system();
    for (file, text) in [
        ("etc/systemimager/updateclient.toml", "server = = 1\n"),
        ("etc/systemimager/updateclient.toml", "exclude_file = \"/no/such/file\"\n"),
        ("etc/systemimager/updateclient.toml", "tls_pins = [\"none\"]\n"),
        ("etc/systemimager/client.conf", "server = -x\n"),
    ] {
        let site = Site::at(&tree);
        let before = site.snapshot();
        let mut broken = tree.clone();
        trees::put(&mut broken, file, Item::file(text));
        site.publish(&trees::with_parents(broken));
        site.updated(&[]);
        let output = site.command_with_node_excludes().output().expect("runs");
        crate::common::site::Run::from_output(output).ended(2, &[]);

        site.rollback(&[]).ended(0, &["without the configuration files of the tree"]);

        judge::same(&before, &site.node(), &["/etc/systemimager"]);
    }
}

#[test]
fn rollback_pins_the_generation_that_it_left() {
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
        site.update(more).ended(12, &[&generation(&site, 2), "nothing was installed"]);
    }

    // Another publish of the same generation does not end the pin.
    site.publish(&second);
    site.update(&[]).ended(12, &[]);
    site.updated(&["--unhold"]);

    judge::same(&before, &site.node(), &[]);
    assert!(!site.status().contains("pinned:"));

    site.rollback(&[]).ended(0, &[]);
    let older = site.head();
    let mut third = second.clone();
    trees::put(&mut third, "etc/version", Item::file("three"));
    site.publish(&third);

    site.updated(&[]);
    site.same();
    assert!(!site.status().contains("pinned:"));

    // An older head is refused after a rollback too.
    site.rollback(&[]).ended(0, &[]);

    let forged = Head { issued: Timestamp::now(), ..older };
    fs::write(site.head_path(), forged.to_toml().expect("text")).expect("writes");
    site.update(&[]).ended(3, &["has seen 3"]);
}

#[test]
fn rollback_of_full_sync_restores_unrecorded_tree() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&trees::mutate(&trees::everything(), 0));
    site.install_node();
    let node = site.node();
    for number in 0..40 {
        write_text(&node.join(format!("etc/unknown-{number}")), "the image does not have it\n");
    }

    fs::remove_dir_all(node.join("usr")).expect("removes");
    crate::common::run(
        std::process::Command::new("find")
            .arg(&node)
            .args(["-type", "f", "-exec", "touch", "{}", "+"]),
    );
    let (before, old_inodes) = (site.snapshot(), inodes(&node));

    site.updated(&ANY).ended(0, &["full sync"]);
    site.same();

    site.rollback(&[]).ended(0, &["before anything was recorded", "is pinned"]);
    judge::same(&before, &node, &[]);
    assert_eq!(inodes(&node), old_inodes);
    assert!(site.status().contains("nothing is recorded of this tree"));

    site.update(&ANY).ended(12, &[]);
    site.updated(&[&ANY[..], &["--unhold"]].concat());
    site.same();
}

#[test]
fn configuration_limits_undo_set() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "usr/big", Item::file(trees::noise(3_000_000, 1)));
    let site = Site::at(&tree);
    let config = site.node().join("etc/systemimager/updateclient.toml");
    let configure = |text: &str| {
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

    configure("keep_undo = \"never\"\n");
    publish(&mut tree);
    site.updated(&exclude);
    assert!(!undo.exists());
    assert!(site.status().contains("undo:        nothing"));
    site.rollback(&[]).ended(5, &["nothing can be undone"]);

    configure("undo_share = 0.0\n");
    publish(&mut tree);
    site.updated(&exclude).ended(0, &["will not be undoable", "undo_share"]);
    assert!(!undo.exists());

    configure("keep_undo = \"always\"\nundo_share = 0.0\n");
    publish(&mut tree);
    site.updated(&exclude);
    site.rollback(&[]).ended(0, &["rolled back"]);
}

#[test]
fn repair_keeps_undo_set_of_previous_generation() {
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
fn backups_of_repairs_are_kept_beside_undo_log() {
    require!(ROOT_AND_RSYNC);

    let tree = trees::system();
    let site = Site::at(&tree);
    let node = site.node();
    let before = site.snapshot();
    let mut next = tree.clone();
    trees::put(&mut next, "etc/version", Item::file("two"));
    site.publish(&next);

    site.updated(&[]);
    let find_in_undo = |text: &str| {
        let mut grep = std::process::Command::new("grep");
        let found =
            grep.args(["-rl", text]).arg(node.join(".si-undo")).output().expect("grep runs");
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    write_text(&node.join("etc/version"), "precious\n");

    site.updated(&["--check", "content"]);
    assert!(find_in_undo("precious").contains("/repaired-1/"));

    fs::remove_file(node.join("etc/passwd")).expect("removes");
    write_text(&node.join("etc/passwd/mine"), "only on the node\n");
    site.updated(&["--check", "stat"]).ended(0, &["/etc/passwd/mine"]);

    site.same();
    assert!(find_in_undo("only on the node").contains("/repaired-2/"));
    assert!(
        site.status()
            .contains(&format!("undo:        to serial 1 (generation {})", generation(&site, 1)))
    );

    site.rollback(&[]).ended(0, &[&generation(&site, 1)]);
    judge::same(&before, &node, &[]);
    assert!(
        find_in_undo("precious").contains("/repaired-1/")
            && find_in_undo("only on the node").contains("/repaired-2/")
    );

    site.updated(&["--unhold"]);
    let mut third = next.clone();
    trees::put(&mut third, "etc/version", Item::file("three"));
    site.publish(&third);

    site.updated(&[]);
    assert_eq!(find_in_undo("precious") + &find_in_undo("only on the node"), "");
}

#[test]
fn full_disk_removes_undo_set_or_refuses_update() {
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
fn displaced_paths_are_kept_despite_undo_limits() {
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
fn rollback_recreates_removed_parent_directory() {
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
fn restored_file_with_later_writes_is_a_deviation() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "etc/log", Item::file("a long enough text"));
    let site = Site::at(&tree);
    trees::put(&mut tree, "etc/log", Item::file("two"));
    let open = fs::OpenOptions::new().write(true).open(site.node().join("etc/log")).expect("opens");
    site.publish(&tree);

    site.updated(&[]);
    // A program still writes to the old file.
    open.set_len(4).expect("truncates");

    site.rollback(&[]).ended(0, &["1 deviation"]);
    assert!(site.status().contains("etc/log: content, time"));
}

#[test]
fn file_edited_after_update_is_a_deviation_or_replaced() {
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

    // The edited files are in the undo set of the rollback.
    site.rollback(&[]).ended(0, &[]);
    assert_eq!(fs::read(site.node().join("etc/changed")).expect("reads"), b"edited");
}

#[test]
fn rollback_keeps_agent_that_update_installed() {
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
fn damaged_undo_set_changes_nothing() {
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
    crate::common::copy_tree(&undo, &kept);
    let undo_log_text = fs::read_to_string(undo.join("way-back")).expect("reads");
    let slot = undo_log_text
        .lines()
        .find_map(|line| line.strip_prefix("stood ")?.split(' ').next())
        .expect("a slot");
    fs::remove_file(undo.join(slot)).expect("removes");

    site.rollback(&[]).ended(5, &["missing from the undo set", "nothing was changed"]);
    let head = undo_log_text.lines().take(2).map(|line| format!("{line}\n")).collect::<String>();
    let after = |rest: &str| format!("{head}{rest}");
    for (undo_log, message) in [
        ("si-undo 3\nend 0\n".to_owned(), "does not know"),
        (after("filesystem .\nstood 1 0 ./../outside\nend 1\n"), "cannot read the undo log"),
        (String::new(), "cannot read the undo log"),
        (after("filesystem .\nfilesystem ./etc\nnothing 0 1 ./etc/passwd\nend 1\n"), "not mounted"),
        ("si-undo 1\nmade nothing\nfilesystem .\nend 0\n".to_owned(), "nothing can be undone"),
    ] {
        fs::remove_dir_all(&undo).expect("removes");
        crate::common::copy_tree(&kept, &undo);
        fs::write(undo.join("way-back"), undo_log).expect("writes");
        site.rollback(&[]).ended(5, &[message, "nothing was changed"]);
        judge::same(&before, &site.node(), &[]);
    }

    fs::remove_dir_all(&undo).expect("removes");
    crate::common::copy_tree(&kept, &undo);
    site.rollback(&[]).ended(0, &[]);
}

#[test]
fn repeated_repairs_are_bounded_by_undo_share() {
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

    let mut messages = String::new();
    for round in 0..10 {
        fs::write(site.node().join("usr/bin/tool"), trees::noise(2_000_000, round))
            .expect("drifts");
        messages += &site.updated(&["--check", "content"]).err;
    }
    assert!(
        messages.contains("cannot keep the backups of this repair")
            && messages.contains("undo_share allows"),
        "{messages}"
    );

    let kept = crate::common::run(
        std::process::Command::new("du").args(["-sk"]).arg(site.node().join(".si-undo")),
    );
    let kept: u64 =
        kept.split_whitespace().next().and_then(|size| size.parse().ok()).expect("a size");
    assert!((2_000..6_600).contains(&kept), "{kept} kB of 64 MB");

    site.rollback(&[]).ended(0, &["rolled back"]);
}

#[test]
fn path_missing_before_update_is_a_deviation_after_rollback() {
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

    // Paths that are missing before the update are missing after its rollback.
    fs::remove_dir_all(node.join("srv/gone/a")).expect("removes");
    fs::remove_file(node.join("etc/passwd")).expect("removes");
    let before = site.snapshot();

    site.updated(&ANY);
    // An untracked file replaces a directory that the update removed.
    write_text(&node.join("srv/gone"), "the node's own");

    site.rollback(&[])
        .ended(0, &["displaced, kept in .si-undo until the next update: /srv/gone\n"]);
    judge::same(&before, &node, &[]);

    let status = site.status();
    for path in ["srv/gone/a", "srv/gone/a/b", "etc/passwd"] {
        assert!(status.contains(&format!("/{path}: missing")), "{path}: {status}");
    }
    assert!(!status.contains("srv/gone/c"), "{status}");
}

#[test]
fn hardlink_made_immutable_refuses_rollback() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let mut next = trees::system();
    trees::put(&mut next, "etc/passwd", Item::file("the new passwd"));
    site.publish(&next);
    fs::hard_link(site.node().join("etc/passwd"), site.node().join("etc/passwd.saved"))
        .expect("links");

    site.updated(&ANY);
    let chattr = |flag: &str| {
        crate::common::run(
            std::process::Command::new("chattr")
                .arg(flag)
                .arg(site.node().join("etc/passwd.saved")),
        )
    };
    chattr("+i");
    let before = site.snapshot();

    let run = site.rollback(&[]);
    let same = judge::differences(&before, &site.node(), &[]);
    chattr("-i");
    run.ended(5, &["etc/passwd", "is immutable (chattr +i)"]);
    assert_eq!(same, [""; 0]);

    site.rollback(&[]).ended(0, &["rolled back"]);
}

#[test]
fn path_removed_after_update_is_a_deviation_after_rollback() {
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
        assert!(status.contains(&format!("/{path}: missing")), "{path}: {status}");
    }
    assert!(!status.contains("/srv/dir: "), "{status}");
}
