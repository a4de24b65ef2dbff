//! A repository in a directory of this machine.
//!
//! Its files are copied into the spool like all others: what was verified must not change afterwards.

#![allow(
    clippy::disallowed_methods,
    reason = "the repository is the one that the administrator names, links included"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::OFlags;

use crate::fetch::CatalogAnswer;
use crate::fetch::cancel::{CancelCheck, Cancelled};
use crate::fetch::download::partial_file::PartialFile;
use crate::fetch::download::spool::Spool;
use crate::fetch::error::{FetchError, FetchErrorKind, Side};
use crate::fetch::transport::{Transport, TransportError};

pub(in crate::fetch) struct FileTransport {
    directory: PathBuf,
    stop: CancelCheck,
}

impl FileTransport {
    /// `directory` is the image's.
    pub fn new(directory: PathBuf, stop: CancelCheck) -> Self {
        FileTransport { directory, stop }
    }

    /// Opens `file`, with its size and its etag: a rename over it changes the inode.
    fn open(&self, file: &str) -> Result<(File, u64, String), FetchError> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => FetchError::new(
                FetchErrorKind::NotFound,
                Side::Server,
                self.address(file),
                "there is no such file",
            ),
            _ => FetchError::local(self.address(file), "open it", e),
        };
        // A FIFO must not hold us up.
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(nonblock)
            .open(self.directory.join(file))
            .map_err(failed)?;
        let meta = opened.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(FetchError::new(
                FetchErrorKind::Other,
                Side::Server,
                self.address(file),
                "it is no plain file",
            ));
        }
        let etag = format!(
            "\"{:x}.{:x}-{:x}-{:x}\"",
            meta.mtime(),
            meta.mtime_nsec(),
            meta.size(),
            meta.ino()
        );
        Ok((opened, meta.size(), etag))
    }

    fn wrong_size(&self, file: &str, size: u64, wanted: u64) -> FetchError {
        let why = format!("the file has {size} bytes, the catalog names {wanted}");
        FetchError::new(FetchErrorKind::Corrupt, Side::Server, self.address(file), why)
    }
}

impl Transport for FileTransport {
    fn address(&self, file: &str) -> String {
        format!("file://{}", self.directory.join(file).display())
    }

    fn fill(&self, file: &str, part: &mut PartialFile<'_>) -> Result<(), TransportError> {
        let (opened, size, etag) = self.open(file)?;
        if size != part.total() {
            return Err(TransportError::Permanent(self.wrong_size(file, size, part.total())));
        }
        if part.etag() != Some(&etag) {
            part.restart(Some(etag))?;
        }
        let mut buffer = vec![0; 1 << 20];
        while part.left() > 0 {
            if (self.stop)() {
                return Err(Cancelled.into());
            }
            let want = usize::try_from(part.left()).unwrap_or(usize::MAX).min(buffer.len());
            match opened.read_at(&mut buffer[..want], part.next()) {
                Ok(0) => {
                    return Err(TransportError::transient(self.wrong_size(
                        file,
                        part.next(),
                        size,
                    )));
                }
                Ok(n) => part.append(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(TransportError::Permanent(FetchError::local(
                        self.address(file),
                        "read it",
                        e,
                    )));
                }
            }
        }
        Ok(())
    }

    fn unsized_file(
        &self,
        file: &str,
        known: Option<&str>,
        cap: u64,
        _: &Spool,
    ) -> Result<CatalogAnswer, TransportError> {
        let (opened, size, etag) = self.open(file)?;
        if known == Some(&etag) {
            return Ok(CatalogAnswer::NotModified);
        }
        if size > cap {
            return Err(TransportError::Permanent(too_large(self.address(file), cap)));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        opened.read_exact_at(&mut bytes, 0).map_err(|e| {
            TransportError::transient(FetchError::local(self.address(file), "read it", e))
        })?;
        Ok(CatalogAnswer::Fetched { bytes, etag: Some(etag) })
    }
}

/// A file whose size nobody has named is larger than any honest one.
pub(in crate::fetch) fn too_large(what: String, cap: u64) -> FetchError {
    FetchError::new(
        FetchErrorKind::Other,
        Side::Server,
        what,
        format_args!("it is larger than {cap} bytes"),
    )
}
