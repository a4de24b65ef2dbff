//! One block of a deflate stream: its symbols, its end, and its three encodings.
//!
//! The rules by which gzip and zlib end a block and choose its encoding are repeated here. With any
//! other choice the stream is valid, but its bytes differ from the original file.

use super::huffman::{Code, DISTANCES, LITERALS, MAX_BITS, Prologue};

/// The shortest match.
pub(super) const MIN_MATCH: usize = 3;
/// The longest match.
pub(super) const MAX_MATCH: usize = 258;

const END_OF_BLOCK: usize = 256;
/// Overhead of a stored block in bytes, without its three header bits.
const STORED_OVERHEAD: u64 = 4;

const STORED: u32 = 0;
const FIXED: u32 = 1;
const DYNAMIC: u32 = 2;

/// The shortest length of each length symbol, and its extra bits (RFC 1951, 3.2.5).
const LENGTH_BASE: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
];
const LENGTH_EXTRA: [u8; 29] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
/// The shortest distance of each distance symbol, and its extra bits (RFC 1951, 3.2.5).
const DISTANCE_BASE: [u16; DISTANCES] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
];
const DISTANCE_EXTRA: [u8; DISTANCES] = [
    0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13,
    13,
];

/// Rule by which a block ends before the end of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockEnding {
    /// Number of symbols of a full block.
    pub(super) symbols: usize,
    /// Whether it also ends at a multiple of 4096 symbols if these are estimated to take less than
    /// half of the content.
    pub(super) at_half: bool,
}

/// Position of a block in its stream: the value of its first bit (RFC 1951, 3.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockPosition {
    /// Another block follows.
    Inner = 0,
    /// The stream ends with it.
    Last = 1,
}

/// The block that is being filled.
pub(super) struct Block {
    ending: BlockEnding,
    symbols: Vec<Symbol>,
    /// Occurrences of each symbol of the first alphabet.
    literals: [u32; LITERALS],
    /// Occurrences of each symbol of the second alphabet.
    distances: [u32; DISTANCES],
    matches: usize,
    /// The codes of a block without codes of its own: literals, distances.
    fixed: (Code, Code),
}

/// A byte or a match.
#[derive(Clone, Copy)]
enum Symbol {
    Literal(u8),
    Match { length: u16, distance: u16 },
}

impl Block {
    pub(super) fn new(ending: BlockEnding) -> Self {
        Block {
            ending,
            symbols: Vec::with_capacity(ending.symbols),
            literals: [0; LITERALS],
            distances: [0; DISTANCES],
            matches: 0,
            fixed: (Code::fixed_literals(), Code::fixed_distances()),
        }
    }

    /// Adds a byte; true if the block is full, with `span` bytes of content.
    pub(super) fn add_literal(&mut self, byte: u8, span: usize) -> bool {
        self.literals[usize::from(byte)] += 1;
        self.symbols.push(Symbol::Literal(byte));
        self.is_full(span)
    }

    /// Adds a match; true if the block is full, with `span` bytes of content.
    pub(super) fn add_match(&mut self, length: usize, distance: usize, span: usize) -> bool {
        let (length, distance) = (length as u16, distance as u16);

        self.literals[END_OF_BLOCK + 1 + length_symbol(length)] += 1;
        self.distances[distance_symbol(distance)] += 1;
        self.matches += 1;
        self.symbols.push(Symbol::Match { length, distance });
        self.is_full(span)
    }

    fn is_full(&self, span: usize) -> bool {
        let count = self.symbols.len();

        // The estimate of gzip's `ct_tally`: eight bits a literal, five and the extra bits a
        // distance.
        if self.ending.at_half && count.is_multiple_of(4096) && self.matches < count / 2 {
            let distances: u64 = self
                .distances
                .iter()
                .zip(DISTANCE_EXTRA)
                .map(|(n, extra)| u64::from(*n) * (5 + u64::from(extra)))
                .sum();
            if (count as u64 * 8 + distances) / 8 < span as u64 / 2 {
                return true;
            }
        }
        count >= self.ending.symbols
    }

    /// Writes the block in the shortest of the three encodings, and begins the next block.
    ///
    /// `content` has the bytes of the block. It is `None` if they have left the window; then the
    /// block cannot be stored.
    pub(super) fn write(
        &mut self,
        content: Option<&[u8]>,
        position: BlockPosition,
        out: &mut BitWriter,
    ) {
        self.literals[END_OF_BLOCK] = 1;
        let literals = Code::for_counts(&self.literals, MAX_BITS);
        let distances = Code::for_counts(&self.distances, MAX_BITS);
        let prologue = Prologue::new(&literals, &distances);

        // Lengths in bytes, with the three header bits.
        let extra = self.extra_bits();
        let bytes = |bits: u64| (bits + 3).div_ceil(8);
        let dynamic = bytes(
            prologue.bits()
                + literals.encoded_bits(&self.literals)
                + distances.encoded_bits(&self.distances)
                + extra,
        );
        let fixed = bytes(
            self.fixed.0.encoded_bits(&self.literals)
                + self.fixed.1.encoded_bits(&self.distances)
                + extra,
        );
        let shortest = fixed.min(dynamic);

        let last = position as u32;
        match content {
            Some(content) if content.len() as u64 + STORED_OVERHEAD <= shortest => {
                out.put(last | STORED << 1, 3);
                out.store(content);
            }
            _ if fixed == shortest => {
                out.put(last | FIXED << 1, 3);
                self.write_symbols(&self.fixed.0, &self.fixed.1, out);
            }
            _ => {
                out.put(last | DYNAMIC << 1, 3);
                prologue.write(&literals, &distances, |value, bits| out.put(value, bits));
                self.write_symbols(&literals, &distances, out);
            }
        }
        self.clear();
    }

    fn extra_bits(&self) -> u64 {
        let sum = |counts: &[u32], extra: &[u8]| -> u64 {
            counts.iter().zip(extra).map(|(count, bits)| u64::from(*count) * u64::from(*bits)).sum()
        };
        sum(&self.literals[END_OF_BLOCK + 1..], &LENGTH_EXTRA)
            + sum(&self.distances, &DISTANCE_EXTRA)
    }

    fn write_symbols(&self, literals: &Code, distances: &Code, out: &mut BitWriter) {
        let (literal_words, distance_words) = (literals.words(), distances.words());
        let put_literal = |symbol: usize, out: &mut BitWriter| {
            out.put(u32::from(literal_words[symbol]), literals.lengths[symbol]);
        };

        for symbol in &self.symbols {
            match *symbol {
                Symbol::Literal(byte) => put_literal(usize::from(byte), out),
                Symbol::Match { length, distance } => {
                    let symbol = length_symbol(length);
                    put_literal(END_OF_BLOCK + 1 + symbol, out);
                    out.put(u32::from(length - LENGTH_BASE[symbol]), LENGTH_EXTRA[symbol]);

                    let symbol = distance_symbol(distance);
                    out.put(u32::from(distance_words[symbol]), distances.lengths[symbol]);
                    out.put(u32::from(distance - DISTANCE_BASE[symbol]), DISTANCE_EXTRA[symbol]);
                }
            }
        }

        put_literal(END_OF_BLOCK, out);
    }

    fn clear(&mut self) {
        self.symbols.clear();
        self.literals = [0; LITERALS];
        self.distances = [0; DISTANCES];
        self.matches = 0;
    }
}

fn length_symbol(length: u16) -> usize {
    match length {
        0..=10 => usize::from(length.saturating_sub(3)),
        258.. => 28,
        _ => symbol_of(usize::from(length) - 3, 2),
    }
}

fn distance_symbol(distance: u16) -> usize {
    match distance {
        0..=4 => usize::from(distance.saturating_sub(1)),
        _ => symbol_of(usize::from(distance) - 1, 1),
    }
}

/// The symbol of `value` in an alphabet with 2^`bits` symbols for each power of two.
fn symbol_of(value: usize, bits: u32) -> usize {
    let extra = value.ilog2() - bits;
    ((extra as usize + 1) << bits) + (value >> extra) - (1 << bits)
}

/// Collects bits, in the order of a deflate stream, to bytes.
#[derive(Default)]
pub(super) struct BitWriter {
    /// The bits that are not in `bytes` yet, the first lowest.
    pending: u64,
    /// Number of pending bits.
    count: u8,
    /// Complete bytes.
    pub(super) bytes: Vec<u8>,
}

impl BitWriter {
    fn put(&mut self, value: u32, bits: u8) {
        self.pending |= u64::from(value) << self.count;
        self.count += bits;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.count -= 32;
        }
    }

    /// Moves all pending whole bytes to `bytes`.
    pub(super) fn flush(&mut self) {
        while self.count >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    /// Fills the last byte with zero bits.
    pub(super) fn pad(&mut self) {
        self.count = self.count.next_multiple_of(8);
        self.flush();
    }

    /// Adds the body of a stored block (RFC 1951, 3.2.4).
    fn store(&mut self, content: &[u8]) {
        self.pad();
        let length = content.len() as u16;

        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&(!length).to_le_bytes());
        self.bytes.extend_from_slice(content);
    }
}
