//! The running program as a file of the tree.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::tree_path::TreePath;

use super::fault::change;
use super::procfs::ProcPath;
use super::{NewFile, Result, Root};

/// The running program in procfs, also if its file has been replaced or removed since.
const RUNNING_PROGRAM: &str = "self/exe";
const BUFFER: usize = 1 << 20;

impl Root {
    /// Stores the running program at `path`, with durable content.
    ///
    /// On the mount of the program this is a hard link. Elsewhere it is a copy with mode 0700,
    /// which shares its blocks if the filesystem can. The name becomes durable with the directory.
    pub fn store_running_program(&self, path: &TreePath) -> Result<()> {
        let fail = |source: io::Error| self.error("keep this program as", path, source);
        let ProcPath { dir: procfs, path: running } = ProcPath::new(RUNNING_PROGRAM);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let program = rustix::fs::openat(procfs, &running, flags, Mode::empty());
        let program = File::from(program.map_err(|e| fail(e.into()))?);

        let linked = self.parent_of(path).and_then(|dir| {
            let flags = AtFlags::SYMLINK_FOLLOW;
            change(|| rustix::fs::linkat(procfs, &running, dir, path.name(), flags))
        });
        if linked.is_ok() {
            // The program may have been installed just before.
            return change(|| program.sync_data()).map_err(fail);
        }

        let mut copy = self.create_file(path)?;
        copy.share_blocks(&program)
            .or_else(|_| copy_program(program, &mut copy))
            .and_then(|()| Ok(change(|| rustix::fs::fchmod(&copy, Mode::RWXU))?))
            .and_then(|()| copy.sync_all())
            .map_err(fail)
    }
}

fn copy_program(mut program: File, copy: &mut NewFile) -> io::Result<()> {
    // Without this a disk that is too small would be filled with a part of the program.
    copy.preallocate(program.metadata()?.len())?;

    let mut buffer = vec![0; BUFFER];
    loop {
        match program.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => copy.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
