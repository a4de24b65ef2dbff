//! The spool: directory for partial and complete downloads.
//!
//! `SHA256.part` is a partial file. `SHA256.etag` is the strong etag with which the server sent it;
//! without that etag it is not resumed, since another state of the file could follow. `SHA256` is a
//! complete file. All are private to this program, and are opened only if they are regular files
//! with one link. Nothing in the spool is trusted: every run hashes the files that it uses.

#![allow(
    clippy::disallowed_methods,
    reason = "the spool is private, and accessed by its own descriptor"
)]

use std::borrow::Cow;
use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::fetch::error::{FetchError, FetchProblem};
use crate::root::fault::change;

/// Limit of an etag in bytes; a longer one is ignored.
pub(in crate::fetch) const MAX_ETAG: usize = 256;

/// Directory for partial and complete downloads.
#[derive(Debug)]
pub struct Spool {
    directory: OwnedFd,
    /// Limit of all files together, in bytes.
    limit: u64,
    /// Path of a temporary spool, which is removed on drop.
    temporary: Option<PathBuf>,
}

impl Spool {
    /// Uses `directory`, not opened with `O_PATH`, for at most `limit` bytes; sets mode 0700.
    pub fn open(directory: OwnedFd, limit: u64) -> Result<Self, FetchError> {
        change(|| rustix::fs::fchmod(&directory, Mode::RWXU))
            .map_err(spool_error("set the mode of the spool"))?;
        Ok(Spool { directory, limit, temporary: None })
    }

    /// Creates a spool in `TMPDIR`, which is removed on drop.
    pub fn create_temporary() -> Result<Self, FetchError> {
        let path = env::temp_dir().join(format!("si-spool-{:016x}", random_number()));
        let operation = format!("create the spool {}", path.display());

        rustix::fs::mkdir(&path, Mode::RWXU).map_err(spool_error(operation.clone()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(spool_error(operation))?;
        Ok(Spool { directory, limit: u64::MAX, temporary: Some(path) })
    }

    /// Removes all files except those of the digests in `keep`.
    pub fn tidy(&self, keep: &[Digest]) -> Result<(), FetchError> {
        for name in self.names().map_err(spool_error("list the spool"))? {
            let stem = name.split('.').next().unwrap_or_default();
            if !stem.parse().is_ok_and(|digest| keep.contains(&digest)) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// The directory, for programs that write into it.
    pub(in crate::fetch) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Checks that `bytes` more fit into the limit and onto the filesystem.
    pub(in crate::fetch) fn check_space(&self, bytes: u64) -> Result<(), FetchError> {
        let used = self.used_bytes().map_err(spool_error("list the spool"))?;
        if used.saturating_add(bytes) > self.limit {
            let limit = self.limit;
            return Err(FetchProblem::SpoolLimit { needed: bytes, used, limit }.into());
        }

        let filesystem = rustix::fs::fstatvfs(&self.directory)
            .map_err(spool_error("find the free space of the spool"))?;
        let free = filesystem.f_bavail.saturating_mul(filesystem.f_frsize);
        if bytes > free {
            return Err(FetchProblem::DiskFull { needed: bytes, free }.into());
        }
        Ok(())
    }

    /// Opens the complete file of `digest`, which the caller has to hash.
    pub(in crate::fetch) fn open_complete(
        &self,
        digest: Digest,
    ) -> Result<Option<File>, FetchError> {
        self.open_file(&digest.to_string(), OFlags::RDONLY)
    }

    /// Opens or creates the partial file of `digest`.
    pub(in crate::fetch) fn open_partial(&self, digest: Digest) -> Result<File, FetchError> {
        let name = partial_name(digest);
        if let Some(file) = self.open_file(&name, OFlags::RDWR)? {
            return Ok(file);
        }

        // The name may belong to something that is no regular file.
        self.remove(&name)?;
        self.create(&name)
    }

    /// Creates a file without a name.
    pub(in crate::fetch) fn create_unnamed(&self) -> Result<File, FetchError> {
        let name = format!("{:016x}.range", random_number());
        let file = self.create(&name)?;
        self.remove(&name)?;
        Ok(file)
    }

    /// The strong etag of the partial file of `digest`.
    pub(in crate::fetch) fn read_etag(&self, digest: Digest) -> Option<String> {
        let file = self.open_at(&etag_name(digest), OFlags::RDONLY).ok()??;
        let mut text = String::new();
        file.take(MAX_ETAG as u64 + 1).read_to_string(&mut text).ok()?;
        is_strong_etag(&text).then_some(text)
    }

    /// Stores, or removes, the etag of the partial file of `digest`.
    pub(in crate::fetch) fn write_etag(
        &self,
        digest: Digest,
        etag: Option<&str>,
    ) -> Result<(), FetchError> {
        let name = etag_name(digest);
        self.remove(&name)?;

        let Some(etag) = etag else { return Ok(()) };
        let mut file = self.create(&name)?;
        change(|| file.write_all(etag.as_bytes()))
            .map_err(spool_error("store an etag in the spool"))
    }

    /// Renames the partial file of `digest`, which the caller has verified, to the complete one.
    pub(in crate::fetch) fn complete(&self, digest: Digest) -> Result<(), FetchError> {
        let (from, to) = (partial_name(digest), digest.to_string());
        change(|| rustix::fs::renameat(&self.directory, &from, &self.directory, &to))
            .map_err(spool_error("rename a complete file in the spool"))?;
        self.remove(&etag_name(digest))
    }

    /// Removes all files of `digest`.
    pub(in crate::fetch) fn discard(&self, digest: Digest) -> Result<(), FetchError> {
        self.remove(&etag_name(digest))?;
        self.remove(&partial_name(digest))?;
        self.remove(&digest.to_string())
    }

    /// Removes a file, if it exists.
    pub(in crate::fetch) fn remove(&self, name: &str) -> Result<(), FetchError> {
        match change(|| rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(spool_error(format!("remove {name} from the spool"))(error)),
        }
    }

    /// Size of a file; 0 if it does not exist.
    pub(in crate::fetch) fn size(&self, name: &str) -> u64 {
        let stat = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Opens a file; `None` if it does not exist, is not a regular file, or has other links.
    pub(in crate::fetch) fn open_file(
        &self,
        name: &str,
        flags: OFlags,
    ) -> Result<Option<File>, FetchError> {
        self.open_at(name, flags).map_err(spool_error("open a file in the spool"))
    }

    fn open_at(&self, name: &str, flags: OFlags) -> Result<Option<File>, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error),
        };

        let stat = rustix::fs::fstat(&file)?;
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok((is_regular && stat.st_nlink == 1).then(|| file.into()))
    }

    fn create(&self, name: &str) -> Result<File, FetchError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        change(|| rustix::fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR))
            .map(File::from)
            .map_err(spool_error("create a file in the spool"))
    }

    fn used_bytes(&self) -> Result<u64, Errno> {
        let sizes = self.names()?.into_iter().map(|name| self.size(&name));
        Ok(sizes.fold(0, u64::saturating_add))
    }

    /// Names of the files. Names that are not UTF-8 are of no download and are ignored.
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

/// Makes the error of a failed system call; `operation` is a verb with its object.
pub(in crate::fetch) fn spool_error<E: Into<io::Error>>(
    operation: impl Into<Cow<'static, str>>,
) -> impl FnOnce(E) -> FetchError {
    move |error| FetchProblem::local(operation, error).into()
}

/// Name of the partial file of `digest`.
pub(in crate::fetch) fn partial_name(digest: Digest) -> String {
    format!("{digest}.part")
}

fn etag_name(digest: Digest) -> String {
    format!("{digest}.etag")
}

/// Whether the etag is strong (RFC 9110, 8.8.3): equal strong etags mean equal bytes.
pub(in crate::fetch) fn is_strong_etag(etag: &str) -> bool {
    etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"') && is_valid_etag(etag)
}

/// Whether the etag is short and can be sent back in a header.
pub(in crate::fetch) fn is_valid_etag(etag: &str) -> bool {
    etag.len() <= MAX_ETAG && etag.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// A number for names and pauses. It differs from call to call, and is not for secrets.
pub(in crate::fetch) fn random_number() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
