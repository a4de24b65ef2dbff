//! Making new things, where nothing stands yet.

use std::fs::File;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::entry::Device;
use crate::tree_path::TreePath;

use super::fault::change;
use super::{NewFile, Result, Root};

impl Root {
    /// Makes a directory that only root may enter.
    pub fn create_dir(&self, path: &TreePath) -> Result<()> {
        self.make_dir(path, 0o700).map_err(|e| self.error("make the directory", path, e))
    }

    /// Makes the directory and those above it that are missing, with mode 0755; what is there already
    /// has to be directories.
    pub fn create_dirs(&self, path: &TreePath) -> Result<()> {
        if path.is_root() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.create_dirs(&parent)?;
        }
        match self.make_dir(path, 0o755) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.open_dir(path).map(drop),
            Err(e) => Err(self.error("make the directory", path, e)),
        }
    }

    fn make_dir(&self, path: &TreePath, mode: u32) -> rustix::io::Result<()> {
        let dir = self.parent_of(path)?;
        change(|| rustix::fs::mkdirat(dir, path.name(), Mode::from_raw_mode(mode)))
    }

    /// Makes an empty file that only root may read, open for reading and writing.
    pub fn create_file(&self, path: &TreePath) -> Result<NewFile> {
        let made = self.make_file(path, OFlags::EXCL);
        made.map(NewFile::new).map_err(|e| self.error("create", path, e))
    }

    /// Makes a file that holds room for so many bytes, and nothing; where the filesystem cannot promise
    /// any, an empty one.
    pub fn create_reserve(&self, path: &TreePath, bytes: u64) -> Result<()> {
        let file = self.create_file(path)?;
        if bytes == 0 {
            return Ok(());
        }
        file.take_room(bytes).map_err(|e| self.error("keep room in", path, e))
    }

    /// Opens the file at `path`, making it where it is not there, as something to lock.
    pub fn open_or_create_file(&self, path: &TreePath) -> Result<File> {
        self.make_file(path, OFlags::NONBLOCK).map_err(|e| self.error("open", path, e))
    }

    fn make_file(&self, path: &TreePath, more: OFlags) -> rustix::io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let dir = self.parent_of(path)?;
        change(|| rustix::fs::openat(dir, path.name(), flags, Mode::from_raw_mode(0o600)))
            .map(File::from)
    }

    /// Makes a symlink with the text `target`.
    pub fn create_symlink(&self, path: &TreePath, target: &[u8]) -> Result<()> {
        let made = self
            .parent_of(path)
            .and_then(|dir| change(|| rustix::fs::symlinkat(target, dir, path.name())));
        made.map_err(|e| self.error("make the symlink", path, e))
    }

    /// Makes a named pipe.
    pub fn create_fifo(&self, path: &TreePath) -> Result<()> {
        self.create_node(path, FileType::Fifo, Device { major: 0, minor: 0 })
    }

    /// Makes a character device.
    pub fn create_char(&self, path: &TreePath, device: Device) -> Result<()> {
        self.create_node(path, FileType::CharacterDevice, device)
    }

    /// Makes a block device.
    pub fn create_block(&self, path: &TreePath, device: Device) -> Result<()> {
        self.create_node(path, FileType::BlockDevice, device)
    }

    fn create_node(&self, path: &TreePath, kind: FileType, device: Device) -> Result<()> {
        let number = rustix::fs::makedev(device.major, device.minor);
        let mode = Mode::from_raw_mode(0o600);
        let made = self
            .parent_of(path)
            .and_then(|dir| change(|| rustix::fs::mknodat(dir, path.name(), kind, mode, number)));
        made.map_err(|e| self.error("make the device or pipe", path, e))
    }

    /// Makes `path` a further name of what stands at `source` in the tree `from`.
    pub fn create_link(&self, path: &TreePath, from: &Root, source: &TreePath) -> Result<()> {
        let made = self.parent_of(path).and_then(|dir| {
            let source_dir = from.parent_of(source)?;
            change(|| {
                rustix::fs::linkat(source_dir, source.name(), dir, path.name(), AtFlags::empty())
            })
        });
        made.map_err(|e| self.error("make the hardlink", path, e))
    }
}
