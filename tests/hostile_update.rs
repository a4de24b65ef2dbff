//! Updates with bad archives, servers and disks, and with traps on the node. Each run succeeds, or
//! it leaves the tree unchanged with an error that names the side at fault. No run touches a file
//! outside the tree.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::fault_server::{Fault, FaultServer};
use common::site::{Run, Site};
use common::small_disk::{DISK, SmallDisk};
use common::trees::{Item, Tree, noise};
use common::{ROOT_AND_RSYNC, judge, require};
use systemimager::catalog::ArchiveKind;
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
    let (base, target) = (catalog.publishes[0].generation, catalog.publishes[1].generation);
    let archive =
        catalog.archives.iter_mut().find(|a| a.kind == ArchiveKind::Diff { base, target });
    let archive = archive.expect("a diff");
    archive.file.size = bytes.len() as u64;
    archive.file.sha256 = Digest::of(bytes);
    archive.first_frame.length = first_frame;
    archive.first_frame.sha256 = Digest::of(&bytes[..first_frame as usize]);
    fs::write(site.repo().join("node").join(archive.file.file.as_str()), bytes).expect("writes");
    fs::write(site.repo().join("node/catalog.toml"), catalog.to_toml().expect("text"))
        .expect("writes");
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
        Fault::Redirect(format!("{}node/catalog.toml", server.url())),
        Fault::Garbage,
        Fault::Hangup,
    ];

    for path in ["/node/catalog.toml", &diff] {
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

#[test]
fn planted_symlink_is_not_followed() {
    require!(ROOT_AND_RSYNC);

    for check in ["touched", "update", "content"] {
        let site = behind();
        let outside = Outside::create(&site);
        plant(Plant::LinkToDir, &site.node().join("usr"), &outside.dir);
        plant(Plant::LinkToFile, &site.node().join("etc/version"), &outside.dir);

        site.updated(&["--check", check, "--no-fallback"]);
        outside.assert_untouched();
        if check != "touched" {
            site.same();
        }

        site.updated(&["--check", "stat"]);
        site.same();
        outside.assert_untouched();
    }
}

#[test]
fn parent_replaced_during_update_leaves_outside_untouched() {
    require!(ROOT_AND_RSYNC);

    for swap in [Plant::LinkToDir, Plant::Dangling, Plant::File, Plant::Fifo] {
        let mut site = behind();
        let outside = Outside::create(&site);
        let slow = SlowRun::start(&mut site, &["--no-fallback"]);
        fs::rename(site.node().join("usr"), site.dir.path().join("swapped")).expect("renames");
        plant(swap, &site.node().join("usr"), &outside.dir);

        let run = slow.end();
        assert_clear_end(&run);
        outside.assert_untouched();
        if run.code == 0 {
            run.ended(0, &["usr was missing or had become another type"]);
            assert!(site.status().contains("./usr"));
        } else {
            site.nothing_left();
        }

        site.updated(&["--check", "stat"]);
        site.same();
        outside.assert_untouched();
    }
}

#[test]
fn directory_removed_during_update_is_restored() {
    require!(ROOT_AND_RSYNC);

    let mut site = behind();
    let slow = SlowRun::start(&mut site, &["--no-fallback"]);
    fs::remove_dir_all(site.node().join("usr")).expect("removes");
    let run = slow.end();
    assert_clear_end(&run);
    site.updated(&["--check", "stat"]);
    site.same();
}

#[test]
fn hardlink_to_outside_file_is_broken_up() {
    require!(ROOT_AND_RSYNC);

    let site = behind();
    let outside = Outside::create(&site);
    for (tracked, sentinel) in
        [("usr/file-00", "file-00"), ("usr/lib/time", "lib/time"), ("etc/version", "version")]
    {
        let (tracked, sentinel) = (site.node().join(tracked), outside.dir.join(sentinel));
        fs::copy(&tracked, &sentinel).expect("copies");
        remove(&tracked);
        fs::hard_link(&sentinel, &tracked).expect("links");
    }
    let before = Outside::list(&outside.dir);

    site.updated(&["--no-fallback"]);
    site.same();
    assert_eq!(Outside::list(&outside.dir), before);
}

#[test]
fn planted_stage_and_undo_directories_are_replaced() {
    require!(ROOT_AND_RSYNC);

    let site = behind().with_rsync();
    let outside = Outside::create(&site);
    let before = site.snapshot();
    let (mut round, node) = (2, site.node());

    for kind in PLANTS {
        for name in [".si-stage", ".si-undo", ".si-full"] {
            plant(kind, &node.join(name), &outside.dir);
        }
        site.updated(&["--no-fallback"]);

        site.same();
        outside.assert_untouched();

        round += 1;
        site.publish(&tree(round));
    }

    // A full sync withstands the same objects.
    for kind in PLANTS {
        remove(&node);
        common::copy_tree(&before, &node);
        remove(&node.join("var"));
        for number in 0..30 {
            fs::write(node.join(format!("usr/file-{number:02}")), "nothing known").expect("writes");
        }

        for name in [".si-stage", ".si-undo", ".si-full"] {
            plant(kind, &node.join(name), &outside.dir);
        }
        site.updated(&[]).ended(0, &["full sync"]);

        site.same();
        outside.assert_untouched();
    }
}

#[test]
fn planted_objects_at_agent_files_harm_nothing() {
    require!(ROOT_AND_RSYNC);

    let site = behind();
    let outside = Outside::create(&site);
    let before = site.snapshot();
    let generation = site.catalog().publishes[0].generation;
    let next = site.catalog().publishes[1].generation;
    let client = "var/lib/systemimager/client";
    let places = [
        "var".to_owned(),
        "var/lib/systemimager".to_owned(),
        client.to_owned(),
        format!("{client}/spool"),
        format!("{client}/lock"),
        format!("{client}/state.toml"),
        format!("{client}/state.toml.new"),
        format!("{client}/manifest-{generation}.mtree.zst"),
        format!("{client}/manifest-{next}.mtree.zst"),
        format!("{client}/manifest-{next}.mtree.zst.new"),
        "etc/systemimager".to_owned(),
        "etc/systemimager/updateclient.toml".to_owned(),
        "etc/systemimager/IMAGE_LAST_SYNCED_TO".to_owned(),
        "etc/systemimager/IMAGE_LAST_SYNCED_TO.new".to_owned(),
    ];

    for place in &places {
        for kind in PLANTS {
            remove(&site.node());
            common::copy_tree(&before, &site.node());
            plant(kind, &site.node().join(place), &outside.dir);
            let kept = site.dir.path().join("kept");
            remove(&kept);
            common::copy_tree(&site.node(), &kept);
            let begin = Instant::now();
            let run = site.update(&["--no-fallback"]);
            assert_clear_end(&run);
            outside.assert_untouched();
            let context = format!("{kind:?} at {place}: {run:#?}");
            assert!([0, 2, 5].contains(&run.code), "{context}");
            assert!(begin.elapsed() < Duration::from_secs(20), "{context}");
            site.nothing_left();
            if run.code == 0 {
                let left = judge::same_except_untracked(&site.image(), &site.node(), &[]);
                assert!(
                    left.iter().all(|path| path.starts_with(place.as_str())),
                    "{left:?} {context}"
                );
            } else {
                let name = Path::new(place).file_name().expect("a name").to_string_lossy();
                assert!(run.err.contains(name.trim_end_matches(".new")), "{context}");
                judge::same(&kept, &site.node(), &[]);
            }
            let mut status = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
            let status =
                status.arg("--status").arg("--root").arg(site.node()).output().expect("runs");
            assert_clear_end(&Run::from_output(status));
        }
    }
}

#[test]
fn damaged_state_or_manifest_is_replaced() {
    require!(ROOT_AND_RSYNC);

    let site = behind();
    let before = site.snapshot();
    let client = site.node().join("var/lib/systemimager/client");
    let generation = site.catalog().publishes[0].generation;
    let state = fs::read_to_string(client.join("state.toml")).expect("a state");
    let manifest =
        fs::read(client.join(format!("manifest-{generation}.mtree.zst"))).expect("a manifest");
    let states: [Vec<u8>; 7] = [
        Vec::new(),
        state.as_bytes()[..state.len() / 2].to_vec(),
        noise(1000, 1),
        state.replace("format = 1", "format = 2").into_bytes(),
        state.replace("serial = 1", "serial = 99999999999999999999999").into_bytes(),
        format!("{state}\n\"not a path\" = \"x\"\n\"./../../etc\" = \"y\"\n").into_bytes(),
        "a = [".repeat(100_000).into_bytes(),
    ];
    let mut flipped = manifest.clone();
    flipped[manifest.len() / 2] ^= 1;
    let bomb = zstd::encode_all(&vec![b'a'; 64 << 20][..], 1).expect("compresses");
    let manifests: [Vec<u8>; 5] =
        [Vec::new(), manifest[..manifest.len() / 2].to_vec(), noise(1000, 2), flipped, bomb];
    let cases = states.into_iter().map(|bytes| ("state.toml".to_owned(), bytes));
    let name = format!("manifest-{generation}.mtree.zst");

    for (file, bytes) in cases.chain(manifests.into_iter().map(|bytes| (name.clone(), bytes))) {
        remove(&site.node());
        common::copy_tree(&before, &site.node());
        fs::write(client.join(&file), bytes).expect("writes");
        let run = site.update(&["--no-fallback"]);
        assert_clear_end(&run);
        run.ended(0, &[]);
        site.same();
    }
}

#[test]
fn invalid_journal_stops_every_run() {
    require!(ROOT_AND_RSYNC);

    let site = behind();
    let before = site.snapshot();
    let outside = Outside::create(&site);
    let stage = site.node().join(".si-stage");
    let escape = "si-journal 1\nfilesystem .\ninstall 1 0 ./../outside/sentinel\nend 1\n";
    let journals = ["", "si-journal 2\nend 0\n", "si-journal 1\nfilesystem .\n", escape];

    for text in journals {
        fs::create_dir_all(&stage).expect("makes");
        fs::write(stage.join("journal"), text).expect("writes");
        let run = site.update(&[]);

        run.ended(6, &["an update that was interrupted has to be finished first", "journal"]);
        assert!(!run.err.contains("panicked"));
        outside.assert_untouched();

        remove(&stage);
        judge::same(&before, &site.node(), &[]);
    }

    for kind in [Plant::LinkToFile, Plant::Dangling, Plant::Fifo, Plant::Dir] {
        fs::create_dir_all(&stage).expect("makes");
        plant(kind, &stage.join("journal"), &outside.dir);
        let run = site.update(&["--no-fallback", "--dry-run"]);
        assert_clear_end(&run);
        outside.assert_untouched();
        remove(&stage);
        judge::same(&before, &site.node(), &[]);
    }

    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn full_disk_refuses_update() {
    require!(DISK);

    let site = behind();
    let disk = SmallDisk::for_node(&site, 64, 2000);
    site.updated(&["--adopt"]);

    disk.fill(1 << 20);
    let before = site.snapshot();
    let free = disk.free();

    let run = site.update(&["--no-fallback"]);
    run.ended(5, &["no room on this node", "bytes free", "nothing was changed"]);
    site.unchanged_since(&before);
    assert!(disk.free() >= free - 65536, "{} of {free} bytes are left", disk.free());

    fs::remove_file(site.node().join("filler")).expect("removes");
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn lack_of_inodes_refuses_update() {
    require!(DISK);

    let site = behind();
    let disk = SmallDisk::for_node(&site, 64, 256);
    site.updated(&["--adopt"]);
    let free = rustix::fs::statvfs(&disk.at).expect("statvfs").f_favail;
    for number in 20..free {
        fs::write(disk.at.join(format!("filler-{number}")), "").expect("writes");
    }

    let before = site.snapshot();
    site.update(&["--no-fallback"])
        .ended(5, &["no room on this node", "inodes free", "nothing was changed"]);

    site.unchanged_since(&before);
}

#[test]
fn disk_filled_during_download_changes_nothing() {
    require!(DISK);

    let mut site = Site::new();
    site.publish(&tree(1));
    site.install_node();

    site.updated(&["--adopt"]);
    let mut bulky = tree(2);
    bulky.insert(b"usr/bulk".to_vec(), Item::file(noise(400_000, 9)));
    site.publish(&bulky);
    let disk = SmallDisk::for_node(&site, 64, 2000);

    site.updated(&["--adopt"]);
    // The filler file exists before the run, so that only its size changes during the run. The
    // run's stage is in the root directory, whose mtime is saved for the comparison.
    fs::write(site.node().join("filler"), "").expect("writes");
    let time = fs::metadata(site.node()).and_then(|top| top.modified()).expect("a time");
    let slow = SlowRun::start(&mut site, &["--no-fallback"]);

    // The snapshot is taken before the disk is full, when the run removes its stage.
    let before = site.snapshot();
    fs::File::open(&before).and_then(|top| top.set_modified(time)).expect("sets");
    disk.fill(0);

    let run = slow.end();
    run.ended(5, &["this node", "No space left on device", "nothing was changed"]);

    common::copy_tree(&site.node().join("filler"), &before.join("filler"));
    site.unchanged_since(&before);

    let spool = site.node().join("var/lib/systemimager/client/spool");
    assert_eq!(
        fs::read_dir(spool).expect("lists").count(),
        0,
        "the spool still holds the download"
    );

    fs::remove_file(site.node().join("filler")).expect("removes");
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn full_disk_refuses_full_sync() {
    require!(DISK);

    let mut large = tree(1);
    large.insert(b"usr/large".to_vec(), Item::file(noise(30_000_000, 1)));
    let site = Site::new().with_rsync();
    site.publish(&large);
    fs::create_dir_all(site.node().join("var/lib")).expect("makes");
    fs::write(site.node().join("precious"), "the node's own").expect("writes");
    let _disk = SmallDisk::for_node(&site, 32, 2000);
    let before = site.snapshot();

    let run = site.update(&["--max-delete", "100%"]);
    run.ended(5, &["no room on this node", "nothing was changed"]);
    site.unchanged_since(&before);
}

#[test]
fn read_only_root_refuses_update() {
    require!(DISK);

    let site = behind();
    let disk = SmallDisk::for_node(&site, 64, 2000);
    site.updated(&["--adopt"]);
    let before = site.snapshot();
    common::run(Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.at));

    site.update(&[]).ended(5, &["is mounted read-only", "nothing was changed"]);
    site.unchanged_since(&before);

    site.update(&["--dry-run"]).ended(5, &["/etc/version", "is not writable"]);
    common::run(Command::new("mount").args(["-o", "remount,rw"]).arg(&disk.at));
    common::run(Command::new("mount").arg("--bind").arg(&disk.at).arg(&disk.at));
    let over = SmallDisk { file: disk.file.clone(), at: disk.at.clone() };
    common::run(Command::new("mount").args(["-o", "remount,ro,bind"]).arg(&disk.at));

    site.update(&[]).ended(5, &["is mounted read-only", "nothing was changed"]);
    drop(over);
    site.updated(&["--no-fallback"]);

    site.same();
}
