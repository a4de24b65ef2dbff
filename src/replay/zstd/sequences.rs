//! Sequences sections of compressed blocks.

use super::bits::{BackwardBits, ForwardBits};
use super::block::BlockBuffer;
use super::fse::{Cell, DecodeState, DecodeTable, EncodeTable};
use super::tables::{Coded, MIN_MATCH, OffsetRepeats, SequenceTables};
use super::{CountForm, FrameWriteError, MAX_BLOCK_SIZE, SequencesHead, ZstdDefect};
use crate::replay::{Packet, PacketKind, Window};

/// Smallest number of sequences in two bytes, and in three.
const TWO_BYTES: usize = 0x80;
const THREE_BYTES: usize = 0x7f00;

/// Destination of a block's content and packets.
pub struct SequenceOutput<'a> {
    /// Content before the block.
    pub plain: &'a Window,
    pub block: &'a mut BlockBuffer,
    pub packets: &'a mut Vec<Packet>,
    /// Greatest distance of a match.
    pub window: u64,
    /// Length of the frame's content before the block.
    pub position: u64,
    /// Most bytes that the block may hold.
    pub max_size: usize,
}

/// One sequence.
#[derive(Clone, Copy)]
struct Sequence {
    literals: u32,
    /// 1 to 3 for a repeated distance, else the distance + 3.
    offset: u32,
    length: u32,
}

/// Reads sequences sections.
#[derive(Default)]
pub struct SequencesReader {
    tables: SequenceTables<DecodeTable>,
    repeats: OffsetRepeats,
}

impl SequencesReader {
    /// Reads the section that is all of `data`, and executes it with `literals`.
    pub fn read(
        &mut self,
        mut data: &[u8],
        literals: &[u8],
        target: &mut SequenceOutput,
    ) -> Result<SequencesHead, ZstdDefect> {
        let (count, count_form) = take_count(&mut data)?;
        let mut head = SequencesHead { count_form, ..SequencesHead::default() };
        let room = target.max_size;
        let mut execution = Execution { target, repeats: &mut self.repeats, literals, room };
        if count == 0 {
            if !data.is_empty() {
                return Err(ZstdDefect::BytesAfterSequences);
            }
            execution.finish()?;
            return Ok(head);
        }

        let (modes, after) = data.split_first().ok_or(ZstdDefect::SequencesLength)?;
        let mut stream = after;
        self.tables.read(*modes, &mut stream)?;
        head.modes = *modes;
        head.tables = after.get(..after.len() - stream.len()).unwrap_or_default().to_vec();

        let mut decoder = SequenceDecoder::new(&self.tables, stream)?;
        for _ in 1..count {
            execution.run(decoder.next())?;
        }
        head.first_ranks = decoder.ranks();
        execution.run(decoder.last()?)?;
        execution.finish()?;
        Ok(head)
    }
}

/// Removes the number of sequences.
fn take_count(data: &mut &[u8]) -> Result<(usize, CountForm), ZstdDefect> {
    let (count, form, rest) = match **data {
        [255, low, high, ref rest @ ..] => {
            let count = usize::from(u16::from_le_bytes([low, high])) + THREE_BYTES;
            (count, CountForm::Shortest, rest)
        }
        [high @ 128..=254, low, ref rest @ ..] => {
            let count = usize::from(high - 128) << 8 | usize::from(low);
            let form = if count < TWO_BYTES { CountForm::TwoBytes } else { CountForm::Shortest };
            (count, form, rest)
        }
        [count @ ..=127, ref rest @ ..] => (usize::from(count), CountForm::Shortest, rest),
        _ => return Err(ZstdDefect::SequencesLength),
    };
    *data = rest;
    Ok((count, form))
}

/// Executes the sequences of a block.
struct Execution<'a, 'b> {
    target: &'a mut SequenceOutput<'b>,
    repeats: &'a mut OffsetRepeats,
    /// Literals that are left.
    literals: &'a [u8],
    /// Bytes that the block may still hold.
    room: usize,
}

impl Execution<'_, '_> {
    /// Appends the content and packets of a sequence.
    #[inline(always)]
    fn run(&mut self, sequence: Sequence) -> Result<(), ZstdDefect> {
        let Sequence { literals, offset, length } = sequence;
        let size = literals as usize + length as usize;
        self.room = self.room.checked_sub(size).ok_or(ZstdDefect::BlockSize)?;
        let target = &mut *self.target;
        if literals > 0 {
            let rest = self.literals.get(literals as usize..).ok_or(ZstdDefect::LiteralsCount)?;
            let copied = target.block.push(self.literals, literals as usize);
            copied.ok_or(ZstdDefect::BlockSize)?;
            target.packets.push(Packet::literals(literals));
            self.literals = rest;
        }

        let distance = self.repeats.resolve(offset, literals);
        target.position += u64::from(literals);
        if u64::from(distance) > target.position.min(target.window) {
            return Err(ZstdDefect::Distance);
        }
        target.position += u64::from(length);
        let copied = target.block.push_match(target.plain, distance as usize, length as usize);
        copied.ok_or(ZstdDefect::Distance)?;
        let kind = match offset {
            1 => PacketKind::Repeat0,
            2 => PacketKind::Repeat1,
            3 => PacketKind::Repeat2,
            _ => PacketKind::Match,
        };
        target.packets.push(Packet { kind, length, distance });
        Ok(())
    }

    /// Appends the literals that are left.
    fn finish(self) -> Result<(), ZstdDefect> {
        let length = self.literals.len();
        if length > self.room {
            return Err(ZstdDefect::BlockSize);
        }
        if length > 0 {
            let copied = self.target.block.push(self.literals, length);
            copied.ok_or(ZstdDefect::BlockSize)?;
            self.target.packets.push(Packet::literals(length as u32));
        }
        Ok(())
    }
}

/// Decodes the bit stream of a section.
struct SequenceDecoder<'a> {
    tables: [&'a DecodeTable; 3],
    states: [DecodeState; 3],
    bits: BackwardBits<'a>,
}

impl<'a> SequenceDecoder<'a> {
    fn new(tables: &'a SequenceTables<DecodeTable>, stream: &'a [u8]) -> Result<Self, ZstdDefect> {
        let tables = tables.get()?;
        let mut bits = BackwardBits::new(stream).ok_or(ZstdDefect::SequencesStream)?;
        let states = tables.map(|table| table.begin(&mut bits));
        Ok(SequenceDecoder { tables, states, bits })
    }

    /// Decodes a sequence that is not the last.
    #[inline(always)]
    fn next(&mut self) -> Sequence {
        let [literals, offset, length] = self.cells();
        let sequence = self.read_values([literals, offset, length]);
        // At most 26 bits after the 16 bits of the literals length.
        let literals = literals.advance(&mut self.bits);
        let length = length.advance(&mut self.bits);
        let offset = offset.advance(&mut self.bits);
        self.states = [literals, offset, length];
        sequence
    }

    /// Decodes the last sequence, after which no bits are left.
    fn last(mut self) -> Result<Sequence, ZstdDefect> {
        let sequence = self.read_values(self.cells());
        if self.bits.left() != 0 {
            return Err(ZstdDefect::SequencesStream);
        }
        Ok(sequence)
    }

    /// Ranks of the current states.
    fn ranks(&self) -> [u16; 3] {
        [0, 1, 2].map(|element| self.tables[element].rank(self.states[element]))
    }

    #[inline(always)]
    fn cells(&self) -> [Cell; 3] {
        [0, 1, 2].map(|element| self.tables[element].cell(self.states[element]))
    }

    /// Reads the values of a sequence: at most 47 bits, then at most 16 after a refill.
    #[inline(always)]
    fn read_values(&mut self, [literals, offset, length]: [Cell; 3]) -> Sequence {
        let bits = &mut self.bits;
        bits.refill();
        let (offset, length) = (offset.value(bits), length.value(bits));
        bits.refill();
        Sequence { literals: literals.value(bits), offset, length }
    }
}

/// Writes sequences sections.
#[derive(Default)]
pub struct SequencesWriter {
    tables: SequenceTables<EncodeTable>,
    repeats: OffsetRepeats,
    bits: ForwardBits,
    /// Sequences and literals of the current block.
    sequences: Vec<Sequence>,
    literals: BlockBuffer,
}

impl SequencesWriter {
    /// Splits a block's content into sequences and literals.
    pub fn split(&mut self, content: &[u8], packets: &[Packet]) -> Result<(), FrameWriteError> {
        self.sequences.clear();
        self.literals.clear();
        let mut rest = content;
        let mut literals = 0;
        for packet in packets {
            let bytes = rest;
            rest = rest.get(packet.length as usize..).ok_or(FrameWriteError::Coverage)?;
            let offset = match packet.kind {
                PacketKind::Literals => {
                    let copied = self.literals.push(bytes, packet.length as usize);
                    copied.ok_or(FrameWriteError::Coverage)?;
                    literals += packet.length;
                    continue;
                }
                PacketKind::Repeat0 => 1,
                PacketKind::Repeat1 => 2,
                PacketKind::Repeat2 => 3,
                PacketKind::Match if packet.distance > 0 => {
                    packet.distance.checked_add(3).ok_or(FrameWriteError::Packet)?
                }
                _ => return Err(FrameWriteError::Packet),
            };
            if packet.length < MIN_MATCH {
                return Err(FrameWriteError::Packet);
            }
            let actual = self.repeats.resolve(offset, literals);
            if actual != packet.distance {
                return Err(FrameWriteError::Distance { expected: packet.distance, actual });
            }
            self.sequences.push(Sequence { literals, offset, length: packet.length });
            literals = 0;
        }
        if !rest.is_empty() {
            return Err(FrameWriteError::Coverage);
        }
        Ok(())
    }

    /// Literals of the block that was split last.
    pub fn literals(&self) -> &[u8] {
        self.literals.content()
    }

    /// Appends the section of the block that was split last.
    pub fn write(
        &mut self,
        head: &SequencesHead,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameWriteError> {
        put_count(self.sequences.len(), head.count_form, out)?;
        let Some((last, others)) = self.sequences.split_last() else { return Ok(()) };
        out.push(head.modes);
        out.extend_from_slice(&head.tables);
        let mut rest = &head.tables[..];
        self.tables.read(head.modes, &mut rest)?;
        if !rest.is_empty() {
            return Err(FrameWriteError::TableLength);
        }

        self.bits.clear();
        let mut encoder = SequenceEncoder::new(&self.tables, last, head.first_ranks)?;
        encoder.put_extra(&CodedSequence::from(last), &mut self.bits);
        for sequence in others.iter().rev() {
            let coded = CodedSequence::from(sequence);
            encoder.put_states(&coded, &mut self.bits)?;
            encoder.put_extra(&coded, &mut self.bits);
        }
        encoder.finish(&mut self.bits);
        out.extend_from_slice(self.bits.bytes());
        Ok(())
    }
}

/// Appends the number of sequences.
fn put_count(count: usize, form: CountForm, out: &mut Vec<u8>) -> Result<(), FrameWriteError> {
    match (count, form) {
        (..TWO_BYTES, CountForm::Shortest) => out.push(count as u8),
        (..TWO_BYTES, CountForm::TwoBytes) | (TWO_BYTES..THREE_BYTES, CountForm::Shortest) => {
            out.extend_from_slice(&[(count >> 8) as u8 | 0x80, count as u8]);
        }
        (THREE_BYTES..=MAX_BLOCK_SIZE, CountForm::Shortest) => {
            let above = u16::try_from(count - THREE_BYTES)
                .map_err(|_| FrameWriteError::CountForm { count })?;
            out.push(255);
            out.extend_from_slice(&above.to_le_bytes());
        }
        _ => return Err(FrameWriteError::CountForm { count }),
    }
    Ok(())
}

/// A sequence as symbols and extra bits.
struct CodedSequence {
    literals: Coded,
    offset: Coded,
    length: Coded,
}

impl From<&Sequence> for CodedSequence {
    #[inline(always)]
    fn from(sequence: &Sequence) -> Self {
        CodedSequence {
            literals: Coded::from_literals_length(sequence.literals),
            offset: Coded::from_offset_value(sequence.offset),
            length: Coded::from_match_length(sequence.length),
        }
    }
}

/// Encodes the bit stream of a section, the last sequence first.
struct SequenceEncoder<'a> {
    tables: [&'a EncodeTable; 3],
    states: [u32; 3],
}

impl<'a> SequenceEncoder<'a> {
    fn new(
        tables: &'a SequenceTables<EncodeTable>,
        last: &Sequence,
        [literals, offset, length]: [u16; 3],
    ) -> Result<Self, FrameWriteError> {
        let tables = tables.get()?;
        let coded = CodedSequence::from(last);
        let states = [
            tables[0].begin(coded.literals.symbol, literals).ok_or(FrameWriteError::Symbol)?,
            tables[1].begin(coded.offset.symbol, offset).ok_or(FrameWriteError::Symbol)?,
            tables[2].begin(coded.length.symbol, length).ok_or(FrameWriteError::Symbol)?,
        ];
        Ok(SequenceEncoder { tables, states })
    }

    /// Adds the transitions to the states of a sequence: at most 26 bits.
    #[inline(always)]
    fn put_states(
        &mut self,
        coded: &CodedSequence,
        bits: &mut ForwardBits,
    ) -> Result<(), FrameWriteError> {
        let [literals, offset, length] = &mut self.states;
        let encoded = self.tables[1].encode(offset, coded.offset.symbol, bits)
            && self.tables[2].encode(length, coded.length.symbol, bits)
            && self.tables[0].encode(literals, coded.literals.symbol, bits);
        if encoded { Ok(()) } else { Err(FrameWriteError::Symbol) }
    }

    /// Writes extra bits: at most 16, then at most 47.
    #[inline(always)]
    fn put_extra(&self, coded: &CodedSequence, bits: &mut ForwardBits) {
        bits.add(coded.literals.extra, coded.literals.bits);
        bits.flush();
        bits.add(coded.length.extra, coded.length.bits);
        bits.add(coded.offset.extra, coded.offset.bits);
        bits.flush();
    }

    /// Writes the last states and the end mark.
    fn finish(self, bits: &mut ForwardBits) {
        let [literals, offset, length] = self.states;
        self.tables[2].end(length, bits);
        self.tables[1].end(offset, bits);
        self.tables[0].end(literals, bits);
        bits.flush();
        bits.end_stream();
    }
}
