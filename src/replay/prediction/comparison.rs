//! Comparisons of content with a bounded total cost.

/// Bytes that may be compared for each byte of plain content.
///
/// The usual cost is 2 to 5 bytes. Crafted content could cost 131,072.
const BYTES_FOR_EACH: u64 = 64;
/// Bytes that may be compared in addition.
const CREDIT: u64 = 64 << 10;

/// Budget of the comparisons of a part.
///
/// If it is spent, comparisons find nothing until the content has advanced. This is part of the
/// format.
#[derive(Debug)]
pub struct Comparisons {
    left: u64,
}

impl Default for Comparisons {
    fn default() -> Self {
        Comparisons { left: CREDIT }
    }
}

impl Comparisons {
    /// Adds the budget of `length` bytes of plain content.
    pub fn advance(&mut self, length: u32) {
        self.left += u64::from(length) * BYTES_FOR_EACH;
    }

    /// Number of equal bytes at the offsets `at` and `at - distance` of `text`, at most `limit`.
    ///
    /// It is 0 if either offset is outside of `text`.
    #[inline]
    pub fn count_equal(&mut self, text: &[u8], at: usize, distance: usize, limit: usize) -> usize {
        let limit = limit.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(from) = at.checked_sub(distance) else { return 0 };
        let equal = match (text.get(at..), text.get(from..)) {
            (Some(here), Some(there)) => count_equal(here, there, limit),
            _ => 0,
        };
        self.left = self.left.saturating_sub(equal as u64 + 1);
        equal
    }
}

/// Number of equal bytes at the beginning of both, at most `limit`.
#[inline]
fn count_equal(a: &[u8], b: &[u8], limit: usize) -> usize {
    let limit = limit.min(a.len()).min(b.len());
    let (a, b) = (&a[..limit], &b[..limit]);
    let mut equal = 0;
    for (x, y) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        let difference = word(x) ^ word(y);
        if difference != 0 {
            return equal + (difference.trailing_zeros() / 8) as usize;
        }
        equal += 8;
    }
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(x, y)| x == y).count()
}

/// The first eight bytes as a number; missing ones are zero.
#[inline(always)]
pub fn word(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_are_counted_to_first_difference_or_limit() {
        let text = b"abcdefghijkl-abcdefghijkL";
        let mut comparisons = Comparisons::default();
        assert_eq!(comparisons.count_equal(text, 13, 13, 100), 11);
        assert_eq!(comparisons.count_equal(text, 13, 13, 5), 5);
        assert_eq!(comparisons.count_equal(text, 13, 14, 5), 0);
        assert_eq!(comparisons.count_equal(text, 26, 1, 5), 0);
    }

    #[test]
    fn spent_budget_finds_nothing_until_content_advances() {
        let text = vec![7; 1 << 17];
        let mut comparisons = Comparisons::default();
        while comparisons.count_equal(&text, 1, 1, usize::MAX) > 0 {}
        assert_eq!(comparisons.count_equal(&text, 1, 1, 9), 0);
        comparisons.advance(1);
        assert_eq!(comparisons.count_equal(&text, 1, 1, 9), 9);
    }
}
