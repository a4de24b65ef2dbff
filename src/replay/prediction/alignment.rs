//! Alignment: the offset of an old text that corresponds to an offset of a new one.

use super::comparison::word;
use crate::replay::text_view::TextView;

/// Bits of the hashes of eight bytes, at least and at most.
const HASH_BITS: (u32, u32) = (8, 20);
/// Bytes by which two alignments are compared.
const COMPARED: usize = 32;
/// Equal bytes of the compared ones at which an alignment is kept, as a fraction.
const KEPT: (usize, usize) = (5, 8);
/// Least number of equal bytes of a new alignment, and the least advantage over the present one.
const LEAST_EQUAL: usize = 12;
const LEAST_ADVANTAGE: usize = 4;
/// Old bytes for which one shift is recorded.
const MAP_UNIT: usize = 64;
const NONE: u32 = u32::MAX;

/// Aligns a new text, from its beginning to its end, with an old one.
pub struct Alignment {
    /// The last old offset of each hash of eight bytes.
    places: Vec<u32>,
    hash_shift: u32,
    /// Old offset up to which the old text is indexed.
    indexed: usize,
    /// Old offset minus new offset.
    shift: i64,
    /// The shift that held when an old place was passed: number of the unit, and the shift.
    map: Vec<(u32, i64)>,
}

/// The old offset that corresponds to a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aligned {
    pub offset: usize,
    /// Whether the content agrees there.
    pub agrees: bool,
}

impl Alignment {
    /// Prepares to align a new text of `length` bytes, of which `visible` are visible at a time.
    pub fn new(length: usize, visible: usize) -> Self {
        let bits = (usize::BITS - length.leading_zeros()).clamp(HASH_BITS.0, HASH_BITS.1);
        let entries = (length.min(visible) / MAP_UNIT + 1).next_power_of_two();
        Alignment {
            places: vec![NONE; 1 << bits],
            hash_shift: u64::BITS - bits,
            indexed: 0,
            shift: 0,
            map: vec![(NONE, 0); entries],
        }
    }

    /// The old offset that the present shift gives for `at`.
    pub fn expected(&self, at: usize) -> usize {
        usize::try_from((at as i64).saturating_add(self.shift)).unwrap_or(0)
    }

    /// Indexes the old text that is visible.
    pub fn index(&mut self, old: TextView<'_>) {
        self.indexed = self.indexed.max(old.start);
        while let Some(eight) = old.from(self.indexed).first_chunk::<8>() {
            let place = self.hash(u64::from_le_bytes(*eight));
            self.places[place] = self.indexed as u32;
            self.indexed += 1;
        }
    }

    /// Finds the old offset for `at`; the shift is changed if the content agrees elsewhere.
    ///
    /// `None` if the old text has no such offset.
    pub fn locate(&mut self, old: TextView<'_>, new: TextView<'_>, at: usize) -> Option<Aligned> {
        let here = new.from(at);
        let present = usize::try_from(at as i64 + self.shift).ok();
        let there = present.map(|offset| old.from(offset)).unwrap_or_default();

        let mut agrees = match (here.first_chunk::<8>(), there.first_chunk::<8>()) {
            (Some(here), Some(there)) if here == there => true,
            _ => {
                let (equal, compared) = count_equal(here, there);
                compared > 0 && equal * KEPT.1 >= compared * KEPT.0
            }
        };

        if !agrees && here.len() >= 8 {
            let place = self.places[self.hash(word(here))];
            let elsewhere = if place == NONE { &[][..] } else { old.from(place as usize) };
            let (equal, _) = count_equal(here, elsewhere);
            if equal >= LEAST_EQUAL && equal > count_equal(here, there).0 + LEAST_ADVANTAGE {
                self.shift = i64::from(place) - at as i64;
                agrees = true;
            }
        }

        let offset = usize::try_from(at as i64 + self.shift).ok()?;
        if old.from(offset).is_empty() {
            return None;
        }
        if agrees {
            let unit = offset / MAP_UNIT;
            let entry = unit & (self.map.len() - 1);
            self.map[entry] = (unit as u32, self.shift);
        }
        Some(Aligned { offset, agrees })
    }

    /// The new offset that corresponds to an old one, by the shift that held there.
    pub fn new_offset(&self, old: usize) -> Option<usize> {
        let unit = old / MAP_UNIT;
        let (known, shift) = self.map[unit & (self.map.len() - 1)];
        let shift = if known as usize == unit { shift } else { self.shift };
        usize::try_from(old as i64 - shift).ok()
    }

    fn hash(&self, eight: u64) -> usize {
        (eight.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.hash_shift) as usize
    }
}

/// Number of equal bytes among the first [`COMPARED`], and the number that both have.
fn count_equal(a: &[u8], b: &[u8]) -> (usize, usize) {
    let compared = a.len().min(b.len()).min(COMPARED);
    let equal = a[..compared].iter().zip(&b[..compared]).filter(|(x, y)| x == y).count();
    (equal, compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(bytes: &[u8]) -> TextView<'_> {
        TextView { bytes, start: 0 }
    }

    fn noise(length: usize, mut state: u32) -> Vec<u8> {
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(length)
        .collect()
    }

    #[test]
    fn inserted_bytes_move_the_alignment_and_changed_ones_do_not() {
        let old = noise(4096, 1);
        let mut new = old.clone();
        new[100] ^= 1;
        new.splice(2000..2000, noise(50, 2));
        let mut alignment = Alignment::new(new.len(), new.len());
        alignment.index(view(&old));

        let mut found = |at| alignment.locate(view(&old), view(&new), at);
        assert_eq!(found(100), Some(Aligned { offset: 100, agrees: true }));
        assert_eq!(found(2010).map(|aligned| aligned.agrees), Some(false));
        assert_eq!(found(2050), Some(Aligned { offset: 2000, agrees: true }));
        assert_eq!(alignment.new_offset(2000), Some(2050));
        assert_eq!(alignment.new_offset(100), Some(100));
    }
}
