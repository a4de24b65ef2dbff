//! Bit streams that are written forward and read backward.
//!
//! The last byte of a stream holds the end mark: its highest bit that is set.

/// Reads a stream, the bit that was written last first.
pub struct BackwardBits<'a> {
    data: &'a [u8],
    /// Offset of the eight bytes in `word`; bytes before the data count as zero.
    at: isize,
    /// These bytes without the bits that were read, which are shifted out at the top.
    word: u64,
    /// Number of bits that were shifted out.
    taken: u32,
}

impl<'a> BackwardBits<'a> {
    /// Begins before the end mark; `None` without a mark.
    pub fn new(data: &'a [u8]) -> Option<Self> {
        let last = *data.last()?;
        if last == 0 {
            return None;
        }

        let at = isize::try_from(data.len()).ok()? - 8;
        let mut bits = BackwardBits { data, at, word: 0, taken: last.leading_zeros() + 1 };
        bits.refill();
        Some(bits)
    }

    /// Makes at least 57 bits available to [`peek`](Self::peek).
    #[inline(always)]
    pub fn refill(&mut self) {
        self.at -= (self.taken >> 3) as isize;
        self.taken &= 7;
        let bytes = usize::try_from(self.at)
            .ok()
            .and_then(|at| self.data.get(at..))
            .and_then(<[u8]>::first_chunk::<8>);
        let word = match bytes {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => self.load_beginning(),
        };
        self.word = word << self.taken;
    }

    /// The word at a negative offset.
    #[cold]
    fn load_beginning(&self) -> u64 {
        let held = usize::try_from(self.at + 8).unwrap_or(0);
        let mut bytes = [0; 8];
        if let (Some(target), Some(source)) =
            (bytes.get_mut(8 - held.min(8)..), self.data.get(..held))
        {
            target.copy_from_slice(source);
        }
        u64::from_le_bytes(bytes)
    }

    /// The next bits; at most 57 since the last refill.
    #[inline(always)]
    pub fn peek(&self, bits: u32) -> u32 {
        (self.word >> 1 >> (63 - bits)) as u32
    }

    /// Skips at most 31 bits.
    #[inline(always)]
    pub fn skip(&mut self, bits: u32) {
        self.word <<= bits;
        self.taken += bits;
    }

    /// Reads at most 31 bits.
    #[inline(always)]
    pub fn read(&mut self, bits: u32) -> u32 {
        let value = self.peek(bits);
        self.skip(bits);
        value
    }

    /// Number of bits that were not read; negative if more were read than there are.
    pub fn left(&self) -> isize {
        self.at * 8 + 64 - self.taken as isize
    }
}

/// Writes streams, one after the other.
#[derive(Default)]
pub struct ForwardBits {
    /// Bytes of which the first `length` are written.
    bytes: Vec<u8>,
    length: usize,
    /// Bits that are not written yet, and their number.
    word: u64,
    pending: u32,
}

impl ForwardBits {
    /// Forgets all streams.
    pub fn clear(&mut self) {
        self.length = 0;
        self.word = 0;
        self.pending = 0;
    }

    /// Adds the low bits of a value that has no higher bits; at most 56 between two flushes.
    #[inline(always)]
    pub fn add(&mut self, value: u32, bits: u32) {
        self.word |= u64::from(value) << self.pending;
        self.pending += bits;
    }

    /// Writes the bits that were added, except those of an unfinished byte.
    #[inline(always)]
    pub fn flush(&mut self) {
        if self.bytes.len() < self.length + 8 {
            self.bytes.resize(self.length * 2 + 1024, 0);
        }
        if let Some(target) = self.bytes.get_mut(self.length..self.length + 8) {
            target.copy_from_slice(&self.word.to_le_bytes());
        }
        self.length += (self.pending >> 3) as usize;
        self.word >>= self.pending & !7;
        self.pending &= 7;
    }

    /// Writes the end mark of a stream after a flush.
    pub fn end_stream(&mut self) {
        self.add(1, 1);
        self.flush();
        self.length += usize::from(self.pending > 0);
        self.word = 0;
        self.pending = 0;
    }

    /// All streams that were ended.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}
