//! Distance up to which a predictor looks.

/// Bytes of the new text before an offset, and of the old text to each side of the aligned offset,
/// in which a predictor looks for equal content: 1, 2, 4 or 8 MiB.
///
/// More of it predicts a large file better, and takes more memory on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach(u32);

/// Bits of the code of a reach.
pub(in crate::replay) const REACH_BITS: u32 = 2;
const LEAST: u32 = 20;

impl Reach {
    /// The largest reach of at most `bytes`, or the least of all.
    pub fn from_bytes(bytes: u64) -> Self {
        let log = bytes.max(1).ilog2().clamp(LEAST, LEAST + (1 << REACH_BITS) - 1);
        Reach(log - LEAST)
    }

    /// The reach with this code.
    pub(in crate::replay) fn from_code(code: u32) -> Self {
        Reach(code & ((1 << REACH_BITS) - 1))
    }

    pub(in crate::replay) fn code(self) -> u32 {
        self.0
    }

    /// Its length in bytes.
    pub fn bytes(self) -> usize {
        1 << (LEAST + self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_is_a_power_of_two_between_its_limits() {
        for (bytes, reach) in [(0, 1), (1 << 20, 1), (3 << 20, 2), (4 << 20, 4), (1 << 40, 8)] {
            let from_bytes = Reach::from_bytes(bytes);
            assert_eq!(from_bytes.bytes(), reach << 20);
            assert_eq!(Reach::from_code(from_bytes.code()), from_bytes);
        }
    }
}
