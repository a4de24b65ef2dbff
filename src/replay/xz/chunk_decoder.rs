//! Decodes LZMA chunks.

use super::block::BlockProgress;
use super::error::XzDefect;
use super::model::LzmaModel;
use crate::replay::range_coder::RangeDecoder;
use crate::replay::{Packet, Window};

/// Decodes one LZMA chunk.
pub(super) struct ChunkDecoder<'a> {
    /// The dictionary, and room for the chunk at its end.
    bytes: &'a mut [u8],
    /// Index of the next byte of the chunk.
    at: usize,
    /// Index of the first byte that matches can reach.
    first: usize,
    /// Difference between positions in the dictionary and indices of `bytes`, modulo 2^N.
    position_offset: usize,
    dictionary_size: usize,
}

impl<'a> ChunkDecoder<'a> {
    /// Appends room for `plain_size` bytes to `plain`.
    pub(super) fn new(block: &BlockProgress, plain: &'a mut Window, plain_size: usize) -> Self {
        let at = plain.bytes().len();
        let dictionary_length = block.dictionary_length();
        let reach = usize::try_from(dictionary_length).unwrap_or(usize::MAX).min(at);
        ChunkDecoder {
            bytes: plain.grow(plain_size),
            at,
            first: at - reach,
            // Truncation is harmless: only the low bits of positions count.
            position_offset: (dictionary_length as usize).wrapping_sub(at),
            dictionary_size: block.head().dictionary_size() as usize,
        }
    }

    /// Decodes the compressed data `packed`, and appends its packets.
    pub(super) fn decode(
        self,
        packed: &[u8],
        model: &mut LzmaModel,
        packets: &mut Vec<Packet>,
    ) -> Result<(), XzDefect> {
        // A code of all ones lies outside the range, so no encoder begins with it.
        if let [_, 0xff, 0xff, 0xff, 0xff, ..] = packed {
            return Err(XzDefect::ChunkData);
        }
        let mut decoder = RangeDecoder::new(packed).ok_or(XzDefect::ChunkData)?;
        // The compiler can keep the fields of a local copy in registers.
        let mut chunk = ChunkDecoder { ..self };

        let mut literals = 0;
        while chunk.at < chunk.bytes.len() {
            let position = chunk.at.wrapping_add(chunk.position_offset);
            if model.code_match_bit(&mut decoder, position, 0) == 0 {
                chunk.decode_literal(&mut decoder, model, position)?;
                literals += 1;
                continue;
            }

            let packet = model.code_match(&mut decoder, position, Packet::default());
            chunk.copy(packet)?;
            if literals > 0 {
                packets.push(Packet::literals(literals));
                literals = 0;
            }
            packets.push(packet);
        }
        if literals > 0 {
            packets.push(Packet::literals(literals));
        }

        if !decoder.is_finished() {
            return Err(XzDefect::ChunkData);
        }
        Ok(())
    }

    #[inline(always)]
    fn decode_literal(
        &mut self,
        decoder: &mut RangeDecoder<'_>,
        model: &mut LzmaModel,
        position: usize,
    ) -> Result<(), XzDefect> {
        let before = if self.at > self.first { self.bytes.get(self.at - 1) } else { None };
        let before = before.copied().unwrap_or(0);
        let literal = match model.matched_distance() {
            None => model.code_literal(decoder, position, before, 0),
            Some(distance) => {
                let from = self.at.checked_sub(distance as usize).filter(|&i| i >= self.first);
                let matched = from.and_then(|from| self.bytes.get(from)).copied();
                let matched = matched.ok_or(XzDefect::Distance { distance })?;
                model.code_literal_after_match(decoder, position, [before, matched], 0)
            }
        };
        if let Some(byte) = self.bytes.get_mut(self.at) {
            *byte = literal;
        }
        self.at += 1;
        Ok(())
    }

    /// Copies a match.
    #[inline(always)]
    fn copy(&mut self, packet: Packet) -> Result<(), XzDefect> {
        let (distance, length) = (packet.distance as usize, packet.length as usize);
        if distance == 0 || distance > self.dictionary_size || distance > self.at - self.first {
            return Err(XzDefect::Distance { distance: packet.distance });
        }
        if length > self.bytes.len() - self.at {
            return Err(XzDefect::MatchLength);
        }

        let from = self.at - distance;
        if distance >= length {
            self.bytes.copy_within(from..from + length, self.at);
        } else {
            // The source overlaps the copy, so bytes are copied one by one.
            let region = &mut self.bytes[from..self.at + length];
            for index in distance..region.len() {
                region[index] = region[index - distance];
            }
        }
        self.at += length;
        Ok(())
    }
}
