//! The old content that predictions use, and its decisions.

use crate::replay::packet::{Packet, PacketKind};
use crate::replay::text_view::TextView;

/// Coding decisions of a text, by the offsets at which they begin.
#[derive(Debug, Default)]
pub struct OldDecisions {
    /// In the order of their offsets.
    packets: Vec<PlacedPacket>,
}

/// A packet with its offset, in twelve bytes: there may be millions.
#[derive(Clone, Copy, Debug)]
struct PlacedPacket {
    start: u32,
    distance: u32,
    /// The kind in the lowest three bits, and the length above.
    kind_and_length: u32,
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
            self.packets.push(PlacedPacket::new(offset, packet));
            offset += u64::from(packet.length);
        }
    }

    /// Forgets packets that end before `offset`.
    pub fn forget_before(&mut self, offset: usize) {
        let first = self.packets.partition_point(|packet| (packet.start as usize) < offset);
        let excess = first.saturating_sub(1);
        if excess > self.packets.len() / 4 {
            self.packets.drain(..excess);
        }
    }

    /// The packet that yields the byte at `offset`, and the number of its bytes before that one.
    ///
    /// `cursor` is the index that the last search returned; it makes the next one fast.
    #[inline]
    pub fn at(&self, offset: usize, cursor: &mut usize) -> Option<(Packet, usize)> {
        let begins_before = |packet: &PlacedPacket| packet.start as usize <= offset;
        let is_from = |index: usize| self.packets.get(index).is_some_and(begins_before);
        if !is_from(*cursor) || is_from(*cursor + 2) {
            let after = self.packets.partition_point(begins_before);
            *cursor = after.checked_sub(1)?;
        } else if is_from(*cursor + 1) {
            *cursor += 1;
        }

        let placed = *self.packets.get(*cursor)?;
        let before = offset - placed.start as usize;
        let packet = placed.packet();
        (before < packet.length as usize).then_some((packet, before))
    }
}

impl PlacedPacket {
    fn new(start: u64, packet: &Packet) -> Self {
        PlacedPacket {
            start: u32::try_from(start).unwrap_or(u32::MAX),
            distance: packet.distance,
            kind_and_length: packet.length << 3 | packet.kind as u32,
        }
    }

    fn packet(self) -> Packet {
        Packet {
            kind: PacketKind::from_number(self.kind_and_length & 7).unwrap_or_default(),
            length: self.kind_and_length >> 3,
            distance: self.distance,
        }
    }
}
