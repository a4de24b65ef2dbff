//! Standard output and standard error; no other module writes to them.
//!
//! Each text passes [`printable`], so that no name, message or URL from outside can harm the
//! terminal or show a password. Only data for other programs is written as it is ([`Output::raw`]).
//!
//! A failure of standard output is kept until the end of the program ([`take_failure`]), since
//! events are written in the middle of a transaction, which continues without its reader.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::{Mutex, PoisonError};

use crate::printable;

/// First failure of standard output.
static FAILURE: Mutex<Option<io::Error>> = Mutex::new(None);

/// Bytes that are collected before a write.
const BUFFER: usize = 32 << 10;

/// Buffered standard output; the last bytes are written by `flush`, or on drop.
pub struct Output(BufWriter<Descriptor>);

/// Descriptor 1. The standard library would ignore EBADF.
struct Descriptor;

impl Output {
    /// Standard output with an empty buffer.
    pub fn open() -> Self {
        Output(BufWriter::with_capacity(BUFFER, Descriptor))
    }
}

impl Output {
    /// Standard output for data, such as a manifest: nothing is escaped.
    pub fn raw(&mut self) -> &mut impl Write {
        &mut self.0
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(printable::text(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        // Formatted as a whole: a URL may consist of several parts.
        self.0.write_all(printable::text(&text.to_string()).as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = rustix::io::write(rustix::stdio::stdout(), bytes).map_err(io::Error::from);
        if let Err(error) = &written
            && error.kind() != io::ErrorKind::Interrupted
        {
            keep_failure(error);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps a failure to write to standard output, unless an earlier one is kept.
pub fn keep_failure(error: &io::Error) {
    let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    failure.get_or_insert_with(|| io::Error::new(error.kind(), error.to_string()));
}

/// Takes the first failure of standard output.
pub fn take_failure() -> Option<io::Error> {
    FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Writes one line to standard output; a failure is kept.
pub fn print_line(line: &str) {
    let mut out = Output::open();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Writes a line to standard error. A failure is ignored, since there is no other output for it.
pub fn print_error_line(line: &str) {
    let _ = writeln!(io::stderr(), "{}", printable::text(line));
}

/// Writes a question to standard error, without a newline.
pub fn print_question(question: &str) {
    let mut err = io::stderr();
    let _ = write!(err, "{}", printable::text(question)).and_then(|()| err.flush());
}
