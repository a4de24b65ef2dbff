//! LZMA's binary range coder, in both directions.
//!
//! Models are written once, for a [`Coder`]: an encoder codes the bit that it is given, a decoder
//! ignores that bit. Both return the bit that was coded.
//!
//! Probabilities are LZMA's, for streams of that format, or [`AdaptiveBit`]s, which learn faster,
//! for our own decision streams.

/// Bits of a fixed probability, and how slowly it adapts (as in LZMA).
const PROBABILITY_BITS: u32 = 11;
const PROBABILITY_SHIFT: u32 = 5;
/// Range below which a byte is moved.
const TOP: u32 = 1 << 24;

/// Probability of a zero bit in LZMA.
pub type Probability = u16;
/// A probability of one half.
pub const HALF: Probability = 1 << (PROBABILITY_BITS - 1);

/// Bits of the probability in an [`AdaptiveBit`], and of the number of observations below it.
const ADAPTIVE_BITS: u32 = 26;
const COUNT_BITS: u32 = 6;
/// Bits of a probability that the coder uses.
const CODED_BITS: u32 = 16;
/// Least probability of either bit, in units of 2^-16.
const LEAST: u32 = 24;
/// Number of observations after which a probability adapts no more slowly.
const MOST_OBSERVATIONS: u32 = 60;
/// Share of the difference by which the n-th observation moves a probability, times 2^16:
/// 1 / (n + 1.6).
const ADAPTATION: [u32; 1 << COUNT_BITS] = adaptation();

/// Probability of a zero bit with the number of observations so far.
///
/// The first observations move it far, later ones less. So a short stream costs little more than
/// its share of a long one.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveBit(u32);

impl Default for AdaptiveBit {
    /// One half, without any observation.
    fn default() -> Self {
        AdaptiveBit(1 << 31)
    }
}

impl AdaptiveBit {
    /// Probability of a zero bit, in units of 2^-16.
    #[inline(always)]
    fn probability(self) -> u32 {
        (self.0 >> (COUNT_BITS + ADAPTIVE_BITS - CODED_BITS))
            .clamp(LEAST, (1 << CODED_BITS) - LEAST)
    }

    #[inline(always)]
    fn observe(&mut self, bit: u32) {
        let count = self.0 & ((1 << COUNT_BITS) - 1);
        let zero = self.0 >> COUNT_BITS;
        let share = u64::from(ADAPTATION[count as usize]);
        let moved = if bit == 0 {
            zero + ((u64::from((1 << ADAPTIVE_BITS) - 1 - zero) * share) >> 16) as u32
        } else {
            zero - ((u64::from(zero) * share) >> 16) as u32
        };
        self.0 = moved << COUNT_BITS | (count + u32::from(count < MOST_OBSERVATIONS));
    }
}

const fn adaptation() -> [u32; 1 << COUNT_BITS] {
    let mut shares = [0; 1 << COUNT_BITS];
    let mut n = 0;
    while n < shares.len() {
        shares[n] = (10 << 16) / (10 * n as u32 + 16);
        n += 1;
    }
    shares
}

/// Codes bits with adaptive probabilities.
pub trait Coder {
    /// Codes a bit of a decision stream, and adapts its probability.
    fn adaptive(&mut self, probability: &mut AdaptiveBit, bit: u32) -> u32;

    /// Codes the low `bits` bits of `value`, the highest first; each prefix has a probability.
    #[inline]
    fn adaptive_tree(&mut self, probabilities: &mut [AdaptiveBit], value: u32, bits: u32) -> u32 {
        let mut node = 1;
        for shift in (0..bits).rev() {
            node = node << 1 | self.adaptive(&mut probabilities[node as usize], value >> shift & 1);
        }
        node - (1 << bits)
    }

    /// Codes a bit, and adapts its probability.
    fn bit(&mut self, probability: &mut Probability, bit: u32) -> u32;

    /// Whether a decoder has read more bytes than there are.
    fn has_overrun(&self) -> bool;

    /// Codes the low `bits` bits of `value`, the highest first, without a model.
    fn direct(&mut self, value: u32, bits: u32) -> u32;

    /// Codes the low `bits` bits of `value`, the highest first; each prefix has a probability.
    #[inline(always)]
    fn tree(&mut self, probabilities: &mut [Probability], value: u32, bits: u32) -> u32 {
        let mut node = 1;
        for shift in (0..bits).rev() {
            node = node << 1 | self.bit(&mut probabilities[node as usize], value >> shift & 1);
        }
        node - (1 << bits)
    }

    /// The same with the lowest bit first.
    #[inline(always)]
    fn reverse_tree(&mut self, probabilities: &mut [Probability], value: u32, bits: u32) -> u32 {
        let (mut node, mut coded) = (1, 0);
        for shift in 0..bits {
            let bit = self.bit(&mut probabilities[node as usize], value >> shift & 1);
            node = node << 1 | bit;
            coded |= bit << shift;
        }
        coded
    }
}

/// Reads bits.
pub struct RangeDecoder<'a> {
    input: &'a [u8],
    /// Number of bytes of `input` that were read. Bytes after its end count as zero.
    read: usize,
    range: u32,
    code: u32,
}

impl<'a> RangeDecoder<'a> {
    /// Begins at the first byte, which is always zero; `None` if it is not, or if `input` has fewer
    /// than five bytes.
    pub fn new(input: &'a [u8]) -> Option<Self> {
        let [0, code @ ..] = *input.first_chunk::<5>()? else { return None };
        Some(RangeDecoder { input, read: 5, range: u32::MAX, code: u32::from_be_bytes(code) })
    }

    /// Whether all of the input was read, and an encoder ended here.
    pub fn is_finished(&mut self) -> bool {
        self.normalize();
        self.read == self.input.len() && self.code == 0
    }

    /// Moves bytes until the range is large; an unlikely bit of a decision stream needs two.
    #[inline(always)]
    fn normalize(&mut self) {
        while self.range < TOP {
            self.range <<= 8;
            let byte = self.input.get(self.read).copied().unwrap_or(0);
            self.read += 1;
            self.code = self.code << 8 | u32::from(byte);
        }
    }

    /// Reads a bit that is zero with the probability `bound / range`.
    #[inline(always)]
    fn read_below(&mut self, bound: u32) -> u32 {
        if self.code < bound {
            self.range = bound;
            0
        } else {
            self.range -= bound;
            self.code -= bound;
            1
        }
    }
}

impl Coder for RangeDecoder<'_> {
    fn has_overrun(&self) -> bool {
        self.read > self.input.len()
    }

    #[inline(always)]
    fn adaptive(&mut self, probability: &mut AdaptiveBit, _: u32) -> u32 {
        self.normalize();
        let bit = self.read_below((self.range >> CODED_BITS) * probability.probability());
        probability.observe(bit);
        bit
    }

    #[inline(always)]
    fn bit(&mut self, probability: &mut Probability, _: u32) -> u32 {
        self.normalize();
        let bit = self.read_below((self.range >> PROBABILITY_BITS) * u32::from(*probability));
        adapt(probability, bit);
        bit
    }

    #[inline(always)]
    fn direct(&mut self, _: u32, bits: u32) -> u32 {
        let mut value = 0;
        for _ in 0..bits {
            self.normalize();
            self.range >>= 1;
            let bit = u32::from(self.code >= self.range);
            self.code -= self.range * bit;
            value = value << 1 | bit;
        }
        value
    }
}

/// Writes bits.
pub struct RangeEncoder {
    output: Vec<u8>,
    low: u64,
    range: u32,
    /// The last byte that a carry may still change, and the number of bytes that wait: the cached
    /// byte, then bytes of `0xff`.
    cached: u8,
    waiting: u64,
}

impl Default for RangeEncoder {
    fn default() -> Self {
        RangeEncoder { output: Vec::new(), low: 0, range: u32::MAX, cached: 0, waiting: 1 }
    }
}

impl RangeEncoder {
    /// Bytes that are written or wait for a carry.
    pub fn pending_length(&self) -> u64 {
        self.output.len() as u64 + self.waiting
    }

    /// Ends the coding, and returns all bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.normalize();
        for _ in 0..5 {
            self.shift_low();
        }
        self.output
    }

    #[inline(always)]
    fn normalize(&mut self) {
        while self.range < TOP {
            self.shift_low();
            self.range <<= 8;
        }
    }

    fn shift_low(&mut self) {
        if (self.low as u32) < 0xff00_0000 || self.low >> 32 != 0 {
            let carry = (self.low >> 32) as u8;
            while self.waiting > 0 {
                self.output.push(self.cached.wrapping_add(carry));
                self.cached = 0xff;
                self.waiting -= 1;
            }
            self.cached = (self.low >> 24) as u8;
        }
        self.waiting += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    /// Writes a bit that is zero with the probability `bound / range`.
    #[inline(always)]
    fn write_below(&mut self, bound: u32, bit: u32) {
        // Without a branch: the bits are hard to predict.
        let mask = 0u32.wrapping_sub(bit);
        self.low += u64::from(bound & mask);
        self.range = bound.wrapping_add(self.range.wrapping_sub(bound.wrapping_mul(2)) & mask);
    }
}

impl Coder for RangeEncoder {
    fn has_overrun(&self) -> bool {
        false
    }

    #[inline(always)]
    fn adaptive(&mut self, probability: &mut AdaptiveBit, bit: u32) -> u32 {
        self.normalize();
        self.write_below((self.range >> CODED_BITS) * probability.probability(), bit);
        probability.observe(bit);
        bit
    }

    #[inline(always)]
    fn bit(&mut self, probability: &mut Probability, bit: u32) -> u32 {
        self.normalize();
        self.write_below((self.range >> PROBABILITY_BITS) * u32::from(*probability), bit);
        // The same as `adapt`, without a branch: the bound is 2048 for zero, 31 for one.
        let bound = (1 << PROBABILITY_BITS) - (0i32.wrapping_sub(bit as i32) & 2017);
        let old = i32::from(*probability);
        *probability = (old + ((bound - old) >> PROBABILITY_SHIFT)) as u16;
        bit
    }

    #[inline(always)]
    fn direct(&mut self, value: u32, bits: u32) -> u32 {
        for shift in (0..bits).rev() {
            self.normalize();
            self.range >>= 1;
            self.low += u64::from(self.range) * u64::from(value >> shift & 1);
        }
        value
    }
}

#[inline(always)]
fn adapt(probability: &mut Probability, bit: u32) {
    if bit == 0 {
        *probability += ((1 << PROBABILITY_BITS) - *probability) >> PROBABILITY_SHIFT;
    } else {
        *probability -= *probability >> PROBABILITY_SHIFT;
    }
}
