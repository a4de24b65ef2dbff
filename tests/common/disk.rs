//! Real filesystems in image files, mounted in a private mount namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::run;

/// A filesystem in an image file; unmounted on drop.
pub struct Disk {
    pub image: PathBuf,
    kind: String,
    at: Mounted,
    /// Loop device of a filesystem that a FUSE program mounts.
    device: Option<String>,
}

/// A mount point; unmounted on drop.
pub struct Mounted(PathBuf);

/// Moves this thread into a mount namespace of its own.
///
/// Mounts of this thread and its children are then private, so that a test that is killed leaves no
/// mount behind.
pub fn enter_mount_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    run(Command::new("mount").args(["--make-rprivate", "/"]));
    // The new namespace has copies of the mounts of other tests. Each copy would keep its
    // filesystem busy as long as this test runs.
    let mounts = fs::read_to_string("/proc/thread-self/mounts").expect("the mount table");
    let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
    for at in places.filter(|at| Path::new(at).starts_with(super::scratch_place())) {
        let _ = Command::new("umount").arg("-l").arg(at).output();
    }
}

impl Disk {
    /// Makes a filesystem of this `kind` in the file `image` and mounts it at the new directory
    /// `at`.
    #[track_caller]
    pub fn new(kind: &str, image: PathBuf, at: &Path) -> Self {
        Disk::with_options(kind, &[], image, at)
    }

    /// The same with options for mkfs.
    #[track_caller]
    pub fn with_options(kind: &str, options: &[&str], image: PathBuf, at: &Path) -> Self {
        let (bytes, quiet): (u64, &[&str]) = match kind {
            "xfs" => (320 << 20, &["-q"]),
            "btrfs" => (256 << 20, &["-q"]),
            "exfat" => (64 << 20, &[]),
            _ => (64 << 20, &["-q"]),
        };
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("a file for a filesystem");
        run(Command::new(format!("mkfs.{kind}")).args(quiet).args(options).arg(&image));
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

        // Not every kernel has its own exfat driver; the FUSE program is a member of the same
        // family.
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
        // If the FUSE program still holds the device, the kernel detaches it later.
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
    /// Bind-mounts `from`, a directory or a file, at `at`.
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

/// Makes a btrfs subvolume, and the missing directories above it.
pub fn subvolume(at: &Path) {
    fs::create_dir_all(at.parent().expect("a directory above")).expect("directories");
    run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(at));
}

/// Makes a read-only snapshot of a btrfs subvolume.
pub fn snapshot(of: &Path, at: &Path) {
    fs::create_dir_all(at.parent().expect("a directory above")).expect("directories");
    run(Command::new("btrfs").args(["-q", "subvolume", "snapshot", "-r"]).arg(of).arg(at));
}

/// Access to a btrfs subvolume.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    ReadOnly,
    Writable,
}

/// Makes a btrfs subvolume read-only or writable.
pub fn set_access(at: &Path, access: Access) {
    let read_only = match access {
        Access::ReadOnly => "true",
        Access::Writable => "false",
    };
    run(Command::new("btrfs").args(["property", "set", "-ts"]).arg(at).args(["ro", read_only]));
}
