//! Reads the content of one entry, and makes the entry.
//!
//! The inode is compared before and after reading. A file that changes meanwhile fails the scan:
//! otherwise its digest could belong to no state that the file ever had.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Attributes, Cache, Entry, FileKind, Leaf, LeafKind, Meta, Node, Root, RootError, ScanError,
    ScannedPath, Stat, changed_or, is_same_inode,
};
use crate::cancel::CancelReader;
use crate::digest::{Digest, Hasher};
use crate::report::Monitor;
use crate::root::BoundedFile;

/// Reader of the entries of one tree; all threads share it.
pub(super) struct ContentReader<'a> {
    root: &'a Root,
    cache: &'a Cache,
    monitor: &'a dyn Monitor,
    bytes_read: AtomicU64,
}

/// Read buffer of one thread.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; 128 << 10]
}

impl<'a> ContentReader<'a> {
    pub(super) fn new(root: &'a Root, cache: &'a Cache, monitor: &'a dyn Monitor) -> Self {
        ContentReader { root, cache, monitor, bytes_read: AtomicU64::new(0) }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Reads an entry; its hard-link group is not set.
    pub(super) fn read_entry(
        &self,
        scanned: &ScannedPath,
        attributes: Attributes,
        buffer: &mut [u8],
    ) -> Result<Entry, ScanError> {
        let ScannedPath { path, stat } = scanned;
        let Attributes { xattrs, target } = attributes;

        let kind = match stat.kind {
            FileKind::Directory | FileKind::Socket => None,
            FileKind::File => {
                Some(LeafKind::File { size: stat.size, digest: self.read_digest(scanned, buffer)? })
            }
            FileKind::Symlink => Some(LeafKind::Symlink { target: target.unwrap_or_default() }),
            FileKind::Fifo => Some(LeafKind::Fifo),
            FileKind::Char(device) => Some(LeafKind::Char(device)),
            FileKind::Block(device) => Some(LeafKind::Block(device)),
        };

        // On Linux a symbolic link has no mode of its own, but some filesystems report one.
        let mode = if stat.kind == FileKind::Symlink { 0o777 } else { stat.mode };
        let meta = Meta { mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, xattrs };

        let node = kind.map_or(Node::Directory, |kind| Node::Leaf(Leaf { kind, group: None }));
        Ok(Entry::new(path.clone(), meta, node))
    }

    fn read_digest(&self, scanned: &ScannedPath, buffer: &mut [u8]) -> Result<Digest, ScanError> {
        if let Some(digest) = self.cache.digest(&scanned.path, &scanned.stat) {
            return Ok(digest);
        }

        let file = self
            .root
            .open_file(&scanned.path)
            .map_err(|error| changed_or(self.root, error, &scanned.path))?;
        self.check_unchanged(scanned, &file)?;

        // A file that grows is read up to the size that was judged, and then found to differ.
        let file = file.limited_to(scanned.stat.size);
        let mut from = CancelReader { from: file.reader(), monitor: self.monitor };
        let (digest, length) = hash(&mut from, buffer).map_err(|source| {
            if self.monitor.is_cancelled() {
                return ScanError::Cancelled;
            }
            let path = self.root.show(&scanned.path);
            RootError { operation: "read", path, source }.into()
        })?;
        self.bytes_read.fetch_add(length, Ordering::Relaxed);

        if length != scanned.stat.size {
            return Err(self.changed(scanned));
        }
        self.check_unchanged(scanned, &file)?;
        Ok(digest)
    }

    fn check_unchanged(&self, scanned: &ScannedPath, file: &BoundedFile) -> Result<(), ScanError> {
        let stat = rustix::fs::fstat(file).map_err(|errno| RootError {
            operation: "read",
            path: self.root.show(&scanned.path),
            source: errno.into(),
        })?;
        if is_same_inode(&Stat::from(stat), &scanned.stat) {
            Ok(())
        } else {
            Err(self.changed(scanned))
        }
    }

    fn changed(&self, scanned: &ScannedPath) -> ScanError {
        ScanError::Changed { path: self.root.show(&scanned.path) }
    }
}

pub(super) fn hash(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    let (mut hasher, mut length) = (Hasher::new(), 0);
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((hasher.finish(), length)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
