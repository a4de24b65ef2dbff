//! Mounts that a user can make: a FUSE filesystem over a directory of his own.
//!
//! The program `fusermount3` mounts on behalf of users; here the test does, with the same options.
//! Nobody serves the filesystem. That does not matter: the kernel refuses every access of root's
//! with EACCES before it would ask the server, and with ENOTCONN after the server's end.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{Random, USER};

/// Source of the mounts in the list of mounts.
const SOURCE: &str = "si-hostile";
/// Directories of the user.
const PLACES: [&str; 6] = ["d", "d/sub", "e", "g", "s0", "s1"];

/// Mounts in a tree, made at random moments; all are removed on drop.
pub struct HostileMounts {
    node: PathBuf,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HostileMounts {
    /// In one of three rounds there is a mount, and in one of six it outlasts its server.
    pub fn start(node: &Path, seed: u64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, home) = (Arc::clone(&is_over), node.join("home/mallory"));
        let thread = thread::spawn(move || {
            let mut random = Random(seed);
            if random.below(3) > 0 {
                return;
            }
            thread::sleep(Duration::from_millis(random.below(200)));
            let place = PLACES[random.below(PLACES.len() as u64) as usize];
            let Some(server) = mount_fuse(&home.join(place)) else { return };
            if random.below(2) == 0 {
                thread::sleep(Duration::from_millis(random.below(100)));
                drop(server);
                return;
            }
            while !over.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
        });
        HostileMounts { node: node.to_owned(), is_over, thread: Some(thread) }
    }
}

impl Drop for HostileMounts {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }

        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines().filter(|line| line.contains(SOURCE)) {
            let place = line.split(' ').nth(4).unwrap_or_default();
            if Path::new(place).starts_with(&self.node) {
                let _ = unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            }
        }
    }
}

/// Mounts over a directory; returns the descriptor of the server, whose end breaks the mount.
fn mount_fuse(directory: &Path) -> Option<File> {
    let server = File::options().read(true).write(true).open("/dev/fuse").ok()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(CWD, directory, flags, Mode::empty()).ok()?;

    let fd = server.as_raw_fd();
    let data = format!("fd={fd},rootmode=40000,user_id={USER},group_id={USER}");
    let data = CString::new(data).expect("no zero byte");
    // The link leads to the directory that was opened, not to another one in its place.
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount(SOURCE, target, "fuse", flags, Some(data.as_c_str())).ok()?;
    Some(server)
}
