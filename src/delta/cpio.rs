//! Takes cpio archives (newc, as initrds are) apart into the files that they hold.

use std::collections::HashMap;
use std::io::{self, Read};

use super::{CopiesWriter, MAX_CONTENT};
use crate::digest::Digest;

/// Six digits of magic and thirteen numbers of eight hexadecimal digits.
const HEADER: usize = 110;
/// Everything is aligned to so many bytes.
const ALIGNMENT: u64 = 4;
/// So many bytes become one literal instruction, at most.
const LITERAL: usize = 64 << 10;

/// Where the content of a member stands: in which file that a patch copies from, and from which byte on.
pub type CpioRange = (usize, u64);

/// Writes what `from`, which is best buffered, yields to `to`: files that `known` gives a place for as copies
/// of what stands there, everything else as it is. What is no cpio archive is left as it is, too.
pub fn split(
    mut from: impl Read,
    mut known: impl FnMut(&Digest) -> Option<CpioRange>,
    to: &mut CopiesWriter,
) -> io::Result<()> {
    let mut literal = Literal { bytes: Vec::new(), to };
    loop {
        // Behind the end of an archive there are zeros, and another may follow.
        let before = literal.bytes.len();
        if take(&mut from, ALIGNMENT, &mut literal.bytes)? == 0 {
            return literal.flush();
        }
        if !literal.bytes[before..].starts_with(b"0707") {
            literal.flush_if_full()?;
            continue;
        }
        take(&mut from, HEADER as u64 - ALIGNMENT, &mut literal.bytes)?;
        let Some(CpioMember { name, size }) = CpioMember::parse(&literal.bytes[before..]) else {
            take(&mut from, padded(HEADER as u64) - HEADER as u64, &mut literal.bytes)?;
            continue;
        };
        take(&mut from, padded(HEADER as u64 + name) - HEADER as u64, &mut literal.bytes)?;
        if size > MAX_CONTENT {
            let mut left = size;
            while left > 0 {
                let n = take(&mut from, left.min(LITERAL as u64), &mut literal.bytes)?;
                literal.flush_if_full()?;
                left = if n == 0 { 0 } else { left - n };
            }
        } else if size > 0 {
            let mut content = Vec::new();
            take(&mut from, size, &mut content)?;
            let whole = content.len() as u64 == size;
            match whole.then(|| known(&Digest::of(&content))).flatten() {
                Some(place) => literal.copy(place, size)?,
                None => literal.bytes.extend_from_slice(&content),
            }
        }
        take(&mut from, padded(size) - size, &mut literal.bytes)?;
        literal.flush_if_full()?;
    }
}

/// Where in `from` the contents of the members stand that it begins with, by digest: microcode that comes before
/// the compressed part of an initrd, say.
pub fn front(mut from: impl Read) -> io::Result<HashMap<Digest, u64>> {
    let (mut members, mut at, mut bytes) = (HashMap::new(), 0, Vec::new());
    loop {
        bytes.clear();
        at += take(&mut from, ALIGNMENT, &mut bytes)?;
        if bytes.len() as u64 == ALIGNMENT && bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        if !bytes.starts_with(b"0707") {
            return Ok(members);
        }
        at += take(&mut from, HEADER as u64 - ALIGNMENT, &mut bytes)?;
        let Some(CpioMember { name, size }) =
            CpioMember::parse(&bytes).filter(|member| member.size <= MAX_CONTENT)
        else {
            return Ok(members);
        };
        at += take(&mut from, padded(HEADER as u64 + name) - HEADER as u64, &mut bytes)?;
        bytes.clear();
        if take(&mut from, size, &mut bytes)? == size && size > 0 {
            members.insert(Digest::of(&bytes), at);
        }
        at += bytes.len() as u64;
        at += take(&mut from, padded(size) - size, &mut Vec::new())?;
    }
}

/// What a header says: the length of the name, with its end, and of the content.
struct CpioMember {
    name: u64,
    size: u64,
}

impl CpioMember {
    fn parse(header: &[u8]) -> Option<Self> {
        let magic = header.get(..6)?;
        if header.len() != HEADER || (magic != b"070701" && magic != b"070702") {
            return None;
        }
        let number = |at: usize| {
            let digits = std::str::from_utf8(header.get(6 + at * 8..14 + at * 8)?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let name = number(11).filter(|name| *name <= 4096)?;
        Some(CpioMember { name, size: number(6)? })
    }
}

/// Bytes that have not become an instruction yet.
struct Literal<'w> {
    bytes: Vec<u8>,
    to: &'w mut CopiesWriter,
}

impl Literal<'_> {
    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.bytes.len() >= LITERAL { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.bytes.is_empty() {
            self.to.literal(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }

    fn copy(&mut self, (number, offset): CpioRange, size: u64) -> io::Result<()> {
        self.flush()?;
        self.to.copy(number, offset, size)
    }
}

fn padded(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT)
}

fn take(from: &mut impl Read, length: u64, to: &mut Vec<u8>) -> io::Result<u64> {
    from.take(length).read_to_end(to).map(|n| n as u64)
}
