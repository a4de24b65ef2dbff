//! A mount of a user that nobody else may inspect, as gocryptfs and sshfs make them.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The user of the mount.
pub const USER: u32 = 65534;

/// A FUSE mount of [`USER`] without `allow_other`: the kernel answers everyone else, also root, with
/// EACCES. No program serves it, since no call reaches one.
pub struct ClosedMount {
    at: PathBuf,
    _device: File,
}

impl ClosedMount {
    /// Mounts it at `at`, a directory; `None` if this machine has no FUSE.
    pub fn new(at: &Path) -> Option<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        let options =
            format!("fd={},rootmode=40000,user_id={USER},group_id={USER}", device.as_raw_fd());
        let options = CString::new(options).expect("no NUL");
        mount("closed", at, "fuse", MountFlags::NOSUID | MountFlags::NODEV, Some(&*options))
            .ok()?;
        Some(ClosedMount { at: at.to_owned(), _device: device })
    }
}

impl Drop for ClosedMount {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}
