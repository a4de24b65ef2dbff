//! A second thing like the first.

use std::io;

use crate::tree_path::TreePath;

use super::{FileKind, NewFile, Result, Root};

impl Root {
    /// Makes `place` in the tree `to` a copy of what stands at `path`, which is no directory, with all its
    /// metadata, durable; shares its blocks where the filesystem can. A socket is left out: it means
    /// nothing without the program that listens.
    pub fn copy(&self, path: &TreePath, to: &Root, place: &TreePath) -> Result<()> {
        let absent = || self.error("copy", path, io::Error::from(io::ErrorKind::NotFound));
        let stat = self.stat(path)?.ok_or_else(absent)?;
        let meta = stat.meta(self.xattrs(path)?);
        match stat.kind {
            FileKind::File => {
                let file = self.write_copy(path, to, place)?;
                to.set_file_meta(&file, place, &meta)?;
                return file.sync_all().map_err(|e| to.error("sync", place, e));
            }
            FileKind::Symlink => to.create_symlink(place, &self.read_link(path)?)?,
            FileKind::Fifo => to.create_fifo(place)?,
            FileKind::Char(device) => to.create_char(place, device)?,
            FileKind::Block(device) => to.create_block(place, device)?,
            FileKind::Socket => return Ok(()),
            FileKind::Directory => {
                return Err(self.error("copy", path, io::Error::other("it is a directory")));
            }
        }
        to.set_special_meta(place, &meta, stat.kind == FileKind::Symlink)
    }

    /// Makes `place` in the tree `to` a file with the content of the regular file at `path` and no other
    /// metadata, durable.
    pub fn copy_content(&self, path: &TreePath, to: &Root, place: &TreePath) -> Result<()> {
        let file = self.write_copy(path, to, place)?;
        file.sync_all().map_err(|e| to.error("sync", place, e))
    }

    fn write_copy(&self, path: &TreePath, to: &Root, place: &TreePath) -> Result<NewFile> {
        let (from, mut file) = (self.open_file(path)?, to.create_file(place)?);
        let copied = file.share_blocks(&from);
        let copied = copied.or_else(|_| io::copy(&mut &from, &mut file).map(drop));
        copied.map_err(|e| to.error("write", place, e))?;
        Ok(file)
    }
}
