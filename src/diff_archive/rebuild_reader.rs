//! A rebuilt gzip file as a reader.

use std::cell::RefCell;
use std::io::{self, BufRead, Read, Write};
use std::rc::Rc;

use crate::delta::gzip::{Rebuild, RebuildError};

/// Number of plain bytes that are read at a time.
const PIECE: usize = 32 << 10;

/// Rebuilds a gzip file from its corrections and a reader of its plain form, as it is read.
///
/// [`Rebuild`] writes its output; this type turns it into a reader, with one piece in memory.
pub(super) struct RebuildReader<'c, R> {
    plain: R,
    /// `None` once the file is complete, or after an error.
    rebuild: Option<Rebuild<'c, SharedBuffer>>,
    output: SharedBuffer,
    ready: Vec<u8>,
    /// Number of bytes of `ready` that were read.
    consumed: usize,
}

/// Output of the rebuild that is not in `ready` yet.
#[derive(Clone, Default)]
struct SharedBuffer(Rc<RefCell<Vec<u8>>>);

impl Write for SharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'c, R: Read> RebuildReader<'c, R> {
    pub fn new(corrections: &'c [u8], plain: R) -> Result<Self, RebuildError> {
        let output = SharedBuffer::default();
        let rebuild = Some(Rebuild::new(corrections, output.clone())?);
        Ok(RebuildReader { plain, rebuild, output, ready: Vec::new(), consumed: 0 })
    }
}

impl<R: Read> BufRead for RebuildReader<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let mut plain = [0; PIECE];
        while self.consumed == self.ready.len() {
            let Some(mut rebuild) = self.rebuild.take() else { break };
            let length = self.plain.read(&mut plain)?;
            if length == 0 {
                rebuild.finish().map_err(invalid_data)?;
            } else {
                rebuild.write(&plain[..length]).map_err(invalid_data)?;
                self.rebuild = Some(rebuild);
            }

            self.ready.clear();
            self.consumed = 0;
            std::mem::swap(&mut self.ready, &mut *self.output.0.borrow_mut());
        }
        Ok(&self.ready[self.consumed..])
    }

    fn consume(&mut self, amount: usize) {
        self.consumed += amount;
    }
}

impl<R: Read> Read for RebuildReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

fn invalid_data(error: RebuildError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
