//! Writes a downloaded update: contents and files first, the record last.
//!
//! A valid record of an earlier download stays in effect until the new one replaces it. Contents of
//! both keep their names, and the others are removed at the end.

use std::collections::{BTreeMap, HashSet};

use super::contents::{ContentList, FileIdentity, StoredCopy};
use super::record::{DataFile, DownloadRecord};
use super::{RECORD, copy_name, data_name, directories};
use crate::apply::error::DownloadedFault;
use crate::apply::filesystem::Filesystems;
use crate::apply::on_disk::{FILESYSTEM_LIST, name};
use crate::digest::Digest;
use crate::root::{Rename, Root, RootError};
use crate::tree_path::TreePath;

/// A downloaded update that is being written.
#[must_use]
pub struct DownloadWriter<'a> {
    root: &'a Root,
    /// Mount roots with their directories, in tree order; the first is the root.
    directories: Vec<(TreePath, Root)>,
    /// Indices in `directories`, by the number of the filesystem.
    by_filesystem: BTreeMap<usize, usize>,
    /// Copies of each content on each filesystem.
    copies: BTreeMap<(Digest, usize), u32>,
    data: HashSet<Digest>,
}

impl<'a> DownloadWriter<'a> {
    /// Creates the missing directories on the filesystems in `which`.
    pub(in crate::apply) fn create(
        root: &'a Root,
        filesystems: &Filesystems,
        which: impl IntoIterator<Item = usize>,
    ) -> Result<Self, RootError> {
        let mut which: Vec<usize> = which.into_iter().chain([0]).collect();
        which.sort_unstable();
        which.dedup();
        let mount_roots: Vec<TreePath> =
            which.iter().map(|&at| filesystems.mount_roots()[at].clone()).collect();

        let first = directories::open_or_create(root, &TreePath::root())?;
        directories::write_list(&first, &mount_roots)?;
        let mut opened = vec![(TreePath::root(), first)];
        for mount_root in mount_roots.into_iter().skip(1) {
            let directory = directories::open_or_create(root, &mount_root)?;
            opened.push((mount_root, directory));
        }
        Ok(DownloadWriter {
            root,
            directories: opened,
            by_filesystem: which.iter().enumerate().map(|(index, &at)| (at, index)).collect(),
            copies: BTreeMap::new(),
            data: HashSet::new(),
        })
    }

    /// Moves a file with a content from the stage of a filesystem.
    pub(in crate::apply) fn take(
        &mut self,
        digest: Digest,
        filesystem: usize,
        (stage, place): (&Root, &TreePath),
    ) -> Result<(), RootError> {
        let Some(&at) = self.by_filesystem.get(&filesystem) else { return Ok(()) };
        let number = self.copies.entry((digest, at)).or_default();
        // If it is a link of a copy that has this name already, nothing is renamed.
        let directory = &self.directories[at].1;
        stage.rename(place, directory, &copy_name(&digest, *number), Rename::Replace)?;
        *number += 1;
        Ok(())
    }

    /// Makes all contents durable, by filesystem if `syncs_filesystems`.
    pub(in crate::apply) fn sync_contents(&self, method: SyncMethod) -> Result<(), RootError> {
        for (at, (mount_root, directory)) in self.directories.iter().enumerate() {
            match method {
                SyncMethod::Filesystems => directory.sync_filesystem()?,
                SyncMethod::Files => {
                    let copies = self.copies.iter().filter(|((_, other), _)| *other == at);
                    for ((digest, _), count) in copies {
                        (0..*count).try_for_each(|n| directory.sync_file(&copy_name(digest, n)))?;
                    }
                }
            }
            directory.sync_dir(&TreePath::root())?;
            self.root.sync_dir(mount_root)?;
        }
        Ok(())
    }

    /// Writes a file that the record is going to name.
    pub fn add_data(&mut self, bytes: &[u8]) -> Result<DataFile, DownloadedFault> {
        let file = DataFile::of(bytes);
        if self.data.insert(file.sha256) {
            self.directories[0].1.write_durably(&data_name(&file.sha256), bytes, 0o600)?;
        }
        Ok(file)
    }

    /// Writes the list of contents and the record, and removes all that the record does not name.
    pub fn finish(mut self, mut record: DownloadRecord) -> Result<DownloadRecord, DownloadedFault> {
        let mut copies = Vec::new();
        for ((digest, filesystem), count) in &self.copies {
            for number in 0..*count {
                let directory = &self.directories[*filesystem].1;
                let stat = directory.stat(&copy_name(digest, number))?;
                let stat = stat.ok_or(DownloadedFault::Incomplete)?;
                let identity = FileIdentity::of(&stat);
                let filesystem = *filesystem;
                copies.push((*digest, StoredCopy { filesystem, number, identity }));
            }
        }
        let contents = ContentList::new(copies);
        record.contents = self.add_data(contents.to_text().as_bytes())?;
        record.bytes = contents.bytes();
        let mount_roots: Vec<TreePath> =
            self.directories.iter().map(|(mount_root, _)| mount_root.clone()).collect();
        record.set_mount_roots(&mount_roots);

        let text = record.to_toml()?;
        self.directories[0].1.write_durably(&name(RECORD), text.as_bytes(), 0o600)?;
        self.remove_others(&contents)?;
        Ok(record)
    }

    /// Removes files of earlier downloads.
    fn remove_others(&self, contents: &ContentList) -> Result<(), RootError> {
        let mut own: HashSet<(usize, TreePath)> = contents
            .iter()
            .map(|(digest, copy)| (copy.filesystem, copy_name(digest, copy.number)))
            .collect();
        own.extend(self.data.iter().map(|digest| (0, data_name(digest))));
        own.extend([RECORD, FILESYSTEM_LIST].map(|file| (0, name(file))));

        for (at, (_, directory)) in self.directories.iter().enumerate() {
            for (path, _) in directory.children(&TreePath::root())? {
                if !own.contains(&(at, path.clone())) {
                    directory.remove_tree(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Method by which contents become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::apply) enum SyncMethod {
    /// Each file.
    Files,
    /// Whole filesystems: faster for many files.
    Filesystems,
}
