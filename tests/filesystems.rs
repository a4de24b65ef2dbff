//! Whole updates on real filesystems: xfs and btrfs as the root, a root that consists of several, what is
//! mounted twice, subvolumes and snapshots.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::disk::{self, Disk, Mounted};
use common::site::{Run, Site};
use common::trees::{self, Item, ItemKind, Tree, noise};
use common::{Need, judge, require, run};

const NEEDED: [Need; 7] = [
    Need::Root,
    Need::LoopDevice,
    Need::Program("rsync"),
    Need::Program("strace"),
    Need::Program("mkfs.ext4"),
    Need::Program("mkfs.xfs"),
    Need::Program("mkfs.btrfs"),
];
/// Left out when a node of several filesystems is judged.
const EVERYWHERE: [&str; 3] = ["lost+found", ".si-stage", ".si-undo"];

/// Below `part`: changes of every kind between the two generations, and every type becomes every other.
fn fill(tree: &mut Tree, part: &str, second: bool) {
    let below =
        |name: &str| if part.is_empty() { name.to_owned() } else { format!("{part}/{name}") };
    let mut put = |name: &str, item: Item| trees::put(tree, &below(name), item);
    put("same", Item::file("the same"));
    put("other-name", Item::new(ItemKind::Link(below("same").into_bytes())));
    put("changed", Item::file(noise(20_000, 1 + u64::from(second))));
    put("owner", Item::file("x").owner(if second { 7 } else { 0 }, 0));
    put("mode", Item::file("x").mode(if second { 0o4755 } else { 0o644 }));
    put("time", Item::file("x").mtime(1_600_000_000 + i64::from(second), 5));
    put("xattr", Item::file("x").xattr("user.generation", if second { "2" } else { "1" }));
    put("dir", Item::dir().mode(if second { 0o750 } else { 0o755 }));
    put("dir/stays", Item::file("x"));
    if second {
        put("new/below/file", Item::file("new"));
        put("dir/renamed", Item::file("once elsewhere"));
    } else {
        put("gone/below/file", Item::file("old"));
        put("dir/old-name", Item::file("once elsewhere"));
    }
    for number in 0..20 {
        let kind = if second { (number + 1 + number / 5) % 5 } else { number % 5 };
        let name = format!("kinds/{number:02}");
        match kind {
            0 => {
                put(&format!("{name}/inside/file"), Item::file("inside"));
                put(&format!("{name}/other"), Item::new(ItemKind::Symlink(b"inside".to_vec())));
            }
            1 => put(&name, Item::file(format!("a file {second}"))),
            2 => put(&name, Item::new(ItemKind::Symlink(b"../same".to_vec()))),
            3 => put(&name, Item::new(ItemKind::Link(below("same").into_bytes()))),
            _ => put(&name, Item::new(ItemKind::Fifo)),
        }
    }
}

fn generation(parts: &[&str], second: bool) -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    for part in parts {
        fill(&mut tree, part, second);
    }
    for above in ["etc", "var/lib"] {
        trees::put(&mut tree, above, Item::dir());
    }
    tree
}

/// A site whose node is a copy of the image's first generation, on filesystems that `mount` mounts.
fn site_on<T>(tree: &Tree, mount: impl FnOnce(&Site) -> T) -> (Site, T) {
    let site = Site::new().with_rsync();
    site.publish(tree);
    let mounted = mount(&site);
    run(Command::new("cp").arg("-aT").args([site.image(), site.node()]));
    site.updated(&["--adopt"]);
    (site, mounted)
}

/// Updates the node with a kill at the first step that only the roll-forward makes.
#[track_caller]
fn killed_after_the_seal(site: &Site) {
    let killed = traced(site, "renameat2", "signal=KILL", 3);
    assert_eq!(killed.code, -1, "{killed:#?}");
    assert!(site.node().join(".si-stage/journal").exists(), "the transaction was not sealed");
}

/// Updates the node under strace, which injects `what` into the `nth` of `call`.
fn traced(site: &Site, call: &str, what: &str, nth: usize) -> Run {
    let command = site.command();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:{what}:when={nth}")]);
    strace.arg(command.get_program()).args(command.get_args()).args([
        "--no-fallback",
        "--max-delete",
        "100%",
    ]);
    Run::from_output(strace.stdin(Stdio::null()).output().expect("strace runs"))
}

fn recover(site: &Site) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    Run::from_output(
        command.arg("--recover").arg("--root").arg(site.node()).output().expect("runs"),
    )
}

/// Rolls the node back to what it was when `copy` was made of it.
#[track_caller]
fn rolled_back(site: &Site, copy: &Path) {
    site.rollback(&[]).ended(0, &[]);
    judge::same(copy, &site.node(), &EVERYWHERE);
}

#[track_caller]
fn updated(site: &Site, more: &[&str]) -> Run {
    site.updated(&[&["--no-fallback", "--max-delete", "100%"], more].concat())
}

/// Whether a stage or a journal is anywhere in the tree.
fn stages_in(tree: &Path) -> String {
    run(Command::new("find").arg(tree).args(["-name", ".si-stage", "-o", "-name", ".si-full"]))
}

/// By a diff, by a diff that is killed and recovered, and by a full sync.
fn a_whole_update_on(kind: &str) {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = [false, true].map(|second| generation(&["", "usr/lib"], second));
    let (site, _disk) =
        site_on(&first, |site| Disk::new(kind, site.dir.path().join("disk"), &site.node()));
    let same = || judge::same(&site.image(), &site.node(), &["lost+found"]);
    site.publish(&second);
    let before = site.snapshot();
    updated(&site, &[]);
    same();
    rolled_back(&site, &before);
    rolled_back(&site, &site.image());
    site.publish(&first);
    killed_after_the_seal(&site);
    recover(&site).ended(0, &["completing an update"]);
    same();
    updated(&site, &[]);
    same();
    site.publish(&second);
    site.archives("diffs").iter().for_each(|diff| fs::remove_file(diff).expect("removes a diff"));
    site.updated(&["--max-delete", "100%"]).ended(0, &["full sync"]);
    same();
    site.updated(&["--check=content"]).ended(0, &["is up to date"]);
    assert_eq!(stages_in(&site.node()), "");
}

#[test]
fn a_whole_update_on_xfs() {
    a_whole_update_on("xfs");
}

#[test]
fn a_whole_update_on_btrfs() {
    a_whole_update_on("btrfs");
}

/// The node's filesystems, by the directory that they hold.
const PARTS: [&str; 6] = ["", "boot", "usr", "var", "opt/nested", "opt/nested/in/nested"];

#[test]
fn a_directory_that_hands_on_a_project_is_refused_before_anything_is_touched() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = [false, true].map(|second| generation(&["", "usr/lib"], second));
    let (site, _disk) =
        site_on(&first, |site| Disk::new("xfs", site.dir.path().join("disk"), &site.node()));
    site.publish(&second);
    let chattr =
        |what: &str, path: &Path| run(Command::new("chattr").args(["-p", "7", what]).arg(path));
    let dir = site.node().join("usr/lib");
    chattr("+P", &dir);
    // What the kernel says of such a rename.
    fs::write(site.node().join("probe"), "").expect("writes");
    let refused =
        fs::rename(site.node().join("probe"), dir.join("probe")).expect_err("another project");
    assert_eq!(refused.kind(), std::io::ErrorKind::CrossesDevices);
    fs::remove_file(site.node().join("probe")).expect("removes");
    let before = site.snapshot();
    let run = site.update(&["--no-fallback", "--max-delete", "100%"]);
    run.ended(5, &["usr/lib change, but its project id (chattr +P)", "nothing was changed"]);
    judge::same(&before, &site.node(), &["lost+found"]);
    chattr("-P", &dir);
    updated(&site, &[]);
    judge::same(&site.image(), &site.node(), &["lost+found"]);
}

/// A btrfs root with two nested subvolumes, one in the other; ext4, xfs and another btrfs mounted in it.
fn several(site: &Site) -> Vec<Disk> {
    let (node, image) = (site.node(), |name: &str| site.dir.path().join(name));
    let root = Disk::new("btrfs", image("root"), &node);
    disk::subvolume(&node.join("opt/nested"));
    disk::subvolume(&node.join("opt/nested/in/nested"));
    let others = [("ext4", "boot"), ("xfs", "usr"), ("btrfs", "var")];
    let others = others.map(|(kind, at)| Disk::new(kind, image(at), &node.join(at)));
    std::iter::once(root).chain(others).collect()
}

#[test]
fn a_root_of_six_filesystems_is_updated_as_one_and_waits_for_what_is_missing() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = [false, true].map(|second| generation(&PARTS, second));
    let (site, mut disks) = site_on(&first, several);
    let same = || judge::same(&site.image(), &site.node(), &EVERYWHERE);
    site.publish(&second);
    let before = site.snapshot();
    updated(&site, &[]);
    same();
    rolled_back(&site, &before);
    rolled_back(&site, &site.image());
    // killed after the seal, and a filesystem is missing
    site.publish(&first);
    killed_after_the_seal(&site);
    for (disk, at) in disks.iter_mut().zip(["", "boot", "usr", "var"]).skip(1) {
        disk.unmount();
        let named = format!("/{at} takes part in it, but is not mounted");
        recover(&site).ended(6, &[&named]);
        site.update(&[]).ended(6, &[&named]);
        assert!(site.status().contains("interrupted"));
        disk.mount();
    }
    // the parts are no generation yet, and become one
    assert!(!judge::differences(&site.image(), &site.node(), &EVERYWHERE).is_empty());
    recover(&site).ended(0, &["completing an update"]);
    same();
    assert_eq!(stages_in(&site.node()), "");
    site.updated(&["--check=content"]).ended(0, &["is up to date"]);
    // killed before the seal: nothing stays, in no subvolume either
    site.publish(&second);
    let killed = traced(&site, "syncfs", "signal=KILL", 1);
    assert_eq!(killed.code, -1, "{killed:#?}");
    assert!(stages_in(&site.node()).contains("opt/nested/in/nested/.si-stage"));
    assert!(!site.node().join(".si-stage/journal").exists());
    recover(&site).ended(0, &["no update"]);
    assert_eq!(stages_in(&site.node()), "");
    updated(&site, &["--check=touched"]);
    same();
}

#[test]
fn a_subvolume_cannot_go_and_a_read_only_one_cannot_change() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let mut tree = generation(&[""], false);
    trees::put(&mut tree, "srv/data/file", Item::file("1"));
    trees::put(&mut tree, "srv/fixed/file", Item::file("1"));
    let (site, _disk) = site_on(&tree, |site| {
        let root = Disk::new("btrfs", site.dir.path().join("disk"), &site.node());
        disk::subvolume(&site.node().join("srv/data"));
        disk::subvolume(&site.node().join("srv/fixed"));
        root
    });
    let fixed = site.node().join("srv/fixed");
    disk::set_read_only(&fixed, true);
    let refused = |site: &Site, words: &[&str]| {
        site.update(&["--no-fallback"]).ended(5, words).ended(5, &["nothing was changed"]);
        assert_eq!(stages_in(&site.node()), "");
    };
    // what need not change there is no reason to stop
    trees::put(&mut tree, "srv/data/file", Item::file("2"));
    site.publish(&tree);
    updated(&site, &[]);
    judge::same(&site.image(), &site.node(), &EVERYWHERE);
    let mut content = tree.clone();
    trees::put(&mut content, "srv/fixed/file", Item::file("2"));
    let mut time = tree.clone();
    trees::put(&mut time, "srv/fixed/file", Item::file("1").mtime(5, 5));
    let mut mode = tree.clone();
    mode.get_mut(&b"srv/fixed"[..]).expect("is there").mode = 0o700;
    for next in [&content, &time, &mode] {
        site.publish(next);
        refused(&site, &["/srv/fixed", "read-only subvolume"]);
    }
    disk::set_read_only(&fixed, false);
    updated(&site, &[]);
    judge::same(&site.image(), &site.node(), &EVERYWHERE);
    // a subvolume cannot be replaced, nor go
    let mut without = tree.clone();
    without.retain(|path, _| !path.starts_with(b"srv/data"));
    site.publish(&without);
    refused(&site, &["/srv/data is to be removed, but is a filesystem of its own"]);
    trees::put(&mut without, "srv/data", Item::new(ItemKind::Symlink(b"fixed".to_vec())));
    site.publish(&without);
    refused(&site, &["/srv/data changes, but a filesystem is mounted on it"]);
    // a hardlink into it is refused by name
    trees::put(&mut tree, "srv/data/link", Item::new(ItemKind::Link(b"same".to_vec())));
    site.publish(&tree);
    refused(&site, &["the hardlink group of /srv/data/link spans two filesystems"]);
}

#[test]
fn snapshots_cost_nothing_and_are_never_touched() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = [false, true].map(|second| generation(&["", "var/data"], second));
    let (site, _disk) = site_on(&first, |site| {
        let root = Disk::new("btrfs", site.dir.path().join("disk"), &site.node());
        disk::subvolume(&site.node().join("var/data"));
        disk::subvolume(&site.node().join(".snapshots"));
        root
    });
    let node = site.node();
    disk::snapshot(&node, &node.join(".snapshots/1/snapshot"));
    disk::snapshot(&node.join("var/data"), &node.join(".snapshots/2/snapshot"));
    disk::subvolume(&node.join("home/user/own"));
    fs::write(node.join("home/user/own/file"), "the node's").expect("writes");
    fs::write(node.join("home/user/stray"), "x").expect("writes");
    // the quick answer, without a look at the tree
    let quick = site.updated(&[]);
    quick.ended(0, &["is up to date"]);
    assert!(!quick.err.contains("compared"), "{quick:#?}");
    site.publish(&second);
    updated(&site, &["--purge-untracked"]).ended(0, &["2 untracked paths kept"]);
    let untracked = judge::same_except_untracked(
        &site.image(),
        &node,
        &[&EVERYWHERE[..], &["/.snapshots"]].concat(),
    );
    assert_eq!(untracked, ["home/user/own/file", "home/user/own/", "home/user/", "home/"]);
    // the first snapshot is the first generation still, all but what was another subvolume
    site.publish(&first);
    let snapshot = node.join(".snapshots/1/snapshot");
    judge::same(
        &site.image(),
        &snapshot,
        &[&EVERYWHERE[..], &["/var/data", "/.snapshots"]].concat(),
    );
    assert!(fs::read_dir(snapshot.join(".snapshots")).expect("lists").next().is_none());
    judge::same(&site.image().join("var/data"), &node.join(".snapshots/2/snapshot"), &EVERYWHERE);
}

#[test]
fn what_a_bind_mount_shows_twice_is_neither_lost_nor_counted_as_ours() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = [false, true].map(|second| {
        let mut tree = generation(&["", "srv/source", "var/shown"], second);
        trees::put(&mut tree, "srv/source/only/here", Item::file("tracked at the source alone"));
        trees::put(
            &mut tree,
            "var/shown/only/there",
            Item::file("tracked at the bind mount alone"),
        );
        trees::put(&mut tree, "etc/file", Item::file("the image's"));
        tree
    });
    let (site, bound) = site_on(&first, |site| {
        let node = site.node();
        for path in ["srv/source", "var/shown", "etc"] {
            fs::create_dir_all(node.join(path)).expect("a directory");
        }
        fs::write(node.join("etc/file"), "").expect("writes");
        Mounted::bind(&node.join("srv/source"), &node.join("var/shown"))
    });
    let node = site.node();
    fs::write(node.join("srv/source/local"), "the node's").expect("writes");
    let other = site.dir.path().join("other");
    fs::write(&other, "another container's").expect("writes");
    let over = Mounted::bind(&other, &node.join("etc/file"));
    site.publish(&second);
    // what is seen at both places and tracked at one is untracked at the other, and stays
    updated(&site, &[]).ended(0, &["deviates: ./etc/file: content"]);
    let but = [&EVERYWHERE[..], &["/etc/file", "/*/*/only", "/*/*/local"]].concat();
    judge::same(&site.image(), &node, &but);
    let read =
        |path: &str| fs::read_to_string(node.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(read("etc/file"), "another container's");
    // one inode is no fault: the two places are one
    site.updated(&["--check=content", "--purge-untracked"]);
    for path in ["srv/source/only/here", "var/shown/only/there"] {
        assert!(read(path).starts_with("tracked"));
    }
    assert!(!node.join("srv/source/local").exists());
    judge::same(&site.image(), &node, &but);
    // killed after the seal, with the bind mount missing when the update is to be finished
    site.publish(&first);
    drop(over);
    killed_after_the_seal(&site);
    drop(bound);
    recover(&site).ended(6, &["/var/shown takes part in it, but is not mounted"]);
    let _bound = Mounted::bind(&node.join("srv/source"), &node.join("var/shown"));
    recover(&site).ended(0, &["completing an update"]);
    judge::same(&site.image(), &node, &but);
    assert_eq!(stages_in(&node), "");
}

const PLAIN: [Need; 2] = [Need::Program("mkfs.exfat"), Need::Program("mount.exfat-fuse")];

/// A system with an EFI system partition, which holds no owners, modes, links and attributes.
fn with_firmware(second: bool) -> Tree {
    let mut tree = generation(&[""], second);
    let mut put = |name: &str, item: Item| trees::put(&mut tree, &format!("boot/efi/{name}"), item);
    put(
        "EFI/BOOT/BOOTX64.EFI",
        Item::file(noise(300_000, 10 + u64::from(second))).mode(0o600).owner(7, 7),
    );
    put("EFI/same", Item::file("the same").mode(0o4711).xattr("user.note", "x"));
    put("EFI/time", Item::file("x").mtime(1_600_000_000 + 100 * i64::from(second), 999_999_999));
    put("EFI/mode", Item::file("x").mode(if second { 0o600 } else { 0o644 }));
    put("EFI/before-1980", Item::file("x").mtime(5, 5));
    put("EFI/a", Item::file(format!("two names {second}")));
    put("EFI/b", Item::new(ItemKind::Link(b"boot/efi/EFI/a".to_vec())));
    put("EFI/link", Item::new(ItemKind::Symlink(b"same".to_vec())));
    put("EFI/d", Item::dir());
    put("EFI/to-file/below/file", Item::file("x"));
    put("EFI/to-directory", Item::file("x"));
    if second {
        put("EFI/new/below/file", Item::file("new"));
        put("EFI/new/pipe", Item::new(ItemKind::Fifo));
        put("EFI/loader", Item::file("new"));
        for name in ["to-file/below/file", "to-file/below", "to-file", "to-directory"] {
            tree.remove(format!("boot/efi/EFI/{name}").as_bytes());
        }
        trees::put(&mut tree, "boot/efi/EFI/to-file", Item::file("y"));
        trees::put(&mut tree, "boot/efi/EFI/to-directory/file", Item::file("y"));
    } else {
        put("EFI/gone/below/file", Item::file("old"));
        put("EFI/gone-too", Item::file("old"));
    }
    trees::put(&mut tree, "usr/outside", Item::new(ItemKind::Link(b"boot/efi/EFI/a".to_vec())));
    trees::put(&mut tree, "mnt", Item::dir());
    tree
}

/// A node with an exfat at boot/efi, mounted by a program: no owners, links, attributes, exchange.
fn site_with_firmware(tree: &Tree) -> (Site, Disk) {
    let site = Site::new().with_rsync();
    site.publish(tree);
    site.install_node();
    let efi = site.node().join("boot/efi");
    fs::remove_dir_all(&efi).expect("removes");
    let disk = Disk::new("exfat", site.dir.path().join("disk"), &efi);
    let directory = |path: &Path| format!("{}/", path.display());
    run(Command::new("rsync")
        .arg("-rt")
        .arg(directory(&site.image().join("boot/efi")))
        .arg(directory(&efi)));
    run(Command::new("touch")
        .arg("-r")
        .arg(site.image().join("boot"))
        .arg(site.node().join("boot")));
    (site, disk)
}

#[track_caller]
fn is_image(site: &Site, image: &Path) {
    let efi = [image, &site.node()].map(|tree| tree.join("boot/efi"));
    let early = "EFI/before-1980";
    judge::same_contents(&efi[0], &efi[1], &[".si-*", early]);
    // a time that cannot be held
    assert_eq!(
        fs::read(efi[0].join(early)).expect("reads"),
        fs::read(efi[1].join(early)).expect("reads")
    );
    let differences = judge::differences(
        image,
        &site.node(),
        &[&EVERYWHERE[..], &["/boot/efi", "/mnt"]].concat(),
    );
    assert!(differences.is_empty(), "the node is not the image:\n{}", differences.join("\n"));
}

#[test]
fn what_holds_no_owners_and_links_is_equal_as_far_as_it_can_be() {
    require!(NEEDED, PLAIN);

    disk::enter_mount_namespace();
    let [first, second] = [false, true].map(with_firmware);
    let (site, mut disk) = site_with_firmware(&first);
    let link = "./boot/efi/EFI/link: a link cannot be held by fuseblk";
    site.updated(&["--adopt"]).ended(0, &[link, "recorded as node"]);
    site.updated(&["--check=content"]).ended(0, &[link, "is up to date"]);
    let before = site.dir.path().join("first");
    common::copy_tree(&site.image(), &before);
    // the disk of somebody who plugged it in is not purged
    let _stick = Disk::new("exfat", site.dir.path().join("stick"), &site.node().join("mnt"));
    fs::write(site.node().join("mnt/photo"), "the node's").expect("writes");
    site.publish(&second);
    updated(&site, &["--purge-untracked"]).ended(0, &[link, "EFI/new/pipe: a fifo cannot be held"]);
    is_image(&site, &site.image());
    assert!(site.node().join("mnt/photo").exists());
    // nothing is left to do, however closely it is looked, also after a new mount, with other inodes
    for check in ["--check=stat", "--check=content"] {
        disk.unmount();
        disk.mount();
        let run = site.updated(&[check]);
        run.ended(0, &["is up to date"]);
        assert!(!run.out.contains("repaired"), "{run:#?}");
    }
    site.rollback(&[]).ended(0, &[]);
    is_image(&site, &before);
    site.rollback(&[]).ended(0, &[]);
    is_image(&site, &site.image());
    // drift there is repaired
    fs::write(site.node().join("boot/efi/EFI/same"), "the sale").expect("writes");
    fs::remove_file(site.node().join("boot/efi/EFI/d/../loader")).expect("removes");
    site.updated(&["--check=stat"])
        .ended(0, &["repaired: /boot/efi/EFI/loader", "repaired: /boot/efi/EFI/same"]);
    is_image(&site, &site.image());
    // and by a full sync
    site.publish(&first);
    site.archives("diffs").iter().for_each(|diff| fs::remove_file(diff).expect("removes a diff"));
    site.updated(&["--max-delete", "100%"]).ended(0, &["full sync"]);
    is_image(&site, &site.image());
}

#[test]
fn an_update_of_what_has_no_journal_is_killed_at_any_step() {
    require!(NEEDED, PLAIN);

    disk::enter_mount_namespace();
    let trees = [false, true].map(with_firmware);
    let (site, mut disk) = site_with_firmware(&trees[0]);
    site.updated(&["--adopt"]);
    let mut sealed = 0;
    let kills = [
        ("renameat", [6, 14]),
        ("renameat2", [2, 20]),
        ("unlinkat", [24, 26]),
        ("unlinkat", [25, 45]),
        ("fsync", [40, 60]),
    ];
    for (round, (call, nth)) in
        kills.iter().flat_map(|(call, all)| all.map(|nth| (*call, nth))).enumerate()
    {
        site.publish(&trees[(round + 1) % 2]);
        let killed = traced(&site, call, "signal=KILL", nth);
        if site.node().join(".si-stage/journal").exists() {
            sealed += 1;
            eprintln!("sealed at {call} {nth}");
            disk.unmount();
            recover(&site).ended(6, &["/boot/efi takes part in it, but is not mounted"]);
            disk.mount();
            recover(&site).ended(0, &["completing an update"]);
            is_image(&site, &site.image());
        }
        let run = updated(&site, &["--unhold"]);
        assert!(run.code == 0, "{call} {nth}: {killed:#?}");
        is_image(&site, &site.image());
        assert_eq!(stages_in(&site.node()), "", "{call} {nth}");
    }
    assert!(sealed > 2, "only {sealed} kills met a sealed transaction");
}

#[test]
fn no_room_where_each_file_is_copied_beside_the_old_one() {
    require!(NEEDED, PLAIN);

    disk::enter_mount_namespace();
    let mut tree = with_firmware(false);
    trees::put(&mut tree, "boot/efi/large", Item::file(vec![1; 35_000_000]));
    let (site, _disk) = site_with_firmware(&tree);
    site.updated(&["--adopt"]);
    trees::put(&mut tree, "boot/efi/large", Item::file(vec![2; 35_000_000]));
    site.publish(&tree);
    site.update(&[]).ended(5, &["no room on this node", "/boot/efi has", "nothing was changed"]);
    trees::put(&mut tree, "boot/efi/large", Item::file(vec![2; 10_000_000]));
    site.publish(&tree);
    updated(&site, &[]);
    is_image(&site, &site.image());
    // nor is there room to go back, as long as it is taken
    let taken = site.node().join("boot/efi/taken");
    fs::write(&taken, vec![3; 20_000_000]).expect("writes");
    site.rollback(&[]).ended(5, &["no room on this node", "/boot/efi has", "nothing was changed"]);
    fs::remove_file(taken).expect("removes");
    site.rollback(&[]).ended(0, &[]);
    assert_eq!(
        fs::metadata(site.node().join("boot/efi/large")).expect("is there").len(),
        35_000_000
    );
}
