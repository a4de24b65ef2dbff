//! What is mounted on a node: files, directories, filesystems of the image's own and foreign ones.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::site::Site;
use common::trees::{self, Item, ItemKind, Tree};
use common::{Need, judge, require, run};

const NEEDED: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("mount")];

/// A mount that ends with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(from: &Path, at: &Path) -> Self {
        run(Command::new("mount").arg("--bind").arg(from).arg(at));
        Mounted(at.to_owned())
    }

    fn tmpfs(at: &Path) -> Self {
        run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(at));
        Mounted(at.to_owned())
    }

    /// A filesystem in the file `image`, with what is at the mount point moved onto it.
    fn ext4(image: &Path, at: &Path) -> Self {
        fs::File::create(image)
            .and_then(|file| file.set_len(16 << 20))
            .expect("a file for a filesystem");
        run(Command::new("mkfs.ext4").arg("-q").arg(image));
        let aside = image.with_extension("aside");
        fs::rename(at, &aside).expect("renames");
        fs::create_dir(at).expect("makes the mount point");
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        let mounted = Mounted(at.to_owned());
        run(Command::new("cp").arg("-aT").arg(&aside).arg(at));
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn with(files: &[(&str, &str)]) -> Tree {
    let mut tree = trees::system();
    for (path, text) in files {
        trees::put(&mut tree, path, Item::file(*text));
    }
    tree
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_file_that_is_mounted_over_deviates_and_is_not_touched() {
    require!(NEEDED);

    let mut tree = with(&[("usr/lib/a", "one inode"), ("etc/resolv.conf", "the image's")]);
    for name in ["usr/lib/b", "usr/lib/c"] {
        trees::put(&mut tree, name, Item::new(ItemKind::Link(b"usr/lib/a".to_vec())));
    }
    let site = Site::at(&tree);
    let over = site.dir.path().join("over");
    fs::write(&over, "the container's").expect("writes");
    // one file alone, and the first name of a group
    let alone = Mounted::bind(&over, &site.node().join("etc/resolv.conf"));
    let first = Mounted::bind(&over, &site.node().join("usr/lib/a"));
    let others = fs::metadata(site.node().join("usr/lib/b")).expect("is there").ino();
    trees::put(&mut tree, "etc/passwd", Item::file("newer"));
    site.publish(&tree);
    site.updated(&["--no-fallback"])
        .ended(0, &["deviates: ./etc/resolv.conf: content", "deviates: ./usr/lib/a"]);
    assert_eq!(read(&site.node().join("etc/resolv.conf")), "the container's");
    assert_eq!(read(&over), "the container's");
    assert_eq!(fs::metadata(site.node().join("usr/lib/b")).expect("is there").ino(), others);
    assert!(site.status().contains("./etc/resolv.conf: content"));
    judge::same(&site.image(), &site.node(), &["/etc/resolv.conf", "/usr/lib/a"]);
    // what has to change there, or to go, is refused
    for change in ["etc/resolv.conf", "usr/lib/a"] {
        let mut next = tree.clone();
        trees::put(&mut next, change, Item::file("the image's, newer"));
        site.publish(&next);
        let named = format!("/{change} has to change and");
        site.update(&["--no-fallback"]).ended(5, &[&named, "mounted", "nothing was changed"]);
    }
    tree.remove(&b"etc/resolv.conf"[..]);
    site.publish(&tree);
    site.update(&["--no-fallback"])
        .ended(5, &["/etc/resolv.conf has to change and", "nothing was changed"]);
    site.nothing_left();
    drop((alone, first));
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn a_mount_below_a_directory_that_goes_or_becomes_something_else_is_refused_by_name() {
    require!(NEEDED);

    let tree = with(&[("srv/app/in/file", "data"), ("srv/stays", "data")]);
    let site = Site::at(&tree);
    let elsewhere = site.dir.path().join("elsewhere");
    trees::write_text(&elsewhere.join("sentinel"), "untouched");
    let file = elsewhere.join("sentinel");
    let mut without = tree.clone();
    without.retain(|path, _| !path.starts_with(b"srv/app"));
    let mut turned = without.clone();
    trees::put(&mut turned, "srv/app", Item::new(ItemKind::Symlink(b"stays".to_vec())));
    let mounts: [(&str, &dyn Fn() -> Mounted); 3] = [
        ("/srv/app/in", &|| Mounted::bind(&elsewhere, &site.node().join("srv/app/in"))),
        ("/srv/app/in", &|| Mounted::tmpfs(&site.node().join("srv/app/in"))),
        ("/srv/app/in/file", &|| Mounted::bind(&file, &site.node().join("srv/app/in/file"))),
    ];
    for next in [&without, &turned] {
        site.publish(next);
        for (at, mount) in &mounts {
            let mounted = mount();
            site.update(&["--no-fallback"]).ended(5, &[at, "mounted", "nothing was changed"]);
            site.nothing_left();
            assert_eq!(read(&file), "untouched");
            drop(mounted);
            assert_eq!(read(&site.node().join("srv/app/in/file")), "data");
        }
        site.updated(&["--no-fallback"]);
        site.same();
        site.publish(&tree);
        site.updated(&["--no-fallback"]);
    }
}

#[test]
fn a_foreign_filesystem_over_a_tracked_directory_is_not_touched() {
    require!(NEEDED);

    let mut tree = with(&[("run/lock/file", "the image's"), ("run/gone", "the image's")]);
    let site = Site::at(&tree);
    let run_directory = Mounted::tmpfs(&site.node().join("run"));
    fs::write(site.node().join("run/local"), "the node's").expect("writes");
    trees::put(&mut tree, "run/lock/file", Item::file("the image's, newer"));
    trees::put(&mut tree, "etc/passwd", Item::file("newer"));
    tree.remove(&b"run/gone"[..]);
    site.publish(&tree);
    site.updated(&["--no-fallback", "--purge-untracked"]);
    assert_eq!(fs::read_dir(site.node().join("run")).expect("lists").count(), 1);
    judge::same(&site.image(), &site.node(), &["/run"]);
    // what is below it is the image's again when it is uncovered, removed paths as untracked ones
    drop(run_directory);
    site.updated(&["--no-fallback"]);
    assert_eq!(judge::same_except_untracked(&site.image(), &site.node(), &[]), ["run/gone"]);
}

#[test]
fn filesystems_of_the_systems_own_take_part_each_with_its_stage() {
    require!(Root, LoopDevice, Program("rsync"), Program("mkfs.ext4"));

    let mut tree = with(&[("boot/initrd", "an initrd"), ("usr/lib/large", "x")]);
    let site = Site::at(&tree);
    let _boot = Mounted::ext4(&site.dir.path().join("boot.img"), &site.node().join("boot"));
    let _usr = Mounted::ext4(&site.dir.path().join("usr.img"), &site.node().join("usr"));
    trees::put(&mut tree, "boot/vmlinuz", Item::file(trees::noise(100_000, 1)));
    trees::put(&mut tree, "boot/new/deep/file", Item::file("new"));
    trees::put(&mut tree, "usr/lib/large", Item::file(trees::noise(100_000, 2)));
    trees::put(&mut tree, "usr/lib/app", Item::new(ItemKind::Symlink(b"large".to_vec())));
    tree.retain(|path, _| !path.starts_with(b"usr/lib/app/") && path != b"boot/initrd");
    tree.get_mut(&b"boot"[..]).expect("is there").mode = 0o700;
    trees::put(&mut tree, "etc/passwd", Item::file("newer"));
    site.publish(&tree);
    site.updated(&["--no-fallback"]);
    judge::same(&site.image(), &site.node(), &["lost+found"]);
    let device = |path: &str| fs::metadata(site.node().join(path)).expect("is there").dev();
    assert!(
        device("boot/vmlinuz") != device("") && device("boot/vmlinuz") != device("usr/lib/large")
    );
    for part in ["boot", "usr"] {
        assert!(site.node().join(part).join("lost+found").exists());
        assert!(!site.node().join(part).join(".si-stage").exists());
    }
    // a hardlink cannot cross: refused by name, before anything
    let mut crossing = tree.clone();
    trees::put(&mut crossing, "boot/copy", Item::new(ItemKind::Link(b"etc/passwd".to_vec())));
    trees::put(&mut crossing, "etc/passwd", Item::file("newer still"));
    site.publish(&crossing);
    site.update(&["--no-fallback"])
        .ended(5, &["hardlink group of", "two filesystems", "nothing was changed"]);
    // and the mount point itself cannot go
    let mut without = tree.clone();
    without.retain(|path, _| !path.starts_with(b"boot"));
    site.publish(&without);
    site.update(&["--no-fallback"]).ended(5, &["/boot", "mounted", "nothing was changed"]);
    judge::same(
        &{
            site.publish(&tree);
            site.image()
        },
        &site.node(),
        &["lost+found"],
    );
}

#[test]
fn a_part_that_is_mounted_read_only_stops_only_what_has_to_change_in_it() {
    require!(NEEDED);

    let mut tree = with(&[("usr/lib/file", "data")]);
    let site = Site::at(&tree);
    let usr = site.node().join("usr");
    // the time of a directory in it differs, which is no reason to stop
    trees::write_text(&usr.join("lib/local"), "the node's");
    let mounted = Mounted::bind(&usr, &usr);
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&usr));
    trees::put(&mut tree, "etc/passwd", Item::file("newer"));
    site.publish(&tree);
    site.updated(&["--no-fallback"]);
    assert_eq!(read(&site.node().join("etc/passwd")), "newer");
    let mut mode = tree.clone();
    mode.get_mut(&b"usr/lib"[..]).expect("is there").mode = 0o700;
    let mut text = tree.clone();
    trees::put(&mut text, "usr/lib/file", Item::file("newer"));
    for (next, named) in [(&mode, "/usr/lib has to change"), (&text, "/usr/lib/file has to change")]
    {
        site.publish(next);
        site.update(&["--no-fallback"])
            .ended(5, &[named, "mounted read-only", "nothing was changed"]);
    }
    drop(mounted);
    site.updated(&["--no-fallback"]);
    assert_eq!(judge::same_except_untracked(&site.image(), &site.node(), &[]), ["usr/lib/local"]);
}

#[test]
fn a_mount_that_the_fstab_names_and_that_is_missing() {
    require!(NEEDED);

    let site = Site::new();
    let mut tree = trees::everything();
    tree.insert(b"boot".to_vec(), Item::dir());
    tree.insert(b"boot/kernel".to_vec(), Item::file("1"));
    tree.insert(
        b"etc/fstab".to_vec(),
        Item::file("UUID=1 / ext4 defaults 0 1\nUUID=2 /boot ext4 noauto 0 2\n"),
    );
    site.publish(&tree);
    site.install_node();
    site.updated(&["--adopt"]);
    tree.insert(b"etc/fresh".to_vec(), Item::file("elsewhere"));
    site.publish(&tree);
    site.updated(&[]);
    tree.insert(b"boot/kernel".to_vec(), Item::file("2"));
    site.publish(&tree);
    site.update(&[]).ended(
        5,
        &["boot/kernel", "which the tree's fstab names, is not mounted", "nothing was changed"],
    );
    assert_eq!(std::fs::read_to_string(site.node().join("boot/kernel")).expect("reads"), "1");
}
