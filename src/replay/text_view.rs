//! A text of which a part is held.

/// Bytes of a text from an offset on.
#[derive(Clone, Copy, Debug)]
pub struct TextView<'t> {
    /// The bytes that are held.
    pub bytes: &'t [u8],
    /// Offset of the first of them.
    pub start: usize,
}

impl<'t> TextView<'t> {
    /// The bytes from offset `from` on; none if it is not held.
    #[inline(always)]
    pub fn from(&self, from: usize) -> &'t [u8] {
        from.checked_sub(self.start).and_then(|at| self.bytes.get(at..)).unwrap_or_default()
    }

    /// The same text, which ends at the offset `end` at the latest.
    pub fn until(self, end: usize) -> Self {
        let length = end.saturating_sub(self.start).min(self.bytes.len());
        TextView { bytes: &self.bytes[..length], start: self.start }
    }
}
