//! Similarity search over real files: completes a matching by the contents of base and target.

use std::io::{self, Read};

use crate::delta::{Matching, ReadAt, Sketch};
use crate::diff_archive::sources::{ContentProvider, Sources};

/// Completes `matching` by the contents of the base, from `sources`, and of the target, from
/// `content`.
///
/// A content that cannot be read matches nothing here; the step that needs it reports the error.
/// Digests are checked when a content is used.
pub fn pair_by_content<'m>(
    matching: Matching<'m>,
    sources: &dyn Sources,
    content: &dyn ContentProvider,
) -> Matching<'m> {
    matching.by_content(
        |entry| {
            let (size, digest) = entry.file()?;
            let file = sources.open(&digest, size, &entry.path).ok()??;
            sketch_prefix(SequentialReader { file: &*file, at: 0 }, size)
        },
        |entry| sketch_prefix(content.open(entry).ok()?, entry.file()?.0),
    )
}

/// Sketch of the first `size` bytes of a content: a file may have grown since.
fn sketch_prefix(content: impl Read, size: u64) -> Option<Sketch> {
    Sketch::read(content.take(size)).ok()?
}

/// Reads a file from an offset on.
pub(super) struct SequentialReader<F> {
    pub file: F,
    pub at: u64,
}

impl<F: ReadAt> Read for SequentialReader<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(n as u64);
        Ok(n)
    }
}
