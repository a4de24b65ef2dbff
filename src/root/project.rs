//! The project of a directory, which the quotas of xfs and ext4 count by.
//!
//! Where a directory hands its project on (`chattr +P`), the kernel lets nothing of another project be
//! renamed or linked into it: it calls that another device.

#![allow(
    unsafe_code,
    reason = "FS_IOC_FSGETXATTR has no safe wrapper; it fills the structure that is declared here"
)]

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

use crate::tree_path::TreePath;

use super::{Result, Root};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
struct ProjectAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    unused: [u8; 8],
}

const FS_IOC_FSGETXATTR: Opcode = opcode::read::<ProjectAttributes>(b'X', 31);
/// `FS_XFLAG_PROJINHERIT` of linux/fs.h.
const INHERIT: u32 = 0x200;

impl Root {
    /// The project that whatever is made in the directory at `path` gets, and that all that is renamed or
    /// linked into it has to have; `None` where it does not matter.
    pub fn inherited_project(&self, path: &TreePath) -> Result<Option<u32>> {
        let dir = self.open_dir(path)?;
        // SAFETY: the kernel fills a structure of this layout and size, which the number says.
        match unsafe { ioctl(&dir, Getter::<FS_IOC_FSGETXATTR, ProjectAttributes>::new()) } {
            Ok(found) => Ok((found.flags & INHERIT != 0).then_some(found.project)),
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(error) => Err(self.error("inspect", path, error)),
        }
    }
}
