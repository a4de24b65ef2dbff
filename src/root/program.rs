//! The running program as a file of the tree.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::tree_path::TreePath;

use super::fault::change;
use super::{NewFile, Result, Root};

/// What this process runs, also where its file was replaced or removed meanwhile.
const RUNNING: &CStr = c"/proc/self/exe";
/// The program is copied in pieces of so many bytes.
const PIECE: usize = 1 << 20;

impl Root {
    /// Makes `path`, where nothing stands yet, the program that runs, with its content durable; its name
    /// is as durable as the directory.
    ///
    /// On the mount that the program came from this is a further name of it, with its own mode; else a
    /// file of root's (0700) that shares its blocks where the filesystem can.
    pub fn keep_program(&self, path: &TreePath) -> Result<()> {
        let fail = |source: io::Error| self.error("keep this program as", path, source);
        let running = rustix::fs::open(RUNNING, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let running = File::from(running.map_err(|e| fail(e.into()))?);
        let linked = self.parent_of(path).and_then(|dir| {
            change(|| rustix::fs::linkat(CWD, RUNNING, dir, path.name(), AtFlags::SYMLINK_FOLLOW))
        });
        if linked.is_ok() {
            // It may have been installed a moment ago.
            return change(|| running.sync_data()).map_err(fail);
        }
        let mut copy = self.create_file(path)?;
        let copied = copy.share_blocks(&running).or_else(|_| write_all(running, &mut copy));
        copied
            .and_then(|()| Ok(change(|| rustix::fs::fchmod(&copy, Mode::RWXU))?))
            .and_then(|()| copy.sync_all())
            .map_err(fail)
    }
}

fn write_all(mut from: File, to: &mut NewFile) -> io::Result<()> {
    // A disk that it does not fit on is not filled with the half of it.
    to.take_room(from.metadata()?.len())?;
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&piece[..length])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
