//! Codes of sequences, their predefined distributions, and state that later blocks use.

use super::ZstdDefect;
use super::fse::{Bounds, DecodeTable, Distribution, EncodeTable, SequenceCode};

/// Extra bits of the codes of literals lengths (RFC 8878, 3.1.1.3.2.1.1).
const LITERALS_LENGTH_BITS: [u8; 36] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11,
    12, 13, 14, 15, 16,
];
/// Extra bits of the codes of match lengths.
const MATCH_LENGTH_BITS: [u8; 53] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
];
const LITERALS_LENGTHS: [SequenceCode; 36] = consecutive_codes(0, LITERALS_LENGTH_BITS);
const MATCH_LENGTHS: [SequenceCode; 53] = consecutive_codes(MIN_MATCH, MATCH_LENGTH_BITS);
const OFFSETS: [SequenceCode; 32] = offset_codes();

/// Shortest match.
pub const MIN_MATCH: u32 = 3;

/// Predefined distributions (RFC 8878, 3.1.1.3.2.2).
const LITERALS_LENGTH_COUNTS: [i16; 36] = [
    4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
    -1, -1, -1, -1,
];
const MATCH_LENGTH_COUNTS: [i16; 53] = [
    1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
];
const OFFSET_COUNTS: [i16; 29] =
    [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1];

const fn consecutive_codes<const N: usize>(first: u32, bits: [u8; N]) -> [SequenceCode; N] {
    let mut codes = [SequenceCode { base: first, extra: 0 }; N];
    let (mut base, mut index) = (first, 0);
    while index < N {
        codes[index] = SequenceCode { base, extra: bits[index] };
        base += 1 << bits[index];
        index += 1;
    }
    codes
}

const fn offset_codes() -> [SequenceCode; 32] {
    let mut codes = [SequenceCode { base: 0, extra: 0 }; 32];
    let mut index = 0;
    while index < 32 {
        codes[index] = SequenceCode { base: 1 << index, extra: index as u8 };
        index += 1;
    }
    codes
}

/// Lengths below these bounds have their codes in a table.
const SHORT_LITERALS: usize = 64;
const SHORT_MATCHES: usize = 128;

const LITERALS_LENGTH_SYMBOLS: [u8; SHORT_LITERALS] = symbols_of(LITERALS_LENGTHS, 0);
const MATCH_LENGTH_SYMBOLS: [u8; SHORT_MATCHES] = symbols_of(MATCH_LENGTHS, MIN_MATCH);

/// Symbols of the values from `first` on.
const fn symbols_of<const N: usize, const M: usize>(
    codes: [SequenceCode; N],
    first: u32,
) -> [u8; M] {
    let mut symbols = [0; M];
    let (mut symbol, mut index) = (0, 0);
    while index < M {
        while symbol + 1 < N && codes[symbol + 1].base <= first + index as u32 {
            symbol += 1;
        }
        symbols[index] = symbol as u8;
        index += 1;
    }
    symbols
}

/// A value as its symbol and the bits that are added to the symbol's base.
#[derive(Clone, Copy)]
pub struct Coded {
    pub symbol: u8,
    pub bits: u32,
    pub extra: u32,
}

impl Coded {
    /// Codes a number of literals, at most 131071.
    #[inline(always)]
    pub fn from_literals_length(length: u32) -> Self {
        let symbol = match LITERALS_LENGTH_SYMBOLS.get(length as usize) {
            Some(symbol) => *symbol,
            None => (length.ilog2() + 19) as u8,
        };
        Self::new(symbol, length, &LITERALS_LENGTHS)
    }

    /// Codes the length of a match, 3 to 131074.
    #[inline(always)]
    pub fn from_match_length(length: u32) -> Self {
        let above = length.saturating_sub(MIN_MATCH);
        let symbol = match MATCH_LENGTH_SYMBOLS.get(above as usize) {
            Some(symbol) => *symbol,
            None => (above.ilog2() + 36) as u8,
        };
        Self::new(symbol, length, &MATCH_LENGTHS)
    }

    /// Codes an offset value, which is at least 1.
    #[inline(always)]
    pub fn from_offset_value(value: u32) -> Self {
        let symbol = (value | 1).ilog2();
        Coded { symbol: symbol as u8, bits: symbol, extra: value ^ 1 << symbol }
    }

    #[inline(always)]
    fn new(symbol: u8, value: u32, codes: &[SequenceCode]) -> Self {
        // Values beyond the last code keep its number of bits.
        let SequenceCode { base, extra } = match codes.get(usize::from(symbol)) {
            Some(code) => *code,
            None => SequenceCode { base: value, extra: 0 },
        };
        let bits = u32::from(extra);
        Coded { symbol, bits, extra: value.wrapping_sub(base) & ((1 << bits) - 1) }
    }
}

/// Elements of a sequence that have a table each, in the order of their descriptions.
#[derive(Clone, Copy)]
pub enum Element {
    LiteralsLength,
    Offset,
    MatchLength,
}

impl Element {
    fn codes(self) -> &'static [SequenceCode] {
        match self {
            Element::LiteralsLength => &LITERALS_LENGTHS,
            Element::Offset => &OFFSETS,
            Element::MatchLength => &MATCH_LENGTHS,
        }
    }

    fn predefined(self) -> Distribution {
        match self {
            Element::LiteralsLength => Distribution::from_counts(6, &LITERALS_LENGTH_COUNTS),
            Element::Offset => Distribution::from_counts(5, &OFFSET_COUNTS),
            Element::MatchLength => Distribution::from_counts(6, &MATCH_LENGTH_COUNTS),
        }
    }

    fn bounds(self) -> Bounds {
        let log = match self {
            Element::LiteralsLength | Element::MatchLength => 9,
            Element::Offset => 8,
        };
        Bounds { log, symbols: self.codes().len() }
    }

    /// Reads the table's distribution; `None` if that of an earlier block is used.
    fn read(self, mode: u8, data: &mut &[u8]) -> Result<Option<Distribution>, ZstdDefect> {
        match mode & 3 {
            0 => Ok(Some(self.predefined())),
            1 => {
                let (symbol, rest) = data.split_first().ok_or(ZstdDefect::SequencesLength)?;
                *data = rest;
                if usize::from(*symbol) >= self.codes().len() {
                    return Err(ZstdDefect::FseTable);
                }
                Ok(Some(Distribution::of_single(*symbol)))
            }
            2 => {
                let (distribution, length) = Distribution::read(data, self.bounds())?;
                *data = data.get(length..).ok_or(ZstdDefect::SequencesLength)?;
                Ok(Some(distribution))
            }
            _ => Ok(None),
        }
    }
}

/// A table of one direction.
pub trait ElementTable: Sized {
    fn from_distribution(element: Element, distribution: &Distribution) -> Option<Self>;
}

impl ElementTable for DecodeTable {
    fn from_distribution(element: Element, distribution: &Distribution) -> Option<Self> {
        DecodeTable::new(distribution, element.codes())
    }
}

impl ElementTable for EncodeTable {
    fn from_distribution(_: Element, distribution: &Distribution) -> Option<Self> {
        Some(EncodeTable::new(distribution))
    }
}

/// The tables of sequences, which later blocks may use again.
pub struct SequenceTables<T> {
    literals_length: Option<T>,
    offset: Option<T>,
    match_length: Option<T>,
}

impl<T> Default for SequenceTables<T> {
    fn default() -> Self {
        SequenceTables { literals_length: None, offset: None, match_length: None }
    }
}

impl<T: ElementTable> SequenceTables<T> {
    /// Reads the tables of a block; `data` begins with their descriptions, which are removed.
    pub fn read(&mut self, modes: u8, data: &mut &[u8]) -> Result<(), ZstdDefect> {
        if modes & 3 != 0 {
            return Err(ZstdDefect::ReservedBit);
        }

        for (element, mode, table) in [
            (Element::LiteralsLength, modes >> 6, &mut self.literals_length),
            (Element::Offset, modes >> 4, &mut self.offset),
            (Element::MatchLength, modes >> 2, &mut self.match_length),
        ] {
            if let Some(distribution) = element.read(mode, data)? {
                let new = T::from_distribution(element, &distribution);
                *table = Some(new.ok_or(ZstdDefect::FseTable)?);
            }
        }
        Ok(())
    }

    /// Tables for literals lengths, offsets and match lengths.
    pub fn get(&self) -> Result<[&T; 3], ZstdDefect> {
        match (&self.literals_length, &self.offset, &self.match_length) {
            (Some(literals), Some(offset), Some(length)) => Ok([literals, offset, length]),
            _ => Err(ZstdDefect::MissingFseTable),
        }
    }
}

/// The last three distances, the latest first.
#[derive(Clone, Copy)]
pub struct OffsetRepeats([u32; 3]);

impl Default for OffsetRepeats {
    fn default() -> Self {
        OffsetRepeats([1, 4, 8])
    }
}

impl OffsetRepeats {
    /// Distance of an offset value that follows `literals` literals; 0 is invalid.
    #[inline(always)]
    pub fn resolve(&mut self, value: u32, literals: u32) -> u32 {
        let [first, second, third] = self.0;
        self.0 = match value {
            4.. => [value - 3, first, second],
            // A match directly after a match does not repeat its distance.
            _ => match value + u32::from(literals == 0) {
                0 | 1 => [first, second, third],
                2 => [second, first, third],
                3 => [third, first, second],
                _ => [first.saturating_sub(1), first, second],
            },
        };
        let [distance, ..] = self.0;
        distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_value(coded: Coded, codes: &[SequenceCode], value: u32) {
        let code = codes[usize::from(coded.symbol)];
        assert_eq!(coded.bits, u32::from(code.extra));
        assert!(coded.extra >> coded.bits == 0, "{value}");
        assert_eq!(code.base + coded.extra, value);
    }

    #[test]
    fn all_lengths_and_offsets_have_codes() {
        for length in 0..1 << 17 {
            assert_value(Coded::from_literals_length(length), &LITERALS_LENGTHS, length);
            let length = length + MIN_MATCH;
            assert_value(Coded::from_match_length(length), &MATCH_LENGTHS, length);
        }
        for offset in (0..32).flat_map(|bits| [1 << bits, u32::MAX >> bits]) {
            assert_value(Coded::from_offset_value(offset), &OFFSETS, offset);
        }
    }

    #[test]
    fn repeated_distances_depend_on_literals() {
        let mut repeats = OffsetRepeats::default();
        let resolved = [(10, 1), (20, 1), (1, 1), (1, 0), (2, 1), (3, 1), (3, 0), (2, 0)]
            .map(|(value, literals)| repeats.resolve(value, literals));
        assert_eq!(resolved, [7, 17, 17, 7, 17, 1, 0, 17]);
    }
}
