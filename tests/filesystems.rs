//! Complete updates on real filesystems: xfs and btrfs as the root, a root of several filesystems,
//! bind mounts, subvolumes, snapshots, and filesystems without owners and links.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::disk::{self, Access, Disk, Mounted};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Generation, Item, ItemKind, Tree, noise};
use crate::common::{Need, judge, require, run};

const NEEDED: [Need; 7] = [
    Need::Root,
    Need::LoopDevice,
    Need::Program("rsync"),
    Need::Program("strace"),
    Need::Program("mkfs.ext4"),
    Need::Program("mkfs.xfs"),
    Need::Program("mkfs.btrfs"),
];
/// Paths that the comparison of a node of several filesystems excludes.
const EXCLUDED: [&str; 3] = ["lost+found", ".si-stage", ".si-undo"];

/// Adds entries below `part` with every kind of change between the two generations; each type of
/// entry is replaced by each other type.
fn fill(tree: &mut Tree, part: &str, generation: Generation) {
    let second = generation.is_second();
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

fn tree(parts: &[&str], generation: Generation) -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    for part in parts {
        fill(&mut tree, part, generation);
    }
    for above in ["etc", "var/lib"] {
        trees::put(&mut tree, above, Item::dir());
    }
    tree
}

/// Site whose node is a copy of the first generation, on filesystems that `mount` mounts.
fn site_on<T>(tree: &Tree, mount: impl FnOnce(&Site) -> T) -> (Site, T) {
    let site = Site::new().with_rsync();
    site.publish(tree);
    let mounted = mount(&site);
    run(Command::new("cp").arg("-aT").args([site.image(), site.node()]));
    site.updated(&["--adopt"]);
    (site, mounted)
}

/// Updates the node, and kills the update at its first step after the seal.
#[track_caller]
fn kill_at_first_step(site: &Site) {
    let killed = update_with_fault(site, "renameat2", "signal=KILL", 3);
    assert_eq!(killed.code, -1, "{killed:#?}");
    assert!(site.node().join(".si-stage/journal").exists(), "the transaction was not sealed");
}

/// Updates the node under strace, which injects `fault` into the `nth` of `call`.
fn update_with_fault(site: &Site, call: &str, fault: &str, nth: usize) -> Run {
    let mut command = site.command();
    command.args(["--no-fallback", "--max-delete", "100%"]);
    run_with_fault(&command, call, fault, nth)
}

fn run_with_fault(command: &Command, call: &str, fault: &str, nth: usize) -> Run {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:{fault}:when={nth}")]);
    strace.arg(command.get_program()).args(command.get_args());
    Run::from_output(strace.stdin(Stdio::null()).output().expect("strace runs"))
}

fn recover_command(site: &Site) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.arg("--recover").arg("--root").arg(site.node());
    command
}

fn recover(site: &Site) -> Run {
    Run::from_output(recover_command(site).output().expect("runs"))
}

/// Asserts that the directory is empty: nothing was written below an unmounted mount point.
#[track_caller]
fn assert_empty(dir: &Path) {
    let found: Vec<_> = fs::read_dir(dir).expect("lists").collect();
    assert!(found.is_empty(), "files below the mount point: {found:?}");
}

/// Rolls the node back, and asserts that it equals its earlier copy `copy`.
#[track_caller]
fn roll_back_to(site: &Site, copy: &Path) {
    site.rollback(&[]).ended(0, &[]);
    judge::same(copy, &site.node(), &EXCLUDED);
}

#[track_caller]
fn update(site: &Site, more: &[&str]) -> Run {
    site.updated(&[&["--no-fallback", "--max-delete", "100%"], more].concat())
}

/// Lists stages and receive directories anywhere in the tree.
fn list_stages(tree: &Path) -> String {
    run(Command::new("find").arg(tree).args(["-name", ".si-stage", "-o", "-name", ".si-full"]))
}

/// Updates by a diff, by a diff that is killed and recovered, and by a full sync.
fn test_updates_on(kind: &str) {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(|which| tree(&["", "usr/lib"], which));
    let (site, _disk) =
        site_on(&first, |site| Disk::new(kind, site.dir.path().join("disk"), &site.node()));
    let same = || judge::same(&site.image(), &site.node(), &["lost+found"]);
    site.publish(&second);
    let before = site.snapshot();
    update(&site, &[]);
    same();

    roll_back_to(&site, &before);
    roll_back_to(&site, &site.image());

    site.publish(&first);
    kill_at_first_step(&site);
    recover(&site).ended(0, &["completing an update"]);

    same();
    update(&site, &[]);
    same();

    site.publish(&second);
    site.archives("diffs").iter().for_each(|diff| fs::remove_file(diff).expect("removes a diff"));
    site.updated(&["--max-delete", "100%"]).ended(0, &["full sync"]);

    same();
    site.updated(&["--check=content"]).ended(0, &["is up to date"]);
    assert_eq!(list_stages(&site.node()), "");
}

#[test]
fn updates_and_rollbacks_on_xfs_succeed() {
    test_updates_on("xfs");
}

#[test]
fn updates_and_rollbacks_on_btrfs_succeed() {
    test_updates_on("btrfs");
}

/// Mount points of the node's filesystems.
const PARTS: [&str; 6] = ["", "boot", "usr", "var", "opt/nested", "opt/nested/in/nested"];

#[test]
fn directory_with_inherited_project_refuses_update() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(|which| tree(&["", "usr/lib"], which));
    let (site, _disk) =
        site_on(&first, |site| Disk::new("xfs", site.dir.path().join("disk"), &site.node()));
    site.publish(&second);
    let chattr =
        |flag: &str, path: &Path| run(Command::new("chattr").args(["-p", "7", flag]).arg(path));
    let dir = site.node().join("usr/lib");
    chattr("+P", &dir);

    // The kernel refuses to rename into such a directory.
    fs::write(site.node().join("probe"), "").expect("writes");
    let error =
        fs::rename(site.node().join("probe"), dir.join("probe")).expect_err("another project");
    assert_eq!(error.kind(), std::io::ErrorKind::CrossesDevices);

    fs::remove_file(site.node().join("probe")).expect("removes");
    let before = site.snapshot();
    let run = site.update(&["--no-fallback", "--max-delete", "100%"]);

    run.ended(5, &["usr/lib change, but its project id (chattr +P)", "nothing was changed"]);
    judge::same(&before, &site.node(), &["lost+found"]);

    chattr("-P", &dir);
    update(&site, &[]);
    judge::same(&site.image(), &site.node(), &["lost+found"]);
}

/// Mounts a btrfs root with two nested subvolumes, one in the other, and ext4, xfs and another
/// btrfs below it.
fn mount_six_filesystems(site: &Site) -> Vec<Disk> {
    let (node, image) = (site.node(), |name: &str| site.dir.path().join(name));
    let root = Disk::new("btrfs", image("root"), &node);
    disk::subvolume(&node.join("opt/nested"));
    disk::subvolume(&node.join("opt/nested/in/nested"));
    let others = [("ext4", "boot"), ("xfs", "usr"), ("btrfs", "var")];
    let others = others.map(|(kind, at)| Disk::new(kind, image(at), &node.join(at)));
    std::iter::once(root).chain(others).collect()
}

#[test]
fn root_of_six_filesystems_is_one_transaction() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(|which| tree(&PARTS, which));
    let (site, mut disks) = site_on(&first, mount_six_filesystems);
    let same = || judge::same(&site.image(), &site.node(), &EXCLUDED);
    site.publish(&second);
    let before = site.snapshot();
    update(&site, &[]);
    same();

    roll_back_to(&site, &before);
    roll_back_to(&site, &site.image());

    // A filesystem is missing at the recovery of an update that was killed after its seal.
    site.publish(&first);
    kill_at_first_step(&site);
    for (disk, at) in disks.iter_mut().zip(["", "boot", "usr", "var"]).skip(1) {
        disk.unmount();
        let message = format!("/{at} takes part in it, but is not mounted");
        recover(&site).ended(6, &[&message]);
        site.update(&[]).ended(6, &[&message]);
        assert!(site.status().contains("interrupted"));
        disk.mount();
    }

    // The tree is no generation yet; with all filesystems mounted, the recovery completes it.
    assert!(!judge::differences(&site.image(), &site.node(), &EXCLUDED).is_empty());

    recover(&site).ended(0, &["completing an update"]);
    same();
    assert_eq!(list_stages(&site.node()), "");

    site.updated(&["--check=content"]).ended(0, &["is up to date"]);
    // An update killed before its seal leaves nothing behind, in no subvolume either.
    site.publish(&second);

    let killed = update_with_fault(&site, "syncfs", "signal=KILL", 1);
    assert_eq!(killed.code, -1, "{killed:#?}");
    assert!(list_stages(&site.node()).contains("opt/nested/in/nested/.si-stage"));
    assert!(!site.node().join(".si-stage/journal").exists());

    recover(&site).ended(0, &["no update"]);
    assert_eq!(list_stages(&site.node()), "");

    update(&site, &["--check=touched"]);
    same();
}

#[test]
fn rollback_names_filesystem_that_is_not_as_at_the_update() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(|generation| tree(&PARTS, generation));
    let (site, mut disks) = site_on(&first, mount_six_filesystems);
    let (node, before) = (site.node(), site.snapshot());
    site.publish(&second);
    update(&site, &[]);
    let assert_refused = |message: &str| {
        for more in [&[][..], &["--dry-run"]] {
            site.rollback(more).ended(5, &[message, "nothing was changed"]);
        }
    };

    for (disk, at) in disks.iter_mut().zip(["", "boot", "usr", "var"]).skip(1) {
        disk.unmount();
        let message = match at {
            "var" => "/var has the state of this node and is not mounted".to_owned(),
            _ => format!("/{at} takes part in the rollback, but is not mounted"),
        };
        assert_refused(&message);
        assert_empty(&node.join(at));

        // An empty disk, of the type of the lost one.
        let kind = if at == "boot" { "ext4" } else { "xfs" };
        let mut other = Disk::new(kind, site.dir.path().join("other"), &node.join(at));
        if at != "var" {
            assert_refused("but another filesystem is mounted there");
        }
        other.unmount();
        drop(other);
        disk.mount();
    }

    // A filesystem is mounted over a directory that was none at the update.
    let other = Disk::new("ext4", site.dir.path().join("other"), &node.join("usr/kinds"));
    assert_refused("/usr/kinds is mounted, but was a plain directory at the update");
    drop(other);

    judge::same(&site.image(), &node, &EXCLUDED);
    roll_back_to(&site, &before);
}

#[test]
fn lost_filesystem_is_left_out_of_rollback() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let parts = ["", "boot", "usr"];
    let [first, second] = Generation::BOTH.map(|generation| {
        let mut tree = tree(&parts, generation);
        trees::put(&mut tree, "srv", Item::dir());
        tree
    });
    let (site, mut disks) = site_on(&first, |site| {
        let root = Disk::new("ext4", site.dir.path().join("root"), &site.node());
        let others = ["boot", "usr", "srv"];
        let others =
            others.map(|at| Disk::new("ext4", site.dir.path().join(at), &site.node().join(at)));
        std::iter::once(root).chain(others).collect::<Vec<_>>()
    });
    let (node, before) = (site.node(), site.snapshot());
    site.publish(&second);
    update(&site, &[]);

    for (path, message) in [
        ("/boot", "it is mounted; leave out --skip-filesystem"),
        ("/srv", "it is no filesystem on which the rollback changes anything"),
        ("/nowhere", "it is no filesystem on which the rollback changes anything"),
    ] {
        site.rollback(&["--skip-filesystem", path]).ended(5, &[message, "nothing was changed"]);
    }
    site.update(&["--skip-filesystem", "/boot"]).ended(2, &["--skip-filesystem"]);

    // The first disk of the list is the root.
    disks[1].unmount();
    site.rollback(&["--skip-filesystem=/boot", "--dry-run"]).ended(0, &["would roll back"]);
    judge::same(&site.image(), &node, &[&EXCLUDED[..], &["/boot"]].concat());
    let left_out = "on a filesystem that the rollback left out";
    site.rollback(&["--skip-filesystem=/boot"]).ended(0, &[left_out]);

    judge::same(&before, &node, &[&EXCLUDED[..], &["/boot"]].concat());
    assert_empty(&node.join("boot"));
    let status = site.status();
    assert!(status.contains("serial:      1"), "{status}");
    // Unchanged paths of the lost disk are missing as well.
    for path in ["changed", "same"] {
        assert!(status.contains(&format!("/boot/{path}: {left_out}")), "{status}");
    }
    assert!(!status.contains("/usr/changed"), "{status}");

    // A new disk replaces the lost one; the next update fills it.
    let _new = Disk::new("ext4", site.dir.path().join("new"), &node.join("boot"));
    update(&site, &["--unhold"]);
    judge::same(&site.image(), &node, &EXCLUDED);
}

/// A node with `/var` and `/usr` on disks of their own, of which only `/usr` has changes.
fn site_with_state_disk(tree: &Tree) -> (Site, [Disk; 3]) {
    site_on(tree, |site| {
        ["", "usr", "var"].map(|at| {
            let image = site.dir.path().join(format!("disk-{at}"));
            Disk::new("ext4", image, &site.node().join(at))
        })
    })
}

#[test]
fn recovery_without_state_filesystem_makes_all_changes() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(|generation| tree(&["", "usr"], generation));
    let (site, mut disks) = site_with_state_disk(&first);
    let (node, before) = (site.node(), site.snapshot());
    site.publish(&second);
    kill_at_first_step(&site);
    disks[2].unmount();

    let made = "all changes of";
    recover(&site).ended(0, &["completing an update", made, "/var is not mounted"]);
    judge::same(&site.image(), &node, &[&EXCLUDED[..], &["/var"]].concat());
    let stage = node.join(".si-stage");
    assert!(stage.join("journal").exists() && stage.join("applied").exists());

    // The journal is not repeated, neither here nor by the run that records the state: a program
    // has changed a time since.
    run(Command::new("touch").args(["-d", "@5"]).arg(node.join("usr/time")));
    recover(&site).ended(0, &[made]);
    site.update(&[]).ended(6, &["/var takes part in it, but is not mounted"]);
    assert_empty(&node.join("var"));
    disks[2].mount();
    assert!(site.status().contains("interrupted"), "{}", site.status());
    recover(&site).ended(0, &["completing an update", "is at generation"]);

    let modified = fs::metadata(node.join("usr/time")).and_then(|found| found.modified());
    let since = modified.expect("a time").duration_since(std::time::UNIX_EPOCH);
    assert_eq!(since.expect("a time").as_secs(), 5, "the action was repeated");
    judge::same(&site.image(), &node, &[&EXCLUDED[..], &["/usr/time"]].concat());
    assert!(site.status().contains("serial:      2"), "{}", site.status());
    assert_eq!(list_stages(&node), "");

    run(Command::new("touch")
        .arg("-r")
        .arg(site.image().join("usr/time"))
        .arg(node.join("usr/time")));
    roll_back_to(&site, &before);
}

#[test]
fn kill_at_any_step_without_state_filesystem_is_recovered() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let trees = Generation::BOTH.map(|generation| tree(&["", "usr"], generation));
    let (site, mut disks) = site_with_state_disk(&trees[0]);
    let kills = [
        ("renameat2", [3, 40]),
        ("renameat", [1, 2]),
        ("fsync", [1, 2]),
        ("syncfs", [1, 2]),
        ("unlinkat", [3, 60]),
        ("utimensat", [1, 20]),
    ];

    let (mut first_kills, mut second_kills) = (0, 0);
    for (round, (call, nth)) in
        kills.iter().flat_map(|(call, all)| all.map(|nth| (*call, nth))).enumerate()
    {
        site.publish(&trees[(round + 1) % 2]);
        kill_at_first_step(&site);
        disks[2].unmount();
        first_kills += usize::from(
            run_with_fault(&recover_command(&site), call, "signal=KILL", nth).code == -1,
        );
        recover(&site).ended(0, &["all changes of"]);
        judge::same(&site.image(), &site.node(), &[&EXCLUDED[..], &["/var"]].concat());
        assert_empty(&site.node().join("var"));

        disks[2].mount();
        second_kills += usize::from(
            run_with_fault(&recover_command(&site), call, "signal=KILL", nth).code == -1,
        );
        recover(&site).ended(0, &[]);

        judge::same(&site.image(), &site.node(), &EXCLUDED);
        assert_eq!(list_stages(&site.node()), "", "{call} {nth}");
        let serial = format!("serial:      {}", round + 2);
        assert!(site.status().contains(&serial), "{call} {nth}: {}", site.status());
    }
    assert!(first_kills > 5 && second_kills > 5, "{first_kills} and {second_kills} kills");
}

#[test]
fn locked_stage_admits_no_recovery() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(|generation| tree(&["", "usr"], generation));
    let (site, mut disks) = site_with_state_disk(&first);
    site.publish(&second);
    kill_at_first_step(&site);

    let stage = fs::File::open(site.node().join(".si-stage")).expect("opens");
    rustix::fs::flock(&stage, rustix::fs::FlockOperation::LockExclusive).expect("locks");
    recover(&site).ended(7, &["is running"]);
    disks[2].unmount();
    recover(&site).ended(7, &["is running"]);
    assert!(!site.node().join(".si-stage/applied").exists());

    drop(stage);
    recover(&site).ended(0, &["all changes of"]);
    disks[2].mount();
    recover(&site).ended(0, &[]);
    judge::same(&site.image(), &site.node(), &EXCLUDED);
}

#[test]
fn list_of_filesystems_names_those_with_pending_changes() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(|generation| tree(&["", "usr"], generation));
    let (site, mut disks) = site_with_state_disk(&first);
    let list = || {
        let mut command = recover_command(&site);
        let run = Run::from_output(command.arg("--list-filesystems").output().expect("runs"));
        run.ended(0, &[]);
        run.out
    };
    site.publish(&second);
    assert_eq!(list(), "");
    kill_at_first_step(&site);

    // All are mounted; then only the one with the state is not; then both are not.
    assert_eq!(list(), "");
    disks[2].unmount();
    assert_eq!(list(), "");
    disks[1].unmount();
    assert_eq!(list(), "/usr\n");
    trees::write_text(
        &site.node().join("etc/fstab"),
        "UUID=7 /usr ext4 defaults,noatime,x-initrd.mount 0 2\n",
    );
    assert_eq!(list(), "/usr UUID=7 ext4 rw,noatime\n");

    // A symbolic link at the mount point is not followed by the mount.
    fs::remove_dir(site.node().join("usr")).expect("removes");
    std::os::unix::fs::symlink("/etc", site.node().join("usr")).expect("links");
    assert_eq!(list(), "/usr\n");
    assert_eq!(recover(&site).code, 6);
}

#[test]
fn removed_or_read_only_subvolume_refuses_update() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let mut tree = tree(&[""], Generation::First);
    trees::put(&mut tree, "srv/data/file", Item::file("1"));
    trees::put(&mut tree, "srv/fixed/file", Item::file("1"));
    let (site, _disk) = site_on(&tree, |site| {
        let root = Disk::new("btrfs", site.dir.path().join("disk"), &site.node());
        disk::subvolume(&site.node().join("srv/data"));
        disk::subvolume(&site.node().join("srv/fixed"));
        root
    });
    let fixed = site.node().join("srv/fixed");
    disk::set_access(&fixed, Access::ReadOnly);
    let assert_refused = |site: &Site, words: &[&str]| {
        site.update(&["--no-fallback"]).ended(5, words).ended(5, &["nothing was changed"]);
        assert_eq!(list_stages(&site.node()), "");
    };

    // A read-only subvolume without changes does not stop an update.
    trees::put(&mut tree, "srv/data/file", Item::file("2"));
    site.publish(&tree);
    update(&site, &[]);
    judge::same(&site.image(), &site.node(), &EXCLUDED);

    let mut content = tree.clone();
    trees::put(&mut content, "srv/fixed/file", Item::file("2"));
    let mut time = tree.clone();
    trees::put(&mut time, "srv/fixed/file", Item::file("1").mtime(5, 5));
    let mut mode = tree.clone();
    mode.get_mut(&b"srv/fixed"[..]).expect("is there").mode = 0o700;

    for next in [&content, &time, &mode] {
        site.publish(next);
        assert_refused(&site, &["/srv/fixed", "read-only subvolume"]);
    }

    disk::set_access(&fixed, Access::Writable);
    update(&site, &[]);
    judge::same(&site.image(), &site.node(), &EXCLUDED);

    // A subvolume can neither be removed nor replaced.
    let mut without = tree.clone();
    without.retain(|path, _| !path.starts_with(b"srv/data"));
    site.publish(&without);
    assert_refused(&site, &["/srv/data is to be removed, but is a filesystem of its own"]);

    trees::put(&mut without, "srv/data", Item::new(ItemKind::Symlink(b"fixed".to_vec())));
    site.publish(&without);
    assert_refused(&site, &["/srv/data changes, but a filesystem is mounted on it"]);

    // A hard link into a subvolume is refused by name.
    trees::put(&mut tree, "srv/data/link", Item::new(ItemKind::Link(b"same".to_vec())));
    site.publish(&tree);
    assert_refused(&site, &["the hardlink group of /srv/data/link spans two filesystems"]);
}

#[test]
fn snapshots_are_unchanged_by_update() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(|which| tree(&["", "var/data"], which));
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

    // The node is up to date, which needs no comparison of the tree.
    let run = site.updated(&[]);
    run.ended(0, &["is up to date"]);
    assert!(!run.err.contains("compared"), "{run:#?}");

    site.publish(&second);
    update(&site, &["--purge-untracked"]).ended(0, &["2 untracked paths kept"]);
    let untracked = judge::same_except_untracked(
        &site.image(),
        &node,
        &[&EXCLUDED[..], &["/.snapshots"]].concat(),
    );
    assert_eq!(untracked, ["home/user/own/file", "home/user/own/", "home/user/", "home/"]);

    // The first snapshot still equals the first generation, except for the other subvolume.
    site.publish(&first);
    let snapshot = node.join(".snapshots/1/snapshot");
    judge::same(&site.image(), &snapshot, &[&EXCLUDED[..], &["/var/data", "/.snapshots"]].concat());
    assert!(fs::read_dir(snapshot.join(".snapshots")).expect("lists").next().is_none());
    judge::same(&site.image().join("var/data"), &node.join(".snapshots/2/snapshot"), &EXCLUDED);
}

#[test]
fn untracked_file_in_bind_mount_is_kept() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(|generation| {
        let mut tree = tree(&["", "srv/source", "var/shown"], generation);
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

    // A file tracked at one of the two paths and untracked at the other is kept.
    update(&site, &[]).ended(0, &["deviates: /etc/file: content"]);
    let excluded = [&EXCLUDED[..], &["/etc/file", "/*/*/only", "/*/*/local"]].concat();
    judge::same(&site.image(), &node, &excluded);

    let read =
        |path: &str| fs::read_to_string(node.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(read("etc/file"), "another container's");

    // Both paths show one inode, which is not reported as a hard-link mismatch.
    site.updated(&["--check=content", "--purge-untracked"]);
    for path in ["srv/source/only/here", "var/shown/only/there"] {
        assert!(read(path).starts_with("tracked"));
    }
    assert!(!node.join("srv/source/local").exists());
    judge::same(&site.image(), &node, &excluded);

    // The bind mount is missing at the recovery of an update that was killed after its seal.
    site.publish(&first);
    drop(over);

    kill_at_first_step(&site);
    drop(bound);
    recover(&site).ended(6, &["/var/shown takes part in it, but is not mounted"]);
    let _bound = Mounted::bind(&node.join("srv/source"), &node.join("var/shown"));

    recover(&site).ended(0, &["completing an update"]);
    judge::same(&site.image(), &node, &excluded);
    assert_eq!(list_stages(&node), "");
}

const EXFAT: [Need; 2] = [Need::Program("mkfs.exfat"), Need::Program("mount.exfat-fuse")];

/// System with an EFI system partition, which supports no owners, modes, links and attributes.
fn with_firmware(generation: Generation) -> Tree {
    let second = generation.is_second();
    let mut tree = tree(&[""], generation);
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

/// Node with a FUSE exfat at boot/efi: no owners, links, attributes, or exchange of names.
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
fn assert_firmware_updated(site: &Site, image: &Path) {
    let efi = [image, &site.node()].map(|tree| tree.join("boot/efi"));
    let early = "EFI/before-1980";
    judge::same_contents(&efi[0], &efi[1], &[".si-*", early]);

    // exfat cannot store the time of this file.
    assert_eq!(
        fs::read(efi[0].join(early)).expect("reads"),
        fs::read(efi[1].join(early)).expect("reads")
    );

    let differences =
        judge::differences(image, &site.node(), &[&EXCLUDED[..], &["/boot/efi", "/mnt"]].concat());
    assert!(differences.is_empty(), "the node is not the image:\n{}", differences.join("\n"));
}

#[test]
fn exfat_differs_only_in_unsupported_metadata() {
    require!(NEEDED, EXFAT);

    disk::enter_mount_namespace();
    let [first, second] = Generation::BOTH.map(with_firmware);
    let (site, mut disk) = site_with_firmware(&first);
    let link = "/boot/efi/EFI/link: fuseblk does not support a link";

    site.updated(&["--adopt"]).ended(0, &[link, "recorded as node"]);
    site.updated(&["--check=content"]).ended(0, &[link, "is up to date"]);
    let before = site.dir.path().join("first");
    crate::common::copy_tree(&site.image(), &before);

    // A disk that the administrator mounted is not purged.
    let _stick = Disk::new("exfat", site.dir.path().join("stick"), &site.node().join("mnt"));
    fs::write(site.node().join("mnt/photo"), "the node's").expect("writes");
    site.publish(&second);
    update(&site, &["--purge-untracked"])
        .ended(0, &[link, "EFI/new/pipe: fuseblk does not support a fifo"]);
    assert_firmware_updated(&site, &site.image());
    assert!(site.node().join("mnt/photo").exists());

    // No check level finds a difference, even after a new mount with other inode numbers.
    for check in ["--check=stat", "--check=content"] {
        disk.unmount();
        disk.mount();
        let run = site.updated(&[check]);
        run.ended(0, &["is up to date"]);
        assert!(!run.out.contains("repaired"), "{run:#?}");
    }

    disk.unmount();
    let message = "/boot/efi takes part in the rollback, but is not mounted";
    site.rollback(&[]).ended(5, &[message, "nothing was changed"]);
    assert_empty(&site.node().join("boot/efi"));
    disk.mount();

    site.rollback(&[]).ended(0, &[]);
    assert_firmware_updated(&site, &before);

    site.rollback(&[]).ended(0, &[]);
    assert_firmware_updated(&site, &site.image());

    // Drift on the limited filesystem is repaired by an update.
    fs::write(site.node().join("boot/efi/EFI/same"), "the sale").expect("writes");
    fs::remove_file(site.node().join("boot/efi/EFI/d/../loader")).expect("removes");

    site.updated(&["--check=stat"])
        .ended(0, &["repaired: /boot/efi/EFI/loader", "repaired: /boot/efi/EFI/same"]);
    assert_firmware_updated(&site, &site.image());

    // A full sync updates the limited filesystem.
    site.publish(&first);
    site.archives("diffs").iter().for_each(|diff| fs::remove_file(diff).expect("removes a diff"));

    site.updated(&["--max-delete", "100%"]).ended(0, &["full sync"]);
    assert_firmware_updated(&site, &site.image());
}

#[test]
fn kill_at_any_step_on_exfat_is_recovered() {
    require!(NEEDED, EXFAT);

    disk::enter_mount_namespace();
    let trees = Generation::BOTH.map(with_firmware);
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
        let killed = update_with_fault(&site, call, "signal=KILL", nth);
        if site.node().join(".si-stage/journal").exists() {
            sealed += 1;
            eprintln!("sealed at {call} {nth}");
            disk.unmount();
            recover(&site).ended(6, &["/boot/efi takes part in it, but is not mounted"]);
            disk.mount();
            recover(&site).ended(0, &["completing an update"]);
            assert_firmware_updated(&site, &site.image());
        }

        let run = update(&site, &["--unhold"]);
        assert!(run.code == 0, "{call} {nth}: {killed:#?}");
        assert_firmware_updated(&site, &site.image());
        assert_eq!(list_stages(&site.node()), "", "{call} {nth}");
    }
    assert!(sealed > 2, "only {sealed} kills met a sealed transaction");
}

#[test]
fn full_exfat_refuses_update_and_rollback() {
    require!(NEEDED, EXFAT);

    disk::enter_mount_namespace();
    let mut tree = with_firmware(Generation::First);
    trees::put(&mut tree, "boot/efi/large", Item::file(vec![1; 35_000_000]));
    let (site, _disk) = site_with_firmware(&tree);

    site.updated(&["--adopt"]);
    trees::put(&mut tree, "boot/efi/large", Item::file(vec![2; 35_000_000]));
    site.publish(&tree);

    site.update(&[]).ended(5, &["no room on this node", "/boot/efi has", "nothing was changed"]);
    trees::put(&mut tree, "boot/efi/large", Item::file(vec![2; 10_000_000]));
    site.publish(&tree);
    update(&site, &[]);
    assert_firmware_updated(&site, &site.image());

    // A rollback is refused if there is no space for the old file.
    let filler = site.node().join("boot/efi/filler");
    fs::write(&filler, vec![3; 20_000_000]).expect("writes");

    site.rollback(&[]).ended(5, &["no room on this node", "/boot/efi has", "nothing was changed"]);
    fs::remove_file(filler).expect("removes");
    site.rollback(&[]).ended(0, &[]);

    assert_eq!(
        fs::metadata(site.node().join("boot/efi/large")).expect("is there").len(),
        35_000_000
    );
}
