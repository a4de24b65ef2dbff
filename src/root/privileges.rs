//! Set-id bits and capabilities of programs: read, removed and set again.
//!
//! A change is made through a descriptor of the inode that was named, never through a path: the
//! owner of a directory can exchange the names in it at any moment.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::entry::Mtime;
use crate::tree_path::TreePath;

use super::error::is_absent;
use super::fault::change;
use super::inspect::none_if_absent;
use super::procfs::ProcPath;
use super::xattrs::{NamedXattrs, ReadXattrs};
use super::{FileKind, Result, Root, Stat};

/// Attribute that holds the capabilities of a program.
pub const CAPABILITY: &[u8] = b"security.capability";
/// Mode bits that let a program run as its owner or group.
pub const SET_ID: u16 = 0o6000;

/// Rights of a program that everyone who runs it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Mode with the set-id bits.
    pub mode: u16,
    /// Value of `security.capability`.
    pub capability: Option<Box<[u8]>>,
}

/// A program as it was when it was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramIdentity {
    /// Inode number, if a file that only looks like the program could be in its place.
    ///
    /// In a copy of the tree it differs.
    pub inode: Option<u64>,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Mtime,
}

impl ProgramIdentity {
    /// The identity of a file with this stat, without its inode number.
    pub fn new(stat: &Stat) -> Self {
        let Stat { uid, gid, size, mtime, .. } = *stat;
        ProgramIdentity { inode: None, uid, gid, size, mtime }
    }

    /// Whether a file is this program.
    pub fn matches(&self, stat: &Stat) -> bool {
        stat.kind == FileKind::File
            && ProgramIdentity { inode: self.inode, ..ProgramIdentity::new(stat) } == *self
            && self.inode.is_none_or(|inode| inode == stat.ino)
    }
}

impl Root {
    /// Stat and privileges of each path that is a privileged program.
    ///
    /// Fastest if paths of one directory follow each other.
    pub fn privileges_each(&self, paths: &[&TreePath]) -> Result<Vec<Option<(Stat, Privileges)>>> {
        self.inspect_each(
            paths,
            |path| {
                let dir = none_if_absent(self.parent_of(path).map(Some));
                let read = dir.and_then(|dir| match dir {
                    Some(dir) => none_if_absent(read_privileges(&dir, path)),
                    None => Ok(None),
                });
                read.map_err(|e| self.error("read the privileges of", path, e))
            },
            |dir, path| none_if_absent(read_privileges(dir, path)),
        )
    }

    /// Removes set-id bits and capabilities of a file, if it is this program.
    pub fn remove_privileges(&self, path: &TreePath, program: &ProgramIdentity) -> Result<()> {
        let fail = |e: Errno| self.error("remove the privileges of", path, e);
        let Some((file, stat)) = self.open_program(path, program).map_err(fail)? else {
            return Ok(());
        };

        let place = ProcPath::of(&file);
        if stat.mode & SET_ID != 0 {
            let mode = Mode::from_raw_mode((stat.mode & !SET_ID).into());
            let ProcPath { dir, path } = &place;
            change(|| rustix::fs::chmodat(dir, path, mode, AtFlags::empty())).map_err(fail)?;
        }
        match place.call(|path| rustix::fs::getxattr(path, CAPABILITY, &mut [0_u8; 0])) {
            Ok(_) => place
                .call(|path| change(|| rustix::fs::removexattr(path, CAPABILITY)))
                .map_err(fail),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(fail(errno)),
        }
    }

    /// Sets mode and capabilities of a file, if it is this program.
    pub fn set_privileges(
        &self,
        path: &TreePath,
        program: &ProgramIdentity,
        privileges: &Privileges,
    ) -> Result<()> {
        let fail = |e: Errno| self.error("set the privileges of", path, e);
        let Some((file, stat)) = self.open_program(path, program).map_err(fail)? else {
            return Ok(());
        };

        let place = ProcPath::of(&file);
        if stat.mode != privileges.mode {
            let mode = Mode::from_raw_mode(privileges.mode.into());
            let ProcPath { dir, path } = &place;
            change(|| rustix::fs::chmodat(dir, path, mode, AtFlags::empty())).map_err(fail)?;
        }
        if let Some(value) = &privileges.capability {
            let flags = rustix::fs::XattrFlags::empty();
            place
                .call(|path| change(|| rustix::fs::setxattr(path, CAPABILITY, value, flags)))
                .map_err(fail)?;
        }
        Ok(())
    }

    /// Opens a file without access to its content, if it is this program.
    fn open_program(
        &self,
        path: &TreePath,
        program: &ProgramIdentity,
    ) -> rustix::io::Result<Option<(OwnedFd, Stat)>> {
        let file = match self.resolve(path, OFlags::PATH) {
            Err(errno) if is_absent(&errno.into()) => return Ok(None),
            answer => answer?,
        };
        let stat = Stat::from(rustix::fs::fstat(&file)?);
        Ok(program.matches(&stat).then_some((file, stat)))
    }
}

/// Reads stat and privileges of a name in an open directory; `None` if it has no privileges.
fn read_privileges(
    dir: impl AsFd,
    path: &TreePath,
) -> rustix::io::Result<Option<(Stat, Privileges)>> {
    let stat = rustix::fs::statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW)?;
    let stat = Stat::from(stat);
    if stat.kind != FileKind::File {
        return Ok(None);
    }

    let target = NamedXattrs::new(dir.as_fd(), path.name());
    let capability = match target.get(CAPABILITY) {
        Ok(value) => Some(value.into()),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => None,
        Err(errno) => return Err(errno),
    };
    let is_privileged = stat.mode & SET_ID != 0 || capability.is_some();
    Ok(is_privileged.then_some((stat, Privileges { mode: stat.mode, capability })))
}
