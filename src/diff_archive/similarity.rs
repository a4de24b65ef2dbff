//! The pairing of a diff, completed by what is in the files.

use std::io::{self, Read};

use crate::delta::{Matching, ReadAt, Sketch};
use crate::diff_archive::{ContentProvider, Sources};
use crate::entry::Entry;

/// Lets `pairing` look into the contents of the base, which `sources` has, and into those of the target.
///
/// What cannot be read serves nothing, here: whoever needs it finds out why. Digests are checked where a content
/// is used.
pub fn pair_by_content<'m>(
    pairing: Matching<'m>,
    sources: &dyn Sources,
    content: &dyn ContentProvider,
) -> Matching<'m> {
    let old = |entry: &Entry| {
        let (size, digest) = entry.file()?;
        let file = sources.open(&digest, size, &entry.path).ok()??;
        sketch(Reading { file: &*file, at: 0 }, size)
    };
    let new = |entry: &Entry| sketch(content.open(entry).ok()?, entry.file()?.0);
    pairing.by_content(old, new)
}

/// What a content is like, of which the first `size` bytes count: a file may have grown since.
fn sketch(content: impl Read, size: u64) -> Option<Sketch> {
    Sketch::of(content.take(size)).ok()?
}

/// A file from a place on.
pub(super) struct Reading<'f> {
    pub file: &'f dyn ReadAt,
    pub at: u64,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(n as u64);
        Ok(n)
    }
}
