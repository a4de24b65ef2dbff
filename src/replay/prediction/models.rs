//! Adaptive probabilities of a decision stream.

use crate::replay::range_coder::{AdaptiveBit, Coder};

/// Contexts of a prediction; see the predictor.
pub(super) const CONTEXTS: usize = 128;
/// Classes of the length that is predicted, times three for literals beside a repeat.
pub(super) const SHAPES: usize = 33;
/// Classes of the numbers of right predictions: eight since the last wrong one, four before it.
pub(super) const ROWS: usize = 32;
/// Places of the list of a match finder that have a number.
pub(super) const NUMBERED: usize = 7;
/// Bits of a short number, and of the excess of a long one.
const SHORT_BITS: u32 = 9;
const LONG_BITS: u32 = 17;

/// Probabilities of all decisions; the parts of a group share them.
pub struct Models {
    /// Whether a prediction is wrong.
    pub(super) wrong: Vec<AdaptiveBit>,
    pub(super) kinds: Vec<[AdaptiveBit; 8]>,
    pub(super) other_distance: [AdaptiveBit; 16],
    pub(super) not_longest: [AdaptiveBit; 256],
    pub(super) lengths: Vec<NumberModel>,
    pub(super) not_nearest: [AdaptiveBit; 64],
    pub(super) not_candidate: [AdaptiveBit; 128],
    pub(super) distances: SizeModel,
}

/// Probabilities of a number below 2^32: of its number of bits.
#[derive(Clone)]
pub struct SizeModel([AdaptiveBit; 64]);

/// Probabilities of short rows of bytes, each byte by its place in the row.
pub struct ByteModel {
    lengths: NumberModel,
    bytes: Vec<[AdaptiveBit; 256]>,
}

/// Places of a row of bytes that have probabilities of their own.
const PLACES: usize = 32;

/// Probabilities of a number below 2^17.
#[derive(Clone)]
pub(super) struct NumberModel(Vec<AdaptiveBit>);

impl Default for Models {
    fn default() -> Self {
        let one = AdaptiveBit::default();
        Models {
            wrong: vec![one; CONTEXTS * SHAPES * ROWS],
            kinds: vec![[one; 8]; 8 * 27],
            other_distance: [one; 16],
            not_longest: [one; 256],
            lengths: vec![NumberModel::default(); 32],
            not_nearest: [one; 64],
            not_candidate: [one; 128],
            distances: SizeModel::default(),
        }
    }
}

impl Default for NumberModel {
    fn default() -> Self {
        NumberModel(vec![AdaptiveBit::default(); 1 << SHORT_BITS])
    }
}

impl Default for SizeModel {
    fn default() -> Self {
        SizeModel([AdaptiveBit::default(); 64])
    }
}

impl SizeModel {
    /// Codes a number.
    pub fn code(&mut self, coder: &mut impl Coder, number: u32) -> u32 {
        let bits = coder.adaptive_tree(&mut self.0, u32::BITS - number.leading_zeros(), 6).min(32);
        match bits.checked_sub(1) {
            None => 0,
            Some(below) => 1 << below | coder.direct(number & ((1 << below) - 1), below),
        }
    }
}

impl Default for ByteModel {
    fn default() -> Self {
        ByteModel {
            lengths: NumberModel::default(),
            bytes: vec![[AdaptiveBit::default(); 256]; PLACES],
        }
    }
}

impl ByteModel {
    /// Codes a row of bytes, at most `longest`; a longer one that is read is cut.
    pub fn code(&mut self, coder: &mut impl Coder, row: &[u8], longest: usize) -> Vec<u8> {
        let length = self.lengths.code(coder, u32::try_from(row.len()).unwrap_or(u32::MAX));
        (0..(length as usize).min(longest))
            .map(|place| {
                let byte = row.get(place).copied().unwrap_or(0);
                let model = &mut self.bytes[place.min(PLACES - 1)];
                coder.adaptive_tree(model, byte.into(), 8) as u8
            })
            .collect()
    }
}

impl NumberModel {
    pub fn code(&mut self, coder: &mut impl Coder, number: u32) -> u32 {
        const LONG: u32 = (1 << SHORT_BITS) - 1;
        match coder.adaptive_tree(&mut self.0, number.min(LONG), SHORT_BITS) {
            LONG => LONG + coder.direct(number.wrapping_sub(LONG), LONG_BITS),
            short => short,
        }
    }
}
