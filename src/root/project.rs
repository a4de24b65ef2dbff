//! Project id of a directory, by which xfs and ext4 count quotas.
//!
//! If a directory passes its project on (`chattr +P`), the kernel refuses to rename or link a file
//! of another project into it, with the error for another device. Preflight finds this before the
//! commit point.

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
/// From linux/fs.h.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

impl Root {
    /// The project that files in a directory must have; `None` if they can have any.
    pub fn inherited_project(&self, path: &TreePath) -> Result<Option<u32>> {
        let dir = self.open_dir(path)?;
        // SAFETY: the kernel fills a structure of this layout; its size is part of the opcode.
        match unsafe { ioctl(&dir, Getter::<FS_IOC_FSGETXATTR, ProjectAttributes>::new()) } {
            Ok(attributes) => {
                let is_inherited = attributes.flags & FS_XFLAG_PROJINHERIT != 0;
                Ok(is_inherited.then_some(attributes.project))
            }
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(errno) => Err(self.error("inspect", path, errno)),
        }
    }
}
