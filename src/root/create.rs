//! Creation of directories, files, links and special files.

use std::fs::File;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::entry::Device;
use crate::tree_path::TreePath;

use super::fault::change;
use super::{NewFile, Result, Root};

impl Root {
    /// Creates a directory that only root can enter.
    pub fn create_dir(&self, path: &TreePath) -> Result<()> {
        self.make_dir(path, 0o700).map_err(|e| self.error("make the directory", path, e))
    }

    /// Creates a directory and its missing parents with mode 0755.
    ///
    /// A component that exists and is no directory is an error.
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

    /// Creates an empty file that only root can read, open for reading and writing.
    pub fn create_file(&self, path: &TreePath) -> Result<NewFile> {
        let file = self.make_file(path, OFlags::EXCL);
        file.map(NewFile::new).map_err(|e| self.error("create", path, e))
    }

    /// Creates an empty file with preallocated space.
    ///
    /// If the filesystem cannot preallocate, the file has no space.
    pub fn create_reserve(&self, path: &TreePath, bytes: u64) -> Result<()> {
        let file = self.create_file(path)?;
        if bytes == 0 {
            return Ok(());
        }
        file.preallocate(bytes).map_err(|e| self.error("reserve space in", path, e))
    }

    /// Opens a file, and creates it if it does not exist; for locking.
    pub fn open_or_create_file(&self, path: &TreePath) -> Result<File> {
        self.make_file(path, OFlags::NONBLOCK).map_err(|e| self.error("open", path, e))
    }

    fn make_file(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags;
        let dir = self.parent_of(path)?;
        change(|| rustix::fs::openat(dir, path.name(), flags, Mode::from_raw_mode(0o600)))
            .map(File::from)
    }

    /// Creates a symbolic link.
    pub fn create_symlink(&self, path: &TreePath, target: &[u8]) -> Result<()> {
        self.parent_of(path)
            .and_then(|dir| change(|| rustix::fs::symlinkat(target, dir, path.name())))
            .map_err(|e| self.error("make the symlink", path, e))
    }

    /// Creates a named pipe.
    pub fn create_fifo(&self, path: &TreePath) -> Result<()> {
        self.create_node(path, FileType::Fifo, Device { major: 0, minor: 0 })
    }

    /// Creates a character device.
    pub fn create_char(&self, path: &TreePath, device: Device) -> Result<()> {
        self.create_node(path, FileType::CharacterDevice, device)
    }

    /// Creates a block device.
    pub fn create_block(&self, path: &TreePath, device: Device) -> Result<()> {
        self.create_node(path, FileType::BlockDevice, device)
    }

    fn create_node(&self, path: &TreePath, kind: FileType, device: Device) -> Result<()> {
        let number = rustix::fs::makedev(device.major, device.minor);
        let mode = Mode::from_raw_mode(0o600);
        self.parent_of(path)
            .and_then(|dir| change(|| rustix::fs::mknodat(dir, path.name(), kind, mode, number)))
            .map_err(|e| self.error("make the device or pipe", path, e))
    }
}
