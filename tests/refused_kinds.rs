//! Objects that the kernel lets nobody replace: found before the commit point, and named.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::closed_mount::USER;
use crate::common::disk::enter_mount_namespace;
use crate::common::site::Site;
use crate::common::small_disk::{DISK, SmallDisk};
use crate::common::trees::{self, Item};
use crate::common::{ROOT_AND_RSYNC, require, run};

/// Gives a directory an encryption policy (fscrypt version 2) with a fixed key.
const ENCRYPT: &str = r#"
import fcntl, os, struct, sys
top, directory = sys.argv[1:]
FS_IOC_ADD_ENCRYPTION_KEY = 3 << 30 | 80 << 16 | ord("f") << 8 | 23
FS_IOC_SET_ENCRYPTION_POLICY = 2 << 30 | 12 << 16 | ord("f") << 8 | 19
identifier_kind, raw = 2, b"K" * 64
argument = struct.pack("<II32sI36x", identifier_kind, 0, bytes(32), len(raw)) + raw
argument = bytearray(argument)
fcntl.ioctl(os.open(top, os.O_RDONLY), FS_IOC_ADD_ENCRYPTION_KEY, argument, True)
identifier = bytes(argument[8:24])
policy = bytearray(struct.pack("<BBBB4x16s", 2, 1, 4, 3, identifier))
fcntl.ioctl(os.open(directory, os.O_RDONLY), FS_IOC_SET_ENCRYPTION_POLICY, policy)
"#;

/// Encrypts an empty directory of the filesystem that is mounted at `top`; false if this kernel
/// cannot.
fn encrypt(top: &Path, directory: &Path) -> bool {
    let done = Command::new("python3").args(["-c", ENCRYPT]).args([top, directory]).output();
    let done = done.expect("python3 runs");
    if !done.status.success() {
        eprintln!("NOT TESTED: fscrypt: {}", String::from_utf8_lossy(&done.stderr));
    }
    done.status.success()
}

/// Site with a node on a filesystem of its own, at the first of two publishes.
fn site_with(change: impl Fn(u32, &mut trees::Tree)) -> (Site, SmallDisk) {
    let image = |round| {
        let mut tree = trees::system();
        trees::put(&mut tree, "etc/version", Item::file(format!("version {round}")));
        change(round, &mut tree);
        tree
    };
    let site = Site::at(&image(1));
    let disk = SmallDisk::for_node(&site, 64, 4000);
    site.updated(&["--adopt"]);
    site.publish(&image(2));
    (site, disk)
}

#[test]
fn active_swap_file_is_refused_before_seal() {
    require!(ROOT_AND_RSYNC, DISK, Program("mkswap"), Program("swapon"));
    enter_mount_namespace();
    let (site, disk) = site_with(|round, tree| {
        let swap = Item::file(vec![b'x'; 4 << 20]).mode(0o600);
        trees::put(tree, "opt/swap", swap.mtime(1_600_000_000 + i64::from(round), 0));
    });
    let swap = disk.at.join("opt/swap");
    run(Command::new("mkswap").arg(&swap));
    let on = Command::new("swapon").arg(&swap).output().expect("swapon runs");
    if !on.status.success() {
        eprintln!("NOT TESTED: swapon: {}", String::from_utf8_lossy(&on.stderr));
        return;
    }

    let refused = site.update(&["--check", "stat", "--no-fallback"]);
    let again = site.update(&["--check", "stat", "--no-fallback"]);
    run(Command::new("swapoff").arg(&swap));

    for refused in [refused, again] {
        refused.ended(5, &["/opt/swap changes, but is an active swap file", "swapoff"]);
    }
    site.nothing_left();
    site.updated(&["--check", "stat", "--no-fallback"]);
    site.same();
}

#[test]
fn encrypted_directory_is_found_before_seal() {
    require!(ROOT_AND_RSYNC, DISK, Program("python3"), Program("tune2fs"));
    enter_mount_namespace();
    for (path, owner, code) in [("srv/enc", 0, 5), ("home/u/enc", USER, 15)] {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        let (site, disk) = site_with(|round, tree| {
            trees::put(tree, above, Item::dir().owner(owner, owner));
            trees::put(tree, path, Item::dir().owner(owner, owner));
            let text =
                format!("in round {round}, of another length {}", "x".repeat(round as usize));
            trees::put(tree, &format!("{path}/file"), Item::file(text));
        });

        // Only an empty directory can be encrypted.
        disk.unmount();
        run(Command::new("tune2fs").args(["-O", "encrypt"]).arg(&disk.file));
        disk.mount();
        let directory = disk.at.join(path);
        let file = fs::read(directory.join("file")).expect("reads");
        fs::remove_file(directory.join("file")).expect("removes");
        if !encrypt(&disk.at, &directory) {
            return;
        }
        fs::write(directory.join("file"), file).expect("writes");

        for _ in 0..2 {
            let run = site.update(&["--check", "stat", "--no-fallback"]);
            run.ended(code, &[&format!("/{path}")]);
        }
        let version = fs::read_to_string(disk.at.join("etc/version")).expect("reads");
        assert_eq!(version, format!("version {}", if code == 15 { 2 } else { 1 }), "{path}");
        site.nothing_left();
    }
}

#[test]
fn flagged_state_is_refused_before_seal() {
    require!(ROOT_AND_RSYNC, Program("chattr"));
    let site = Site::at(&trees::system());
    let mut next = trees::system();
    trees::put(&mut next, "etc/version", Item::file("version 2"));
    site.publish(&next);
    let client = site.node().join("var/lib/systemimager/client");

    let manifest = fs::read_dir(&client).expect("lists").find_map(|entry| {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        name.starts_with("manifest-").then_some(name)
    });
    let manifest = manifest.expect("a recorded manifest");
    for path in ["state.toml", "", "../../../../etc/systemimager/IMAGE_LAST_SYNCED_TO"] {
        let path = client.join(path);
        run(Command::new("chattr").arg("+i").arg(&path));
        let update = site.update(&["--no-fallback"]);
        run(Command::new("chattr").arg("-i").arg(&path));

        assert_eq!(update.code, 5, "{path:?}: {update:?}");
        assert!(!site.node().join("etc/version").exists(), "{path:?}");
    }

    // The manifest of before is only tidied up: a flag on it stops nothing.
    let manifest = client.join(manifest);
    run(Command::new("chattr").arg("+i").arg(&manifest));
    let update = site.update(&["--no-fallback"]);
    run(Command::new("chattr").arg("-i").arg(&manifest));
    update.ended(0, &[]);
    site.same();
}

#[test]
fn directory_that_takes_no_more_names_is_left_out() {
    require!(ROOT_AND_RSYNC, DISK);
    enter_mount_namespace();
    let (site, disk) = site_with(|round, tree| {
        trees::put(tree, "home/u", Item::dir().owner(USER, USER));
        trees::put(tree, "home/u/file", Item::file("the user's").owner(USER, USER));
        for number in 0..if round == 1 { 0 } else { 30 } {
            let name = format!("home/u/{number:02}{}", "n".repeat(230));
            trees::put(tree, &name, Item::file(format!("new {number}")).owner(USER, USER));
        }
    });

    // The index of a directory with blocks of 1 KiB has two levels at most.
    let home = disk.at.join("home/u");
    let filler = |number: u32| home.join(format!("{number:06}{}", "f".repeat(234)));
    fs::write(filler(0), "").expect("writes");
    // Other parts of the index have room when the first name is refused: they are filled too.
    let (mut made, mut number, mut refused) = (vec![0], 1, 0);
    while refused < 100 {
        match fs::hard_link(filler(0), filler(number)) {
            Ok(()) => {
                made.push(number);
                refused = 0;
            }
            Err(_) => refused += 1,
        }
        number += 1;
    }
    assert!(disk.free() > 8 << 20, "the disk itself is full after {} names", made.len());

    for _ in 0..2 {
        site.update(&["--no-fallback"]).ended(15, &["home/u", "left out"]);
        let version = fs::read_to_string(disk.at.join("etc/version")).expect("reads");
        assert_eq!(version, "version 2");
        site.nothing_left();
    }
    for number in made {
        fs::remove_file(filler(number)).expect("removes");
    }
    site.updated(&["--no-fallback"]);
    site.same();
}
