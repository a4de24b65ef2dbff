//! The spool: where files lie while they are fetched, and until they are no longer needed.
//!
//! A file on its way is `SHA256.part`; the strong etag under which the server gave it, without which it
//! is not resumed, is `SHA256.etag`; what was verified is `SHA256`. All are private and are never
//! reached through a link. The content of the spool is never believed: every run hashes what it finds.

#![allow(
    clippy::disallowed_methods,
    reason = "the spool is private, and reached by its own descriptor"
)]

use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::fetch::error::FetchError;
use crate::root::fault::change;

/// Longer etags are not kept.
pub(in crate::fetch) const MAX_ETAG: usize = 256;

/// A directory for files on their way.
#[derive(Debug)]
pub struct Spool {
    directory: OwnedFd,
    limit: u64,
    temporary: Option<PathBuf>,
}

impl Spool {
    /// Uses `directory`, opened for reading (not `O_PATH`), which it makes private (0700), for at most `limit` bytes.
    pub fn open(directory: OwnedFd, limit: u64) -> Result<Self, FetchError> {
        change(|| rustix::fs::fchmod(&directory, Mode::RWXU))
            .map_err(|e| FetchError::spool("make it private", e))?;
        Ok(Spool { directory, limit, temporary: None })
    }

    /// Makes a directory under `TMPDIR` that is removed in the end.
    pub fn temporary() -> Result<Self, FetchError> {
        let path = env::temp_dir().join(format!("si-spool-{:016x}", random()));
        let failed = |e: Errno| FetchError::spool(format_args!("make {}", path.display()), e);
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(failed)?;
        Ok(Spool { directory, limit: u64::MAX, temporary: Some(path) })
    }

    /// Removes all that belongs to none of `keep`.
    pub fn tidy(&self, keep: &[Digest]) -> Result<(), FetchError> {
        for name in self.names().map_err(|e| FetchError::spool("list it", e))? {
            let stem = name.split('.').next().unwrap_or_default();
            if !stem.parse().is_ok_and(|digest| keep.contains(&digest)) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// The directory, for programs that write there themselves.
    pub(in crate::fetch) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Says early whether `bytes` more have room, within the limit and on the filesystem.
    pub(in crate::fetch) fn check_room(&self, bytes: u64) -> Result<(), FetchError> {
        let held = self.held().map_err(|e| FetchError::spool("list it", e))?;
        if held.saturating_add(bytes) > self.limit {
            return Err(FetchError::no_room(format_args!(
                "{bytes} more bytes are needed; it holds {held} and may hold {}: allow more, or tidy it",
                self.limit
            )));
        }
        let disk = rustix::fs::fstatvfs(&self.directory)
            .map_err(|e| FetchError::spool("find its free space", e))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if bytes > free {
            return Err(FetchError::no_room(format_args!(
                "{bytes} more bytes are needed, its filesystem has {free} free: make room"
            )));
        }
        Ok(())
    }

    /// The file that an earlier download left as verified, for reading.
    pub(in crate::fetch) fn verified(&self, digest: Digest) -> Result<Option<File>, FetchError> {
        self.open_at(&digest.to_string(), OFlags::RDONLY)
            .map_err(|e| FetchError::spool("open a verified file", e))
    }

    /// The part file of `digest`, made if it is not there.
    pub(in crate::fetch) fn part(&self, digest: Digest) -> Result<File, FetchError> {
        let name = part_name(digest);
        if let Some(file) = self
            .open_at(&name, OFlags::RDWR)
            .map_err(|e| FetchError::spool("open a part file", e))?
        {
            return Ok(file);
        }
        self.remove(&name)?;
        self.create(&name).map_err(|e| FetchError::spool("make a part file", e))
    }

    /// A file without a name.
    pub(in crate::fetch) fn unnamed(&self) -> Result<File, FetchError> {
        let name = format!("{:016x}.range", random());
        let file = self.create(&name).map_err(|e| FetchError::spool("make a file", e))?;
        self.remove(&name)?;
        Ok(file)
    }

    /// The etag that belongs to the part file of `digest`.
    pub(in crate::fetch) fn etag(&self, digest: Digest) -> Option<String> {
        let file = self.open_at(&etag_name(digest), OFlags::RDONLY).ok()??;
        let mut text = String::new();
        file.take(MAX_ETAG as u64 + 1).read_to_string(&mut text).ok()?;
        is_strong(&text).then_some(text)
    }

    /// Remembers, or forgets, the etag that belongs to the part file of `digest`.
    pub(in crate::fetch) fn set_etag(
        &self,
        digest: Digest,
        etag: Option<&str>,
    ) -> Result<(), FetchError> {
        let name = etag_name(digest);
        self.remove(&name)?;
        let Some(etag) = etag else { return Ok(()) };
        let mut file = self.create(&name).map_err(|e| FetchError::spool("keep an etag", e))?;
        change(|| file.write_all(etag.as_bytes())).map_err(|e| FetchError::spool("keep an etag", e))
    }

    /// Makes the part file of `digest` the verified one.
    pub(in crate::fetch) fn keep(&self, digest: Digest) -> Result<(), FetchError> {
        let (from, to) = (part_name(digest), digest.to_string());
        change(|| rustix::fs::renameat(&self.directory, &from, &self.directory, &to))
            .map_err(|e| FetchError::spool("rename a verified file", e))?;
        self.remove(&etag_name(digest))
    }

    /// Removes all that belongs to `digest`.
    pub(in crate::fetch) fn discard(&self, digest: Digest) -> Result<(), FetchError> {
        self.remove(&etag_name(digest))?;
        self.remove(&part_name(digest))?;
        self.remove(&digest.to_string())
    }

    /// Removes one file, if it is there.
    pub(in crate::fetch) fn remove(&self, name: &str) -> Result<(), FetchError> {
        match change(|| rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(FetchError::spool(format_args!("remove {name}"), e)),
        }
    }

    /// How large one file is; 0 where it is not there.
    pub(in crate::fetch) fn size(&self, name: &str) -> u64 {
        let stat = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Opens a file only where it is a plain one that no other name links.
    pub(in crate::fetch) fn open_at(
        &self,
        name: &str,
        flags: OFlags,
    ) -> Result<Option<File>, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(e) => return Err(e),
        };
        let stat = rustix::fs::fstat(&file)?;
        let plain =
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1;
        Ok(plain.then(|| file.into()))
    }

    fn create(&self, name: &str) -> Result<File, Errno> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        change(|| rustix::fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR))
            .map(File::from)
    }

    fn held(&self) -> Result<u64, Errno> {
        let mut held = 0u64;
        for name in self.names()? {
            held = held.saturating_add(self.size(&name));
        }
        Ok(held)
    }

    /// Names that are not UTF-8 are not ours, and left alone.
    fn names(&self) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory)? {
            match entry?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            let _ = self.tidy(&[]);
            let _ = rustix::fs::rmdir(path);
        }
    }
}

/// The name of the part file of `digest`.
pub(in crate::fetch) fn part_name(digest: Digest) -> String {
    format!("{digest}.part")
}

/// Whether two answers with this etag hold the same bytes (RFC 9110, 8.8.3: weak ones begin with `W/`).
pub(in crate::fetch) fn is_strong(etag: &str) -> bool {
    etag.len() <= MAX_ETAG
        && etag.len() > 2
        && etag.starts_with('"')
        && etag.ends_with('"')
        && is_header(etag)
}

/// Whether an etag can be sent back as it came.
pub(in crate::fetch) fn is_header(etag: &str) -> bool {
    etag.len() <= MAX_ETAG && etag.bytes().all(|b| matches!(b, b' '..=b'~'))
}

/// A number that differs from call to call: for names and for pauses, not for secrets.
pub(in crate::fetch) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

fn etag_name(digest: Digest) -> String {
    format!("{digest}.etag")
}
