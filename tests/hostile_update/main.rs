//! Updates with bad archives, servers and disks, and with traps on the node. Each run succeeds, or
//! it leaves the tree unchanged with an error that names the side at fault. No run touches a file
//! outside the tree.

#[path = "../common/mod.rs"]
mod common;
mod disks;
mod refused;
mod traps;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::fault_server::{Fault, FaultServer};
use common::site::{Run, Site};
use common::small_disk::{DISK, SmallDisk};
use common::trees::{Item, ItemKind, Tree, noise};
use common::{ROOT_AND_RSYNC, judge, require};
use systemimager::catalog::{ArchiveKind, FileRef, RepoPath};
use systemimager::digest::Digest;

/// Configuration that fails within seconds on a bad server.
const IMPATIENT_CONFIG: &str = "[download]\nattempts = 2\nidle_timeout = 1\nmin_speed = 0\n";

/// Tree of thirty files and a few others; `round` changes four of them.
fn tree(round: u64) -> Tree {
    let mut tree =
        Tree::from([(Vec::new(), Item::dir()), (b"etc/systemimager".to_vec(), Item::dir())]);
    tree.insert(b"usr/lib".to_vec(), Item::dir());
    for number in 0..30 {
        tree.insert(
            format!("usr/file-{number:02}").into_bytes(),
            Item::file(format!("content {number}")),
        );
    }

    tree.insert(b"etc/systemimager/updateclient.toml".to_vec(), Item::file(IMPATIENT_CONFIG));
    tree.insert(b"usr/file-00".to_vec(), Item::file(format!("round {round}")));
    tree.insert(b"usr/lib/deep".to_vec(), Item::file(noise(50_000, round)));
    tree.insert(b"etc/version".to_vec(), Item::file(format!("version {round}")));
    tree.insert(
        b"usr/lib/time".to_vec(),
        Item::file("the same").mtime(1_600_000_000 + round as i64, 0),
    );

    tree
}

/// Site whose node is at the first of two publishes.
fn behind() -> Site {
    let site = Site::new();
    site.publish(&tree(1));
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&tree(2));
    site
}

/// Sentinel directory outside the tree, with files that an attacker wants overwritten.
struct Outside {
    dir: PathBuf,
    before: Vec<(PathBuf, u64, i64, u32, u64, Vec<u8>)>,
}

impl Outside {
    fn create(site: &Site) -> Self {
        let dir = site.dir.path().join("outside");
        fs::create_dir_all(dir.join("lib")).expect("makes");
        for file in ["file-00", "file-01", "lib/deep", "lib/time", "version", "sentinel", "journal"]
        {
            fs::write(dir.join(file), format!("sentinel {file}")).expect("writes");
        }
        let before = Outside::list(&dir);
        Outside { dir, before }
    }

    fn list(dir: &Path) -> Vec<(PathBuf, u64, i64, u32, u64, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut open = vec![dir.to_owned()];

        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).expect("lists") {
                let path = entry.expect("an entry").path();
                let meta = fs::symlink_metadata(&path).expect("is there");
                let text =
                    if meta.is_file() { fs::read(&path).expect("reads") } else { Vec::new() };
                let links = if meta.is_file() { 0 } else { meta.nlink() };
                let (inode, mtime, mode) = (meta.ino(), meta.mtime_nsec(), meta.mode());
                entries.push((path.clone(), inode, mtime, mode, links, text));
                if meta.is_dir() {
                    open.push(path);
                }
            }
        }

        entries.sort();
        entries
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(Outside::list(&self.dir), self.before, "something outside the tree was touched");
    }
}

/// Object that an attacker puts in place of a file of the agent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plant {
    LinkToDir,
    LinkToFile,
    Dangling,
    File,
    Fifo,
    Dir,
}

const PLANTS: [Plant; 6] =
    [Plant::LinkToDir, Plant::LinkToFile, Plant::Dangling, Plant::File, Plant::Fifo, Plant::Dir];

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).expect("removes"),
        Ok(_) => fs::remove_file(path).expect("removes"),
        Err(_) => {}
    }
}

fn plant(kind: Plant, at: &Path, outside: &Path) {
    remove(at);
    let result = match kind {
        Plant::LinkToDir => symlink(outside, at),
        Plant::LinkToFile => symlink(outside.join("sentinel"), at),
        Plant::Dangling => symlink(outside.join("nothing"), at),
        Plant::File => fs::write(at, "planted"),
        Plant::Fifo => Command::new("mkfifo").arg(at).status().map(drop),
        Plant::Dir => fs::create_dir(at).and_then(|()| fs::write(at.join("inside"), "planted")),
    };
    result.expect("plants");
}

/// Asserts that a run ended without a panic, and with a message if it failed.
#[track_caller]
fn assert_clear_end(run: &Run) {
    assert!(!run.err.contains("panicked"), "{run:#?}");
    assert!((0..=11).contains(&run.code) && run.code != 1, "{run:#?}");
    assert!(run.code == 0 || run.err.contains("si_updateclient: "), "{run:#?}");
}

/// Replaces the diff of the two publishes by `bytes`, with correct digests in the catalog.
fn replace_diff(site: &Site, bytes: &[u8], first_frame: u64) {
    let mut catalog = site.catalog();
    // Another catalog of the same version would be a forked server.
    catalog.revision += 1;
    let (base, target) = (catalog.publishes[0].generation, catalog.publishes[1].generation);
    let archive =
        catalog.archives.iter_mut().find(|a| a.kind == ArchiveKind::Diff { base, target });
    let archive = archive.expect("a diff");
    let old = archive.file.file.as_str().to_owned();
    let digits = [archive.file.sha256, Digest::of(bytes)].map(|sha256| FileRef::digits(&sha256));
    let name = old.replace(&digits[0], &digits[1]);
    archive.file.file = RepoPath::new(&name).expect("a path");
    archive.file.size = bytes.len() as u64;
    archive.file.sha256 = Digest::of(bytes);
    archive.first_frame.length = first_frame;
    archive.first_frame.sha256 = Digest::of(&bytes[..first_frame as usize]);
    fs::write(site.repo().join("node").join(name), bytes).expect("writes");
    site.replace_catalog(catalog.to_toml().expect("text"));
}

/// The diff of the two publishes, and the length of its first frame.
fn read_diff(site: &Site) -> (Vec<u8>, usize) {
    let catalog = site.catalog();
    let (base, target) = (catalog.publishes[0].generation, catalog.publishes[1].generation);
    let archive = catalog
        .archives
        .iter()
        .find(|a| a.kind == ArchiveKind::Diff { base, target })
        .expect("a diff");
    (fs::read(site.diff(1, 2)).expect("reads"), archive.first_frame.length as usize)
}

#[test]
fn forged_archive_with_correct_digest_changes_nothing() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    site.publish(&tree(1));
    site.install_node();

    site.updated(&["--adopt"]);
    fs::remove_dir_all(site.image()).expect("removes");
    common::trees::write(&tree(2), &site.image());

    site.publish_image(&["--plain"]);
    let other = Site::new();
    other.publish(&tree(1));
    let mut forged = tree(2);
    forged.insert(b"usr/lib/deep".to_vec(), Item::file(noise(50_000, 77)));
    fs::remove_dir_all(other.image()).expect("removes");
    common::trees::write(&forged, &other.image());
    other.publish_image(&["--plain"]);

    let before = site.snapshot();
    let ((mine, my_first), (others, others_first)) = (read_diff(&site), read_diff(&other));
    let cases: [(&str, Vec<u8>, usize); 7] = [
        ("another generation's", others.clone(), others_first),
        (
            "right listing, other content",
            [&mine[..my_first], &others[others_first..]].concat(),
            my_first,
        ),
        (
            "other listing, right content",
            [&others[..others_first], &mine[my_first..]].concat(),
            others_first,
        ),
        ("cut short", mine[..mine.len() - 2000].to_vec(), my_first),
        ("nothing but a listing", mine[..my_first].to_vec(), my_first),
        ("noise after the listing", [&mine[..my_first], &noise(5000, 3)[..]].concat(), my_first),
        ("noise alone", noise(5000, 4), 1000),
    ];

    for (name, bytes, first) in cases {
        replace_diff(&site, &bytes, first as u64);
        let run = site.update(&["--no-fallback"]);
        assert_clear_end(&run);
        assert_eq!(run.code, 8, "{name}: {run:#?}");
        run.ended(
            8,
            &["cannot be used", "missing or damaged on the server", "nothing was changed"],
        );
        site.unchanged_since(&before);
    }

    replace_diff(&site, &mine, my_first as u64);
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn faulty_server_changes_nothing() {
    require!(ROOT_AND_RSYNC);

    let mut site = behind();
    let server = FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    let before = site.snapshot();
    let diff = site.served_diff();
    let faults = [
        Fault::Stall(100),
        Fault::Cut(100),
        Fault::Reset(10),
        Fault::ContentLength(1 << 50),
        Fault::ContentLength(1),
        Fault::Longer(1 << 20),
        Fault::Shorter(20),
        Fault::FlipFirstBit,
        Fault::Status(500, None),
        Fault::Status(403, None),
        Fault::ContentRange("bytes 0-9/10"),
        Fault::Redirect(format!("{}node/head.toml", server.url())),
        Fault::Garbage,
        Fault::Hangup,
    ];

    for path in ["/node/head.toml", &diff] {
        for fault in &faults {
            server.always(path, fault.clone());
            let begin = Instant::now();
            let run = site.update(&["--no-fallback"]);
            assert_clear_end(&run);
            if run.code == 0 {
                // Some faults do no harm to this file.
                site.same();
                common::run(
                    Command::new("rsync")
                        .args(["-aHAX", "--checksum", "--delete"])
                        .args([dir(&before), dir(&site.node())]),
                );
            } else {
                assert!([3, 4, 8].contains(&run.code), "{path} {fault:?}: {run:#?}");
                let named = ["the server", "the network"].iter().any(|side| run.err.contains(side));
                assert!(
                    named && run.err.contains("nothing was changed"),
                    "{path} {fault:?}: {run:#?}"
                );
                site.unchanged_since(&before);
            }
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{path} {fault:?} took {:?}",
                begin.elapsed()
            );
            server.calm();
        }
    }

    site.updated(&["--no-fallback"]);
    site.same();
}

fn dir(path: &Path) -> String {
    format!("{}/", path.display())
}

#[test]
fn wrong_command_line_ends_with_code_2() {
    let site = Site::new();
    fs::create_dir(site.node()).expect("makes");
    let root = site.node().display().to_string();
    let cases: [&[&str]; 12] = [
        &[],
        &["--diff"],
        &["--diff", "--image", "node"],
        &["--diff", "--image", "../node", "--server", "s"],
        &["--diff", "--image", "node", "--repo", "gopher://x/"],
        &["--diff", "--image", "node", "--server", "s", "--rsync-port", "0"],
        &["--diff", "--image", "node", "--server", "s", "--max-delete", "101%"],
        &["--diff", "--image", "node", "--server", "s", "--exclude-file", "/no/such/file"],
        &["--diff", "--image", "node", "--server", "s", "--check", "often"],
        &["--diff", "--image", "node", "--server", "s", "--directory", "/etc"],
        &["--diff", "--status"],
        &["--no-such-flag"],
    ];

    for case in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        let run =
            Run::from_output(command.args(case).args(["--root", &root]).output().expect("runs"));
        assert_eq!(run.code, 2, "{case:?}: {run:#?}");
        assert!(!run.err.is_empty() && !run.err.contains("panicked"), "{case:?}: {run:#?}");
    }

    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    let run = command
        .args(["--diff", "--image", "node", "--server", "s", "--root", "/no/such/dir"])
        .output();
    Run::from_output(run.expect("runs")).ended(5, &["/no/such/dir"]);
    let toml = site.node().join("etc/systemimager/updateclient.toml");
    fs::create_dir_all(toml.parent().expect("a parent")).expect("makes");
    fs::write(&toml, "max_delete = \"many\"").expect("writes");
    site.update(&[]).ended(2, &["updateclient.toml", "max_delete"]);
}

/// Run in the background that downloads a diff from a slow server.
struct SlowRun {
    child: Child,
    _server: FaultServer,
}

impl SlowRun {
    /// Starts an update and waits until it downloads the archive beyond its first frame.
    fn start(site: &mut Site, more: &[&str]) -> Self {
        let toml = "[download]\nmin_speed = 0\n";
        fs::write(site.node().join("etc/systemimager/updateclient.toml"), toml).expect("writes");
        let server = FaultServer::serve(&site.repo());
        let diff = site.served_diff();
        let files = std::mem::replace(&mut site.repo_url, server.url());
        server.next(&diff, [Fault::Behave, Fault::Drip(8 << 10, Duration::from_millis(200))]);
        let mut command = site.command();
        let child =
            command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        site.repo_url = files;
        for _ in 0..500 {
            if server.seen().iter().filter(|seen| seen.path == diff && seen.sent > 0).count() > 1 {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }

        // The walk of the tree takes only milliseconds.
        thread::sleep(Duration::from_millis(200));

        SlowRun { child, _server: server }
    }

    fn end(self) -> Run {
        Run::from_output(self.child.wait_with_output().expect("ends"))
    }
}

#[test]
fn concurrent_update_is_refused() {
    require!(ROOT_AND_RSYNC);

    let mut site = behind();
    let slow = SlowRun::start(&mut site, &[]);
    site.update(&[]).ended(7, &["another update of", "is running"]);

    let mut recover = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    let run = recover.arg("--recover").arg("--root").arg(site.node()).output().expect("runs");
    Run::from_output(run).ended(7, &["is running"]);

    slow.end().ended(0, &["updated"]);
    site.same();
}
