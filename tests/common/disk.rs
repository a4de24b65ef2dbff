//! Real filesystems in files, mounted where only the test sees them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

/// A filesystem in a file; ends with the test.
pub struct Disk {
    pub image: PathBuf,
    at: Mounted,
}

/// A mount that ends with the test.
pub struct Mounted(PathBuf);

/// Lets what this thread and its children mount from now on be seen by nobody else, so that even a test
/// that is killed leaves no mount behind.
pub fn private() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    run(Command::new("mount").args(["--make-rprivate", "/"]));
    // What other tests had mounted at this moment came along, and would stay in use as long as this one runs.
    let mounts = fs::read_to_string("/proc/thread-self/mounts").expect("what is mounted");
    let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
    for at in places.filter(|at| Path::new(at).starts_with(super::scratch_place())) {
        let _ = Command::new("umount").arg("-l").arg(at).output();
    }
}

impl Disk {
    /// A new filesystem of this `kind` in the file `image`, mounted at `at`, which is made.
    #[track_caller]
    pub fn new(kind: &str, image: PathBuf, at: &Path) -> Self {
        let (bytes, quiet): (u64, &[&str]) = match kind {
            "xfs" => (320 << 20, &["-q"]),
            "btrfs" => (256 << 20, &["-q"]),
            _ => (64 << 20, &["-q"]),
        };
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("a file for a filesystem");
        run(Command::new(format!("mkfs.{kind}")).args(quiet).arg(&image));
        fs::create_dir_all(at).expect("a mount point");
        let disk = Disk { image, at: Mounted(at.to_owned()) };
        disk.mount();
        disk
    }

    pub fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.at.0));
    }

    pub fn unmount(&self) {
        run(Command::new("umount").arg(&self.at.0));
    }
}

impl Mounted {
    /// Shows `from`, a directory or a file, also at `at`.
    pub fn bind(from: &Path, at: &Path) -> Self {
        run(Command::new("mount").arg("--bind").arg(from).arg(at));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Makes a btrfs subvolume, and the directories above it.
pub fn subvolume(at: &Path) {
    fs::create_dir_all(at.parent().expect("a directory above")).expect("directories");
    run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(at));
}

/// Makes a read-only snapshot.
pub fn snapshot(of: &Path, at: &Path) {
    fs::create_dir_all(at.parent().expect("a directory above")).expect("directories");
    run(Command::new("btrfs").args(["-q", "subvolume", "snapshot", "-r"]).arg(of).arg(at));
}

/// Makes a subvolume read-only, or writable again.
pub fn set_read_only(at: &Path, read_only: bool) {
    run(Command::new("btrfs").args(["property", "set", "-ts"]).arg(at).args(["ro", &read_only.to_string()]));
}
