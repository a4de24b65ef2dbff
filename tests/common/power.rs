//! Disks whose power can be cut: filesystems in image files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::run;

/// A supported filesystem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

/// A mounted disk; unmounted on drop, also after a panic.
pub struct MountedDisk {
    file: PathBuf,
    at: PathBuf,
    kind: Kind,
}

/// The power switch of a disk.
pub struct PowerSwitch(Child);

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }

    /// The program that makes the filesystem.
    pub fn mkfs(self) -> &'static str {
        match self {
            Kind::Ext4 => "mkfs.ext4",
            Kind::Xfs => "mkfs.xfs",
            Kind::Btrfs => "mkfs.btrfs",
        }
    }

    /// Makes an empty filesystem of `size` MiB (xfs needs 300) in the new, sparse `file`.
    pub fn make(self, file: &Path, size: u64) {
        fs::File::create(file)
            .and_then(|file| file.set_len(size << 20))
            .expect("a file for a filesystem");
        run(Command::new(self.mkfs()).arg("-q").arg(file));
    }

    /// Mounts `file` at the directory `at`.
    pub fn mount(self, file: &Path, at: &Path) -> MountedDisk {
        fs::create_dir_all(at).expect("a mount point");
        let options = match self {
            // Without this option ext4 writes the data of a file before a rename replaces another
            // file. That would hide a missing fsync.
            Kind::Ext4 => "loop,noauto_da_alloc",
            Kind::Xfs | Kind::Btrfs => "loop",
        };
        let mount = || {
            Command::new("mount")
                .args(["-t", self.name(), "-o", options])
                .arg(file)
                .arg(at)
                .output()
        };
        let mut tries = 0..500;

        while let output = mount().expect("mount runs")
            && !output.status.success()
        {
            // Two mounts at the same time may choose the same free loop device.
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(
                message.contains("loop device") && tries.next().is_some(),
                "{}: {message}",
                at.display()
            );
            thread::sleep(Duration::from_millis(10));
        }

        MountedDisk { file: file.to_owned(), at: at.to_owned(), kind: self }
    }
}

impl MountedDisk {
    /// The image file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The mount point.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Unmounts the disk and mounts it again, which replays its journal.
    pub fn remount(self) -> MountedDisk {
        let (file, at, kind) = (self.file.clone(), self.at.clone(), self.kind);
        self.unmount();
        kind.mount(&file, &at)
    }

    /// Unmounts the disk.
    ///
    /// Its users must have ended, or must end soon, such as the rsync of a run that was killed.
    pub fn unmount(self) {
        let device = run(Command::new("findmnt").args(["-n", "-o", "SOURCE", "-M"]).arg(&self.at));
        let unmount = || Command::new("umount").arg(&self.at).output().expect("umount runs");
        let mut tries = 0..500;

        while let output = unmount()
            && !output.status.success()
        {
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(
                message.contains("busy") && tries.next().is_some(),
                "{}: {message}",
                self.at.display()
            );
            thread::sleep(Duration::from_millis(10));
        }

        if self.kind == Kind::Btrfs {
            // Kernels before 6.3 remember the device, and refuse an older copy of the filesystem on
            // another one.
            let _ =
                Command::new("btrfs").args(["device", "scan", "--forget", device.trim()]).output();
        }

        std::mem::forget(self);
    }

    /// Unmounts the disk and removes its image file.
    pub fn discard(self) {
        let file = self.file.clone();
        self.unmount();
        fs::remove_file(file).expect("removes");
    }

    /// Returns the power switch. Only ext4 and xfs have one.
    pub fn switch(&self) -> PowerSwitch {
        let mut xfs_io = Command::new("xfs_io");
        xfs_io
            .arg("-x")
            .arg(&self.at)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        PowerSwitch(xfs_io.spawn().expect("xfs_io runs"))
    }
}

impl Drop for MountedDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

impl PowerSwitch {
    /// Cuts the power: from now on every call fails, and data that was not made durable is lost.
    ///
    /// It calls the ioctl `FS_IOC_SHUTDOWN` with the flag `NOLOGFLUSH`.
    pub fn cut(mut self) {
        let mut commands = self.0.stdin.take().expect("is piped");
        commands.write_all(b"shutdown\nquit\n").expect("xfs_io listens");
        drop(commands);
        assert!(self.0.wait().expect("xfs_io ends").success(), "xfs_io could not cut the power");
    }
}

impl Drop for PowerSwitch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
