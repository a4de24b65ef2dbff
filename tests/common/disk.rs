//! Real filesystems in files, mounted where only the test sees them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::run;

/// A filesystem in a file; ends with the test.
pub struct Disk {
    pub image: PathBuf,
    kind: String,
    at: Mounted,
    /// The loop device of one that a program mounts.
    device: Option<String>,
}

/// A mount that ends with the test.
pub struct Mounted(PathBuf);

/// Lets what this thread and its children mount from now on be seen by nobody else, so that even a test
/// that is killed leaves no mount behind.
pub fn enter_mount_namespace() {
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
            "exfat" => (64 << 20, &[]),
            _ => (64 << 20, &["-q"]),
        };
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("a file for a filesystem");
        run(Command::new(format!("mkfs.{kind}")).args(quiet).arg(&image));
        fs::create_dir_all(at).expect("a mount point");
        let mut disk =
            Disk { image, kind: kind.to_owned(), at: Mounted(at.to_owned()), device: None };
        disk.mount();
        disk
    }

    pub fn mount(&mut self) {
        if self.kind != "exfat" {
            run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.at.0));
            return;
        }
        // The kernel's own driver is not everywhere; the program's filesystem is of the same family.
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&self.image));
        let device = self.device.insert(device.trim().to_owned());
        let done = Command::new("mount.exfat-fuse")
            .arg(device)
            .arg(&self.at.0)
            .stdout(Stdio::null())
            .status();
        assert!(done.is_ok_and(|status| status.success()), "mount.exfat-fuse fails");
    }

    pub fn unmount(&mut self) {
        run(Command::new("umount").arg(&self.at.0));
        self.release();
    }

    fn release(&mut self) {
        // The program may still hold it for a moment; it is given back then.
        if let Some(device) = self.device.take() {
            let _ = Command::new("losetup").arg("-d").arg(device).output();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at.0).output();
        self.release();
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
    run(Command::new("btrfs")
        .args(["property", "set", "-ts"])
        .arg(at)
        .args(["ro", &read_only.to_string()]));
}
