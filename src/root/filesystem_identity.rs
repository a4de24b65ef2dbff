//! Identity of a filesystem, by which another disk at the same mount point is recognised.

#![allow(
    unsafe_code,
    reason = "FAT_IOCTL_GET_VOLUME_ID has no safe wrapper; it fills the number that is declared here"
)]

use rustix::fs::{AtFlags, StatxFlags};
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

use super::{Result, Root};
use crate::tree_path::TreePath;

/// From linux/msdos_fs.h.
const FAT_IOCTL_GET_VOLUME_ID: Opcode = opcode::read::<u32>(b'r', 0x13);

// Types of filesystem, as statfs(2) numbers them.
const EXT: u64 = 0xef53;
const BTRFS: u64 = 0x9123_683e;
const BCACHEFS: u64 = 0xca45_1a4e;
const FAT: u64 = 0x4d44;
const EXFAT: u64 = 0x2011_bab0;
const FUSE: u64 = 0x6573_5546;

impl Root {
    /// Identity of the filesystem of the root directory; `None` if it has no lasting one.
    ///
    /// It is the same after a reboot, also if the disk then has another device number. A copy of a
    /// disk, block by block, has the identity of its original.
    pub fn filesystem_identity(&self) -> Result<Option<String>> {
        let fail = |errno| self.error("inspect", &TreePath::root(), errno);
        let kind = rustix::fs::fstatfs(&self.dir).map_err(fail)?.f_type as u64;

        Ok(match kind {
            // Their id is derived from the UUID, on btrfs also from the number of the subvolume.
            EXT | BTRFS | BCACHEFS => {
                let id = rustix::fs::fstatvfs(&self.dir).map_err(fail)?.f_fsid;
                Some(format!("fsid-{id:x}"))
            }
            // Their id is a device number, which can change at each boot.
            FAT | EXFAT => {
                // SAFETY: the kernel fills a number of this size, which is part of the opcode.
                let id = unsafe { ioctl(&self.dir, Getter::<FAT_IOCTL_GET_VOLUME_ID, u32>::new()) };
                id.ok().map(|id| format!("volume-{id:08x}"))
            }
            FUSE => None,
            // xfs and others: the root directory was created with the filesystem.
            _ => self.birth_identity(),
        })
    }

    /// Most hard links that a file on the filesystem of the root directory can have.
    pub fn max_links(&self) -> Result<usize> {
        let kind = rustix::fs::fstatfs(&self.dir)
            .map_err(|errno| self.error("inspect", &TreePath::root(), errno))?
            .f_type as u64;
        Ok(match kind {
            EXT => 65_000,
            BTRFS => 65_535,
            _ => usize::MAX,
        })
    }

    fn birth_identity(&self) -> Option<String> {
        let stat =
            rustix::fs::statx(&self.dir, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
        let birth = &stat.stx_btime;
        let is_known = stat.stx_mask & StatxFlags::BTIME.bits() != 0 && birth.tv_sec != 0;
        is_known.then(|| format!("birth-{:x}.{:x}", birth.tv_sec, birth.tv_nsec))
    }
}
