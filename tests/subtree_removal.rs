//! Removal of whole subtrees. A stale directory is moved into the undo set by one rename. Late
//! arrivals, which other programs created in it after planning, are moved back and not lost.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree, write_text};
use crate::common::{Need, copy_tree, judge, require, run, scratch};

const NEEDED: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("strace")];
const ANY: [&str; 2] = ["--max-delete", "100%"];
const OLD: &str = "usr/lib/modules/old";

fn generations() -> [Tree; 2] {
    let mut new = trees::system();
    trees::put(&mut new, "usr/lib/modules/order", Item::file("unchanged"));
    let mut old = new.clone();
    for file in ["kernel/a.ko", "kernel/b.ko", "kernel/net/c.ko", "modules.dep"] {
        trees::put(&mut old, &format!("{OLD}/{file}"), Item::file(file).mtime(1_000_000_000, 7));
    }

    trees::put(
        &mut old,
        &format!("{OLD}/kernel"),
        Item::dir().mode(0o2750).owner(3, 4).mtime(1_100_000_000, 0),
    );
    trees::put(
        &mut old,
        &format!("{OLD}/kernel/net"),
        Item::dir().mode(0o700).mtime(1_200_000_000, 0),
    );
    trees::put(&mut old, &format!("{OLD}/empty"), Item::dir().mtime(1_300_000_000, 0));
    trees::put(&mut new, "usr/lib/modules/new", Item::file("installed first"));

    [old, new]
}

fn site() -> Site {
    let [old, new] = generations();
    let site = Site::at(&old);
    site.publish(&new);
    site
}

/// Runs `command` and kills it at the `nth` call of `kind`, counted from 1. Returns whether the
/// command was killed.
fn kill(command: &Command, kind: &str, nth: u32) -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={kind}")]);
    strace.args(["-e", &format!("inject={kind}:signal=KILL:when={nth}")]);
    strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    !strace.output().expect("strace runs").status.success()
}

/// Kills the update after the seal, when the new file is installed and the stale directory not
/// yet removed.
#[track_caller]
fn site_killed_before_removal() -> Site {
    let site = site();
    let mut command = site.command();
    command.args(ANY);

    assert!(kill(&command, "renameat2", 2));
    let journal = fs::read_to_string(site.node().join(".si-stage/journal")).expect("it was sealed");

    assert!(
        journal.contains(&format!(" ./{OLD}\n")) && journal.contains("remove-tree "),
        "{journal}"
    );
    assert!(!journal.contains("\nremove "), "there is more than one removal: {journal}");
    assert!(
        site.node().join("usr/lib/modules/new").exists()
            && site.node().join(OLD).join("modules.dep").exists()
    );

    site
}

fn recovery(node: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.arg("--recover").arg("--root").arg(node).stdin(Stdio::null());
    command
}

fn recover(node: &Path) -> Run {
    Run::from_output(recovery(node).output().expect("runs"))
}

/// Creates entries of every kind in the stale directory, at every depth.
fn create_late_arrivals(node: &Path) {
    let old = node.join(OLD);
    write_text(&old.join("kernel/net/mine.ko"), "mine");
    write_text(&old.join("extra/deep/x.ko"), "also mine");
    symlink("nowhere", old.join("extra/link")).expect("links");
    fs::hard_link(old.join("kernel/net/mine.ko"), old.join("mine again")).expect("links");
}

const LATE_ARRIVALS: [&str; 9] = [
    "usr/lib/modules/old/",
    "usr/lib/modules/old/extra/",
    "usr/lib/modules/old/extra/deep/",
    "usr/lib/modules/old/extra/deep/x.ko",
    "usr/lib/modules/old/extra/link",
    "usr/lib/modules/old/kernel/",
    "usr/lib/modules/old/kernel/net/",
    "usr/lib/modules/old/kernel/net/mine.ko",
    "usr/lib/modules/old/mine again",
];

#[track_caller]
fn assert_late_arrivals_restored(site: &Site, node: &Path) {
    let mut found = judge::same_except_untracked(&site.image(), node, &[]);
    found.sort();
    assert_eq!(found, LATE_ARRIVALS);
    let again = fs::symlink_metadata(node.join(OLD).join("mine again")).expect("is there");
    assert_eq!(again.nlink(), 2);
    assert_eq!(
        fs::read_link(node.join(OLD).join("extra/link")).expect("is there"),
        Path::new("nowhere")
    );
}

#[test]
fn stale_directory_is_removed_and_restored_by_one_rename() {
    require!(NEEDED);

    let site = site();
    let node = site.node();
    let (before, was) = (site.snapshot(), fs::metadata(node.join(OLD)).expect("is there").ino());

    site.updated(&ANY);
    site.same();

    site.rollback(&[]).ended(0, &["rolled back"]);
    judge::same(&before, &node, &[]);
    assert_eq!(fs::metadata(node.join(OLD)).expect("is there").ino(), was);

    // A rollback also removes a subtree by one rename.
    site.rollback(&[]).ended(0, &["rolled back"]);
    site.same();

    let kept = fs::read_dir(node.join(".si-undo"))
        .expect("lists")
        .map(|entry| entry.expect("an entry").path());
    let kept: Vec<_> = kept.filter(|path| path.join("kernel/net/c.ko").exists()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
}

#[test]
fn late_arrivals_are_moved_back() {
    require!(NEEDED);

    let site = site_killed_before_removal();
    let node = site.node();
    create_late_arrivals(&node);
    write_text(&node.join(OLD).join("kernel/a.ko"), "edited before its removal");
    recover(&node).ended(0, &["/usr/lib/modules/old was not removed"]);
    assert_late_arrivals_restored(&site, &node);
    let kernel = fs::metadata(node.join(OLD).join("kernel")).expect("is there");
    assert_eq!((kernel.mode() & 0o7777, kernel.uid(), kernel.gid()), (0o2750, 3, 4));
    assert!(site.status().contains("usr/lib/modules/old"), "{}", site.status());

    // The late arrivals do not prevent the rollback, nor the rollback of the rollback.
    let [old, _] = generations();
    site.rollback(&["--dry-run"]).ended(0, &["/usr/lib/modules/old/kernel/b.ko"]);
    site.rollback(&[]).ended(0, &["rolled back"]);
    let image = scratch();
    trees::write(&old, &image.path().join("old"));
    let own = ["/usr/lib/modules/old/extra", "mine*", "/usr/lib/modules/old/kernel/a.ko"];
    assert_eq!(judge::same_except_untracked(&image.path().join("old"), &node, &own), [""; 0]);
    let edited = fs::read_to_string(node.join(OLD).join("kernel/a.ko")).expect("is there");
    assert_eq!(edited, "edited before its removal");
    assert!(node.join(OLD).join("kernel/net/mine.ko").exists());
    assert!(node.join(OLD).join("extra/deep/x.ko").exists());
    site.rollback(&[]).ended(0, &["rolled back"]);
    assert_late_arrivals_restored(&site, &node);

    // Without late arrivals, the next update removes the directory.
    for own in ["mine again", "kernel/net/mine.ko"] {
        fs::remove_file(node.join(OLD).join(own)).expect("removes");
    }
    fs::remove_dir_all(node.join(OLD).join("extra")).expect("removes");
    site.updated(&["--unhold", "--check", "content"]);
}

#[test]
fn kill_while_late_arrivals_are_moved_back_is_recovered() {
    require!(NEEDED);

    let site = site_killed_before_removal();
    create_late_arrivals(&site.node());
    let dir = scratch();
    for kind in ["renameat2", "mkdirat", "renameat", "unlinkat", "utimensat"] {
        for nth in (1..).step_by(if kind == "unlinkat" { 7 } else { 1 }) {
            let node = dir.path().join(format!("{kind}-{nth}"));
            copy_tree(&site.node(), &node);
            let killed = kill(&recovery(&node), kind, nth);
            recover(&node).ended(0, &[]);
            assert_late_arrivals_restored(&site, &node);
            fs::remove_dir_all(&node).expect("removes");
            if !killed {
                assert!(nth > 1, "{kind} is not called");
                break;
            }
        }
    }
}

#[test]
fn rollback_displaces_untracked_files_in_its_way() {
    require!(NEEDED);

    let site = site();
    let node = site.node();
    let before = site.snapshot();

    site.updated(&ANY);
    write_text(&node.join(OLD).join("kernel/b.ko"), "the node's own b");
    write_text(&node.join(OLD).join("modules.dep/file"), "in a directory that replaces a file");
    write_text(&node.join(OLD).join("kernel/d.ko"), "the node's own d");
    let messages =
        ["/usr/lib/modules/old/kernel/b.ko", "/usr/lib/modules/old/modules.dep/file", "displaced"];

    let rollback = site.rollback(&[]);
    rollback.ended(0, &messages);
    assert!(!rollback.err.contains("d.ko") && !rollback.err.contains("warning"), "{rollback:#?}");
    assert_eq!(
        judge::same_except_untracked(&before, &node, &[]),
        ["usr/lib/modules/old/kernel/d.ko"]
    );

    // The displaced files are in the undo set.
    let undo = fs::read_to_string(node.join(".si-undo/displaced")).expect("is there");
    assert!(undo.contains("kernel/b.ko") && undo.contains("modules.dep/file"), "{undo}");

    site.rollback(&[]).ended(0, &["rolled back"]);
    let read = |path: &str| {
        fs::read_to_string(node.join(OLD).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    assert_eq!(read("kernel/b.ko"), "the node's own b");
    assert_eq!(read("modules.dep/file"), "in a directory that replaces a file");
    assert_eq!(read("kernel/d.ko"), "the node's own d");
}

#[test]
fn mount_in_stale_directory_prevents_its_removal() {
    require!(NEEDED);

    let site = site_killed_before_removal();
    let node = site.node();
    let (elsewhere, at) = (scratch(), node.join(OLD).join("empty"));
    write_text(&elsewhere.path().join("precious"), "precious");
    run(Command::new("mount").arg("--bind").arg(elsewhere.path()).arg(&at));

    let recovered = recover(&node);
    let there = fs::read_to_string(at.join("precious"));
    run(Command::new("umount").arg(&at));
    recovered.ended(0, &["/usr/lib/modules/old was not removed"]);
    assert_eq!(there.expect("is there"), "precious");
    assert!(elsewhere.path().join("precious").exists());
    assert!(node.join(OLD).join("kernel/a.ko").exists());
}

#[test]
fn mount_in_undo_set_survives_its_removal() {
    require!(NEEDED);

    let site = site();
    site.updated(&ANY);
    let kept = fs::read_dir(site.node().join(".si-undo"))
        .expect("lists")
        .map(|entry| entry.expect("an entry").path());
    let at = kept
        .map(|path| path.join("empty"))
        .find(|path| path.exists())
        .expect("the removed directory");
    let elsewhere = scratch();
    write_text(&elsewhere.path().join("precious"), "precious");
    run(Command::new("mount").arg("--bind").arg(elsewhere.path()).arg(&at));
    let [old, _] = generations();
    site.publish(&old);

    let updated = site.update(&ANY);
    let left = elsewhere.path().join("precious").exists();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
    let node = site.node().display().to_string();
    let at = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .find(|at| at.starts_with(&node))
        .expect("mounted");
    run(Command::new("umount").arg(at));
    updated.ended(0, &["updated"]);
    assert!(left);

    site.updated(&ANY);
    site.same();
}

#[test]
fn stale_directory_with_untracked_file_is_not_listed_as_deleted() {
    require!(NEEDED);

    let site = site();
    let node = site.node();
    write_text(&node.join(OLD).join("kernel/net/mine.ko"), "mine");
    let stays = ["old", "old/kernel", "old/kernel/net"];

    let dry = site.update(&["--dry-run", "--max-delete", "100%"]);
    assert_eq!(dry.code, 0, "{dry:#?}");
    assert!(dry.out.contains("*deleting   /usr/lib/modules/old/empty/"), "{dry:#?}");
    for path in stays {
        assert!(
            !dry.out.contains(&format!("*deleting   /usr/lib/modules/{path}/\n")),
            "{path}: {dry:#?}"
        );
    }

    let updated = site.updated(&ANY);
    updated.ended(0, &["3 deviations"]);
    let left = judge::same_except_untracked(&site.image(), &node, &[]);
    assert_eq!(left.len(), 4, "{left:?}");

    // The same holds for a rollback.
    write_text(&node.join("usr/lib/modules/new2"), "in a directory that is kept");
    site.rollback(&["--dry-run"]).ended(0, &["/usr/lib/modules/old/kernel/net/c.ko"]);
    site.rollback(&[]).ended(0, &["rolled back"]);

    assert_eq!(
        fs::read_to_string(node.join(OLD).join("kernel/net/mine.ko")).expect("is there"),
        "mine"
    );
}

#[test]
fn late_arrival_in_replaced_directory_is_displaced() {
    require!(NEEDED);

    let [mut old, mut new] = generations();
    trees::put(&mut old, "srv/app/tracked", Item::file("tracked"));
    trees::put(&mut new, "srv/app", Item::file("a file by now"));
    trees::put(&mut new, "srv/other", Item::file("another"));

    // Untracked files from before and after planning, with and without an undo set.
    for config in ["", "keep_undo = \"never\"\n"] {
        let site = Site::at(&old);
        let node = site.node();
        write_text(&node.join("etc/systemimager/updateclient.toml"), config);
        write_text(&node.join("srv/app/known"), "known");
        site.publish(&new);
        let mut command = site.command();
        command.args(ANY);
        assert!(kill(&command, "renameat2", 1));
        assert!(node.join(".si-stage/journal").exists() && node.join("srv/app/tracked").exists());

        write_text(&node.join("srv/app/mine"), "mine");
        let recovered = recover(&node);
        recovered.ended(0, &["/srv/app/mine was created during the update", "kept in .si-undo"]);
        assert!(
            !recovered.err.contains("srv/app/known") && !recovered.err.contains("tracked"),
            "{recovered:#?}"
        );

        let listed = fs::read_to_string(node.join(".si-undo/displaced")).expect("is there");
        assert_eq!(listed.lines().collect::<Vec<_>>(), ["./srv/app/known", "./srv/app/mine"]);

        let found = run(Command::new("find").arg(node.join(".si-undo")).args(["-name", "mine"]));
        assert_eq!(fs::read_to_string(found.trim()).expect("is kept"), "mine");
        if config.is_empty() {
            site.rollback(&[]).ended(0, &["rolled back"]);
            assert_eq!(fs::read_to_string(node.join("srv/app/mine")).expect("is back"), "mine");
        }
    }
}

#[test]
fn immutable_leftover_in_stage_stops_no_run() {
    require!(NEEDED);

    let [mut old, mut new] = generations();
    trees::put(
        &mut old,
        "usr/lib/kept",
        Item::new(trees::ItemKind::Link(format!("{OLD}/modules.dep").into_bytes())),
    );
    let site = Site::at(&old);
    trees::put(&mut new, "usr/lib/kept", Item::file("modules.dep").mtime(1_000_000_000, 7));
    site.publish(&new);
    let node = site.node();

    // An untracked hard link, which the update does not touch.
    fs::hard_link(node.join(OLD).join("modules.dep"), node.join("usr/lib/mine")).expect("links");
    site.updated(&ANY);
    let chattr = |flag: &str| run(Command::new("chattr").arg(flag).arg(node.join("usr/lib/mine")));
    chattr("+i");
    trees::put(&mut new, "usr/lib/modules/new", Item::file("another"));
    site.publish(&new);

    site.updated(&ANY).ended(0, &["cannot remove", ".si-stage"]);
    // All other files of the stage were removed.
    let left = run(Command::new("find").arg(node.join(".si-stage")).args(["-type", "f"]));
    assert!(left.trim_end().ends_with("/modules.dep") && left.lines().count() == 1, "{left}");

    trees::put(&mut new, "usr/lib/modules/new", Item::file("yet another"));
    site.publish(&new);
    let updated = site.update(&ANY);
    let rollback = site.rollback(&[]);
    chattr("-i");
    updated.ended(0, &["updated", "cannot remove", ".si-stage", "chattr +i"]);
    rollback.ended(0, &["rolled back", "cannot remove"]);

    // Now the stage can be removed, and the mtime of the root is restored.
    let before = fs::metadata(&node).expect("is there").modified().expect("has a time");
    recover(&node).ended(0, &[]);

    site.nothing_left();
    assert_eq!(fs::metadata(&node).expect("is there").modified().expect("has a time"), before);

    site.rollback(&[]).ended(0, &["rolled back"]);
    assert_eq!(judge::same_except_untracked(&site.image(), &node, &[]), ["usr/lib/mine"]);
    site.nothing_left();
}
