//! Contents of earlier generations, the sources of deltas. The image tree no longer has them; the
//! repository does.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use crate::delta::ReadAt;
use crate::diff_archive::Sources;
use crate::digest::Digest;
use crate::fetch::content::{ContentStore, Missing, VerifyingReader};
use crate::tree_path::TreePath;

/// Contents extracted from the repository into an unnamed file.
pub(crate) struct SpooledContents {
    file: File,
    end: u64,
    /// Offset and length of each content.
    ranges: HashMap<Digest, (u64, u64)>,
}

/// An empty set of contents: everything is read from the repository.
pub(crate) struct NoContents;

impl SpooledContents {
    /// Stores contents in `file`, which is empty.
    pub(crate) fn new(file: File) -> Self {
        SpooledContents { file, end: 0, ranges: HashMap::new() }
    }

    /// Extracts the `wanted` contents that pass `is_source`, and returns those that failed.
    pub(crate) fn extract(
        &mut self,
        wanted: impl IntoIterator<Item = (Digest, u64)>,
        store: &ContentStore<'_>,
        is_source: impl Fn(&Digest) -> bool,
    ) -> io::Result<Vec<Missing>> {
        let mut wanted: Vec<(Digest, u64)> = wanted.into_iter().collect();
        wanted.retain(|(digest, _)| !self.ranges.contains_key(digest) && is_source(digest));

        // After a failed read the store offers the content again, from another archive. `end` moves
        // only after a complete content, so that the second try overwrites the first.
        let spool = Mutex::new((self, vec![0; 128 << 10]));
        let sink = |content: &mut VerifyingReader<'_>| {
            let mut locked = spool.lock().unwrap_or_else(PoisonError::into_inner);
            let (spooled, buffer) = &mut *locked;
            let mut length = 0;
            loop {
                let n = content.read(buffer)?;
                if n == 0 {
                    break;
                }
                spooled.file.write_all_at(&buffer[..n], spooled.end + length)?;
                length += n as u64;
            }

            let start = spooled.end;
            spooled.ranges.insert(content.digest(), (start, length));
            spooled.end += length;
            Ok(())
        };
        store.fetch(&wanted, &sink).map_err(io::Error::other)
    }
}

impl Sources for SpooledContents {
    fn read(&self, digest: &Digest, size: u64, _: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let Some(&(offset, length)) = self.ranges.get(digest) else { return Ok(None) };
        if length != size {
            return Ok(None);
        }

        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(Some(bytes))
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        _: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        let range = self.ranges.get(digest).filter(|(_, length)| *length == size);

        Ok(range.map(|(offset, length)| {
            Box::new(SpooledRange { file: &self.file, offset: *offset, length: *length }) as _
        }))
    }
}

/// One content within the file of all contents.
struct SpooledRange<'f> {
    file: &'f File,
    offset: u64,
    length: u64,
}

impl ReadAt for SpooledRange<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        ReadAt::read_at(self.file, &mut buffer[..left], self.offset.saturating_add(offset))
    }
}

impl Sources for NoContents {
    fn read(&self, _: &Digest, _: u64, _: &TreePath) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
