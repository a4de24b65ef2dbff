//! `--verify`: the deviations that it finds and reports, and that it changes nothing.

#[path = "../common/mod.rs"]
mod common;
mod proof;
mod repair;
mod saved;
mod sides;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::interrupted::{STRACE, interrupted_site};
use common::site::{Run, Site};
use common::trees::{self, Item, ItemKind, Tree};
use common::{ROOT_AND_RSYNC, copy_tree, require};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// A command that verifies `node`, with the repository of the site and without exclude rules.
fn verification(site: &Site, node: &Path, more: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.arg("--verify").args(more).arg("--root").arg(node).stdin(Stdio::null());
    if !more.contains(&"--exclude-file") {
        command.args(["--exclude-file", "/dev/null"]);
    }
    if !more.contains(&"--repo") {
        command.args(["--repo", &site.repo_url]);
    }
    Run::from_output(command.output().expect("si_updateclient runs"))
}

/// Verifies the node of the site.
fn verify(site: &Site, more: &[&str]) -> Run {
    verification(site, &site.node(), more)
}

/// The proof digest that a run printed.
#[track_caller]
fn proof(out: &str) -> String {
    let line = out.lines().find(|line| line.starts_with("proof:"));
    let line = line.unwrap_or_else(|| panic!("no proof: {out}"));
    line.split_whitespace().nth(1).expect("a digest").to_owned()
}

/// Inode, size, mtime and ctime of every path, the agent's own files included.
fn inodes(top: &Path) -> Vec<(PathBuf, [i64; 6])> {
    let mut seen = Vec::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).expect("inspects");
        if meta.is_dir() {
            let listed = fs::read_dir(&path).expect("a directory");
            waiting.extend(listed.map(|entry| entry.expect("an entry").path()));
        }
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        let [a, b, c, d] = times;
        seen.push((path, [meta.ino() as i64, meta.size() as i64, a, b, c, d]));
    }
    seen.sort_unstable();
    seen
}

#[test]
fn equal_tree_ends_with_zero_and_its_proof_is_the_generation() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::everything());
    trees::write_text(&site.node().join("etc/local"), "a file of the node");

    let run = verify(&site, &[]);

    run.ended(0, &["equal to node serial 1"]);
    let generation = site.catalog().head().generation.to_string();
    assert_eq!(proof(&run.out), generation);
    assert_eq!(proof(&site_status(&site)), generation);
}

/// Output of `--status` without exclude rules.
fn site_status(site: &Site) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--status", "--exclude-file", "/dev/null", "--root"]).arg(site.node());
    common::run(&mut command)
}

/// A change of one path, and the line that reports it.
type Change = (&'static str, fn(&Path), &'static str);

/// Changes that keep the mtime of the path.
const CHANGES: [Change; 16] = [
    (
        "content",
        |top| rewrite(&top.join("etc/passwd"), "root:x:0:0::/root:/bin/zz\n"),
        ">fcs....... /etc/passwd",
    ),
    (
        "size",
        |top| rewrite(&top.join("etc/passwd"), "longer than it was, by some words\n"),
        ">fcs....... /etc/passwd",
    ),
    ("mode", |top| set_mode(&top.join("usr/bin/su"), 0o755), ".f...p..... /usr/bin/su"),
    (
        "owner",
        |top| chown(top.join("etc/shadow"), Some(7), None).expect("chown"),
        ".f....o.... /etc/shadow",
    ),
    ("group", |top| lchown(top.join("bin"), None, Some(9)).expect("chown"), ".L.....g... /bin"),
    ("mtime", |top| set_time(&top.join("etc/empty"), 5), ".f..t...... /etc/empty"),
    (
        "mtime by a nanosecond",
        |top| set_time_nanos(&top.join("etc/empty"), 123_456_788),
        ".f..t...... /etc/empty",
    ),
    (
        "capability",
        |top| drop_xattr(&top.join("usr/bin/ping"), "security.capability"),
        ".f........x /usr/bin/ping",
    ),
    (
        "ACL",
        |top| drop_xattr(&top.join("etc/acl"), "system.posix_acl_access"),
        ".f........x /etc/acl",
    ),
    (
        "added attribute",
        |top| add_xattr(&top.join("var/private"), "user.more"),
        ".d........x /var/private",
    ),
    (
        "missing file",
        |top| fs::remove_file(top.join("etc/empty")).expect("removes"),
        ">f+++++++++ /etc/empty",
    ),
    (
        "missing directory",
        |top| fs::remove_dir_all(top.join("var/private")).expect("removes"),
        "cd+++++++++ /var/private",
    ),
    ("link target", |top| replace_link(&top.join("bin")), "cLc"),
    ("type", |top| replace_by_dir(&top.join("etc/empty")), ">f+++++++++ /etc/empty"),
    ("device number", |top| replace_device(&top.join("dev/null")), "cD+++++++++ /dev/null"),
    (
        "broken hard link",
        |top| break_link(&top.join("usr/lib/b")),
        "hf......... /usr/lib/b => /opt/c",
    ),
];

fn rewrite(path: &Path, text: &str) {
    fs::write(path, text).expect("writes");
    set_time(path, 1_600_000_000);
}

fn set_time(path: &Path, seconds: i64) {
    set_times(path, Timespec { tv_sec: seconds, tv_nsec: 123_456_789 });
}

fn set_time_nanos(path: &Path, nanos: i64) {
    set_times(path, Timespec { tv_sec: 1_600_000_000, tv_nsec: nanos });
}

fn set_times(path: &Path, time: Timespec) {
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("sets the time");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn drop_xattr(path: &Path, name: &str) {
    let mode = fs::metadata(path).expect("inspects").mode();
    rustix::fs::removexattr(path, name).expect("removes the attribute");
    set_mode(path, mode & 0o7777);
}

fn add_xattr(path: &Path, name: &str) {
    rustix::fs::setxattr(path, name, b"x", XattrFlags::empty()).expect("sets the attribute");
}

fn replace_link(path: &Path) {
    fs::remove_file(path).expect("removes");
    symlink("usr/sbin", path).expect("a symlink");
    set_time(path, 1_600_000_000);
}

fn replace_by_dir(path: &Path) {
    fs::remove_file(path).expect("removes");
    fs::create_dir(path).expect("a directory");
}

fn replace_device(path: &Path) {
    fs::remove_file(path).expect("removes");
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, rustix::fs::makedev(1, 5))
        .expect("a device");
}

/// Makes a file of its own with the same content and metadata.
fn break_link(path: &Path) {
    let copy = path.with_extension("copy");
    copy_tree(path, &copy);
    fs::rename(&copy, path).expect("renames");
}

/// A small tree with every kind of entry that a change of [`CHANGES`] needs.
fn kinds() -> Tree {
    let wanted = ["etc", "bin", "usr/bin", "usr/lib/a", "usr/lib/b", "opt/c", "dev/null", "var"];
    let is_wanted = |path: &[u8]| {
        let mut wanted = wanted.iter().map(|top| top.as_bytes());
        path.is_empty() || wanted.any(|top| path == top || path.starts_with(&[top, b"/"].concat()))
    };
    trees::everything().into_iter().filter(|(path, _)| is_wanted(path)).collect()
}

#[test]
fn each_kind_of_deviation_is_found_and_changes_the_proof() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&kinds());
    let equal = proof(&verify(&site, &[]).out);
    let mut proofs = vec![equal];

    for (name, change, line) in CHANGES {
        let node = site.dir.path().join("changed");
        let _ = fs::remove_dir_all(&node);
        copy_tree(&site.node(), &node);
        change(&node);

        let run = verification(&site, &node, &[]);

        assert_eq!(run.code, 10, "{name}: {run:#?}");
        let first = run.out.lines().next().unwrap_or_default();
        assert!(first.starts_with(line), "{name}: {line:?} is missing: {run:#?}");
        assert_eq!(run.out.lines().filter(|line| line.contains("  (")).count(), 1, "{run:#?}");
        proofs.push(proof(&run.out));
    }

    let mut unique = proofs.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), proofs.len(), "two states have one proof: {proofs:#?}");
}

#[test]
fn verification_changes_nothing_in_tree_and_state_directory() {
    require!(ROOT_AND_RSYNC);

    let tree = trees::system();
    let site = Site::at(&tree);
    let mut next = tree;
    trees::put(&mut next, "etc/hostname", Item::file("silver\n"));
    site.publish(&next);
    for change in ["", "edited"] {
        if !change.is_empty() {
            fs::write(site.node().join("etc/passwd"), change).expect("writes");
        }
        let before = inodes(&site.node());

        verify(&site, &[]);
        verify(&site, &["--json"]);
        verify(&site, &["--against", "head"]);

        assert_eq!(inodes(&site.node()), before);
    }
}

#[test]
fn only_selected_paths_are_read() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::everything());
    fs::write(site.node().join("etc/passwd"), "edited").expect("writes");
    break_link(&site.node().join("usr/lib/b"));
    fs::remove_file(site.node().join("etc/empty")).expect("removes");

    verify(&site, &["/usr/bin", "/var"]).ended(0, &["equal to node"]);
    verify(&site, &["/etc/passwd"]).ended(10, &["1 deviation", ">fcst...... /etc/passwd"]);
    verify(&site, &["/etc//", "/usr/bin"]).ended(10, &["2 deviations"]);
    // The other members of its hard-link group are not selected.
    verify(&site, &["/usr/lib/b"]).ended(10, &["1 deviation", "/usr/lib/b", "hardlinks"]);
    let missing = verify(&site, &["/etc/empty"]);
    missing.ended(10, &[">f+++++++++ /etc/empty  (missing)"]);
    assert!(!missing.out.contains("proof:"), "{missing:#?}");
}

#[test]
fn path_that_is_not_tracked_is_refused() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    fs::write(site.node().join("etc/local"), "local").expect("writes");
    let excludes = site.dir.path().join("excludes");
    fs::write(&excludes, "/etc/hostname\n").expect("writes");
    let excludes = excludes.to_str().expect("UTF-8");

    for (arguments, words) in [
        (&["/etc/local"][..], "cannot verify or repair /etc/local: it belongs to the node"),
        (&["/etc/mistyped"], "cannot verify or repair /etc/mistyped: it does not exist"),
        (&["etc"], "--verify etc: the path has to be absolute"),
        (&["/etc/../etc"], "--verify /etc/../etc"),
        (
            &["/etc/hostname", "--exclude-file", excludes],
            "cannot verify or repair /etc/hostname: it is excluded",
        ),
        (&["--against", "9"], "node has no generation \"9\""),
        (&["--diff"], "cannot be used with"),
    ] {
        verify(&site, arguments).ended(2, &[words]);
    }
}

#[test]
fn excluded_paths_are_not_compared() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let excludes = site.dir.path().join("excludes");
    fs::write(&excludes, "/etc/hostname\n").expect("writes");
    fs::write(site.node().join("etc/hostname"), "of the node").expect("writes");

    verify(&site, &[]).ended(10, &["/etc/hostname"]);
    let excludes = excludes.to_str().expect("UTF-8");
    let run = verify(&site, &["--exclude-file", excludes]);

    run.ended(0, &["equal to node"]);
    assert_ne!(proof(&run.out), site.catalog().head().generation.to_string());
}

#[test]
fn unreachable_repository_leaves_only_published_side_out() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let config = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&config, "[download]\nattempts = 1\n");
    for repo in ["http://127.0.0.1:9/", "file:///no/repository/"] {
        let words = ["equal to node", "the published generation was not compared: "];
        verify(&site, &["--repo", repo]).ended(0, &words);
    }
    fs::write(site.node().join("etc/passwd"), "edited").expect("writes");

    verify(&site, &["--repo", "http://127.0.0.1:9/"]).ended(10, &["/etc/passwd", "not compared"]);
    verify(&site, &["--repo", "http://127.0.0.1:9/", "--against", "head"]).ended(4, &["127.0.0.1"]);
    // Neither a server nor a repository is configured.
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--verify", "--quiet", "--root"]).arg(site.node());
    let run = Run::from_output(command.output().expect("runs"));
    assert_eq!((run.code, run.out.lines().count()), (10, 1), "{run:#?}");
}

#[test]
fn interrupted_update_is_reported_and_not_completed() {
    require!(STRACE);

    let site = interrupted_site();
    let before = inodes(&site.node());

    verify(&site, &[]).ended(6, &["an interrupted update is not complete", "--recover"]);

    assert_eq!(inodes(&site.node()), before);
}

#[test]
fn tree_of_another_run_is_not_verified() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let lock = site.node().join("var/lib/systemimager/client/lock");
    let held = fs::File::open(&lock).expect("the lock");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("locks");

    verify(&site, &[]).ended(7, &[]);

    drop(held);
    verify(&site, &[]).ended(0, &[]);
}

#[test]
fn tree_without_record_is_compared_only_with_named_generation() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    site.publish(&trees::system());
    site.install_node();

    verify(&site, &[]).ended(5, &["nothing is recorded of this tree"]);
    verify(&site, &["--against", "head", "--image", "node"]).ended(0, &["equal to node serial 1"]);
}

#[test]
fn damaged_record_is_named() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let state = "var/lib/systemimager/client/state.toml";
    fs::write(site.node().join(state), "no state").expect("writes");

    for run in [verify(&site, &[]), repair::repair(&site, &[])] {
        run.ended(5, &[state, "it is not used", "nothing is recorded of this tree"]);
    }
}

#[test]
fn result_that_cannot_be_written_is_a_failure() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    for text in ["root:x:0:0::/root:/bin/sh\n", "edited"] {
        fs::write(site.node().join("etc/passwd"), text).expect("writes");
        for more in [&["--verify"][..], &["--diff", "--drift", "report", "--image", "node"]] {
            let mut command = Command::new("sh");
            command.args(["-c", "exec \"$@\" >/dev/full", "sh"]);
            command.arg(env!("CARGO_BIN_EXE_si_updateclient")).args(more).arg("--root");
            command.arg(site.node()).args([
                "--yes",
                "--check",
                "content",
                "--repo",
                &site.repo_url,
            ]);
            command.args(["--exclude-file", "/dev/null"]);

            let run = Run::from_output(command.output().expect("runs"));

            run.ended(1, &["standard output"]);
        }
    }
}

#[test]
fn root_of_the_tree_is_one_slash() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&kinds());
    set_mode(&site.node(), 0o700);

    verify(&site, &[]).ended(10, &[".d...p..... /  (mode)"]);
    repair::repair(&site, &["--dry-run"]).ended(0, &[".d...p..... /\n"]);
}

/// A tree with one more file.
fn with_file(tree: &Tree, path: &str, text: &str) -> Tree {
    let mut tree = tree.clone();
    trees::put(&mut tree, path, Item::new(ItemKind::File { hole: 0, data: text.into() }));
    tree
}
