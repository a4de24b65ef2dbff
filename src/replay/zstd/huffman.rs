//! Huffman codes of literals.

use super::bits::{BackwardBits, ForwardBits};
use super::fse::{Bounds, DecodeTable, Distribution, SequenceCode};
use super::{FrameWriteError, ZstdDefect};

/// Longest code in bits (RFC 8878, 4.2.1).
const MAX_BITS: u32 = 11;
const MAX_CELLS: usize = 1 << MAX_BITS;
/// Codes that fit between two refills or flushes: 55 bits.
const CODES_PER_WORD: usize = 5;
/// Bounds of the distribution of weights; the weights are at most 11.
const WEIGHT_BOUNDS: Bounds = Bounds { log: 6, symbols: 12 };
const WEIGHT_CODES: [SequenceCode; 12] = {
    let mut codes = [SequenceCode { base: 0, extra: 0 }; 12];
    let mut weight = 0;
    while weight < 12 {
        codes[weight].base = weight as u32;
        weight += 1;
    }
    codes
};

/// Weights of all bytes: 0 without a code, else the longest length + 1 - the code's length.
pub struct Weights {
    weights: [u8; 256],
    /// Longest length in bits.
    log: u32,
}

impl Weights {
    /// Parses a description at the beginning of `data`; also returns its length.
    pub fn read(data: &[u8]) -> Result<(Self, usize), ZstdDefect> {
        let (head, rest) = data.split_first().ok_or(ZstdDefect::HuffmanTable)?;
        let mut weights = [0; 256];
        let (count, length) = match *head {
            // One nibble for each weight.
            128.. => {
                let count = usize::from(*head) - 127;
                let length = count.div_ceil(2);
                let nibbles = rest.get(..length).ok_or(ZstdDefect::HuffmanTable)?;
                for (pair, byte) in weights.chunks_exact_mut(2).zip(nibbles) {
                    pair.copy_from_slice(&[byte >> 4, byte & 15]);
                }
                // The last nibble is unused if the number is odd.
                if let Some(weight) = weights.get_mut(count) {
                    *weight = 0;
                }
                (count, length)
            }
            length => {
                let length = usize::from(length);
                let coded = rest.get(..length).ok_or(ZstdDefect::HuffmanTable)?;
                (read_coded_weights(coded, &mut weights)?, length)
            }
        };
        Ok((Self::complete(weights, count)?, 1 + length))
    }

    /// Derives the last weight, which makes the codes complete.
    fn complete(mut weights: [u8; 256], count: usize) -> Result<Self, ZstdDefect> {
        if weights.iter().any(|weight| u32::from(*weight) > MAX_BITS) {
            return Err(ZstdDefect::HuffmanTable);
        }
        let sum: u32 = weights.iter().map(|weight| 1 << *weight >> 1).sum();
        let log = sum.checked_ilog2().ok_or(ZstdDefect::HuffmanTable)? + 1;
        if log > MAX_BITS {
            return Err(ZstdDefect::HuffmanTable);
        }

        let rest = (1 << log) - sum;
        let last = weights.get_mut(count).ok_or(ZstdDefect::HuffmanTable)?;
        if !rest.is_power_of_two() {
            return Err(ZstdDefect::HuffmanTable);
        }
        *last = rest.ilog2() as u8 + 1;
        Ok(Weights { weights, log })
    }

    /// Calls `assign` for each byte with a code, in the order of the codes.
    ///
    /// The arguments are the byte, its weight, and the number of cells that precede it.
    fn for_each_code(&self, mut assign: impl FnMut(u8, u32, usize)) {
        let mut cells = 0;
        for weight in 1..=self.log {
            for (byte, _) in (0..=255)
                .zip(&self.weights)
                .filter(|(_, candidate)| u32::from(**candidate) == weight)
            {
                assign(byte, weight, cells);
                cells += 1 << (weight - 1);
            }
        }
    }
}

/// Reads weights with two states in turn; returns their number.
fn read_coded_weights(coded: &[u8], weights: &mut [u8; 256]) -> Result<usize, ZstdDefect> {
    let (distribution, length) = Distribution::read(coded, WEIGHT_BOUNDS)?;
    let table = DecodeTable::new(&distribution, &WEIGHT_CODES).ok_or(ZstdDefect::HuffmanTable)?;
    let stream = coded.get(length..).unwrap_or_default();
    let mut bits = BackwardBits::new(stream).ok_or(ZstdDefect::HuffmanTable)?;
    let (mut state, mut other) = (table.begin(&mut bits), table.begin(&mut bits));
    if bits.left() < 0 {
        return Err(ZstdDefect::HuffmanTable);
    }

    // The stream has no length: it ends as soon as a state needs more bits than are left.
    let mut count = 0;
    let mut put = |weight: u32| match weights.get_mut(count) {
        Some(target) => {
            *target = weight as u8;
            count += 1;
            Ok(())
        }
        None => Err(ZstdDefect::HuffmanTable),
    };
    loop {
        bits.refill();
        let cell = table.cell(state);
        put(cell.base)?;
        if bits.left() < cell.advance_bits() as isize {
            put(table.cell(other).base)?;
            return Ok(count);
        }
        state = other;
        other = cell.advance(&mut bits);
    }
}

/// Decodes Huffman codes.
pub struct HuffmanDecoder {
    /// For the next 11 bits, the code's byte, and its length in bits 8 and higher.
    cells: Box<[u16; MAX_CELLS]>,
}

impl HuffmanDecoder {
    pub fn new(weights: &Weights) -> Self {
        // Shorter tables are extended to 11 bits, so that the shift is constant.
        let mut cells = Box::new([0; MAX_CELLS]);
        let scale = MAX_BITS.saturating_sub(weights.log);
        weights.for_each_code(|byte, weight, before| {
            let bits = weights.log + 1 - weight;
            let range = before << scale..(before + (1 << (weight - 1))) << scale;
            if let Some(cells) = cells.get_mut(range) {
                cells.fill(u16::from(byte) | (bits as u16) << 8);
            }
        });
        HuffmanDecoder { cells }
    }

    /// Decodes a stream that yields exactly the bytes of `target`.
    pub fn decode(&self, stream: &[u8], target: &mut [u8]) -> Result<(), ZstdDefect> {
        let mut bits = BackwardBits::new(stream).ok_or(ZstdDefect::HuffmanStream)?;
        self.decode_rest(&mut bits, target)
    }

    /// Decodes four streams, of which each except the last yields a quarter, rounded up.
    pub fn decode_four(&self, streams: [&[u8]; 4], target: &mut [u8]) -> Result<(), ZstdDefect> {
        let quarter = target.len().div_ceil(4);
        let (first, rest) = split(target, quarter)?;
        let (second, rest) = split(rest, quarter)?;
        let (third, fourth) = split(rest, quarter)?;
        let mut readers = [None, None, None, None];
        for (reader, stream) in readers.iter_mut().zip(streams) {
            *reader = BackwardBits::new(stream);
        }
        let [Some(mut a), Some(mut b), Some(mut c), Some(mut d)] = readers else {
            return Err(ZstdDefect::HuffmanStream);
        };

        // The streams are decoded side by side, because each code depends on the one before it.
        let done = fourth.len() / CODES_PER_WORD * CODES_PER_WORD;
        let parts = words(first).zip(words(second)).zip(words(third)).zip(words(fourth));
        for (((first, second), third), fourth) in parts {
            a.refill();
            b.refill();
            c.refill();
            d.refill();
            for index in 0..CODES_PER_WORD {
                first[index] = self.next(&mut a);
                second[index] = self.next(&mut b);
                third[index] = self.next(&mut c);
                fourth[index] = self.next(&mut d);
            }
        }

        for (bits, part) in [(a, first), (b, second), (c, third), (d, fourth)] {
            let mut bits = bits;
            self.decode_rest(&mut bits, part.get_mut(done..).unwrap_or_default())?;
        }
        Ok(())
    }

    fn decode_rest(&self, bits: &mut BackwardBits, target: &mut [u8]) -> Result<(), ZstdDefect> {
        for word in target.chunks_mut(CODES_PER_WORD) {
            bits.refill();
            for byte in word {
                *byte = self.next(bits);
            }
        }
        if bits.left() != 0 {
            return Err(ZstdDefect::HuffmanStream);
        }
        Ok(())
    }

    #[inline(always)]
    fn next(&self, bits: &mut BackwardBits) -> u8 {
        let cell = self.cells[bits.peek(MAX_BITS) as usize % MAX_CELLS];
        bits.skip(u32::from(cell >> 8));
        cell as u8
    }
}

fn words(part: &mut [u8]) -> impl Iterator<Item = &mut [u8; CODES_PER_WORD]> {
    part.as_chunks_mut().0.iter_mut()
}

fn split(target: &mut [u8], length: usize) -> Result<(&mut [u8], &mut [u8]), ZstdDefect> {
    target.split_at_mut_checked(length).ok_or(ZstdDefect::HuffmanStreamSizes)
}

/// Encodes Huffman codes.
pub struct HuffmanEncoder {
    /// For each byte, the code, and its length in bits 16 and higher; 0 without a code.
    codes: [u32; 256],
}

impl HuffmanEncoder {
    pub fn new(weights: &Weights) -> Self {
        let mut codes = [0; 256];
        weights.for_each_code(|byte, weight, before| {
            let code = (before >> (weight - 1)) as u32;
            codes[usize::from(byte)] = code | (weights.log + 1 - weight) << 16;
        });
        HuffmanEncoder { codes }
    }

    /// Writes a stream with all bytes of `source`.
    pub fn encode(&self, source: &[u8], bits: &mut ForwardBits) -> Result<(), FrameWriteError> {
        // The decoder begins at the end.
        let (beginning, words) = source.as_rchunks::<CODES_PER_WORD>();
        let mut shortest = u32::MAX;
        for word in words.iter().rev() {
            for byte in word.iter().rev() {
                shortest = shortest.min(self.put(*byte, bits));
            }
            bits.flush();
        }
        for byte in beginning.iter().rev() {
            shortest = shortest.min(self.put(*byte, bits));
        }
        bits.flush();
        bits.end_stream();
        if shortest == 0 {
            return Err(FrameWriteError::Symbol);
        }
        Ok(())
    }

    /// Adds the code of a byte, and returns its length.
    #[inline(always)]
    fn put(&self, byte: u8, bits: &mut ForwardBits) -> u32 {
        let code = self.codes[usize::from(byte)];
        bits.add(code & 0xffff, code >> 16);
        code >> 16
    }
}
