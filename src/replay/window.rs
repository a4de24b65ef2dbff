//! The end of a growing text, by offsets in the whole text.

use super::text_view::TextView;

/// The last bytes of a text that grows at its end and is forgotten at its beginning.
///
/// All offsets are those of the whole text, so they stay valid if earlier bytes are forgotten.
#[derive(Debug, Default)]
pub struct Window {
    bytes: Vec<u8>,
    /// Offset of the first byte that is held.
    start: u64,
}

impl Window {
    /// Offset of the first byte that is held.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Length of the text so far.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The bytes that are held; the first has the offset [`start`](Self::start).
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes that are held, with the offset of the first.
    ///
    /// A text has less than 4 GiB, so its offsets fit `usize`.
    pub fn view(&self) -> TextView<'_> {
        TextView { bytes: &self.bytes, start: usize::try_from(self.start).unwrap_or(usize::MAX) }
    }

    /// The bytes from offset `from` on; `None` if some of them are forgotten or missing.
    pub fn from(&self, from: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(from.checked_sub(self.start)?).ok()?..)
    }

    /// Reserves memory for exactly `length` bytes in all.
    pub fn reserve(&mut self, length: usize) {
        self.bytes.reserve_exact(length.saturating_sub(self.bytes.len()));
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends `length` zero bytes, and returns all bytes that are held.
    pub fn grow(&mut self, length: usize) -> &mut [u8] {
        self.push_run(0, length);
        &mut self.bytes
    }

    /// Appends `length` times the same byte.
    pub fn push_run(&mut self, byte: u8, length: usize) {
        self.bytes.resize(self.bytes.len() + length, byte);
    }

    /// Appends `length` bytes that repeat those at `distance` before the end.
    ///
    /// Returns false, and appends nothing, if the text that is held does not reach so far.
    #[must_use]
    pub fn push_match(&mut self, distance: usize, length: usize) -> bool {
        if distance == 0 || distance > self.bytes.len() {
            return false;
        }

        let from = self.bytes.len() - distance;
        if distance >= length {
            self.bytes.extend_from_within(from..from + length);
        } else {
            // The source overlaps the copy: whole periods are copied, each time twice as many.
            let mut left = length;
            while left > 0 {
                let period = (self.bytes.len() - from).min(left);
                self.bytes.extend_from_within(from..from + period);
                left -= period;
            }
        }
        true
    }

    /// Forgets bytes before the last `keep`.
    ///
    /// Memory is moved only if a quarter as many bytes are forgotten as are kept, so that the cost
    /// for each byte is constant.
    pub fn forget_before_last(&mut self, keep: usize) {
        let excess = self.bytes.len().saturating_sub(keep);
        if excess > (keep / 4).max(1 << 16) {
            self.bytes.drain(..excess);
            self.start += excess as u64;
        }
    }

    /// Forgets everything and begins a new text.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_match_repeats_its_period() {
        let mut window = Window::default();
        window.push(b"abc");
        assert!(window.push_match(3, 8));
        assert!(window.push_match(1, 2));
        assert_eq!(window.bytes(), b"abcabcabcabbb");
        assert!(!window.push_match(14, 1));
        assert!(!window.push_match(0, 1));
    }

    #[test]
    fn offsets_stay_valid_after_bytes_are_forgotten() {
        let mut window = Window::default();
        window.push(&vec![1; 1 << 18]);
        window.push(b"end");

        window.forget_before_last(3);

        assert_eq!(window.end(), (1 << 18) + 3);
        assert_eq!(window.from(1 << 18), Some(&b"end"[..]));
        assert_eq!(window.from(0), None);
        assert_eq!(window.from(window.end() + 1), None);
    }
}
