//! Strict reader of a decompressed archive: each member must be the expected one.

use std::io::{self, Read};

use tar::Header;

use crate::diff_archive::error::{ArchiveError, MemberDefect};
use crate::diff_archive::member::{END, own_header, padding};

/// A decompressed archive.
pub(super) struct TarInput<R> {
    from: R,
    /// Number of unread bytes of the current member's content.
    left: u64,
    /// Number of zeros after it.
    padding: usize,
}

/// Content of one member; a read fails if the archive ends before the content.
pub struct MemberContent<'a> {
    from: &'a mut dyn Read,
    left: &'a mut u64,
}

impl<R: Read> TarInput<R> {
    pub fn new(from: R) -> Self {
        TarInput { from, left: 0, padding: 0 }
    }

    /// Content of the next member, which must be `.si-diff/NAME` with at most `limit` bytes.
    pub fn own_member(
        &mut self,
        name: &'static str,
        limit: u64,
    ) -> Result<MemberContent<'_>, ArchiveError> {
        self.skip_rest()?;

        let mut block = [0; 512];
        self.from.read_exact(&mut block).map_err(cut_off)?;
        let fail = |defect| ArchiveError::Member { name: name.to_owned(), defect };
        let size = Header::from_byte_slice(&block)
            .entry_size()
            .map_err(|_| fail(MemberDefect::OutOfOrder))?;
        if own_header(name, size) != block {
            return Err(fail(MemberDefect::OutOfOrder));
        }
        if size > limit {
            return Err(fail(MemberDefect::TooLarge));
        }
        Ok(self.begin_content(size))
    }

    /// Ends the last member of the listing.
    pub fn end_own_members(&mut self) -> Result<(), ArchiveError> {
        self.skip_rest()
    }

    /// Content, of `size` bytes, of the next member, which must have the header `header`.
    pub fn member(
        &mut self,
        header: &[u8],
        size: u64,
        name: impl Fn() -> String,
    ) -> Result<MemberContent<'_>, ArchiveError> {
        self.skip_rest()?;

        let mut actual = [0; 512];
        for block in header.chunks(actual.len()) {
            self.from.read_exact(&mut actual).map_err(cut_off)?;
            if actual != block {
                let defect = MemberDefect::NotListed;
                return Err(ArchiveError::Member { name: name(), defect });
            }
        }
        Ok(self.begin_content(size))
    }

    /// Reads the end of the archive; nothing may follow.
    pub fn read_end(&mut self) -> Result<(), ArchiveError> {
        self.skip_rest()?;

        let mut end = END;
        self.from.read_exact(&mut end).map_err(cut_off)?;
        if end != END {
            return Err(ArchiveError::Trailing);
        }
        self.expect_end_of_input()
    }

    /// Fails unless the input is at its end.
    pub fn expect_end_of_input(&mut self) -> Result<(), ArchiveError> {
        // `read_exact` would not distinguish the end of the input from a frame that is cut off.
        loop {
            match self.from.read(&mut [0]) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(ArchiveError::Trailing),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn begin_content(&mut self, size: u64) -> MemberContent<'_> {
        self.left = size;
        self.padding = padding(size);
        MemberContent { from: &mut self.from, left: &mut self.left }
    }

    /// Skips the unread content of the current member, and checks its padding.
    fn skip_rest(&mut self) -> Result<(), ArchiveError> {
        let mut rest = MemberContent { from: &mut self.from, left: &mut self.left };
        io::copy(&mut rest, &mut io::sink())?;

        let mut zeros = [0; 512];
        let zeros = &mut zeros[..std::mem::take(&mut self.padding)];
        self.from.read_exact(zeros).map_err(cut_off)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::Padding);
        }
        Ok(())
    }
}

impl MemberContent<'_> {
    /// Number of unread bytes.
    pub fn left(&self) -> u64 {
        *self.left
    }
}

impl Read for MemberContent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(*self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }

        let n = self.from.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, ArchiveError::CutOff));
        }
        *self.left -= n as u64;
        Ok(n)
    }
}

fn cut_off(error: io::Error) -> ArchiveError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        ArchiveError::CutOff
    } else {
        ArchiveError::Io(error)
    }
}
