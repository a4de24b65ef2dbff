//! Splits cpio archives (newc, the format of an initrd) into the files that they hold.

use std::collections::HashMap;
use std::io::{self, Read};

use super::copies::CopiesWriter;
use super::limits::MAX_CONTENT;
use crate::digest::Digest;
use crate::replay::{CPIO_HEADER, CpioHeader};

/// Longest name of an entry, with its zero byte.
const MAX_NAME: u64 = 4096;
/// Alignment of names and contents, in bytes.
const ALIGNMENT: u64 = 4;
/// Largest literal instruction, in bytes.
const LITERAL: usize = 64 << 10;

/// Source of a member's content: the number of a file that the patch copies from, and an offset.
pub type CpioRange = (usize, u64);

/// Writes the bytes of `from` to `to`: contents with a range by `lookup` as copies, the rest
/// literally.
///
/// Input that is not a cpio archive is written literally too. `from` should be buffered.
pub fn split(
    mut from: impl Read,
    mut lookup: impl FnMut(&Digest) -> Option<CpioRange>,
    to: &mut CopiesWriter,
) -> io::Result<()> {
    let mut literal = LiteralBuffer { bytes: Vec::new(), to };
    loop {
        // Zero bytes follow the end of an archive, and another archive may follow those.
        let before = literal.bytes.len();
        if read_into(&mut from, ALIGNMENT, &mut literal.bytes)? == 0 {
            return literal.flush();
        }
        if !literal.bytes[before..].starts_with(b"0707") {
            literal.flush_if_full()?;
            continue;
        }

        read_into(&mut from, CPIO_HEADER as u64 - ALIGNMENT, &mut literal.bytes)?;
        let Some(CpioHeader { name, size }) = parse_header(&literal.bytes[before..]) else {
            read_into(
                &mut from,
                padded(CPIO_HEADER as u64) - CPIO_HEADER as u64,
                &mut literal.bytes,
            )?;
            continue;
        };
        read_into(
            &mut from,
            padded(CPIO_HEADER as u64 + name) - CPIO_HEADER as u64,
            &mut literal.bytes,
        )?;

        if size > MAX_CONTENT {
            literal.copy_from(&mut from, size)?;
        } else if size > 0 {
            let mut content = Vec::new();
            read_into(&mut from, size, &mut content)?;
            let is_complete = content.len() as u64 == size;
            match is_complete.then(|| lookup(&Digest::of(&content))).flatten() {
                Some(range) => literal.add_copy(range, size)?,
                None => literal.bytes.extend_from_slice(&content),
            }
        }
        read_into(&mut from, padded(size) - size, &mut literal.bytes)?;
        literal.flush_if_full()?;
    }
}

/// Offsets, by digest, of the contents of the uncompressed archives at the beginning of `from`.
///
/// An initrd may begin with such an archive of microcode, before its compressed part.
pub fn read_front(mut from: impl Read) -> io::Result<HashMap<Digest, u64>> {
    let (mut members, mut at, mut bytes) = (HashMap::new(), 0, Vec::new());
    loop {
        bytes.clear();
        at += read_into(&mut from, ALIGNMENT, &mut bytes)?;
        if bytes.len() as u64 == ALIGNMENT && bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        if !bytes.starts_with(b"0707") {
            return Ok(members);
        }

        at += read_into(&mut from, CPIO_HEADER as u64 - ALIGNMENT, &mut bytes)?;
        let Some(CpioHeader { name, size }) =
            parse_header(&bytes).filter(|header| header.size <= MAX_CONTENT)
        else {
            return Ok(members);
        };
        at += read_into(
            &mut from,
            padded(CPIO_HEADER as u64 + name) - CPIO_HEADER as u64,
            &mut bytes,
        )?;

        bytes.clear();
        if read_into(&mut from, size, &mut bytes)? == size && size > 0 {
            members.insert(Digest::of(&bytes), at);
        }
        at += bytes.len() as u64;
        at += read_into(&mut from, padded(size) - size, &mut Vec::new())?;
    }
}

/// The header in `bytes`, if its name is not too long to be one.
fn parse_header(bytes: &[u8]) -> Option<CpioHeader> {
    CpioHeader::parse(bytes).filter(|header| header.name <= MAX_NAME)
}

/// Bytes that are not an instruction yet.
struct LiteralBuffer<'w> {
    bytes: Vec<u8>,
    to: &'w mut CopiesWriter,
}

impl LiteralBuffer<'_> {
    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.bytes.len() >= LITERAL { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.bytes.is_empty() {
            self.to.add_literal(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }

    fn add_copy(&mut self, (number, offset): CpioRange, size: u64) -> io::Result<()> {
        self.flush()?;
        self.to.add_copy(number, offset, size)
    }

    /// Adds at most `size` bytes of `from` without holding them all.
    fn copy_from(&mut self, from: &mut impl Read, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let n = read_into(from, left.min(LITERAL as u64), &mut self.bytes)?;
            self.flush_if_full()?;
            left = if n == 0 { 0 } else { left - n };
        }
        Ok(())
    }
}

fn padded(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT)
}

/// Appends at most `length` bytes to `to`; returns their number.
fn read_into(from: &mut impl Read, length: u64, to: &mut Vec<u8>) -> io::Result<u64> {
    from.take(length).read_to_end(to).map(|n| n as u64)
}
