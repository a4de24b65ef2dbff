//! Repository in a directory of this machine.
//!
//! Its files are copied into the spool like those of a server: after the verification nobody else
//! may change them.

#![allow(
    clippy::disallowed_methods,
    reason = "the repository is named by the administrator, including its symlinks"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::{HeadAnswer, Transport, TransportError};
use crate::cancel::{CancelCheck, Cancelled};
use crate::fetch::download::partial_file::PartialFile;
use crate::fetch::download::spool::Spool;
use crate::fetch::error::{FetchError, FetchProblem};

/// Files of one directory.
pub(in crate::fetch) struct FileTransport {
    directory: PathBuf,
    is_cancelled: CancelCheck,
}

struct OpenedFile {
    file: File,
    size: u64,
    etag: String,
}

impl FileTransport {
    /// `directory` is the one of the image or override.
    pub fn new(directory: PathBuf, is_cancelled: CancelCheck) -> Self {
        FileTransport { directory, is_cancelled }
    }

    /// Opens `file`. The etag contains the inode, which a rename over the file changes.
    fn open(&self, file: &str) -> Result<OpenedFile, FetchError> {
        let open_error = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => FetchProblem::NotFound.at(self.address(file)),
            _ => FetchProblem::local("open the file", error).at(self.address(file)),
        };

        // O_NONBLOCK: to open a FIFO must not block.
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(nonblock)
            .open(self.directory.join(file))
            .map_err(open_error)?;

        let metadata = opened.metadata().map_err(open_error)?;
        if !metadata.is_file() {
            return Err(FetchProblem::NotAFile.at(self.address(file)));
        }
        let etag = format!(
            "\"{:x}.{:x}-{:x}-{:x}\"",
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.size(),
            metadata.ino()
        );
        Ok(OpenedFile { file: opened, size: metadata.size(), etag })
    }

    fn read_error(&self, file: &str, error: io::Error) -> FetchError {
        FetchProblem::local("read the file", error).at(self.address(file))
    }
}

impl Transport for FileTransport {
    fn address(&self, file: &str) -> String {
        format!("file://{}", self.directory.join(file).display())
    }

    fn download_into(
        &self,
        file: &str,
        partial: &mut PartialFile<'_>,
    ) -> Result<(), TransportError> {
        let OpenedFile { file: opened, size, etag } = self.open(file)?;
        if size != partial.file_size() {
            let problem = FetchProblem::WrongSize { actual: size, expected: partial.file_size() };
            return Err(problem.at(self.address(file)).into());
        }
        if partial.etag() != Some(&etag) {
            partial.restart(Some(etag))?;
        }

        let mut buffer = vec![0; 1 << 20];
        while partial.missing() > 0 {
            if (self.is_cancelled)() {
                return Err(Cancelled.into());
            }

            let wanted = usize::try_from(partial.missing()).unwrap_or(usize::MAX).min(buffer.len());
            match opened.read_at(&mut buffer[..wanted], partial.offset()) {
                Ok(0) => {
                    // The file was truncated after it was opened.
                    let actual = partial.offset();
                    let problem = FetchProblem::WrongSize { actual, expected: size };
                    return Err(TransportError::transient(problem.at(self.address(file))));
                }
                Ok(count) => partial.append(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.read_error(file, error).into()),
            }
        }
        Ok(())
    }

    fn download_unsized(
        &self,
        file: &str,
        known_etag: Option<&str>,
        limit: u64,
        _: &Spool,
    ) -> Result<HeadAnswer, TransportError> {
        let OpenedFile { file: opened, size, etag } = self.open(file)?;
        if known_etag == Some(&etag) {
            return Ok(HeadAnswer::NotModified);
        }
        if size > limit {
            return Err(FetchProblem::TooLarge { limit }.at(self.address(file)).into());
        }

        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        opened
            .read_exact_at(&mut bytes, 0)
            .map_err(|error| TransportError::transient(self.read_error(file, error)))?;
        Ok(HeadAnswer::Fetched { bytes, etag: Some(etag) })
    }
}
