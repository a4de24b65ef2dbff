//! Decision streams of one or several files, in both directions.

use std::io::{self, BufRead, Read, Write};

use super::error::{RecordError, ReplayError};
use super::file_coder::{FileCoder, FileModels, GivenFile};
use super::new_text::NewText;
use super::old_file::OldFile;
use super::reader::OpenLimits;
use crate::replay::prediction::{REACH_BITS, Reach};
use crate::replay::range_coder::{Coder, RangeDecoder, RangeEncoder};

/// Records the decisions of files.
pub struct DecisionWriter {
    coder: RangeEncoder,
    models: FileModels,
}

/// Makes files from their plain forms and a decision stream.
pub struct DecisionReader<'d> {
    coder: RangeDecoder<'d>,
    models: FileModels,
}

impl DecisionWriter {
    /// Begins a stream.
    pub fn new(reach: Reach) -> Self {
        let mut coder = RangeEncoder::default();
        coder.direct(reach.code(), REACH_BITS);
        DecisionWriter { coder, models: FileModels::new(reach) }
    }

    /// Records the decisions of the next file.
    ///
    /// `plain` is its plain form. `old` is the number and the content of the old file. The file is
    /// written to `to` as a reader of the stream will write it, so that the caller can compare.
    pub fn add(
        &mut self,
        file: &mut dyn Read,
        plain: &[u8],
        old: Option<(u32, &mut OldFile<'_>)>,
        limits: OpenLimits,
        to: &mut dyn Write,
    ) -> Result<(), RecordError> {
        let number = old.as_ref().map_or(0, |(number, _)| number.saturating_add(1));
        self.models.old.code(&mut self.coder, number);

        let mut given = GivenFile::new(file, limits);
        let text = NewText::Held(plain);
        let old = old.map(|(_, old)| old);
        let mut coder = FileCoder::new(&mut self.coder, &mut self.models, text, old);
        while coder.code_step(Some(&mut given))? {
            to.write_all(&coder.output).map_err(ReplayError::Write)?;
            coder.output.clear();
        }
        Ok(())
    }

    /// Ends the stream.
    pub fn finish(self) -> Vec<u8> {
        self.coder.finish()
    }
}

impl<'d> DecisionReader<'d> {
    /// Begins to read a stream.
    pub fn new(stream: &'d [u8]) -> Result<Self, ReplayError> {
        let mut coder = RangeDecoder::new(stream).ok_or(ReplayError::Cut)?;
        let reach = Reach::from_code(coder.direct(0, REACH_BITS));
        Ok(DecisionReader { coder, models: FileModels::new(reach) })
    }

    /// Number of the old file of the next file; `None` if it has none.
    pub fn old_file(&mut self) -> Option<u32> {
        self.models.old.code(&mut self.coder, 0).checked_sub(1)
    }

    /// Begins the next file, of at most `size` bytes, from its plain form.
    ///
    /// All of it must be read before the next file. Its digest is not compared; that of the old
    /// file neither. With another old file the result is an error, or another file.
    pub fn rebuild<'r, 'o>(
        &'r mut self,
        plain: NewText<'r>,
        old: Option<&'r mut OldFile<'o>>,
        size: u64,
    ) -> RebuiltFile<'r, 'd, 'o> {
        let coder = FileCoder::new(&mut self.coder, &mut self.models, plain, old);
        RebuiltFile { coder, consumed: 0, left: size, size, is_complete: false }
    }
}

/// A file that is made as it is read.
///
/// A contradiction is an error of the kind [`io::ErrorKind::InvalidData`] with a [`ReplayError`]
/// inside.
pub struct RebuiltFile<'r, 'd, 'o> {
    coder: FileCoder<'r, 'o, RangeDecoder<'d>>,
    /// Number of bytes of the output that were read.
    consumed: usize,
    /// Bytes that the file may still have, and those that it may have in all.
    left: u64,
    size: u64,
    is_complete: bool,
}

impl BufRead for RebuiltFile<'_, '_, '_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.consumed == self.coder.output.len() && !self.is_complete {
            self.coder.output.clear();
            self.consumed = 0;
            let coded = self.coder.code_step(None).and_then(|more| {
                let made = self.coder.output.len() as u64;
                let left = self.left.checked_sub(made).ok_or(ReplayError::TooLarge(self.size))?;
                self.left = left;
                Ok(more)
            });
            match coded {
                Ok(more) => self.is_complete = !more,
                Err(error) => {
                    self.coder.output.clear();
                    self.is_complete = true;
                    return Err(match error {
                        RecordError::Rebuild(ReplayError::Read(error)) => error,
                        error => io::Error::new(io::ErrorKind::InvalidData, error),
                    });
                }
            }
        }
        Ok(&self.coder.output[self.consumed..])
    }

    fn consume(&mut self, amount: usize) {
        self.consumed = (self.consumed + amount).min(self.coder.output.len());
    }
}

impl Read for RebuiltFile<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}
