//! Reads one entry: attributes, symlink text, content.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Attributes, Cache, Entry, FileKind, Leaf, LeafKind, Meta, Node, Root, RootError, ScanError,
    Seen, Stat, alike, gone,
};
use crate::digest::{Digest, Hasher};

/// Reads entries of one tree; shared by all threads.
pub(super) struct ContentReader<'a> {
    root: &'a Root,
    cache: &'a Cache,
    read: AtomicU64,
}

/// What one thread reads into.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; 128 << 10]
}

impl<'a> ContentReader<'a> {
    pub(super) fn new(root: &'a Root, cache: &'a Cache) -> Self {
        ContentReader { root, cache, read: AtomicU64::new(0) }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The entry at `seen`, as yet without its hardlink group.
    pub(super) fn entry(
        &self,
        seen: &Seen,
        attributes: Attributes,
        buffer: &mut [u8],
    ) -> Result<Entry, ScanError> {
        let Seen { path, stat } = seen;
        let Attributes { xattrs, target } = attributes;
        let kind = match stat.kind {
            FileKind::Directory | FileKind::Socket => None,
            FileKind::File => {
                Some(LeafKind::File { size: stat.size, digest: self.digest(seen, buffer)? })
            }
            FileKind::Symlink => Some(LeafKind::Symlink { target: target.unwrap_or_default() }),
            FileKind::Fifo => Some(LeafKind::Fifo),
            FileKind::Char(device) => Some(LeafKind::Char(device)),
            FileKind::Block(device) => Some(LeafKind::Block(device)),
        };
        // Linux gives a symlink no mode of its own; some filesystems show another.
        let mode = if stat.kind == FileKind::Symlink { 0o777 } else { stat.mode };
        let meta = Meta { mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, xattrs };
        let node = kind.map_or(Node::Directory, |kind| Node::Leaf(Leaf { kind, group: None }));
        Ok(Entry::new(path.clone(), meta, node))
    }

    fn digest(&self, seen: &Seen, buffer: &mut [u8]) -> Result<Digest, ScanError> {
        if let Some(digest) = self.cache.digest(&seen.path, &seen.stat) {
            return Ok(digest);
        }
        let file = self.root.open_file(&seen.path);
        let mut file = file.map_err(|error| gone(self.root, error, &seen.path))?;
        let fail = |source| RootError { what: "read", path: self.root.show(&seen.path), source };
        let same = |file: &File| -> io::Result<bool> {
            Ok(alike(&Stat::from(rustix::fs::fstat(file)?), &seen.stat))
        };
        if !same(&file).map_err(fail)? {
            return Err(self.changed(seen));
        }
        let (digest, length) = hash(&mut file, buffer).map_err(fail)?;
        self.read.fetch_add(length, Ordering::Relaxed);
        if length != seen.stat.size || !same(&file).map_err(fail)? {
            return Err(self.changed(seen));
        }
        Ok(digest)
    }

    fn changed(&self, seen: &Seen) -> ScanError {
        ScanError::Changed { path: self.root.show(&seen.path) }
    }
}

fn hash(file: &mut File, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    let (mut hasher, mut length) = (Hasher::new(), 0);
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((hasher.finish(), length)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
