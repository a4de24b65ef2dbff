//! A stretch of a repository's file that is being made here.

#![allow(
    clippy::disallowed_methods,
    reason = "the spool is private, and each change of it passes the fault point"
)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::catalog::FileRef;
use crate::digest::{Digest, Hasher};
use crate::fetch::download::growing_file::GrowingFile;
use crate::fetch::download::spool::Spool;
use crate::fetch::error::{FetchError, FetchErrorKind, Side};
use crate::report::{Event, Job, Monitor};
use crate::root::fault::change;

/// Bytes `from..to` of a file of `total` bytes; the first `held` of them are here.
///
/// It never grows beyond `to`, whatever a server sends.
pub(in crate::fetch) struct PartialFile<'a> {
    file: File,
    spool: &'a Spool,
    named: Option<Digest>,
    from: u64,
    to: u64,
    total: u64,
    held: u64,
    etag: Option<String>,
    hasher: Hasher,
    hashed: u64,
    progress: DownloadProgress<'a>,
    /// Who reads it meanwhile.
    readers: Option<&'a GrowingFile>,
    /// Caches between here and the server are to be passed by: what they gave was wrong.
    pub fresh: bool,
}

impl<'a> PartialFile<'a> {
    /// The first `to` bytes of `file`, in its part file of the spool, with what an earlier run left there.
    pub fn of_file(
        spool: &'a Spool,
        file: &FileRef,
        to: u64,
        monitor: Option<&'a dyn Monitor>,
    ) -> Result<Self, FetchError> {
        let part = spool.part(file.sha256)?;
        let held = part.metadata().map_err(|e| FetchError::spool("stat a part file", e))?.len();
        let etag = spool.etag(file.sha256);
        let mut part = PartialFile {
            held,
            etag,
            named: Some(file.sha256),
            progress: DownloadProgress { monitor, unsaid: 0, said: Instant::now() },
            ..PartialFile::empty(part, spool, 0, to, file.size)
        };
        if held > file.size {
            part.restart(None)?;
        }
        Ok(part)
    }

    /// Bytes `from..to` of `file`, in a file without a name.
    pub fn of_range(
        spool: &'a Spool,
        file: &FileRef,
        from: u64,
        to: u64,
    ) -> Result<Self, FetchError> {
        Ok(PartialFile::empty(spool.unnamed()?, spool, from, to, file.size))
    }

    fn empty(file: File, spool: &'a Spool, from: u64, to: u64, total: u64) -> Self {
        let progress = DownloadProgress { monitor: None, unsaid: 0, said: Instant::now() };
        let (hasher, hashed, held) = (Hasher::new(), 0, 0);
        let (named, etag, readers, fresh) = (None, None, None, false);
        PartialFile {
            file,
            spool,
            named,
            from,
            to,
            total,
            held,
            etag,
            hasher,
            hashed,
            progress,
            readers,
            fresh,
        }
    }

    /// Lets others read it while it is being made: as far as this program writes it itself.
    pub fn show(&mut self, readers: &'a GrowingFile) -> Result<(), FetchError> {
        let file =
            self.file.try_clone().map_err(|e| FetchError::spool("open a part file again", e))?;
        readers.begins(file, self.held);
        self.readers = Some(readers);
        Ok(())
    }

    /// Where in the repository's file the next byte lies.
    pub fn next(&self) -> u64 {
        self.from + self.held
    }

    /// Where in the repository's file the part ends.
    pub fn end(&self) -> u64 {
        self.to
    }

    /// The size that the repository's file has to have.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many bytes are here.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// How many bytes are missing.
    pub fn left(&self) -> u64 {
        (self.to - self.from).saturating_sub(self.held)
    }

    /// Whether the repository's file and the part begin together.
    pub fn is_prefix(&self) -> bool {
        self.from == 0
    }

    /// The strong etag under which the bytes came that are here.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Where the bytes are.
    pub fn spool(&self) -> &'a Spool {
        self.spool
    }

    /// The digest whose part file of the spool this is.
    pub fn named(&self) -> Option<Digest> {
        self.named
    }

    /// Tells the monitor, now and whenever bytes arrive.
    pub fn announce(&mut self) {
        self.progress.begin(self.to - self.from, self.held);
    }

    /// Tells the monitor that all is there.
    pub fn finished(&mut self) {
        self.progress.flush();
        self.progress.say(Event::Finished { job: Job::Download });
    }

    /// Tells the monitor a sentence.
    pub fn note(&self, text: String) {
        self.progress.say(Event::Note { text });
    }

    /// Forgets all bytes; those to come belong to `etag`, if that is a strong one.
    pub fn restart(&mut self, etag: Option<String>) -> Result<(), FetchError> {
        // Forgotten first and remembered last: after a crash no etag stands beside bytes that are not its.
        self.etag = None;
        if let Some(digest) = self.named {
            self.spool.set_etag(digest, None)?;
        }
        let began = self.held > 0;
        self.readers.filter(|_| began).into_iter().for_each(GrowingFile::begins_anew);
        change(|| self.file.set_len(0)).map_err(|e| FetchError::spool("empty a part file", e))?;
        (self.held, self.hashed, self.hasher) = (0, 0, Hasher::new());
        if began {
            self.announce();
        }
        if let (Some(digest), Some(etag)) = (self.named, &etag) {
            self.spool.set_etag(digest, Some(etag))?;
        }
        self.etag = etag;
        Ok(())
    }

    /// Takes in the next bytes; refuses, and takes none, where they are more than are missing.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        if bytes.len() as u64 > self.left() {
            let why =
                format!("the file is longer than the {} bytes that the catalog names", self.total);
            return Err(FetchError::new(FetchErrorKind::Corrupt, Side::Server, "", why));
        }
        if self.readers.is_some_and(GrowingFile::is_cancelled) {
            return Err(FetchError::new(
                FetchErrorKind::Other,
                Side::Node,
                "",
                "nobody waits for it any more",
            ));
        }
        change(|| self.file.write_all_at(bytes, self.held))
            .map_err(|e| FetchError::spool("write", e))?;
        if self.hashed == self.held {
            self.hasher.update(bytes);
            self.hashed += bytes.len() as u64;
        }
        self.held += bytes.len() as u64;
        self.readers.into_iter().for_each(|readers| readers.has(self.held));
        self.progress.advance(bytes.len() as u64);
        Ok(())
    }

    /// Takes note of what a program wrote into the part file; `false` where that is more than there may be.
    pub fn rehash(&mut self) -> Result<bool, FetchError> {
        let now = self.file.metadata().map_err(|e| FetchError::spool("stat a part file", e))?.len();
        if now > self.total {
            return Ok(false);
        }
        self.progress.advance(now.saturating_sub(self.held));
        self.held = now;
        Ok(true)
    }

    /// The digest of all bytes that are here; hashes only those that it has not hashed before.
    pub fn digest(&mut self) -> Result<Digest, FetchError> {
        let mut buffer = vec![0; 128 << 10];
        while self.hashed < self.held {
            let want =
                usize::try_from(self.held - self.hashed).unwrap_or(usize::MAX).min(buffer.len());
            let n = read_at(&self.file, &mut buffer[..want], self.hashed)?;
            if n == 0 {
                return Err(FetchError::spool(
                    "read a part file",
                    io::Error::from(io::ErrorKind::UnexpectedEof),
                ));
            }
            self.hasher.update(&buffer[..n]);
            self.hashed += n as u64;
        }
        Ok(self.hasher.clone().finish())
    }

    /// The first `length` bytes, which must be here.
    pub fn first(&self, length: usize) -> Result<Vec<u8>, FetchError> {
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| FetchError::spool("read a part file", e))?;
        Ok(bytes)
    }

    /// The file that holds the bytes, at its beginning.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Says how a download gets on, but not with every packet.
struct DownloadProgress<'a> {
    monitor: Option<&'a dyn Monitor>,
    unsaid: u64,
    said: Instant,
}

impl DownloadProgress<'_> {
    fn begin(&mut self, total: u64, held: u64) {
        self.unsaid = 0;
        self.say(Event::Started { job: Job::Download, total });
        self.unsaid = held;
        self.flush();
    }

    fn advance(&mut self, by: u64) {
        self.unsaid += by;
        if self.unsaid >= 1 << 20 || self.said.elapsed() >= Duration::from_millis(100) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.unsaid > 0 {
            let by = std::mem::take(&mut self.unsaid);
            self.said = Instant::now();
            self.say(Event::Advanced { job: Job::Download, by });
        }
    }

    fn say(&self, event: Event) {
        if let Some(monitor) = self.monitor {
            monitor.event(event);
        }
    }
}

/// Reads some bytes at `offset`, 0 at the end.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize, FetchError> {
    loop {
        match file.read_at(buffer, offset) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(|e| FetchError::spool("read a part file", e)),
        }
    }
}
