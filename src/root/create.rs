//! Making new things, where nothing stands yet.

use std::fs::File;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::entry::Device;
use crate::tree_path::TreePath;

use super::{Result, Root};

impl Root {
    /// Makes a directory that only root may enter.
    pub fn create_dir(&self, path: &TreePath) -> Result<()> {
        let made =
            self.parent_of(path).and_then(|dir| rustix::fs::mkdirat(dir, path.name(), Mode::from_raw_mode(0o700)));
        made.map_err(|e| self.error("make the directory", path, e))
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
        let made =
            self.parent_of(path).and_then(|dir| rustix::fs::mkdirat(dir, path.name(), Mode::from_raw_mode(0o755)));
        match made {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.open_dir(path).map(drop),
            Err(e) => Err(self.error("make the directory", path, e)),
        }
    }

    /// Makes an empty file that only root may read, open for reading and writing.
    pub fn create_file(&self, path: &TreePath) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = self
            .parent_of(path)
            .and_then(|dir| rustix::fs::openat(dir, path.name(), flags, Mode::from_raw_mode(0o600)));
        made.map(File::from).map_err(|e| self.error("create", path, e))
    }

    /// Opens the file at `path` for reading and writing, making it where it is not there.
    pub fn open_or_create_file(&self, path: &TreePath) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let made = self
            .parent_of(path)
            .and_then(|dir| rustix::fs::openat(dir, path.name(), flags, Mode::from_raw_mode(0o600)));
        made.map(File::from).map_err(|e| self.error("open", path, e))
    }

    /// Makes a symlink with the text `target`.
    pub fn create_symlink(&self, path: &TreePath, target: &[u8]) -> Result<()> {
        let made = self.parent_of(path).and_then(|dir| rustix::fs::symlinkat(target, dir, path.name()));
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
        let made = self
            .parent_of(path)
            .and_then(|dir| rustix::fs::mknodat(dir, path.name(), kind, Mode::from_raw_mode(0o600), number));
        made.map_err(|e| self.error("make the device or pipe", path, e))
    }

    /// Makes `path` a further name of what stands at `source` in the tree `from`.
    pub fn create_link(&self, path: &TreePath, from: &Root, source: &TreePath) -> Result<()> {
        let made = self.parent_of(path).and_then(|dir| {
            let source_dir = from.parent_of(source)?;
            rustix::fs::linkat(source_dir, source.name(), dir, path.name(), AtFlags::empty())
        });
        made.map_err(|e| self.error("make the hardlink", path, e))
    }
}
