//! Finite state entropy: distributions, and the tables for both directions.

use super::ZstdDefect;
use super::bits::{BackwardBits, ForwardBits};

/// A code for a range of values.
#[derive(Clone, Copy)]
pub struct SequenceCode {
    /// Smallest value.
    pub base: u32,
    /// Number of bits that are added to it.
    pub extra: u8,
}

/// Most states of a table: an accuracy of 9 bits.
const MAX_STATES: usize = 1 << 9;
/// Bound of the number of symbols, a power of two.
const MAX_SYMBOLS: usize = 1 << 6;
/// Accuracy with the number 0 in a description.
const MIN_LOG: u32 = 5;

/// Numbers of states for each symbol, which add up to a power of two.
pub struct Distribution {
    /// Binary logarithm of the number of states, at most 9.
    log: u32,
    /// Numbers of states; -1 is one state that requires a full reset.
    counts: [i16; MAX_SYMBOLS],
}

/// Bounds of a distribution.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Greatest accuracy, at most 9.
    pub log: u32,
    /// Number of symbols, at most 64.
    pub symbols: usize,
}

impl Distribution {
    /// The distribution with these counts, which must add up to `1 << log`.
    ///
    /// Other counts yield a distribution with a single symbol.
    pub fn from_counts(log: u32, given: &[i16]) -> Self {
        let sum: u32 = given.iter().map(|count| u32::from(count.unsigned_abs())).sum();
        let mut counts = [0; MAX_SYMBOLS];
        match counts.get_mut(..given.len()) {
            Some(target) if log <= 9 && sum == 1 << log => target.copy_from_slice(given),
            _ => return Self::of_single(0),
        }
        Distribution { log, counts }
    }

    /// The distribution of one symbol, which takes no bits.
    pub fn of_single(symbol: u8) -> Self {
        let mut counts = [0; MAX_SYMBOLS];
        counts[usize::from(symbol) % MAX_SYMBOLS] = 1;
        Distribution { log: 0, counts }
    }

    /// Parses a description at the beginning of `data`; also returns its length.
    pub fn read(data: &[u8], bounds: Bounds) -> Result<(Self, usize), ZstdDefect> {
        let log = bits_at(data, 0, 4) + MIN_LOG;
        if log > bounds.log.min(9) {
            return Err(ZstdDefect::FseTable);
        }

        let mut counts = [0; MAX_SYMBOLS];
        let bound = bounds.symbols.min(MAX_SYMBOLS);
        let (mut symbol, mut at) = (0, 4);
        // States that are left, plus one.
        let mut left = (1u32 << log) + 1;
        while left > 1 {
            // The values below `spare` take one bit less than the others.
            let bits = left.ilog2() + 1;
            let spare = (1 << bits) - 1 - left;
            let mut value = bits_at(data, at, bits);
            let low = value & ((1 << (bits - 1)) - 1);
            if low < spare {
                value = low;
                at += bits as usize - 1;
            } else {
                if value >= 1 << (bits - 1) {
                    value -= spare;
                }
                at += bits as usize;
            }

            let count = value as i16 - 1;
            let target = counts.get_mut(..bound).and_then(|counts| counts.get_mut(symbol));
            *target.ok_or(ZstdDefect::FseTable)? = count;
            symbol += 1;
            left = left
                .checked_sub(count.unsigned_abs().into())
                .filter(|left| *left > 0)
                .ok_or(ZstdDefect::FseTable)?;

            if count == 0 {
                // Two bits are the number of further zeros; 3 is followed by two more bits.
                let mut zeros = 3;
                while zeros == 3 && symbol <= bound {
                    zeros = bits_at(data, at, 2);
                    at += 2;
                    symbol += zeros as usize;
                }
            }
        }

        let length = at.div_ceil(8);
        if length > data.len() {
            return Err(ZstdDefect::FseTable);
        }
        Ok((Distribution { log, counts }, length))
    }

    /// Number of states.
    fn size(&self) -> usize {
        1 << self.log
    }

    /// Symbol of each state.
    fn spread(&self) -> [u8; MAX_STATES] {
        let mut symbols = [0; MAX_STATES];
        let size = self.size();

        // Symbols of low probability take the last states.
        let mut high = size;
        for (symbol, _) in (0u8..).zip(&self.counts).filter(|(_, count)| **count == -1) {
            high = high.saturating_sub(1);
            symbols[high % MAX_STATES] = symbol;
        }

        // The step is odd, so that all states are visited once.
        let step = (size >> 1) + (size >> 3) + 3;
        let mut at = 0;
        for (symbol, count) in (0u8..).zip(&self.counts) {
            for _ in 0..*count {
                symbols[at % MAX_STATES] = symbol;
                at = (at + step) & (size - 1);
                while at >= high && high > 0 {
                    at = (at + step) & (size - 1);
                }
            }
        }
        symbols
    }
}

/// At most 16 bits from bit `at` on, the lowest first; zeros after the end.
fn bits_at(data: &[u8], at: usize, bits: u32) -> u32 {
    let mut word = 0;
    for (shift, byte) in (0..3).zip(data.get(at / 8..).unwrap_or_default()) {
        word |= u32::from(*byte) << (8 * shift);
    }
    word >> (at % 8) & ((1 << bits) - 1)
}

/// A state of a decoder: its symbol's value, and the next state.
#[derive(Clone, Copy, Default)]
pub struct Cell {
    /// Smallest value of the symbol's code, and the number of bits to be added to it.
    pub base: u32,
    pub extra: u8,
    /// Number of bits to be added to `next` for the next state.
    bits: u8,
    next: u16,
}

/// Table for decoding.
pub struct DecodeTable {
    log: u32,
    cells: Box<[Cell; MAX_STATES]>,
}

/// State of decoding with a table.
#[derive(Clone, Copy)]
pub struct DecodeState(usize);

impl DecodeTable {
    /// Builds a table; `None` if a symbol has no code in `codes`.
    pub fn new(distribution: &Distribution, codes: &[SequenceCode]) -> Option<Self> {
        let mut next = distribution.counts.map(i16::unsigned_abs);
        let symbols = distribution.spread();
        let mut cells = Box::new([Cell::default(); MAX_STATES]);
        let size = distribution.size();
        for (cell, symbol) in cells.iter_mut().zip(symbols).take(size) {
            let position = &mut next[usize::from(symbol) % MAX_SYMBOLS];
            let bits = distribution.log.checked_sub(position.checked_ilog2()?)?;
            let next = (usize::from(*position) << bits).wrapping_sub(size) as u16;
            *position += 1;
            let SequenceCode { base, extra } = *codes.get(usize::from(symbol))?;
            *cell = Cell { base, extra, bits: bits as u8, next };
        }
        Some(DecodeTable { log: distribution.log, cells })
    }

    /// Reads the first state.
    pub fn begin(&self, bits: &mut BackwardBits) -> DecodeState {
        DecodeState(bits.read(self.log) as usize)
    }

    /// The cell of a state.
    #[inline(always)]
    pub fn cell(&self, state: DecodeState) -> Cell {
        self.cells[state.0 % MAX_STATES]
    }

    /// Number of lower states with the same symbol.
    pub fn rank(&self, state: DecodeState) -> u16 {
        let base = self.cell(state).base;
        self.cells.iter().take(state.0).filter(|cell| cell.base == base).count() as u16
    }
}

impl Cell {
    /// Reads the next state.
    #[inline(always)]
    pub fn advance(&self, bits: &mut BackwardBits) -> DecodeState {
        DecodeState(usize::from(self.next) + bits.read(self.bits.into()) as usize)
    }

    /// Number of bits that [`advance`](Self::advance) reads.
    pub fn advance_bits(&self) -> u32 {
        self.bits.into()
    }

    /// Reads the value.
    #[inline(always)]
    pub fn value(&self, bits: &mut BackwardBits) -> u32 {
        self.base + bits.read(self.extra.into())
    }
}

/// Table for encoding.
pub struct EncodeTable {
    log: u32,
    /// States, increased by their number, in the order of symbols and then states.
    states: Box<[u16; MAX_STATES]>,
    symbols: [Transition; MAX_SYMBOLS],
}

/// Transition to the next state while a symbol is encoded.
#[derive(Clone, Copy)]
struct Transition {
    /// With a state added, bits 16 and higher are the number of bits to be written.
    bits: u32,
    /// Offset in the states for the state's remaining bits.
    offset: i32,
    /// The symbol's first state, and their number.
    first: u16,
    count: u16,
}

impl EncodeTable {
    /// Builds a table.
    pub fn new(distribution: &Distribution) -> Self {
        let (log, size) = (distribution.log, distribution.size() as u32);
        // The offset of symbols without states is outside the table.
        let none = Transition { bits: 0, offset: i32::MAX >> 1, first: 0, count: 0 };
        let mut symbols = [none; MAX_SYMBOLS];
        let mut firsts = [0; MAX_SYMBOLS];
        let mut total = 0u16;
        for ((transition, first), count) in
            symbols.iter_mut().zip(&mut firsts).zip(&distribution.counts)
        {
            let count = count.unsigned_abs();
            let most = log - count.saturating_sub(1).checked_ilog2().unwrap_or(0);
            let bits = match count {
                0 => continue,
                1 => (log << 16).wrapping_sub(size),
                _ => (most << 16).wrapping_sub(u32::from(count) << most),
            };
            *first = usize::from(total);
            let offset = i32::from(total) - i32::from(count);
            *transition = Transition { bits, offset, first: total, count };
            total += count;
        }

        let mut states = Box::new([0; MAX_STATES]);
        for (state, symbol) in (size as u16..).zip(distribution.spread()).take(size as usize) {
            let first = &mut firsts[usize::from(symbol) % MAX_SYMBOLS];
            states[*first % MAX_STATES] = state;
            *first += 1;
        }
        EncodeTable { log, states, symbols }
    }

    /// State for the first symbol: that with a rank among the symbol's states.
    pub fn begin(&self, symbol: u8, rank: u16) -> Option<u32> {
        let transition = &self.symbols[usize::from(symbol) % MAX_SYMBOLS];
        if rank >= transition.count {
            return None;
        }
        self.states.get(usize::from(transition.first + rank)).map(|state| u32::from(*state))
    }

    /// Adds the bits of a transition, at most 9; returns false if the symbol has no states.
    #[inline(always)]
    #[must_use]
    pub fn encode(&self, state: &mut u32, symbol: u8, bits: &mut ForwardBits) -> bool {
        let transition = &self.symbols[usize::from(symbol) % MAX_SYMBOLS];
        let count = state.wrapping_add(transition.bits) >> 16;
        let index = (*state >> (count & 31)) as i32 + transition.offset;
        let Some(next) = usize::try_from(index).ok().and_then(|index| self.states.get(index))
        else {
            return false;
        };
        bits.add(*state & ((1 << (count & 31)) - 1), count);
        *state = u32::from(*next);
        true
    }

    /// Adds the last state, at most 9 bits.
    pub fn end(&self, state: u32, bits: &mut ForwardBits) {
        bits.add(state & ((1 << self.log) - 1), self.log);
    }
}
