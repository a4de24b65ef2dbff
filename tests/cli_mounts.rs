//! Mounts on a node: single files, directories, local filesystems and foreign ones.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, ItemKind, Tree};
use crate::common::{Need, judge, read, require, run};

const NEEDED: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("mount")];

/// A mount that is unmounted on drop.
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

    /// Makes a filesystem in the file `image` and moves the content of the mount point onto it.
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

#[test]
fn file_under_bind_mount_is_reported_and_untouched() {
    require!(NEEDED);

    let mut tree = with(&[("usr/lib/a", "one inode"), ("etc/resolv.conf", "the image's")]);
    for name in ["usr/lib/b", "usr/lib/c"] {
        trees::put(&mut tree, name, Item::new(ItemKind::Link(b"usr/lib/a".to_vec())));
    }
    let site = Site::at(&tree);
    let source = site.dir.path().join("over");
    fs::write(&source, "the container's").expect("writes");

    // A single file, and the first path of a hard-link group.
    let file_mount = Mounted::bind(&source, &site.node().join("etc/resolv.conf"));
    let group_mount = Mounted::bind(&source, &site.node().join("usr/lib/a"));
    let inode = fs::metadata(site.node().join("usr/lib/b")).expect("is there").ino();
    trees::put(&mut tree, "etc/passwd", Item::file("newer"));

    site.publish(&tree);
    site.updated(&["--no-fallback"])
        .ended(0, &["deviates: /etc/resolv.conf: content", "deviates: /usr/lib/a"]);
    assert_eq!(read(&site.node().join("etc/resolv.conf")), "the container's");
    assert_eq!(read(&source), "the container's");
    assert_eq!(fs::metadata(site.node().join("usr/lib/b")).expect("is there").ino(), inode);
    assert!(site.status().contains("/etc/resolv.conf: content"));
    judge::same(&site.image(), &site.node(), &["/etc/resolv.conf", "/usr/lib/a"]);

    // A change or removal of a mounted path is refused.
    for change in ["etc/resolv.conf", "usr/lib/a"] {
        let mut next = tree.clone();
        trees::put(&mut next, change, Item::file("the image's, newer"));
        site.publish(&next);
        let named = format!("/{change} changes, but");
        site.update(&["--no-fallback"]).ended(5, &[&named, "mounted", "nothing was changed"]);
    }

    tree.remove(&b"etc/resolv.conf"[..]);
    site.publish(&tree);

    site.update(&["--no-fallback"])
        .ended(5, &["/etc/resolv.conf changes, but", "nothing was changed"]);
    site.nothing_left();

    drop((file_mount, group_mount));
    site.updated(&["--no-fallback"]);

    site.same();
}

#[test]
fn mount_below_removed_directory_is_refused() {
    require!(NEEDED);

    let tree = with(&[("srv/app/in/file", "data"), ("srv/kept", "data")]);
    let site = Site::at(&tree);
    let elsewhere = site.dir.path().join("elsewhere");
    trees::write_text(&elsewhere.join("sentinel"), "untouched");
    let file = elsewhere.join("sentinel");
    let mut without = tree.clone();
    without.retain(|path, _| !path.starts_with(b"srv/app"));
    let mut converted = without.clone();
    trees::put(&mut converted, "srv/app", Item::new(ItemKind::Symlink(b"kept".to_vec())));
    let mounts: [(&str, &dyn Fn() -> Mounted); 3] = [
        ("/srv/app/in", &|| Mounted::bind(&elsewhere, &site.node().join("srv/app/in"))),
        ("/srv/app/in", &|| Mounted::tmpfs(&site.node().join("srv/app/in"))),
        ("/srv/app/in/file", &|| Mounted::bind(&file, &site.node().join("srv/app/in/file"))),
    ];

    for next in [&without, &converted] {
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
fn foreign_filesystem_over_tracked_directory_is_untouched() {
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

    // When the mount is removed, the files below it equal the image; removed paths are untracked.
    drop(run_directory);
    site.updated(&["--no-fallback"]);

    assert_eq!(judge::same_except_untracked(&site.image(), &site.node(), &[]), ["run/gone"]);
}

#[test]
fn mounts_that_hide_tracked_paths_are_named() {
    require!(NEEDED);

    let mut tree =
        with(&[("opt/app/a", "a"), ("opt/app/b", "b"), ("run/lock/file", "the image's")]);
    let site = Site::at(&tree);
    let node = site.node();
    let _mounts = ["opt", "run"].map(|at| Mounted::tmpfs(&node.join(at)));
    trees::put(&mut tree, "opt/app/a", Item::file("newer"));
    trees::put(&mut tree, "etc/passwd", Item::file("newer"));
    site.publish(&tree);
    let named =
        format!("{} is tmpfs: 3 tracked paths there are hidden", node.join("opt").display());
    let repair = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        command.args(["--repair", "--yes", "--repo", &site.repo_url, "--root"]).arg(&node);
        Run::from_output(command.args(more).output().expect("runs"))
    };

    repair(&["--exclude-file", "/dev/null"]).ended(0, &[&named]);
    site.update(&["--download-only"]).ended(0, &[&named]);
    let switch = site.update(&["--from-downloaded"]);
    switch.ended(0, &[&named, "1 path changed"]);
    assert!(!format!("{switch:?}").contains("run is tmpfs"), "{switch:#?}");

    // Excluded paths are hidden from the update anyway.
    let rules = site.dir.path().join("rules");
    fs::write(&rules, "/opt/*\n").expect("writes");
    let run = repair(&["--exclude-file", &rules.display().to_string()]);
    assert!(!format!("{run:?}").contains("tmpfs"), "{run:#?}");
}

#[test]
fn filesystems_that_fstype_leaves_out_are_named() {
    require!(Root, LoopDevice, Program("rsync"), Program("mkfs.ext4"));

    let mut tree = with(&[("opt/app/a", "a")]);
    let site = Site::at(&tree);
    let _opt = Mounted::ext4(&site.dir.path().join("opt.img"), &site.node().join("opt"));
    let config = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&config, "fstype = [\"xfs\"]\n");
    trees::put(&mut tree, "opt/app/a", Item::file("newer"));
    site.publish(&tree);

    site.update(&[]).ended(0, &["opt is ext4: 2 tracked paths there are hidden"]);

    assert_eq!(read(&site.node().join("opt/app/a")), "a");
}

#[test]
fn each_local_filesystem_has_its_own_stage() {
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

    // A hard link cannot cross filesystems: the update is refused before any change.
    let mut crossing = tree.clone();
    trees::put(&mut crossing, "boot/copy", Item::new(ItemKind::Link(b"etc/passwd".to_vec())));
    trees::put(&mut crossing, "etc/passwd", Item::file("newer still"));

    site.publish(&crossing);
    site.update(&["--no-fallback"])
        .ended(5, &["hardlink group of", "two filesystems", "nothing was changed"]);

    // A mount point cannot be removed.
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
fn read_only_filesystem_refuses_only_its_own_changes() {
    require!(NEEDED);

    let mut tree = with(&[("usr/lib/file", "data")]);
    let site = Site::at(&tree);
    let usr = site.node().join("usr");

    // A different time of a directory on it is no reason to refuse.
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

    for (next, named) in [(&mode, "/usr/lib changes, but"), (&text, "/usr/lib/file changes, but")] {
        site.publish(next);
        site.update(&["--no-fallback"])
            .ended(5, &[named, "mounted read-only", "nothing was changed"]);
    }

    drop(mounted);
    site.updated(&["--no-fallback"]);

    assert_eq!(judge::same_except_untracked(&site.image(), &site.node(), &[]), ["usr/lib/local"]);
}

#[test]
fn change_below_missing_fstab_mount_is_refused() {
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

#[test]
fn kernel_filesystem_in_image_stops_publish_before_packing() {
    require!(NEEDED);

    let site = Site::new();
    site.publish(&with(&[("proc/kept", "hidden by a mount")]));
    fs::write(site.image().join("etc/new"), "not published yet").expect("writes");
    type Mount = fn(&Path) -> Mounted;
    let mounts: [(Mount, &str); 3] = [
        (|at| Mounted::bind(Path::new("/proc"), at), "a mounted proc filesystem"),
        (Mounted::tmpfs, "a mounted tmpfs filesystem"),
        (
            |at| {
                run(Command::new("mount").args(["-t", "sysfs", "none"]).arg(at));
                Mounted(at.to_owned())
            },
            "a mounted sysfs filesystem",
        ),
    ];

    let at = site.image().join("proc");
    for (mount, words) in mounts {
        let mounted = mount(&at);
        let before = site.catalog();
        let images = site.dir.path().join("images");
        let mut publish = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        publish.args(["publish", "--image", "node", "--images-dir"]).arg(&images);
        publish.arg("--repo").arg(site.repo());
        let mut build = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        let diff = site.dir.path().join("built.tar.zst");
        build.arg("build").args([site.image(), site.image()]).arg("-o").arg(&diff);

        for command in [&mut publish, &mut build] {
            let output = crate::common::site::Run::from_output(command.output().expect("runs"));
            output.ended(1, &[&at.display().to_string(), words, "unmount it and publish again"]);
        }

        assert_eq!(site.catalog(), before);
        assert!(!diff.exists());
        let unfinished = fs::read_dir(site.repo().join("node/.new")).into_iter().flatten().count();
        assert_eq!(unfinished, 0);
        drop(mounted);
    }
    assert!(site.publish_image(&[]).is_empty());
    assert_eq!(site.catalog().serial, 2);
}
