//! A downloaded update that was found on this node.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use super::contents::{ContentList, FileIdentity};
use super::directories;
use super::record::{DataFile, DownloadRecord};
use super::{DATA_PREFIX, RECORD, copy_name, data_name};
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
            let path = directories::path_at(&TreePath::root());
            let fault = match root.stat(&path)? {
                Some(_) => DownloadedFault::NotOwn { path: root.show(&path) },
                None => DownloadedFault::Incomplete,
            };
            return Ok(FoundDownload::Unusable(fault));
        };
        match DownloadedUpdate::read(root, &directory) {
            Ok(update) => Ok(FoundDownload::Valid(Box::new(update))),
            Err(DownloadedFault::Root(error)) if !is_damage(&error) => Err(error),
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

    /// Replaces the record by `record`, which differs in its time and its heads; contents stay.
    ///
    /// `files` are those that only the new record names. They are durable before it, and those that
    /// only the old one names are removed after it: each prefix of these steps is a valid download.
    pub fn renew(&self, record: &DownloadRecord, files: &[&[u8]]) -> Result<(), DownloadedFault> {
        let Some((_, Some(directory))) = self.filesystems.first() else {
            return Err(DownloadedFault::Incomplete);
        };
        let kept: HashSet<DataFile> = self.record.data_files().collect();
        for bytes in files {
            let file = DataFile::of(bytes);
            if !kept.contains(&file) {
                directory.write_durably(&data_name(&file.sha256), bytes, 0o600)?;
            }
        }

        directory.write_durably(&name(RECORD), record.to_toml()?.as_bytes(), 0o600)?;
        let named: HashSet<DataFile> = record.data_files().collect();
        for file in kept.difference(&named) {
            directory.unlink(&data_name(&file.sha256))?;
        }
        Ok(())
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

    /// Verifies all files that the record names.
    pub fn verify_data(&self) -> Result<(), DownloadedFault> {
        self.record.data_files().try_for_each(|file| self.read_data(file, MAX_LIST).map(drop))
    }

    /// Whether all contents are as they were recorded, by their identities, and all other files by
    /// their digests.
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
        match self.verify_data() {
            Ok(()) => Ok(true),
            Err(DownloadedFault::Root(error)) if !is_damage(&error) => Err(error),
            Err(_) => Ok(false),
        }
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
                Err(error) if is_damage(&error) => continue,
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
    DownloadedFault::Data { name: format!("{DATA_PREFIX}{}", file.sha256) }
}

/// Whether a file of a downloaded update cannot be read because of the object at its path.
///
/// Other errors are those of the disk, or of the process.
fn is_damage(error: &RootError) -> bool {
    error.is_of_path() || error.is_absent() || error.is_not_plain_file()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use jiff::Timestamp;
    use rustix::io::Errno;

    use super::*;
    use crate::apply::downloaded::LayerRecord;
    use crate::apply::on_disk::DOWNLOADED_DIR;
    use crate::generation::GenerationId;
    use crate::image::LayerKind;
    use crate::root::fault::{self, Fault};

    const OLD: Timestamp = Timestamp::UNIX_EPOCH;

    /// Writes a downloaded update without contents below `top`.
    fn write_download(top: &std::path::Path) -> Root {
        let directory = top.join(DOWNLOADED_DIR);
        std::fs::create_dir(&directory).expect("creates");
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).expect("sets");
        let add = |text: &str| {
            let file = DataFile::of(text.as_bytes());
            let name = format!("{DATA_PREFIX}{}", file.sha256);
            std::fs::write(directory.join(name), text).expect("writes");
            file
        };
        let id = GenerationId(Digest::of(b"generation"));
        let mut record = DownloadRecord::new(id, id, 4);
        record.downloaded = OLD;
        record.contents = add(&ContentList::default().to_text());
        record.layers = vec![LayerRecord {
            kind: LayerKind::Image,
            name: "node".parse().expect("a name"),
            generation: Some(id),
            head: Some(add("old head")),
            catalog: Some(add("catalog")),
            manifest: Some(add("manifest")),
            unheld: BTreeMap::new(),
        }];
        let text = record.to_toml().expect("text");
        std::fs::write(directory.join(RECORD), text).expect("writes");
        Root::open(top).expect("opens")
    }

    fn find(root: &Root) -> Box<DownloadedUpdate> {
        match DownloadedUpdate::find(root, &Filesystems::default()).expect("reads") {
            FoundDownload::Valid(update) => update,
            FoundDownload::Unusable(fault) => panic!("{fault}"),
            FoundDownload::Nothing => panic!("nothing"),
        }
    }

    fn renew(update: &DownloadedUpdate) -> Result<(), DownloadedFault> {
        let mut layers = update.record.layers.clone();
        layers[0].head = Some(DataFile::of(b"new head"));
        let record = update.record.renewed(layers, String::new());
        update.renew(&record, &[b"new head", b"catalog"])
    }

    #[test]
    fn failure_at_each_step_of_renewal_leaves_valid_download() {
        let mut steps = 0;
        loop {
            let directory = tempfile::tempdir().expect("a directory");
            let root = write_download(directory.path());
            let update = find(&root);

            fault::arm(steps + 1, Fault::Fail(Errno::IO));
            let renewed = renew(&update);
            let is_reached = fault::disarm();

            let found = find(&root);
            let is_old = found.record.downloaded == OLD;
            assert!(is_old == (found.record.layers == update.record.layers));
            let files: Vec<DataFile> = found.record.data_files().collect();
            assert!(files.iter().all(|file| found.read_data(*file, 1 << 20).is_ok()), "{steps}");
            assert_eq!(renewed.is_err(), is_reached);
            if !is_reached {
                assert!(!is_old);
                let names = std::fs::read_dir(directory.path().join(DOWNLOADED_DIR));
                assert_eq!(names.expect("lists").count(), 5, "the old head is removed");
                break;
            }
            renew(&found).expect("the next run renews it");
            assert!(find(&root).record.downloaded > OLD);
            steps += 1;
        }
        assert!(steps >= 8, "{steps}");
    }
}
