//! A file that is being written.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::fault::change;

/// A new file of a tree. It is changed only by what is here, so that each change passes the fault point.
#[derive(Debug)]
pub struct NewFile(File);

impl NewFile {
    pub(super) fn new(file: File) -> Self {
        NewFile(file)
    }

    /// Writes all of `bytes` at an offset.
    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        change(|| self.0.write_all_at(bytes, at))
    }

    /// Makes it so many bytes long; what was not written is zeros.
    pub fn set_len(&self, size: u64) -> io::Result<()> {
        change(|| self.0.set_len(size))
    }

    /// Takes room for so many bytes, all of them or none, where the filesystem can promise any.
    pub fn take_room(&self, bytes: u64) -> io::Result<()> {
        match change(|| rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes it a copy of `content` that shares its blocks, where the filesystem can.
    pub fn share_blocks(&self, content: impl AsFd) -> io::Result<()> {
        Ok(change(|| rustix::fs::ioctl_ficlone(&self.0, content))?)
    }

    /// Has the kernel begin to write what it holds: when several files are synced one after the other, the first
    /// sync waits for all of them.
    pub fn begin_to_write(&self) {
        // Linux starts the writing before it drops what is written already; nothing is, as yet. Where it does
        // not, the sync does.
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed);
    }

    /// Makes it durable, with its metadata.
    pub fn sync_all(&self) -> io::Result<()> {
        change(|| self.0.sync_all())
    }
}

/// For reading, and for calls on its metadata.
impl AsFd for NewFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        change(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
