//! A decompressed archive, read strictly: what is expected, or an error.

use std::io::{self, Read};

use tar::Header;

use crate::diff_archive::ArchiveError;
use crate::diff_archive::member::{END, own_header, padding};

/// A decompressed archive.
pub(super) struct TarInput<R> {
    from: R,
    /// What is left of the content of the current member.
    left: u64,
    /// The zeros after it.
    padding: usize,
}

/// The content of one member; it fails where the archive ends before it does.
pub struct MemberContent<'a> {
    from: &'a mut dyn Read,
    left: &'a mut u64,
}

impl<R: Read> TarInput<R> {
    pub fn new(from: R) -> Self {
        TarInput { from, left: 0, padding: 0 }
    }

    /// The content of the archive's own member `name`, which has to come next.
    pub fn own(
        &mut self,
        name: &'static str,
        limit: u64,
    ) -> Result<MemberContent<'_>, ArchiveError> {
        self.skip()?;
        let mut block = [0; 512];
        self.from.read_exact(&mut block).map_err(cut)?;
        let wrong = || ArchiveError::Member {
            name: name.to_owned(),
            why: "it does not come where it has to",
        };
        let size = Header::from_byte_slice(&block).entry_size().map_err(|_| wrong())?;
        if own_header(name, size) != block {
            return Err(wrong());
        }
        if size > limit {
            return Err(ArchiveError::Member {
                name: name.to_owned(),
                why: "it is larger than it may be",
            });
        }
        Ok(self.content(size))
    }

    /// Ends the last of the archive's own members at the beginning.
    pub fn end_of_own(&mut self) -> Result<(), ArchiveError> {
        self.skip()
    }

    /// The content, of `size` bytes, of the member whose header is `header`, which has to come next.
    pub fn member(
        &mut self,
        header: &[u8],
        size: u64,
        name: impl Fn() -> String,
    ) -> Result<MemberContent<'_>, ArchiveError> {
        self.skip()?;
        let mut found = [0; 512];
        for block in header.chunks(found.len()) {
            self.from.read_exact(&mut found).map_err(cut)?;
            if found != block {
                return Err(ArchiveError::Member {
                    name: name(),
                    why: "it does not come where the listing has it",
                });
            }
        }
        Ok(self.content(size))
    }

    /// Reads the end of the archive, after which nothing may follow.
    pub fn end(&mut self) -> Result<(), ArchiveError> {
        self.skip()?;
        let mut end = END;
        self.from.read_exact(&mut end).map_err(cut)?;
        if end != END {
            return Err(ArchiveError::Trailing);
        }
        self.nothing_more()
    }

    /// Fails unless the input is at its end.
    pub fn nothing_more(&mut self) -> Result<(), ArchiveError> {
        // Not `read_exact`, which cannot tell the end of the input from a frame that is cut off.
        loop {
            match self.from.read(&mut [0]) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(ArchiveError::Trailing),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn content(&mut self, size: u64) -> MemberContent<'_> {
        self.left = size;
        self.padding = padding(size);
        MemberContent { from: &mut self.from, left: &mut self.left }
    }

    /// Passes over what the caller left of the current member, and over its padding.
    fn skip(&mut self) -> Result<(), ArchiveError> {
        io::copy(
            &mut MemberContent { from: &mut self.from, left: &mut self.left },
            &mut io::sink(),
        )?;
        let mut zeros = [0; 512];
        let zeros = &mut zeros[..std::mem::take(&mut self.padding)];
        self.from.read_exact(zeros).map_err(cut)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::Padding);
        }
        Ok(())
    }
}

impl MemberContent<'_> {
    /// The bytes that are still to come.
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
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        *self.left -= n as u64;
        Ok(n)
    }
}

fn cut(error: io::Error) -> ArchiveError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        ArchiveError::CutOff
    } else {
        ArchiveError::Io(error)
    }
}
