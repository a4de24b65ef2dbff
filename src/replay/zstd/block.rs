//! Bytes of one block while they are put together.

use super::MAX_BLOCK_SIZE;
use crate::replay::Window;

/// Bytes that are copied at once; copies may overwrite as many bytes after their end.
const CHUNK: usize = 16;
/// Longest copy by chunks.
const MAX_CHUNKED: usize = 4 * CHUNK;

/// Content or literals of a block that are not complete.
///
/// Most copies are short. They are done in chunks of constant length, which is several times faster
/// than appending to a vector.
pub struct BlockBuffer {
    bytes: Box<[u8]>,
    length: usize,
}

impl Default for BlockBuffer {
    fn default() -> Self {
        BlockBuffer { bytes: vec![0; MAX_BLOCK_SIZE + CHUNK].into(), length: 0 }
    }
}

impl BlockBuffer {
    /// Begins another block.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// The bytes so far.
    pub fn content(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Appends the first `length` bytes of `source`; `None` without room or source.
    #[inline(always)]
    pub fn push(&mut self, source: &[u8], length: usize) -> Option<()> {
        let room = self.bytes.get_mut(self.length..)?;
        match (source.first_chunk::<CHUNK>(), room.first_chunk_mut::<CHUNK>()) {
            (Some(source), Some(target)) if length <= CHUNK => *target = *source,
            _ => room.get_mut(..length)?.copy_from_slice(source.get(..length)?),
        }
        self.length += length;
        Some(())
    }

    /// Appends a match, which may begin in `before`; `None` without room or source.
    #[inline(always)]
    pub fn push_match(&mut self, before: &Window, distance: usize, length: usize) -> Option<()> {
        let mut left = length;
        if distance > self.length {
            let reach = distance - self.length;
            let source = before.bytes();
            let source = source.get(source.len().checked_sub(reach)?..)?;
            let copied = reach.min(length);
            self.push(source, copied)?;
            left -= copied;
            if left == 0 {
                return Some(());
            }
        }
        self.repeat(distance, left)
    }

    /// Appends a match within the block.
    #[inline(always)]
    fn repeat(&mut self, distance: usize, length: usize) -> Option<()> {
        let (mut from, mut to) = (self.length.checked_sub(distance)?, self.length);
        let end = to + length;
        if distance < CHUNK || length > MAX_CHUNKED {
            return self.repeat_any(distance, length);
        }

        while to < end {
            let chunk = *self.bytes.get(from..)?.first_chunk::<CHUNK>()?;
            *self.bytes.get_mut(to..)?.first_chunk_mut::<CHUNK>()? = chunk;
            from += CHUNK;
            to += CHUNK;
        }
        self.length = end;
        Some(())
    }

    /// Appends a match within the block that overlaps itself or is long.
    fn repeat_any(&mut self, distance: usize, length: usize) -> Option<()> {
        let from = self.length.checked_sub(distance).filter(|_| distance > 0)?;
        let end = self.length + length;
        if end > self.bytes.len() {
            return None;
        }

        // Whole periods are copied, each time twice as many.
        while self.length < end {
            let period = (self.length - from).min(end - self.length);
            self.bytes.copy_within(from..from + period, self.length);
            self.length += period;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_equal_those_of_the_window() {
        for distance in 1..80 {
            for length in 0..150 {
                let (mut buffer, mut before) = (BlockBuffer::default(), Window::default());
                before.push(&(0..50).collect::<Vec<u8>>());
                buffer.push(&(50..80).collect::<Vec<u8>>(), 30).expect("it has room");
                buffer.push_match(&before, distance, length).expect("it has room");

                let mut expected = Window::default();
                expected.push(&(0..80).collect::<Vec<u8>>());
                assert!(expected.push_match(distance, length));
                assert_eq!(Some(buffer.content()), expected.from(50), "{distance} {length}");
            }
        }
    }

    #[test]
    fn copies_without_room_or_source_are_rejected() {
        let (mut buffer, before) = (BlockBuffer::default(), Window::default());
        assert_eq!(buffer.push_match(&before, 1, 3), None);
        buffer.push(&[1], 1).expect("it has room");
        assert_eq!(buffer.push_match(&before, 0, 3), None);
        assert_eq!(buffer.push_match(&before, 2, 3), None);
        assert_eq!(buffer.push_match(&before, 1, MAX_BLOCK_SIZE + CHUNK), None);
        assert_eq!(buffer.push(&[1], 2), None);
    }
}
