//! Users who can change a directory.

use std::os::fd::AsFd;

use rustix::fs::OFlags;

use crate::tree_path::TreePath;

use super::error::is_absent;
use super::xattrs::{NamedXattrs, ReadXattrs};
use super::{FileKind, Result, Root, RootError, Stat};

const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// Tags of entries in an access ACL (linux/posix_acl.h).
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;
const ACL_MASK: u16 = 0x10;
/// Length of the version in front of the entries, and of one entry.
const ACL_HEAD: usize = 4;
const ACL_ENTRY: usize = 8;
const WRITE: u16 = 0o2;

impl Root {
    /// Whether another user than root can rename or replace an object on the way to `path`.
    ///
    /// That is, whether a directory above it belongs to another user, or can be written by one. The
    /// root directory itself counts too.
    pub fn is_writable_by_others(&self, path: &TreePath) -> Result<bool> {
        let mut ancestors: Vec<TreePath> =
            std::iter::successors(path.parent(), TreePath::parent).collect();
        ancestors.reverse();

        for directory in ancestors {
            let fd = match self.resolve(&directory, OFlags::PATH) {
                Ok(fd) => fd,
                Err(e) if is_absent(&e.into()) => return Ok(false),
                Err(e) => return Err(self.error("open the directory", &directory, e)),
            };
            let stat = rustix::fs::fstat(&fd).map_err(|e| self.error("inspect", &directory, e))?;
            let stat = Stat::from(stat);
            if stat.kind != FileKind::Directory {
                return Ok(false);
            }

            if has_other_writer(&stat) {
                return Ok(true);
            }
            let acl = NamedXattrs::new(fd.as_fd(), b".")
                .read_all(|name| name == ACCESS_ACL)
                .map_err(|e| self.error("read the access list of", &directory, e))?;
            if acl.get(ACCESS_ACL).is_some_and(|acl| grants_write(acl)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Root {
    /// Whether `error` only means that nothing is known about the object at `path`.
    ///
    /// EIO in a directory of a user may be the answer of a filesystem that he has mounted. Elsewhere,
    /// and in the root directory itself, it is a failure of the disk, which concerns the whole run.
    pub fn is_unknown(&self, path: &TreePath, error: &RootError) -> bool {
        if path.is_root() {
            return false;
        }
        error.is_refused_inspection()
            || (error.is_io_failure() && self.is_writable_by_others(path).unwrap_or(false))
    }
}

/// Whether the owner or the mode of a directory lets another user than root change it.
fn has_other_writer(stat: &Stat) -> bool {
    stat.uid != 0 || stat.mode & 0o002 != 0 || (stat.mode & 0o020 != 0 && stat.gid != 0)
}

/// Whether an access ACL lets a named user or group write, other than those of root.
fn grants_write(acl: &[u8]) -> bool {
    let entries = acl.get(ACL_HEAD..).unwrap_or_default().chunks_exact(ACL_ENTRY);
    let entries = entries.map(|entry| {
        let number = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        (number(0), number(2), id)
    });

    let mask =
        entries.clone().find(|(tag, ..)| *tag == ACL_MASK).map_or(WRITE, |(_, mask, _)| mask);
    entries
        .filter(|(tag, _, id)| [ACL_USER, ACL_GROUP].contains(tag) && *id != 0)
        .any(|(_, permissions, _)| permissions & mask & WRITE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u16, permissions: u16, id: u32) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    }

    #[test]
    fn acl_of_other_user_grants_write_within_mask() {
        let acl = |entries: &[Vec<u8>]| [&2u32.to_le_bytes()[..], &entries.concat()].concat();

        for (granted, entries) in [
            (true, vec![entry(ACL_USER, 7, 1000)]),
            (true, vec![entry(ACL_GROUP, 2, 50), entry(ACL_MASK, 7, 0)]),
            (false, vec![entry(ACL_USER, 5, 1000)]),
            (false, vec![entry(ACL_USER, 7, 1000), entry(ACL_MASK, 5, 0)]),
            (false, vec![entry(ACL_USER, 7, 0)]),
            (false, vec![entry(0x01, 7, u32::MAX), entry(0x04, 7, u32::MAX)]),
            (false, vec![]),
        ] {
            assert_eq!(grants_write(&acl(&entries)), granted, "{entries:?}");
        }
        assert!(!grants_write(b"\x02"));
    }
}
