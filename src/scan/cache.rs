//! Digests of the last scan.
//!
//! A file whose inode has not changed since is not read again. So an unchanged image costs a walk
//! over its directories, and not the reading of its content.
#![doc = include_str!("format.md")]
#![allow(
    clippy::disallowed_methods,
    reason = "the cache is a file of the server's own, outside every image"
)]

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use super::ScannedPath;
use crate::digest::Digest;
use crate::entry::Mtime;
use crate::host::named_file;
use crate::root::Stat;
use crate::tree_path::TreePath;

const MAGIC: &[u8] = b"SISCAN1\n";
/// Size of the largest cache that is read, in bytes: five million entries take about half of it.
const MAX_CACHE: usize = 1 << 30;
/// Seconds after which a change must show in an inode's times, on any filesystem of Linux.
const TIME_RESOLUTION: i64 = 2;

/// Digests by path, each with the identity of the inode at that time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cache(HashMap<TreePath, CachedDigest>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CachedDigest {
    inode: CacheKey,
    digest: Digest,
}

/// Fields of an inode of which at least one changes with the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CacheKey {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: Mtime,
    ctime: Mtime,
}

impl Cache {
    /// The cache of a scan that began at `started`.
    pub(super) fn new<'a>(
        files: impl Iterator<Item = (&'a ScannedPath, Digest)>,
        started: Mtime,
    ) -> Self {
        // A file that changed later could change again without another ctime.
        let limit = Mtime { seconds: started.seconds - TIME_RESOLUTION, ..started };
        let digests = files.filter(|(file, _)| file.stat.ctime < limit).map(|(file, digest)| {
            (file.path.clone(), CachedDigest { inode: CacheKey::new(&file.stat), digest })
        });
        Cache(digests.collect())
    }

    /// The digest of a file whose inode has not changed.
    pub(super) fn digest(&self, path: &TreePath, stat: &Stat) -> Option<Digest> {
        let cached = self.0.get(path).filter(|cached| cached.inode == CacheKey::new(stat))?;
        Some(cached.digest)
    }

    /// Whether the cache has no digest.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a cache; one that is missing or damaged is empty.
    pub fn load(path: &Path) -> Self {
        let bytes = named_file::read(path, MAX_CACHE);
        bytes.ok().and_then(|bytes| Self::parse(&bytes)).unwrap_or_default()
    }

    /// Writes the cache under a temporary name, and renames it.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        // Appended to the whole name: image names have dots, so replacing an extension could make
        // two equal.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");

        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&self.to_bytes())?;
        file.sync_all()?;
        std::fs::rename(temporary, path)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (path, CachedDigest { inode, digest }) in &self.0 {
            for number in [inode.dev, inode.ino, inode.size] {
                bytes.extend(number.to_le_bytes());
            }
            for time in [inode.mtime, inode.ctime] {
                bytes.extend(time.seconds.to_le_bytes());
                bytes.extend(time.nanos.to_le_bytes());
            }
            bytes.extend(digest.0);
            // A path has at most 4,095 bytes.
            bytes.extend((path.as_bytes().len() as u16).to_le_bytes());
            bytes.extend(path.as_bytes());
        }

        let digest = Digest::of(&bytes);
        bytes.extend(digest.0);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, digest) = bytes.split_last_chunk::<32>()?;
        if Digest::of(body).0 != *digest {
            return None;
        }

        let mut rest = Rest(body.strip_prefix(MAGIC)?);
        let mut digests = HashMap::new();
        while !rest.0.is_empty() {
            let dev = rest.u64()?;
            let ino = rest.u64()?;
            let size = rest.u64()?;
            let mtime = rest.time()?;
            let ctime = rest.time()?;
            let digest = Digest(*rest.take::<32>()?);
            let length = u16::from_le_bytes(*rest.take()?).into();
            let (path, after) = rest.0.split_at_checked(length)?;
            rest = Rest(after);

            let inode = CacheKey { dev, ino, size, mtime, ctime };
            digests.insert(TreePath::new(path).ok()?, CachedDigest { inode, digest });
        }
        Some(Cache(digests))
    }
}

impl CacheKey {
    fn new(stat: &Stat) -> Self {
        CacheKey {
            dev: stat.dev,
            ino: stat.ino,
            size: stat.size,
            mtime: stat.mtime,
            ctime: stat.ctime,
        }
    }
}

/// The part of a file that is not parsed yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (chunk, after) = self.0.split_first_chunk()?;
        self.0 = after;
        Some(chunk)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn time(&mut self) -> Option<Mtime> {
        let seconds = i64::from_le_bytes(*self.take()?);
        Some(Mtime { seconds, nanos: u32::from_le_bytes(*self.take()?) })
    }
}
