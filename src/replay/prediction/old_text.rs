//! The old content that predictions use, and its decisions.

use crate::replay::packet::Packet;
use crate::replay::text_view::TextView;

/// Coding decisions of a text, by the offsets at which they begin.
#[derive(Debug, Default)]
pub struct OldDecisions {
    packets: Vec<Packet>,
    /// Offset of each packet, in order.
    starts: Vec<u32>,
}

/// The visible part of an old text, with its decisions.
#[derive(Clone, Copy)]
pub struct OldView<'o> {
    /// The visible bytes.
    pub text: TextView<'o>,
    /// Decisions of at least these bytes.
    pub decisions: &'o OldDecisions,
}

impl OldDecisions {
    /// Adds the packets of a step that begins at `offset`.
    pub fn extend(&mut self, mut offset: u64, packets: &[Packet]) {
        for packet in packets {
            self.packets.push(*packet);
            self.starts.push(u32::try_from(offset).unwrap_or(u32::MAX));
            offset += u64::from(packet.length);
        }
    }

    /// Forgets packets that end before `offset`.
    pub fn forget_before(&mut self, offset: usize) {
        let first = self.starts.partition_point(|start| (*start as usize) < offset);
        let excess = first.saturating_sub(1);
        if excess > self.packets.len() / 4 {
            self.packets.drain(..excess);
            self.starts.drain(..excess);
        }
    }

    /// The packet that yields the byte at `offset`, and the number of its bytes before that one.
    ///
    /// `cursor` is the index that the last search returned; it makes the next one fast.
    #[inline]
    pub fn at(&self, offset: usize, cursor: &mut usize) -> Option<(Packet, usize)> {
        let is_from =
            |index: usize| self.starts.get(index).is_some_and(|start| *start as usize <= offset);
        if !is_from(*cursor) || is_from(*cursor + 2) {
            let after = self.starts.partition_point(|start| *start as usize <= offset);
            *cursor = after.checked_sub(1)?;
        } else if is_from(*cursor + 1) {
            *cursor += 1;
        }

        let packet = *self.packets.get(*cursor)?;
        let before = offset - *self.starts.get(*cursor)? as usize;
        (before < packet.length as usize).then_some((packet, before))
    }
}
