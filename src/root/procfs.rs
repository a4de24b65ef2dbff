//! Files of procfs, also if none is mounted at `/proc`, as in a new root directory.
//!
//! Some system calls take a path but no descriptor; a link below `/proc/self/fd` is the path of an
//! open inode. Without `/proc`, this module opens a procfs that is mounted nowhere, by fsopen(2)
//! and fsmount(2) of Linux 5.2. No other process sees it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Type of the filesystem in statfs(2).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// The procfs of this process, if `/proc` has none; an error if there is none at all.
static UNMOUNTED: OnceLock<Option<Result<OwnedFd, Errno>>> = OnceLock::new();

/// A path in procfs, for system calls that take a directory and a path.
pub(crate) struct ProcPath {
    /// Directory of procfs; ignored if `path` is absolute.
    pub dir: BorrowedFd<'static>,
    pub path: PathBuf,
}

impl ProcPath {
    /// `path` is relative to the top of procfs.
    pub fn new(path: impl AsRef<Path>) -> Self {
        match unmounted() {
            Some(Ok(dir)) => ProcPath { dir: dir.as_fd(), path: path.as_ref().to_owned() },
            Some(Err(_)) | None => ProcPath { dir: CWD, path: Path::new("/proc").join(path) },
        }
    }

    /// The link to an open inode.
    pub fn of(descriptor: impl AsFd) -> Self {
        ProcPath::new(format!("self/fd/{}", descriptor.as_fd().as_raw_fd()))
    }

    /// Calls a function that takes a path and no directory.
    pub fn call<T: Send, E: From<Errno> + Send>(
        &self,
        function: impl FnOnce(&Path) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        if self.path.is_absolute() {
            return function(&self.path);
        }
        in_directory(self.dir, || function(&self.path))
    }
}

/// Whether `/proc` has a procfs.
pub fn is_mounted() -> bool {
    unmounted().is_none()
}

/// Reads a file of procfs.
pub(crate) fn read(path: &str) -> io::Result<Vec<u8>> {
    let place = ProcPath::new(path);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(place.dir, &place.path, flags, Mode::empty());
    let file = file.map_err(|errno| match unmounted() {
        Some(Err(reason)) => io::Error::other(format!(
            "no procfs is mounted at /proc, and none can be opened ({reason}); run mount -t proc \
             proc /proc"
        )),
        _ => errno.into(),
    });

    let mut bytes = Vec::new();
    File::from(file?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Calls a function in a thread whose working directory is `directory`.
///
/// The children that the function starts begin there. No other thread is affected.
pub(crate) fn in_directory<T: Send, E: From<Errno> + Send>(
    directory: BorrowedFd<'_>,
    function: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    thread::scope(|scope| {
        let caller = thread::Builder::new().spawn_scoped(scope, || {
            let unshared = nix::sched::unshare(CloneFlags::CLONE_FS);
            unshared.map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
            rustix::process::fchdir(directory)?;
            function()
        });
        match caller.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Errno::INTR.into()),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN).into()),
        }
    })
}

fn unmounted() -> Option<&'static Result<OwnedFd, Errno>> {
    let procfs = UNMOUNTED.get_or_init(|| {
        let is_proc = |stat: rustix::fs::StatFs| stat.f_type as u64 == PROC_SUPER_MAGIC;
        (!rustix::fs::statfs("/proc").is_ok_and(is_proc)).then(open_unmounted)
    });
    procfs.as_ref()
}

fn open_unmounted() -> Result<OwnedFd, Errno> {
    let filesystem = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&filesystem)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
