//! A new file that is being written.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::fault::change;

/// A new file of a tree; only its methods change it, so that each change passes the fault point.
#[derive(Debug)]
pub struct NewFile(File);

impl NewFile {
    pub(super) fn new(file: File) -> Self {
        NewFile(file)
    }

    /// Writes all of `bytes` at an offset.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        change(|| self.0.write_all_at(bytes, offset))
    }

    /// Sets the length; bytes that were not written are zero.
    pub fn set_len(&self, size: u64) -> io::Result<()> {
        change(|| self.0.set_len(size))
    }

    /// Preallocates space, all of it or none; does nothing if the filesystem cannot.
    pub fn preallocate(&self, bytes: u64) -> io::Result<()> {
        match change(|| rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the file a reflink of `content`: a copy that shares its blocks.
    pub fn share_blocks(&self, content: impl AsFd) -> io::Result<()> {
        Ok(change(|| rustix::fs::ioctl_ficlone(&self.0, content))?)
    }

    /// Starts writing the content back to the disk.
    ///
    /// If several files are synced one after the other, the disk then already works on all of them.
    pub fn start_writeback(&self) {
        // For DONTNEED Linux starts the write-back of dirty pages, and drops clean pages; there are
        // no clean pages yet. A failure costs only time, since the sync writes in any case.
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed);
    }

    /// Makes content and metadata durable.
    pub fn sync_all(&self) -> io::Result<()> {
        change(|| self.0.sync_all())
    }
}

/// For reading, and for calls on the metadata.
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
