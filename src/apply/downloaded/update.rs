//! A downloaded update that was found on this node.

use std::collections::HashMap;
use std::io::Read;

use super::contents::{ContentList, FileIdentity};
use super::directories;
use super::record::{DataFile, DownloadRecord};
use super::{RECORD, copy_name, data_name};
use crate::apply::error::DownloadedFault;
use crate::apply::filesystem::Filesystems;
use crate::apply::on_disk::name;
use crate::cancel::CancelReader;
use crate::digest::Digest;
use crate::report::Monitor;
use crate::root::{BoundedFile, Root, RootError};
use crate::tree_path::TreePath;

/// Largest record that is read, in bytes: a thousand layers take less.
const MAX_RECORD: u64 = 1 << 20;
/// Largest list of contents that is read, in bytes: six million copies take less.
const MAX_LIST: u64 = 1 << 30;

/// A valid record with its contents.
pub struct DownloadedUpdate {
    pub record: DownloadRecord,
    contents: ContentList,
    /// Filesystems of the record; those without a usable directory have none.
    filesystems: Vec<(TreePath, Option<Root>)>,
}

/// Result of looking for a downloaded update.
pub enum FoundDownload {
    Nothing,
    /// There is no valid record.
    Unusable(DownloadedFault),
    Valid(Box<DownloadedUpdate>),
}

/// A copy whose content is known to be right.
pub struct OpenCopy<'d> {
    /// Mount root of its filesystem.
    pub mount_root: &'d TreePath,
    /// Directory that has it.
    pub directory: &'d Root,
    /// Its name there.
    pub path: TreePath,
    pub file: BoundedFile,
}

impl DownloadedUpdate {
    /// Looks for a downloaded update below `root`; `filesystems` are those of the tree.
    pub fn find(root: &Root, filesystems: &Filesystems) -> Result<FoundDownload, RootError> {
        if !directories::exists(root, filesystems)? {
            return Ok(FoundDownload::Nothing);
        }
        let Some(directory) = directories::open(root, &TreePath::root())? else {
            return Ok(FoundDownload::Unusable(DownloadedFault::Incomplete));
        };
        match DownloadedUpdate::read(root, &directory) {
            Ok(update) => Ok(FoundDownload::Valid(Box::new(update))),
            Err(DownloadedFault::Root(error)) if !error.is_of_path() => Err(error),
            Err(fault) => Ok(FoundDownload::Unusable(fault)),
        }
    }

    fn read(root: &Root, directory: &Root) -> Result<Self, DownloadedFault> {
        let bytes = match read_file(directory, &name(RECORD), MAX_RECORD) {
            Err(error) if error.is_absent() => return Err(DownloadedFault::Incomplete),
            answer => answer?,
        };
        let text = String::from_utf8(bytes).map_err(|e| DownloadedFault::Record(Box::new(e)))?;
        let record = DownloadRecord::parse(&text)?;

        let mut filesystems = Vec::new();
        for mount_root in record.mount_roots() {
            let directory = directories::open(root, &mount_root)?;
            filesystems.push((mount_root, directory));
        }
        let update = DownloadedUpdate { contents: ContentList::default(), filesystems, record };
        let list = update.read_data(update.record.contents, MAX_LIST)?;
        let list = String::from_utf8(list).map_err(|_| damaged(update.record.contents))?;
        let contents = ContentList::parse(&list, update.filesystems.len())?;
        Ok(DownloadedUpdate { contents, ..update })
    }

    /// Reads a file that the record names, of at most `limit` bytes, and verifies its digest.
    pub fn read_data(&self, file: DataFile, limit: u64) -> Result<Vec<u8>, DownloadedFault> {
        let Some((_, Some(directory))) = self.filesystems.first() else {
            return Err(DownloadedFault::Incomplete);
        };
        if file.size > limit {
            return Err(damaged(file));
        }
        let bytes = match read_file(directory, &data_name(&file.sha256), file.size + 1) {
            Err(error) if error.is_absent() => return Err(damaged(file)),
            answer => answer?,
        };
        if bytes.len() as u64 != file.size || Digest::of(&bytes) != file.sha256 {
            return Err(damaged(file));
        }
        Ok(bytes)
    }

    /// Number of different contents.
    pub fn count(&self) -> usize {
        let mut digests: Vec<&Digest> = self.contents.iter().map(|(digest, _)| digest).collect();
        digests.dedup();
        digests.len()
    }

    /// Whether a content is listed.
    pub fn has(&self, digest: &Digest) -> bool {
        !self.contents.of(digest).is_empty()
    }

    /// Number of listed copies of each content on the filesystem of a mount root.
    pub fn copies_on(&self, mount_root: &TreePath) -> HashMap<Digest, u32> {
        let mut counts = HashMap::new();
        if let Some(at) = self.filesystems.iter().position(|(other, _)| other == mount_root) {
            for (digest, _) in self.contents.iter().filter(|(_, copy)| copy.filesystem == at) {
                *counts.entry(*digest).or_default() += 1;
            }
        }
        counts
    }

    /// Whether all files are as they were recorded, by their identities.
    pub fn is_intact(&self) -> Result<bool, RootError> {
        for (digest, copy) in self.contents.iter() {
            let Some((_, Some(directory))) = self.filesystems.get(copy.filesystem) else {
                return Ok(false);
            };
            let stat = directory.stat(&copy_name(digest, copy.number))?;
            if stat.is_none_or(|stat| FileIdentity::of(&stat) != copy.identity) {
                return Ok(false);
            }
        }
        for file in self.record.data_files() {
            let Some((_, Some(directory))) = self.filesystems.first() else { return Ok(false) };
            let stat = directory.stat(&data_name(&file.sha256))?;
            if stat.is_none_or(|stat| stat.size != file.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a content can be taken; only a copy that was changed since is read.
    pub fn is_usable(&self, digest: &Digest, monitor: &dyn Monitor) -> Result<bool, RootError> {
        for (_, copy) in self.contents.of(digest) {
            let Some((_, Some(directory))) = self.filesystems.get(copy.filesystem) else {
                continue;
            };
            let stat = directory.stat(&copy_name(digest, copy.number))?;
            if stat.is_some_and(|stat| FileIdentity::of(&stat) == copy.identity) {
                return Ok(true);
            }
        }
        Ok(!self.open_copies(digest, monitor)?.is_empty())
    }

    /// Opens the usable copies of a content, each of another inode.
    ///
    /// The content of a file that is not as it was recorded is read, and its digest computed. An
    /// earlier run that did not end may have made a link of it.
    pub fn open_copies(
        &self,
        digest: &Digest,
        monitor: &dyn Monitor,
    ) -> Result<Vec<OpenCopy<'_>>, RootError> {
        let mut inodes = Vec::new();
        let mut copies = Vec::new();
        for (_, copy) in self.contents.of(digest) {
            let Some((mount_root, Some(directory))) = self.filesystems.get(copy.filesystem) else {
                continue;
            };
            let path = copy_name(digest, copy.number);
            let file = match directory.open_file(&path) {
                Err(error) if error.is_of_path() || error.is_absent() => continue,
                answer => answer?,
            };
            let identity = FileIdentity::of(directory.hold_file(&path, &file)?.stat());
            if inodes.contains(&(copy.filesystem, identity.inode)) {
                continue;
            }
            if identity != copy.identity && !has_digest(&file, digest, copy.identity.size, monitor)
            {
                continue;
            }
            inodes.push((copy.filesystem, identity.inode));
            copies.push(OpenCopy { mount_root, directory, path, file });
        }
        Ok(copies)
    }

    /// Reads a content of at most `limit` bytes; `None` if there is no usable copy.
    pub fn read_content(
        &self,
        digest: &Digest,
        limit: u64,
        monitor: &dyn Monitor,
    ) -> Result<Option<Vec<u8>>, RootError> {
        let copies = self.open_copies(digest, monitor)?;
        let Some(copy) = copies.into_iter().next() else { return Ok(None) };
        let mut bytes = Vec::new();
        copy.file.take(limit).read_to_end(&mut bytes).map_err(|source| RootError {
            operation: "read",
            path: copy.directory.show(&copy.path),
            source,
        })?;
        Ok(Some(bytes))
    }
}

fn damaged(file: DataFile) -> DownloadedFault {
    DownloadedFault::Data { name: data_name(&file.sha256).to_string() }
}

fn has_digest(file: &BoundedFile, digest: &Digest, size: u64, monitor: &dyn Monitor) -> bool {
    let reader = CancelReader { from: file.reader(), monitor };
    file.size() == size && Digest::of_reader(reader).is_ok_and(|found| found == (*digest, size))
}

fn read_file(directory: &Root, path: &TreePath, limit: u64) -> Result<Vec<u8>, RootError> {
    let file = directory.open_file(path)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(|source| RootError {
        operation: "read",
        path: directory.show(path),
        source,
    })?;
    Ok(bytes)
}
