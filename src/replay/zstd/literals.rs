//! Literals sections of compressed blocks.

use super::bits::ForwardBits;
use super::huffman::{HuffmanDecoder, HuffmanEncoder, Weights};
use super::{FrameOpenError, FrameWriteError, LiteralsHead, LiteralsKind, MAX_BLOCK_SIZE};
use super::{FrameRefusal, ZstdDefect};

/// Bytes of the sizes of the first three of four streams.
const JUMP_TABLE: usize = 6;

/// Layout of a header: two bits for the kind, then the size format, then sizes of equal width.
struct Layout {
    /// Bits before the sizes.
    prefix: u32,
    /// Bits of each size.
    width: u32,
    /// Length of the header in bytes.
    length: usize,
}

impl Layout {
    /// Layout of raw literals and runs, which have one size.
    fn of_plain(format: u8) -> Self {
        match format {
            1 => Layout { prefix: 4, width: 12, length: 2 },
            3 => Layout { prefix: 4, width: 20, length: 3 },
            _ => Layout { prefix: 3, width: 5, length: 1 },
        }
    }

    /// Layout of Huffman codes, which have the sizes of the literals and of their codes.
    fn of_huffman(format: u8) -> Self {
        match format {
            0 | 1 => Layout { prefix: 4, width: 10, length: 3 },
            2 => Layout { prefix: 4, width: 14, length: 4 },
            _ => Layout { prefix: 4, width: 18, length: 5 },
        }
    }

    fn max_size(&self) -> usize {
        (1 << self.width) - 1
    }
}

/// Reads literals sections.
#[derive(Default)]
pub struct LiteralsReader {
    huffman: Option<HuffmanDecoder>,
    /// Literals of the current block.
    literals: Vec<u8>,
}

impl LiteralsReader {
    /// Literals of the section that was read last.
    pub fn literals(&self) -> &[u8] {
        &self.literals
    }

    /// Reads the section at the beginning of `data`, and removes it.
    pub fn read(&mut self, data: &mut &[u8]) -> Result<LiteralsHead, FrameOpenError> {
        let first = *data.first().ok_or(ZstdDefect::LiteralsLength)?;
        let format = first >> 2 & 3;
        let kind = match first & 3 {
            0 => {
                let (size, _) = take_header(data, &Layout::of_plain(format))?;
                let literals = take(data, size)?;
                self.literals.clear();
                self.literals.extend_from_slice(literals);
                LiteralsKind::Raw
            }
            1 => {
                let (size, _) = take_header(data, &Layout::of_plain(format))?;
                let byte = take(data, 1)?.first().copied().unwrap_or_default();
                if size == 0 {
                    return Err(FrameRefusal::EmptyRun.into());
                }
                self.literals.clear();
                self.literals.resize(size, byte);
                LiteralsKind::Rle
            }
            kind => {
                let (size, coded) = take_header(data, &Layout::of_huffman(format))?;
                let mut coded = take(data, coded)?;
                let kind = match kind {
                    2 => LiteralsKind::Huffman { table: self.read_table(&mut coded)? },
                    _ => LiteralsKind::Repeat,
                };
                self.read_codes(format, size, coded)?;
                return Ok(LiteralsHead { kind, format });
            }
        };

        // The higher bit of an even format belongs to the size.
        let format = if format & 1 == 0 { 0 } else { format };
        Ok(LiteralsHead { kind, format })
    }

    /// Reads a Huffman table, and removes its description from `coded`.
    fn read_table(&mut self, coded: &mut &[u8]) -> Result<Vec<u8>, ZstdDefect> {
        let (weights, length) = Weights::read(coded)?;
        self.huffman = Some(HuffmanDecoder::new(&weights));
        Ok(take(coded, length)?.to_vec())
    }

    fn read_codes(&mut self, format: u8, size: usize, coded: &[u8]) -> Result<(), ZstdDefect> {
        let huffman = self.huffman.as_ref().ok_or(ZstdDefect::MissingHuffmanTable)?;
        // Every byte will be overwritten.
        self.literals.resize(size, 0);
        if format == 0 {
            return huffman.decode(coded, &mut self.literals);
        }

        let mut rest = coded;
        let jumps = take(&mut rest, JUMP_TABLE).map_err(|_| ZstdDefect::HuffmanStreamSizes)?;
        let mut streams = [&[][..]; 4];
        for (stream, jump) in streams.iter_mut().zip(jumps.as_chunks::<2>().0) {
            let size = usize::from(u16::from_le_bytes(*jump));
            *stream = take(&mut rest, size).map_err(|_| ZstdDefect::HuffmanStreamSizes)?;
        }
        let [first, second, third, _] = streams;
        huffman.decode_four([first, second, third, rest], &mut self.literals)
    }
}

/// Removes a header, and returns its sizes; the second is 0 if there is one only.
fn take_header(data: &mut &[u8], layout: &Layout) -> Result<(usize, usize), ZstdDefect> {
    let header = take(data, layout.length)?;
    let word = header.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    let size = word >> layout.prefix & layout.max_size() as u64;
    if size > MAX_BLOCK_SIZE as u64 {
        return Err(ZstdDefect::BlockSize);
    }
    Ok((size as usize, (word >> (layout.prefix + layout.width)) as usize))
}

/// Removes `length` bytes from the beginning of `data`.
fn take<'a>(data: &mut &'a [u8], length: usize) -> Result<&'a [u8], ZstdDefect> {
    let (taken, rest) = data.split_at_checked(length).ok_or(ZstdDefect::LiteralsLength)?;
    *data = rest;
    Ok(taken)
}

/// Writes literals sections.
#[derive(Default)]
pub struct LiteralsWriter {
    huffman: Option<HuffmanEncoder>,
    bits: ForwardBits,
}

impl LiteralsWriter {
    /// Appends a section.
    pub fn write(
        &mut self,
        head: &LiteralsHead,
        literals: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), FrameWriteError> {
        match &head.kind {
            LiteralsKind::Raw => {
                put_plain_header(0, head.format, literals.len(), out)?;
                out.extend_from_slice(literals);
                Ok(())
            }
            LiteralsKind::Rle => {
                put_plain_header(1, head.format, literals.len(), out)?;
                out.push(run_byte(literals)?);
                Ok(())
            }
            LiteralsKind::Huffman { table } => {
                let (weights, length) = Weights::read(table)?;
                if length != table.len() {
                    return Err(FrameWriteError::TableLength);
                }
                self.huffman = Some(HuffmanEncoder::new(&weights));
                self.write_codes(head, literals, out)
            }
            LiteralsKind::Repeat => self.write_codes(head, literals, out),
        }
    }

    /// Appends a section with Huffman codes.
    fn write_codes(
        &mut self,
        head: &LiteralsHead,
        literals: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), FrameWriteError> {
        let (kind, table) = match &head.kind {
            LiteralsKind::Huffman { table } => (2, &table[..]),
            _ => (3, &[][..]),
        };
        let format = head.format;
        let huffman = self.huffman.as_ref().ok_or(ZstdDefect::MissingHuffmanTable)?;
        self.bits.clear();
        let mut jumps = Vec::new();
        if format == 0 {
            huffman.encode(literals, &mut self.bits)?;
        } else {
            let quarter = literals.len().div_ceil(4);
            let mut rest = literals;
            for _ in 0..3 {
                let (part, after) =
                    rest.split_at_checked(quarter).ok_or(ZstdDefect::HuffmanStreamSizes)?;
                rest = after;
                let before = self.bits.bytes().len();
                huffman.encode(part, &mut self.bits)?;
                let size = u16::try_from(self.bits.bytes().len() - before)
                    .map_err(|_| FrameWriteError::HuffmanStreamSize)?;
                jumps.extend_from_slice(&size.to_le_bytes());
            }
            huffman.encode(rest, &mut self.bits)?;
        }

        let layout = Layout::of_huffman(format);
        let coded = table.len() + jumps.len() + self.bits.bytes().len();
        if format > 3 || literals.len().max(coded) > layout.max_size() {
            return Err(FrameWriteError::LiteralsFormat { format, length: literals.len() });
        }
        let sizes = literals.len() as u64 | (coded as u64) << layout.width;
        let word = u64::from(kind | format << 2) | sizes << layout.prefix;
        out.extend(word.to_le_bytes().iter().take(layout.length));
        out.extend_from_slice(table);
        out.extend_from_slice(&jumps);
        out.extend_from_slice(self.bits.bytes());
        Ok(())
    }
}

fn put_plain_header(
    kind: u8,
    format: u8,
    length: usize,
    out: &mut Vec<u8>,
) -> Result<(), FrameWriteError> {
    let layout = Layout::of_plain(format);
    if !matches!(format, 0 | 1 | 3) || length > layout.max_size() {
        return Err(FrameWriteError::LiteralsFormat { format, length });
    }
    let word = u64::from(kind | format << 2) | (length as u64) << layout.prefix;
    out.extend(word.to_le_bytes().iter().take(layout.length));
    Ok(())
}

/// The byte that a run repeats.
pub fn run_byte(run: &[u8]) -> Result<u8, FrameWriteError> {
    let (first, rest) = run.split_first().ok_or(FrameWriteError::Run)?;
    if rest.iter().any(|byte| byte != first) {
        return Err(FrameWriteError::Run);
    }
    Ok(*first)
}
