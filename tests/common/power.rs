//! Disks whose power can be cut: filesystems in files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::run;

/// A filesystem that the product knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

/// A disk that is mounted; it goes when this is dropped, also by a panic.
pub struct MountedDisk {
    file: PathBuf,
    at: PathBuf,
    kind: Kind,
}

/// A hand on the switch of a disk.
pub struct PowerSwitch(Child);

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }

    /// The program that makes one.
    pub fn mkfs(self) -> &'static str {
        match self {
            Kind::Ext4 => "mkfs.ext4",
            Kind::Xfs => "mkfs.xfs",
            Kind::Btrfs => "mkfs.btrfs",
        }
    }

    /// Makes an empty filesystem of so many MiB, 300 at least for xfs, in the new, sparse `file`.
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
            // Without it ext4 writes a file's data before a rename over another, whoever forgot to.
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
            // Two that look for a free loop device at a time may find the same one.
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                said.contains("loop device") && tries.next().is_some(),
                "{}: {said}",
                at.display()
            );
            thread::sleep(Duration::from_millis(10));
        }
        MountedDisk { file: file.to_owned(), at: at.to_owned(), kind: self }
    }
}

impl MountedDisk {
    /// What is mounted.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Unmounts it and mounts it again; what its journal holds is replayed.
    pub fn remount(self) -> MountedDisk {
        let (file, at, kind) = (self.file.clone(), self.at.clone(), self.kind);
        self.unmount();
        kind.mount(&file, &at)
    }

    /// Unmounts it; all that used it has to be gone, or to go at once as the rsync of a run that was
    /// killed does.
    pub fn unmount(self) {
        let device = run(Command::new("findmnt").args(["-n", "-o", "SOURCE", "-M"]).arg(&self.at));
        let unmount = || Command::new("umount").arg(&self.at).output().expect("umount runs");
        let mut tries = 0..500;
        while let output = unmount()
            && !output.status.success()
        {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                said.contains("busy") && tries.next().is_some(),
                "{}: {said}",
                self.at.display()
            );
            thread::sleep(Duration::from_millis(10));
        }
        if self.kind == Kind::Btrfs {
            // Kernels before 6.3 remember the device, and take an older copy on another one for a mistake.
            let _ =
                Command::new("btrfs").args(["device", "scan", "--forget", device.trim()]).output();
        }
        std::mem::forget(self);
    }

    /// Unmounts it and removes its file.
    pub fn discard(self) {
        let file = self.file.clone();
        self.unmount();
        fs::remove_file(file).expect("removes");
    }

    /// Lays a hand on the switch. Only on ext4 and xfs.
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
    /// Cuts the power: from here every call fails, and what was not made durable is gone.
    ///
    /// It is the ioctl `FS_IOC_SHUTDOWN` with the flag `NOLOGFLUSH`.
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
