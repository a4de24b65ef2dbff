//! A small disk for the node: an ext4 filesystem in an image file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;
use super::site::Site;

/// Needs of a test with a small disk.
pub const DISK: [super::Need; 4] = [
    super::Need::Root,
    super::Need::LoopDevice,
    super::Need::Program("mkfs.ext4"),
    super::Need::Program("rsync"),
];

/// Mounts the file `$1` at `$2`. Two mounts at the same time may choose the same free loop device,
/// so the script retries.
pub const MOUNT: &str = "for _ in 1 2 3 4 5 6 7 8; do
    mount -o loop \"$1\" \"$2\" 2>/dev/null && exit 0
    sleep 0.2
done
exec mount -o loop \"$1\" \"$2\"";

/// A mounted disk; unmounted on drop.
pub struct SmallDisk {
    /// The image file.
    pub file: PathBuf,
    /// The mount point.
    pub at: PathBuf,
}

impl SmallDisk {
    /// Moves the node of `site` to a disk of `size` MiB, mounted in its place.
    pub fn for_node(site: &Site, size: u32, inodes: u32) -> Self {
        SmallDisk::for_path(site, "", size, inodes)
    }

    /// Moves the tree below `path` of the node to a disk of its own, mounted in its place.
    pub fn for_path(site: &Site, path: &str, size: u32, inodes: u32) -> Self {
        let part = path.replace('/', "-");
        let file = site.dir.path().join(format!("disk{part}"));
        let at = if path.is_empty() { site.node() } else { site.node().join(path) };
        let saved = site.dir.path().join(format!("saved{part}"));
        run(Command::new("cp").arg("-a").args([&at, &saved]));
        fs::remove_dir_all(&at).expect("removes");
        fs::create_dir(&at).expect("makes");
        fs::File::create(&file)
            .and_then(|file| file.set_len(u64::from(size) << 20))
            .expect("makes");
        let mut mkfs = Command::new("mkfs.ext4");
        run(mkfs.args(["-q", "-F", "-m", "0", "-N", &inodes.to_string()]).arg(&file));
        let disk = SmallDisk { file, at };
        disk.mount();
        fs::remove_dir(disk.at.join("lost+found")).expect("removes");
        run(Command::new("cp").arg("-a").arg(format!("{}/.", saved.display())).arg(&disk.at));
        fs::remove_dir_all(saved).expect("removes");

        disk
    }

    pub fn mount(&self) {
        run(Command::new("sh").args(["-c", MOUNT, "sh"]).arg(&self.file).arg(&self.at));
    }

    pub fn unmount(&self) {
        run(Command::new("umount").arg(&self.at));
    }

    /// Fills the disk up to `left` bytes, by the file `filler`.
    pub fn fill(&self, left: u64) {
        fill(&self.at, left);
    }

    /// Removes the file of [`fill`](Self::fill).
    pub fn drain(&self) {
        fs::remove_file(self.at.join("filler")).expect("removes");
    }

    /// Free space in bytes.
    pub fn free(&self) -> u64 {
        free(&self.at)
    }

    /// Number of free inodes.
    pub fn free_inodes(&self) -> u64 {
        rustix::fs::statvfs(&self.at).expect("statvfs").f_favail
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

fn free(at: &Path) -> u64 {
    let filesystem = rustix::fs::statvfs(at).expect("statvfs");
    filesystem.f_bavail * filesystem.f_frsize
}

fn fill(at: &Path, left: u64) {
    let mut file =
        fs::File::options().create(true).append(true).open(at.join("filler")).expect("makes");

    // Space that is reserved for delayed allocation does not count as free, and a part of it may be
    // released later. So the loop measures again.
    for _ in 0..8 {
        let mut rest = free(at).saturating_sub(left);
        while rest > 0 {
            let piece = rest.min(1 << 20) as usize;
            match file.write(&vec![1; piece]) {
                Ok(written) if written > 0 => rest = rest.saturating_sub(written as u64),
                _ => break,
            }
        }

        let _ = file.sync_all();
        if free(at) <= left {
            return;
        }
    }
}
