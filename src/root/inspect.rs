//! Reading of metadata, without changing the tree.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Access, AtFlags, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::entry::{Device, EntryKind, Meta, Mtime, Xattrs};
use crate::tree_path::TreePath;

use super::error::{NotPlainFile, is_absent};
use super::{BoundedFile, Result, Root, lease};

/// Result of lstat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    pub mtime: Mtime,
    /// Time of the last change of the inode.
    pub ctime: Mtime,
    /// Device of the filesystem.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Number of hard links.
    pub links: u64,
    /// Allocated space, in units of 512 bytes.
    pub blocks: u64,
}

/// File type, with the device number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Directory,
    File,
    Symlink,
    Fifo,
    Char(Device),
    Block(Device),
    Socket,
}

/// Reasons for which a path cannot be changed, apart from permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeLocks {
    /// `chattr +i`.
    pub immutable: bool,
    /// `chattr +a`.
    pub append_only: bool,
    /// Whether it is encrypted by fscrypt: only names from the same policy can be added to it.
    pub encrypted: bool,
    /// Id of the mount; 0 if the kernel does not report it (before 5.8).
    pub mount: u64,
    /// Whether the path is a mount point; false if the kernel does not report it.
    pub mount_root: bool,
}

/// Free space of a filesystem, for root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    pub bytes: u64,
    /// Bytes of the whole filesystem.
    pub total: u64,
    /// Block size in bytes.
    pub block: u64,
    pub inodes: u64,
    /// Whether the number of inodes is fixed.
    pub has_inodes: bool,
}

impl Root {
    /// Free space of the filesystem of the root directory.
    pub fn free_space(&self) -> Result<FreeSpace> {
        let stat = rustix::fs::fstatvfs(&self.dir)
            .map_err(|e| self.error("inspect", &TreePath::root(), e))?;
        let block = stat.f_frsize.max(1);
        Ok(FreeSpace {
            bytes: stat.f_bavail.saturating_mul(block),
            total: stat.f_blocks.saturating_mul(block),
            block,
            inodes: stat.f_favail,
            has_inodes: stat.f_files > 0,
        })
    }

    /// Whether this tree is the one in which this program runs.
    pub fn is_running_system(&self) -> Result<bool> {
        let fail = |e| self.error("inspect", &TreePath::root(), e);
        let own = rustix::fs::statat(rustix::fs::CWD, "/", AtFlags::empty()).map_err(fail)?;
        let this = rustix::fs::fstat(&self.dir).map_err(fail)?;
        Ok((own.st_dev, own.st_ino) == (this.st_dev, this.st_ino))
    }

    /// Reads the metadata of a path; `None` if it does not exist.
    ///
    /// A path below a symbolic link, or below another file that is no directory, does not exist.
    pub fn stat(&self, path: &TreePath) -> Result<Option<Stat>> {
        let stat = if path.is_root() {
            rustix::fs::fstat(&self.dir)
        } else {
            self.parent_of(path)
                .and_then(|dir| rustix::fs::statat(dir, path.name(), AtFlags::SYMLINK_NOFOLLOW))
        };

        match stat {
            Ok(stat) => Ok(Some(Stat::from(stat))),
            Err(e) if is_absent(&e.into()) => Ok(None),
            Err(e) => Err(self.error("inspect", path, e)),
        }
    }

    /// Time at which the inode of a path was created; `None` if the filesystem does not store it.
    ///
    /// Unlike the ctime, it stays when the inode gets another link or name.
    pub fn birth_time(&self, path: &TreePath) -> Result<Option<Mtime>> {
        let birth = self
            .parent_of(path)
            .and_then(|dir| birth_time_in(dir.as_fd(), path.name(), AtFlags::SYMLINK_NOFOLLOW));
        birth.map_err(|e| self.error("inspect", path, e))
    }

    /// Opens a regular file for reading up to its present size.
    ///
    /// If another process holds a write lease on it, this waits a moment for the end of the lease.
    pub fn open_file(&self, path: &TreePath) -> Result<BoundedFile> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = lease::wait_for_end(|| self.resolve(path, flags));
        let file = File::from(fd.map_err(|e| self.error("open", path, lease::explain(e)))?);

        let stat = rustix::fs::fstat(&file).map_err(|e| self.error("inspect", path, e))?;
        let stat = Stat::from(stat);
        let kind = match stat.kind {
            FileKind::File => return Ok(BoundedFile::new(file, stat.size)),
            FileKind::Directory => "a directory and ",
            FileKind::Fifo => "a named pipe and ",
            _ => "",
        };
        Err(self.error("read", path, std::io::Error::other(NotPlainFile { kind })))
    }

    /// Reads the target of a symbolic link.
    pub fn read_link(&self, path: &TreePath) -> Result<Box<[u8]>> {
        self.parent_of(path)
            .and_then(|dir| rustix::fs::readlinkat(dir, path.name(), Vec::new()))
            .map(|target| target.into_bytes().into())
            .map_err(|e| self.error("read the symlink", path, e))
    }

    /// Identity of this tree: the filesystem, and inode and birth time of the root directory.
    ///
    /// A copy of the tree has another one. It survives a reboot, also if disks then have other
    /// numbers.
    pub fn identity(&self) -> Result<String> {
        self.read_identity().map_err(|e| self.error("inspect", &TreePath::root(), e))
    }

    fn read_identity(&self) -> rustix::io::Result<String> {
        const XFS_SUPER_MAGIC: u64 = 0x5846_5342;
        let inode = rustix::fs::fstat(&self.dir)?.st_ino;
        let birth = birth_time_in(self.dir.as_fd(), c"", AtFlags::EMPTY_PATH)?;
        let (birth, nanos) = birth.map_or((0, 0), |birth| (birth.seconds, birth.nanos));

        // ext4 and btrfs derive the id of a filesystem from its UUID. On xfs it is the device
        // number, which can change at each boot. There the birth of the root directory, to the
        // nanosecond, replaces it: for the root of a filesystem this is the time of its creation.
        let is_xfs = rustix::fs::fstatfs(&self.dir)?.f_type as u64 == XFS_SUPER_MAGIC;
        let filesystem = if is_xfs && birth != 0 {
            format!("{birth:x}.{nanos:x}")
        } else {
            format!("{:x}", rustix::fs::fstatvfs(&self.dir)?.f_fsid)
        };
        Ok(format!("{filesystem}-{inode}-{birth}"))
    }

    /// Whether a directory is writable; false on a filesystem or subvolume that is read-only.
    pub fn is_writable(&self, path: &TreePath) -> Result<bool> {
        let dir = self.open_dir(path)?;
        match rustix::fs::accessat(&dir, c".", Access::WRITE_OK, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Ok(false),
            Err(e) => Err(self.error("inspect", path, e)),
        }
    }

    /// Reads the reasons for which a path cannot be changed; `None` if it does not exist.
    pub fn change_locks(&self, path: &TreePath) -> Result<Option<ChangeLocks>> {
        let locks = if path.is_root() {
            change_locks_in(self.dir.as_fd(), c"")
        } else {
            self.parent_of(path).and_then(|dir| change_locks_in(dir.as_fd(), path.name()))
        };
        none_if_absent(locks).map_err(|e| self.error("inspect", path, e))
    }
}

/// Same as [`Root::change_locks`], for a name in an open directory.
pub(super) fn change_locks_in(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
) -> rustix::io::Result<Option<ChangeLocks>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let fields = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    match rustix::fs::statx(dir, name, flags, fields) {
        Ok(stat) => Ok(Some(ChangeLocks {
            immutable: stat.stx_attributes.contains(StatxAttributes::IMMUTABLE),
            append_only: stat.stx_attributes.contains(StatxAttributes::APPEND),
            encrypted: stat.stx_attributes.contains(StatxAttributes::ENCRYPTED),
            mount: stat.stx_mnt_id,
            mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })),
        // Before Linux 4.11 there is no statx, and filters of containers refuse it. Nothing is known
        // then; an impossible change fails while it is staged or, at worst, after the commit point.
        Err(Errno::NOSYS | Errno::PERM) => Ok(Some(ChangeLocks {
            immutable: false,
            append_only: false,
            encrypted: false,
            mount: 0,
            mount_root: false,
        })),
        Err(errno) => Err(errno),
    }
}

/// Birth time of a name in an open directory; `None` if it is unknown.
fn birth_time_in(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    flags: AtFlags,
) -> rustix::io::Result<Option<Mtime>> {
    match rustix::fs::statx(dir, name, flags, StatxFlags::BTIME) {
        Ok(stat) if stat.stx_mask & StatxFlags::BTIME.bits() != 0 => {
            Ok(Some(Mtime { seconds: stat.stx_btime.tv_sec, nanos: stat.stx_btime.tv_nsec }))
        }
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Turns the error of a missing path into `None`.
pub(super) fn none_if_absent<T>(
    answer: rustix::io::Result<Option<T>>,
) -> rustix::io::Result<Option<T>> {
    match answer {
        Err(e) if is_absent(&e.into()) => Ok(None),
        answer => answer,
    }
}

impl Stat {
    /// The metadata of an entry, with these extended attributes.
    pub fn meta(&self, xattrs: Xattrs) -> Meta {
        Meta { mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime, xattrs }
    }
}

impl FileKind {
    /// The kind by which exclude rules match.
    pub fn entry_kind(self) -> EntryKind {
        match self {
            FileKind::Directory => EntryKind::Directory,
            _ => EntryKind::Other,
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
