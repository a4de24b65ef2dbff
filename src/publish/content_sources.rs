//! The contents of earlier generations, which deltas are made from: the image tree has lost them, the
//! repository has not.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::delta::ReadAt;
use crate::diff_archive::Sources;
use crate::digest::Digest;
use crate::fetch::content::{ContentStore, Missing};
use crate::tree_path::TreePath;

/// Contents out of the repository, in a file without a name.
pub(crate) struct SpooledContents {
    file: File,
    end: u64,
    places: HashMap<Digest, (u64, u64)>,
}

/// No contents at hand: everything comes out of the repository.
pub(crate) struct NoContents;

impl SpooledContents {
    /// Keeps contents in `file`, which is empty.
    pub(crate) fn new(file: File) -> Self {
        SpooledContents { file, end: 0, places: HashMap::new() }
    }

    /// Takes those of `wanted` out of the repository that are `near`, and returns what cannot be had.
    pub(crate) fn take(
        &mut self,
        wanted: impl IntoIterator<Item = (Digest, u64)>,
        store: &ContentStore<'_>,
        near: impl Fn(&Digest) -> bool,
    ) -> io::Result<Vec<Missing>> {
        let absent =
            |(digest, _): &(Digest, u64)| !self.places.contains_key(digest) && near(digest);
        let wanted: Vec<(Digest, u64)> = wanted.into_iter().filter(absent).collect();
        let SpooledContents { file, end, places } = self;
        let mut buffer = vec![0; 128 << 10];
        // A content whose reader fails is given again: only a whole one counts.
        let mut sink = |digest: Digest, content: &mut dyn Read| {
            let mut length = 0;
            loop {
                let n = content.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                file.write_all_at(&buffer[..n], *end + length)?;
                length += n as u64;
            }
            places.insert(digest, (*end, length));
            *end += length;
            Ok(())
        };
        store.fetch(&wanted, &mut sink).map_err(io::Error::other)
    }
}

impl Sources for SpooledContents {
    fn read(&self, digest: &Digest, size: u64, _: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let Some(&(offset, length)) = self.places.get(digest) else { return Ok(None) };
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
        let place = self.places.get(digest).filter(|(_, length)| *length == size);
        Ok(place.map(|(offset, length)| {
            Box::new(SpooledRange { file: &self.file, offset: *offset, length: *length }) as _
        }))
    }
}

/// A content in the file of all.
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
