//! Copies of files, symbolic links and special files.

use std::io;

use crate::tree_path::TreePath;

use super::{FileKind, NewFile, Result, Root};

impl Root {
    /// Copies `source` with all metadata to `target` in the tree `to`, durably.
    ///
    /// A regular file shares its blocks if the filesystem can. A directory is an error. A socket is
    /// left out: it is useless without the program that listens on it.
    pub fn copy(&self, source: &TreePath, to: &Root, target: &TreePath) -> Result<()> {
        let stat = self
            .stat(source)?
            .ok_or_else(|| self.error("copy", source, io::Error::from(io::ErrorKind::NotFound)))?;
        let meta = stat.meta(self.xattrs(source)?);

        match stat.kind {
            FileKind::File => {
                let file = self.copy_bytes(source, to, target)?;
                to.set_file_meta(&file, target, &meta)?;
                return file.sync_all().map_err(|e| to.error("sync", target, e));
            }
            FileKind::Symlink => {
                to.create_symlink(target, &self.read_link(source)?)?;
                return to.set_symlink_meta(target, &meta);
            }
            FileKind::Fifo => to.create_fifo(target)?,
            FileKind::Char(device) => to.create_char(target, device)?,
            FileKind::Block(device) => to.create_block(target, device)?,
            FileKind::Socket => return Ok(()),
            FileKind::Directory => {
                return Err(self.error("copy", source, io::Error::other("it is a directory")));
            }
        }
        to.set_special_meta(target, &meta)
    }

    /// Copies the content of a regular file, without its metadata, durably.
    pub fn copy_content(&self, source: &TreePath, to: &Root, target: &TreePath) -> Result<()> {
        let file = self.copy_bytes(source, to, target)?;
        file.sync_all().map_err(|e| to.error("sync", target, e))
    }

    fn copy_bytes(&self, source: &TreePath, to: &Root, target: &TreePath) -> Result<NewFile> {
        let content = self.open_file(source)?;
        let mut file = to.create_file(target)?;
        file.share_blocks(&content)
            .or_else(|_| io::copy(&mut &content, &mut file).map(drop))
            .map_err(|e| to.error("write", target, e))?;
        Ok(file)
    }
}
