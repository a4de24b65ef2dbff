//! Filesystems that cannot hold each time, or each number of links: the tree is compared with the
//! result that they can hold, and a lasting difference is reported.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::common::disk::{self, Disk};
use crate::common::judge;
use crate::common::site::Site;
use crate::common::small_disk::{DISK, SmallDisk};
use crate::common::trees::{self, Item, ItemKind, Tree};
use crate::common::{Need, require};

const NEEDED: [Need; 3] = [Need::Root, Need::LoopDevice, Need::Program("rsync")];
/// Inodes of 128 bytes: whole seconds, from 1901 to 2038.
const OLD_EXT4: [&str; 2] = ["-I", "128"];
/// Nanoseconds, until 2038.
const OLD_XFS: [&str; 2] = ["-m", "bigtime=0"];

fn tree(round: i64) -> Tree {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/fraction", Item::file("one").mtime(1_600_000_000, 999_999_999));
    trees::put(&mut tree, "etc/late", Item::file("new").mtime(5_000_000_000, 7));
    trees::put(&mut tree, "etc/late.d", Item::dir().mtime(5_000_000_000, 7));
    trees::put(&mut tree, "etc/touched", Item::file("same").mtime(1_600_000_000 + round, 5));
    trees::put(&mut tree, "etc/content", Item::file(format!("round {round}")));
    tree
}

/// Moves the node of `site` to a new filesystem.
fn move_node(site: &Site, kind: &str, options: &[&str]) -> Disk {
    let disk = Disk::with_options(kind, options, site.dir.path().join("disk"), &site.node());
    let _ = fs::remove_dir(site.node().join("lost+found"));
    let mut rsync = Command::new("rsync");
    crate::common::run(rsync.args(["-aHAX"]).arg(site.image().join("")).arg(site.node()));
    disk
}

/// Lines of rsync for paths that differ in more than a time that the filesystem rounds.
fn differences(site: &Site) -> Vec<String> {
    let lines = judge::differences(&site.image(), &site.node(), &[]);
    lines.into_iter().filter(|line| line[2..11].chars().any(|c| c != '.' && c != 't')).collect()
}

fn seconds(path: &Path) -> i64 {
    fs::metadata(path).expect("is there").mtime()
}

#[test]
fn times_that_filesystem_cannot_hold_are_reported_once_and_not_repaired() {
    require!(NEEDED, Program("mkfs.ext4"), Program("mkfs.xfs"));

    disk::enter_mount_namespace();
    for (kind, options, last_round) in [("ext4", OLD_EXT4, 3), ("xfs", OLD_XFS, 2)] {
        let site = Site::new();
        site.publish(&tree(1));
        let _disk = move_node(&site, kind, &options);

        let adopted = site.updated(&["--adopt"]);
        assert!(!adopted.err.contains("differ from"), "{kind}: {adopted:#?}");
        let run = site.updated(&["--check", "stat"]);
        run.ended(0, &["up to date"]);
        assert!(!run.out.contains("repaired"), "{kind}: {run:#?}");

        for round in 2..=last_round {
            site.publish(&tree(round));
            let run = site.updated(&[]);
            assert_eq!(run.err.contains("rounds times"), kind == "ext4", "{kind}: {run:#?}");
            assert!(run.out.contains("etc/touched") || run.out.contains("1 "), "{kind}: {run:#?}");
            assert_eq!(differences(&site), Vec::<String>::new(), "{kind}");
            assert_eq!(seconds(&site.node().join("etc/touched")), 1_600_000_000 + round);
            assert_eq!(seconds(&site.node().join("etc/late")), i64::from(i32::MAX), "{kind}");
        }

        let again = site.updated(&["--check", "content"]);
        again.ended(0, &["up to date"]);
        assert!(!again.out.contains("repaired"), "{kind}: {again:#?}");
        let status = site.status();
        for path in ["/etc/late", "/etc/late.d"] {
            let line = format!("{path}: its filesystem holds times from 1901-12-13 to 2038-01-19");
            assert!(status.contains(&line), "{kind}: {status}");
        }

        site.rollback(&[]).ended(0, &["rolled back"]);
        assert_eq!(seconds(&site.node().join("etc/touched")), 1_600_000_000 + last_round - 1);
        assert!(site.status().contains("deviations:  2"), "{kind}: {}", site.status());
    }
}

#[test]
fn rsync_only_sync_ends_despite_times_that_filesystem_cannot_hold() {
    require!(NEEDED, Program("mkfs.ext4"));

    disk::enter_mount_namespace();
    let site = Site::new().with_rsync();
    trees::write(&tree(1), &site.image());
    let _disk = move_node(&site, "ext4", &OLD_EXT4);
    let sync = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        let port = site.rsync_port().expect("a daemon").to_string();
        command.args(["--yes", "--server", "127.0.0.1", "--rsync-port", &port, "--image", "node"]);
        command.args(["--exclude-file", "/dev/null", "--root"]).arg(site.node());
        crate::common::site::Run::from_output(command.output().expect("si_updateclient runs"))
    };

    fs::write(site.image().join("etc/content"), "edited").expect("writes");
    sync().ended(0, &[]);
    assert_eq!(differences(&site), Vec::<String>::new());

    let again = sync();
    again.ended(0, &["up to date"]);
    assert!(site.status().contains("/etc/late: its filesystem holds times from"), "{again:#?}");
}

#[test]
fn group_without_room_for_backup_links_is_copied_once_and_rolled_back_as_group() {
    require!(DISK);

    // ext4 allows 65,000 links: there is room for one of the three backups.
    const LINKS: usize = 64_999;
    let names = ["profile", "profile.1", "profile.2"].map(|name| format!("home/user/{name}"));
    let group = |text: &str| {
        let mut tree = trees::system();
        trees::put(&mut tree, &names[0], Item::file(text));
        for name in &names[1..] {
            trees::put(&mut tree, name, Item::new(ItemKind::Link(names[0].clone().into_bytes())));
        }
        tree
    };
    let site = Site::at(&group("profile"));
    let disk = SmallDisk::for_node(&site, 128, 20_000);
    let [first, _, last] = names.each_ref().map(|name| site.node().join(name));
    let links = site.node().join("home/user/links");
    fs::create_dir(&links).expect("makes");
    for number in names.len()..LINKS {
        fs::hard_link(&first, links.join(number.to_string())).expect("links");
    }
    File::options().write(true).open(&first).expect("opens").set_len(1 << 40).expect("grows");
    site.publish(&group("new"));
    let free = disk.free();

    let run = site.updated(&[]);

    assert!(!run.err.contains("was edited"), "{run:#?}");
    assert_eq!(fs::read(&last).expect("reads"), b"new");
    let backups = fs::read_dir(site.node().join(".si-undo")).expect("the undo set");
    let mut copies: Vec<_> = backups
        .map(|entry| entry.expect("an entry").metadata().expect("stat"))
        .filter(|stat| stat.len() == 1 << 40)
        .collect();
    assert_eq!(copies.len(), names.len());
    let copy = copies.pop().expect("a copy");
    assert!(copies.iter().all(|other| other.ino() == copy.ino()), "{copies:#?}");
    assert!(copy.blocks() < 64, "the copy has {} blocks", copy.blocks());
    assert!(free - disk.free() < 8 << 20, "the copy filled the disk");

    site.rollback(&[]).ended(0, &["rolled back"]);
    let (first, last) = (fs::metadata(first).expect("stat"), fs::metadata(last).expect("stat"));
    assert_eq!((first.ino(), first.nlink(), first.len()), (last.ino(), 3, 1 << 40));
}
