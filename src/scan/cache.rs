//! What the last scan read, so that the next one need not.
//!
#![doc = include_str!("format.md")]
// The cache lies in the repository, which is the server's own and no target tree.
#![allow(
    clippy::disallowed_methods,
    reason = "the cache is a file of the server's own, outside every image"
)]

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use super::Seen;
use crate::digest::Digest;
use crate::entry::Mtime;
use crate::root::Stat;
use crate::tree_path::TreePath;

const MAGIC: &[u8] = b"SISCAN1\n";
/// A larger file is not ours: five million entries take about half of it.
const MAX_CACHE: u64 = 1 << 30;
/// Coarser than the timestamps of any filesystem that Linux has.
const SETTLED: i64 = 2;

/// Digests by path, each with the state of the inode that it was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cache(HashMap<TreePath, CachedDigest>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CachedDigest {
    inode: CacheKey,
    digest: Digest,
}

/// What changes when content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CacheKey {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: Mtime,
    ctime: Mtime,
}

impl Cache {
    /// Takes over what a scan that began at `started` read.
    pub(super) fn new<'a>(files: impl Iterator<Item = (&'a Seen, Digest)>, started: Mtime) -> Self {
        let limit = Mtime { seconds: started.seconds - SETTLED, ..started };
        let settled = files.filter(|(seen, _)| seen.stat.ctime < limit);
        Cache(
            settled
                .map(|(s, digest)| {
                    (s.path.clone(), CachedDigest { inode: CacheKey::of(&s.stat), digest })
                })
                .collect(),
        )
    }

    /// The digest of the file at `path`, if it is as it was.
    pub(super) fn digest(&self, path: &TreePath, stat: &Stat) -> Option<Digest> {
        self.0.get(path).filter(|known| known.inode == CacheKey::of(stat)).map(|known| known.digest)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the file at `path`; one that is absent or damaged holds nothing.
    pub fn load(path: &Path) -> Self {
        let small = std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_CACHE);
        let bytes = if small { std::fs::read(path).ok() } else { None };
        bytes.and_then(|bytes| Self::parse(&bytes)).unwrap_or_default()
    }

    /// Writes the file at `path`, beside its place and then renamed.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        // Names of images hold dots: the whole name, so that two images never share it.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&self.to_bytes())?;
        file.sync_all()?;
        std::fs::rename(beside, path)
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
        let mut known = HashMap::new();
        while !rest.0.is_empty() {
            let (dev, ino, size) = (rest.u64()?, rest.u64()?, rest.u64()?);
            let (mtime, ctime) = (rest.time()?, rest.time()?);
            let digest = Digest(*rest.take::<32>()?);
            let length = u16::from_le_bytes(*rest.take()?).into();
            let (path, after) = rest.0.split_at_checked(length)?;
            rest = Rest(after);
            let inode = CacheKey { dev, ino, size, mtime, ctime };
            known.insert(TreePath::new(path).ok()?, CachedDigest { inode, digest });
        }
        Some(Cache(known))
    }
}

impl CacheKey {
    fn of(stat: &Stat) -> Self {
        CacheKey {
            dev: stat.dev,
            ino: stat.ino,
            size: stat.size,
            mtime: stat.mtime,
            ctime: stat.ctime,
        }
    }
}

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
