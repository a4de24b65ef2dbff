//! The one place that vouches for bytes.

pub(super) mod growing_file;
pub(super) mod partial_file;
pub(super) mod retry;
pub(super) mod spool;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};

use crate::catalog::FileRef;
use crate::digest::Digest;
use crate::fetch::error::{FetchError, FetchErrorKind, Side};
use crate::fetch::transport::TransportError;
use crate::fetch::{Repository, cancel};
use crate::report::Monitor;

use growing_file::GrowingFile;
use partial_file::PartialFile;
use retry::RetryPolicy;

/// A file of the repository whose size and SHA-256 are those that the catalog names.
///
/// Made by [`Repository::file`], and by nothing else. It stays what it is: it lies in the spool, which
/// is private, and no part of this program writes to it again.
#[derive(Debug)]
pub struct Verified {
    file: File,
    size: u64,
    sha256: Digest,
}

/// How a part was filled.
pub(super) enum Filled {
    /// It holds what it lacked.
    Yes,
    /// The server gives whole files only.
    WholeFilesOnly,
}

/// Bytes of an open file, without a position that others could move.
pub(super) struct FileRange {
    file: Arc<File>,
    next: u64,
    left: u64,
}

impl Verified {
    /// The file, at its beginning.
    pub fn into_file(self) -> File {
        self.file
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Of the whole file.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    fn at_beginning(mut file: File, claim: &FileRef) -> Result<Self, FetchError> {
        file.seek(SeekFrom::Start(0)).map_err(|e| FetchError::spool("seek in a file", e))?;
        Ok(Verified { file, size: claim.size, sha256: claim.sha256 })
    }
}

impl FileRange {
    pub fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        FileRange { file, next: offset, left: length }
    }
}

impl Read for FileRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..want], self.next)?;
        self.next += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

impl Repository {
    /// Brings `claim` into the spool, unless it is there, and verifies it in either case; `readers` follow it.
    pub(super) fn download(
        &self,
        claim: &FileRef,
        readers: Option<&GrowingFile>,
        monitor: Option<&dyn Monitor>,
    ) -> Result<Verified, FetchError> {
        // Two downloads of one file would write into one part file.
        let _one_at_a_time = self.downloading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verified) = self.left_by_an_earlier_run(claim)? {
            if let Some(readers) = readers {
                let file = verified
                    .file
                    .try_clone()
                    .map_err(|e| FetchError::spool("open a file again", e))?;
                readers.begins(file, verified.size);
            }
            return Ok(verified);
        }
        let mut part = PartialFile::of_file(&self.spool, claim, claim.size, monitor)?;
        self.spool.check_room(part.left())?;
        part.announce();
        readers.map_or(Ok(()), |readers| part.show(readers))?;
        // What an earlier run left is hashed before the rest comes, and then not read again.
        let mut right = part.digest()? == claim.sha256 && part.left() == 0;
        if !right {
            self.download_into(claim, &mut part, monitor)?;
            right = part.digest()? == claim.sha256;
        }
        if !right {
            part.note(format!(
                "what came of {} is not what the catalog names: fetching it anew",
                claim.file
            ));
            part.fresh = true;
            part.restart(None)?;
            self.download_into(claim, &mut part, monitor)?;
            right = part.digest()? == claim.sha256;
        }
        if !right {
            self.spool.discard(claim.sha256)?;
            return Err(self.not_the_bytes(claim));
        }
        part.finished();
        let file = part.into_file();
        self.spool.keep(claim.sha256)?;
        Verified::at_beginning(file, claim)
    }

    fn left_by_an_earlier_run(&self, claim: &FileRef) -> Result<Option<Verified>, FetchError> {
        let Some(file) = self.spool.verified(claim.sha256)? else { return Ok(None) };
        let found = Digest::of_reader(&file).map_err(|e| FetchError::spool("read a file", e))?;
        if found == (claim.sha256, claim.size) {
            return Verified::at_beginning(file, claim).map(Some);
        }
        self.spool.remove(&claim.sha256.to_string())?;
        Ok(None)
    }

    /// Fills `part`, with retries.
    pub(super) fn download_into(
        &self,
        claim: &FileRef,
        part: &mut PartialFile<'_>,
        monitor: Option<&dyn Monitor>,
    ) -> Result<Filled, FetchError> {
        let address = self.transport.address(claim.file.as_str());
        let mut patience = RetryPolicy::new(&self.options);
        while part.left() > 0 {
            let before = part.held();
            let (error, asked) = match self.transport.fill(claim.file.as_str(), part) {
                Ok(()) => continue,
                Err(TransportError::WholeFilesOnly) => return Ok(Filled::WholeFilesOnly),
                Err(TransportError::Permanent(error)) => return Err(error.about(&address)),
                Err(TransportError::Transient { error, pause }) => (error.about(&address), pause),
            };
            let Some(pause) = patience.pause(part.held().saturating_sub(before), asked) else {
                return Err(error.after(patience.failures()));
            };
            if let Some(monitor) = monitor {
                monitor.note(format!("{error}; trying again in {:.1} s", pause.as_secs_f64()));
            }
            cancel::sleep(self.options.stopped, pause)?;
        }
        Ok(Filled::Yes)
    }

    /// The first `length` bytes of `claim`, which have to have the digest `sha256`.
    ///
    /// They stay in the part file, so that the download of the whole file goes on after them.
    pub(super) fn beginning(
        &self,
        claim: &FileRef,
        length: u64,
        sha256: Digest,
    ) -> Result<Vec<u8>, FetchError> {
        let _one_at_a_time = self.downloading.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        if let Some(file) = self.spool.verified(claim.sha256)? {
            let mut bytes = Vec::new();
            file.take(length)
                .read_to_end(&mut bytes)
                .map_err(|e| FetchError::spool("read a file", e))?;
            if Digest::of(&bytes) == sha256 {
                return Ok(bytes);
            }
            self.spool.remove(&claim.sha256.to_string())?;
        }
        let mut part = PartialFile::of_file(&self.spool, claim, length, None)?;
        self.spool.check_room(part.left())?;
        for fresh in [false, true] {
            if fresh {
                part.fresh = true;
                part.restart(None)?;
            }
            self.download_into(claim, &mut part, None)?;
            let bytes = part.first(wanted)?;
            if Digest::of(&bytes) == sha256 {
                return Ok(bytes);
            }
        }
        part.restart(None)?;
        Err(self.not_the_bytes(claim))
    }

    fn not_the_bytes(&self, claim: &FileRef) -> FetchError {
        FetchError::new(
            FetchErrorKind::Corrupt,
            Side::Server,
            self.transport.address(claim.file.as_str()),
            "the file does not have the SHA-256 that the catalog names, also when fetched anew",
        )
    }
}
