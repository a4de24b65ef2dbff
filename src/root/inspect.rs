//! Looking at a tree without changing it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Access, AtFlags, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::entry::{Device, Meta, Mtime, Xattrs, xattr_travels};
use crate::tree_path::TreePath;

use super::fault::change;
use super::resolve::Holder;
use super::{Result, Root, absent};

/// `f_type` of xfs.
const XFS: u64 = 0x5846_5342;

/// What lstat says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// In bytes.
    pub size: u64,
    /// Time of last modification.
    pub mtime: Mtime,
    /// Time of last change of the inode.
    pub ctime: Mtime,
    /// The filesystem.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// Number of names.
    pub links: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    Char(Device),
    /// A block device.
    Block(Device),
    /// A socket.
    Socket,
}

/// Flags that keep a path from being changed, and the mount that it lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pins {
    /// `chattr +i`.
    pub immutable: bool,
    /// `chattr +a`.
    pub append_only: bool,
    /// The kernel's number of the mount; 0 where the kernel does not say (before 5.8).
    pub mount: u64,
    /// Whether something is mounted right here; false where the kernel does not say.
    pub mount_root: bool,
}

/// What is free on a filesystem, for root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes.
    pub bytes: u64,
    /// Bytes of the whole filesystem, free or not.
    pub total: u64,
    /// The size of a block in bytes.
    pub block: u64,
    /// Inodes.
    pub inodes: u64,
    /// Whether the filesystem has a fixed number of inodes.
    pub has_inodes: bool,
}

impl Root {
    /// What is free on the filesystem that holds the top of this tree.
    pub fn room(&self) -> Result<FreeSpace> {
        let found = rustix::fs::fstatvfs(&self.dir)
            .map_err(|e| self.error("inspect", &TreePath::root(), e))?;
        let block = found.f_frsize.max(1);
        Ok(FreeSpace {
            bytes: found.f_bavail.saturating_mul(block),
            total: found.f_blocks.saturating_mul(block),
            block,
            inodes: found.f_favail,
            has_inodes: found.f_files > 0,
        })
    }

    /// Whether this tree is the one that this program itself runs in.
    pub fn is_running_system(&self) -> Result<bool> {
        let fail = |e| self.error("inspect", &TreePath::root(), e);
        let own = rustix::fs::statat(rustix::fs::CWD, "/", AtFlags::empty()).map_err(fail)?;
        let here = rustix::fs::fstat(&self.dir).map_err(fail)?;
        Ok((own.st_dev, own.st_ino) == (here.st_dev, here.st_ino))
    }

    /// What stands at `path`; `None` where nothing does, or where the way leads through a symlink
    /// or something else that is no directory.
    pub fn stat(&self, path: &TreePath) -> Result<Option<Stat>> {
        let answer = if path.is_root() {
            rustix::fs::fstat(&self.dir)
        } else {
            self.parent_of(path)
                .and_then(|dir| rustix::fs::statat(dir, path.name(), AtFlags::SYMLINK_NOFOLLOW))
        };
        match answer {
            Ok(stat) => Ok(Some(Stat::from(stat))),
            Err(e) if absent(&e.into()) => Ok(None),
            Err(e) => Err(self.error("inspect", path, e)),
        }
    }

    /// Opens the regular file at `path` for reading.
    pub fn open_file(&self, path: &TreePath) -> Result<File> {
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY);
        let file = File::from(fd.map_err(|e| self.error("open", path, e))?);
        let stat = rustix::fs::fstat(&file).map_err(|e| self.error("inspect", path, e))?;
        let what = match Stat::from(stat).kind {
            FileKind::File => return Ok(file),
            FileKind::Directory => "it is a directory and no plain file",
            FileKind::Fifo => "it is a named pipe and no plain file",
            _ => "it is no plain file",
        };
        Err(self.error("read", path, std::io::Error::other(what)))
    }

    /// The text of the symlink at `path`.
    pub fn read_link(&self, path: &TreePath) -> Result<Box<[u8]>> {
        let text = self
            .parent_of(path)
            .and_then(|dir| rustix::fs::readlinkat(dir, path.name(), Vec::new()));
        text.map(|t| t.into_bytes().into()).map_err(|e| self.error("read the symlink", path, e))
    }

    /// The extended attributes at `path` that belong to an image.
    pub fn xattrs(&self, path: &TreePath) -> Result<Xattrs> {
        self.xattrs_where(path, xattr_travels)
    }

    /// The extended attributes at `path` whose names pass `keep`.
    pub fn xattrs_where(&self, path: &TreePath, keep: impl Fn(&[u8]) -> bool) -> Result<Xattrs> {
        let read = || {
            let dir = if path.is_root() { None } else { Some(self.parent_of(path)?) };
            StatTarget::of(self, dir.as_ref(), path).all(&keep)
        };
        read().map_err(|e| self.error("read the extended attributes of", path, e))
    }

    /// What tells this tree from a copy of it: the filesystem, and the inode and birth of the top
    /// directory. It is the same after a reboot, also where disks are then found in another order.
    ///
    /// ext4 and btrfs make the number of a filesystem from its UUID. That of xfs is the number of its
    /// device; in its place stands there the birth of the top directory to the nanosecond, which for the
    /// top of a filesystem is the moment of its making.
    pub fn identity(&self) -> Result<String> {
        let read = || -> rustix::io::Result<String> {
            let inode = rustix::fs::fstat(&self.dir)?.st_ino;
            let (birth, nanos) =
                match rustix::fs::statx(&self.dir, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME) {
                    Ok(found) if found.stx_mask & StatxFlags::BTIME.bits() != 0 => {
                        (found.stx_btime.tv_sec, found.stx_btime.tv_nsec)
                    }
                    Ok(_) | Err(Errno::NOSYS) => (0, 0),
                    Err(e) => return Err(e),
                };
            let filesystem = if rustix::fs::fstatfs(&self.dir)?.f_type as u64 == XFS && birth != 0 {
                format!("{birth:x}.{nanos:x}")
            } else {
                format!("{:x}", rustix::fs::fstatvfs(&self.dir)?.f_fsid)
            };
            Ok(format!("{filesystem}-{inode}-{birth}"))
        };
        read().map_err(|e| self.error("inspect", &TreePath::root(), e))
    }

    /// Whether the directory at `path` may be written to: false where it is on a filesystem, or in a btrfs
    /// subvolume, that is read-only.
    pub fn may_write(&self, path: &TreePath) -> Result<bool> {
        let dir = self.open_dir(path)?;
        match rustix::fs::accessat(&dir, c".", Access::WRITE_OK, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Ok(false),
            Err(e) => Err(self.error("inspect", path, e)),
        }
    }

    /// What keeps `path` from being changed, beyond permissions.
    pub fn pins(&self, path: &TreePath) -> Result<Option<Pins>> {
        let answer = if path.is_root() {
            pins_in(self.dir.as_fd(), c"")
        } else {
            self.parent_of(path).and_then(|dir| pins_in(dir.as_fd(), path.name()))
        };
        present(answer).map_err(|e| self.error("inspect", path, e))
    }
}

/// Of what stands at `name` in `dir`.
pub(super) fn pins_in(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
) -> rustix::io::Result<Option<Pins>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let want = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    match rustix::fs::statx(dir, name, flags, want) {
        Ok(found) => Ok(Some(Pins {
            immutable: found.stx_attributes.contains(StatxAttributes::IMMUTABLE),
            append_only: found.stx_attributes.contains(StatxAttributes::APPEND),
            mount: found.stx_mnt_id,
            mount_root: found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })),
        // Before Linux 4.11 there is no statx: nothing is known, and a change that cannot be
        // made fails when it is staged or, at worst, stops between two generations.
        Err(Errno::NOSYS) => {
            Ok(Some(Pins { immutable: false, append_only: false, mount: 0, mount_root: false }))
        }
        Err(e) => Err(e),
    }
}

/// Nothing where a call found nothing.
pub(super) fn present<T>(answer: rustix::io::Result<Option<T>>) -> rustix::io::Result<Option<T>> {
    match answer {
        Err(e) if absent(&e.into()) => Ok(None),
        answer => answer,
    }
}

impl Stat {
    /// The metadata that this is, with `xattrs`.
    pub fn meta(&self, xattrs: Xattrs) -> Meta {
        Meta { mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime, xattrs }
    }
}

/// A path for the xattr calls, which know no `at` form: through the descriptor of its directory.
pub(super) struct StatTarget(std::path::PathBuf);

impl StatTarget {
    pub(super) fn of(root: &Root, dir: Option<&Holder>, path: &TreePath) -> Self {
        let dir = dir.map_or(root.dir.as_fd(), |dir| dir.as_fd());
        // "." keeps lgetxattr from looking at the magic link itself.
        StatTarget::inside(dir, if path.is_root() { b"." } else { path.name() })
    }

    pub(super) fn inside(dir: BorrowedFd<'_>, name: &[u8]) -> Self {
        use std::os::fd::AsRawFd;
        use std::os::unix::ffi::OsStrExt;
        let place = std::path::PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        StatTarget(place.join(std::ffi::OsStr::from_bytes(name)))
    }

    /// Those whose names pass `keep`; none where there cannot be any.
    pub(super) fn all(&self, keep: impl Fn(&[u8]) -> bool) -> rustix::io::Result<Xattrs> {
        let mut found = Xattrs::new();
        let names = match self.list() {
            Err(Errno::OPNOTSUPP) => return Ok(found),
            names => names?,
        };
        for name in names.split(|&b| b == 0).filter(|name| !name.is_empty() && keep(name)) {
            match self.get(name) {
                Ok(value) => drop(found.insert(name.into(), value.into())),
                // It went away in between.
                Err(Errno::NODATA) => {}
                Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    pub(super) fn list(&self) -> rustix::io::Result<Vec<u8>> {
        grown(|buffer| rustix::fs::llistxattr(&self.0, buffer))
    }

    pub(super) fn get(&self, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
        grown(|buffer| rustix::fs::lgetxattr(&self.0, name, buffer))
    }

    pub(super) fn set(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        change(|| rustix::fs::lsetxattr(&self.0, name, value, rustix::fs::XattrFlags::empty()))
    }

    pub(super) fn remove(&self, name: &[u8]) -> rustix::io::Result<()> {
        change(|| rustix::fs::lremovexattr(&self.0, name))
    }
}

/// Calls with a larger buffer until the answer fits; the kernel bounds it at 64 KiB.
fn grown(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 512];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 17 => buffer.resize(buffer.len() * 8, 0),
            Err(e) => return Err(e),
        }
    }
}

impl From<rustix::fs::Stat> for Stat {
    // The widths of these fields differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn from(stat: rustix::fs::Stat) -> Self {
        use rustix::fs::FileType;
        let device = Device {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        };
        Stat {
            kind: match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => FileKind::Directory,
                FileType::Symlink => FileKind::Symlink,
                FileType::Fifo => FileKind::Fifo,
                FileType::CharacterDevice => FileKind::Char(device),
                FileType::BlockDevice => FileKind::Block(device),
                FileType::Socket => FileKind::Socket,
                _ => FileKind::File,
            },
            mode: (stat.st_mode & 0o7777) as u16,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            mtime: Mtime { seconds: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
            ctime: Mtime { seconds: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 },
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            links: stat.st_nlink as u64,
            blocks: stat.st_blocks as u64,
        }
    }
}
