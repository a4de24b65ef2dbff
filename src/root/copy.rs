//! Copies of files, symbolic links and special files.
//!
//! A copy is made from one held descriptor, so that it never has the content of one object and the
//! metadata of another.

use std::io::{self, ErrorKind};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::delta::ReadAt;
use crate::tree_path::TreePath;

use super::object::Object;
use super::{BoundedFile, FileKind, NewFile, Result, Root};

/// Bytes that are copied at once; a cancellation is noticed after each.
const CHUNK: usize = 256 << 10;

impl Root {
    /// Copies `source` with all metadata to `target` in the tree `to`, durably.
    ///
    /// See [`Object::copy_to`].
    pub fn copy(
        &self,
        source: &TreePath,
        to: &Root,
        target: &TreePath,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let missing = || self.error("copy", source, io::Error::from(ErrorKind::NotFound));
        self.hold(source)?.ok_or_else(missing)?.copy_to(to, target, is_cancelled)
    }
}

impl Object<'_> {
    /// Copies the object with all metadata to `target` in the tree `to`, durably.
    ///
    /// A regular file shares its blocks if the filesystem can; else its holes are kept. A directory
    /// is an error. A socket is left out: it is useless without the program that listens on it.
    pub fn copy_to(
        &self,
        to: &Root,
        target: &TreePath,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let meta = self.stat.meta(self.xattrs()?);
        match self.stat.kind {
            FileKind::File => {
                let file = self.copy_bytes(to, target, is_cancelled)?;
                to.hold_new_file(target, &file)?.set_meta(&meta)?;
                return file.sync_all().map_err(|e| to.error("sync", target, e));
            }
            FileKind::Symlink => to.create_symlink(target, &self.read_link()?)?,
            FileKind::Fifo => to.create_fifo(target)?,
            FileKind::Char(device) => to.create_char(target, device)?,
            FileKind::Block(device) => to.create_block(target, device)?,
            FileKind::Socket => return Ok(()),
            FileKind::Directory => {
                let error = io::Error::other("it is a directory");
                return Err(self.root.error("copy", &self.path, error));
            }
        }

        let copy = to.hold(target)?;
        copy.map_or(Ok(()), |copy| copy.set_meta(&meta))
    }

    /// Copies the content and the mtime of a regular file, durably.
    pub fn copy_content_to(&self, to: &Root, target: &TreePath) -> Result<()> {
        let file = self.copy_bytes(to, target, &|| false)?;
        file.sync_all().map_err(|e| to.error("sync", target, e))?;
        to.hold_new_file(target, &file)?.set_mtime(self.stat.mtime)
    }

    fn copy_bytes(
        &self,
        to: &Root,
        target: &TreePath,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<NewFile> {
        let content = self.open_content()?;

        let file = to.create_file(target)?;
        if file.share_blocks(&content).is_err() {
            copy_data(&content, &file, is_cancelled).map_err(|e| to.error("write", target, e))?;
        }
        Ok(file)
    }
}

/// Copies a file up to the size that it had when it was opened, except its holes.
fn copy_data(
    content: &BoundedFile,
    file: &NewFile,
    is_cancelled: &dyn Fn() -> bool,
) -> io::Result<()> {
    let (mut buffer, size) = (vec![0; CHUNK], content.size());
    let mut at = 0;
    while at < size {
        let (start, end) = next_data(content, at, size)?;
        at = start;
        while at < end {
            if is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            let wanted = usize::try_from(end - at).map_or(CHUNK, |rest| rest.min(CHUNK));
            match content.read_at(&mut buffer[..wanted], at) {
                // The file has become shorter: the rest is a hole.
                Ok(0) => return file.set_len(size),
                Ok(length) => {
                    file.write_all_at(&buffer[..length], at)?;
                    at += length as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    file.set_len(size)
}

/// Begin and end of the next data at or after `at`, both at most `size`.
///
/// A filesystem that does not know its holes reports all of the file as data.
fn next_data(content: &BoundedFile, at: u64, size: u64) -> io::Result<(u64, u64)> {
    let start = match rustix::fs::seek(content, SeekFrom::Data(at)) {
        Ok(start) => start.clamp(at, size),
        // There is only a hole up to the end.
        Err(Errno::NXIO) => return Ok((size, size)),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
        Err(errno) => return Err(errno.into()),
    };
    let end = match rustix::fs::seek(content, SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        Err(_) => size,
    };
    // A hole that appeared in between must not repeat the search for ever.
    Ok((start, if end > start || start == size { end } else { size }))
}
