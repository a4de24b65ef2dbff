//! Makes streams from plain content and decisions.

use super::block::{BlockProgress, XzBlockHead};
use super::check::XzCheck;
use super::chunk::{ChunkKind, DictionaryUse, MAX_PACKED, MAX_PLAIN, Reset};
use super::error::XzWriteError;
use super::index::{MAX_RECORDS, XzIndex};
use super::model::{LzmaModel, MATCH_LENGTHS};
use super::stream::StreamHead;
use crate::replay::range_coder::RangeEncoder;
use crate::replay::{Packet, PacketKind, TextView};

/// Bytes that liblzma's encoder leaves free in the buffer of a chunk (`LOOP_INPUT_MAX`).
const RESERVE: u64 = 4097;
/// Bytes that a flush of the range coder adds to those that are pending.
const FLUSH: u64 = 4;

/// Makes one stream.
///
/// The order of calls is that of the stream: for each block [`begin_block`](Self::begin_block), its
/// chunks and [`end_block`](Self::end_block); then [`finish`](Self::finish). An LZMA chunk is
/// [`begin_chunk`](Self::begin_chunk), its packets and [`end_chunk`](Self::end_chunk).
///
/// The content is not verified. Wrong decisions cause an error or other bytes. After an error, the
/// output is of no use.
pub struct XzWriter {
    head: StreamHead,
    index: XzIndex,
    output: Vec<u8>,
    block: Option<OpenBlock>,
    model: Option<Box<LzmaModel>>,
}

impl XzWriter {
    /// Writes the header of a stream.
    pub fn new(head: StreamHead) -> Self {
        let mut output = Vec::new();
        head.push(&mut output);
        XzWriter { head, index: XzIndex::default(), output, block: None, model: None }
    }

    /// Returns the bytes that were made since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Writes the header of a block.
    pub fn begin_block(&mut self, head: &XzBlockHead) -> Result<(), XzWriteError> {
        if self.block.is_some() {
            return Err(XzWriteError::Order);
        }
        head.push(&mut self.output);
        let progress = BlockProgress::new(head.clone(), self.head.check);
        self.block = Some(OpenBlock { progress, chunk: None });
        Ok(())
    }

    /// Begins an LZMA chunk.
    pub fn begin_chunk(&mut self, reset: Reset) -> Result<(), XzWriteError> {
        let block = self.block.as_mut().ok_or(XzWriteError::Order)?;
        if block.chunk.is_some() {
            return Err(XzWriteError::Order);
        }
        if !block.progress.begin_chunk(ChunkKind::Lzma(reset)) {
            return Err(XzWriteError::MissingReset);
        }

        match (&mut self.model, reset.properties()) {
            (Some(_), None) if reset == Reset::Nothing => {}
            (Some(model), properties) => model.reset(properties),
            (None, Some(properties)) => self.model = Some(LzmaModel::new(properties)),
            (None, None) => return Err(XzWriteError::MissingReset),
        }
        block.chunk = Some(OpenChunk { reset, encoder: RangeEncoder::default(), plain_size: 0 });
        Ok(())
    }

    /// Writes a packet, whose content has the offset `at` in `plain`.
    ///
    /// Returns the length of plain content that was written, at least one byte. A run of literals
    /// is written up to the first literal at which the chunk is full; the caller writes the rest
    /// as a packet of its own. Before `at`, `plain` must hold as much as the dictionary has. The
    /// distance of a repeat is not used.
    pub fn write_packet(
        &mut self,
        packet: Packet,
        plain: TextView<'_>,
        at: u64,
    ) -> Result<u32, XzWriteError> {
        let (Some(OpenBlock { progress, chunk: Some(chunk) }), Some(model)) =
            (&mut self.block, &mut self.model)
        else {
            return Err(XzWriteError::Order);
        };
        let content = Content::new(plain, at, packet.length)?;
        if packet.kind == PacketKind::Literals {
            chunk.write_literals(model, progress, content)
        } else {
            chunk.write_match(model, progress, content, packet)
        }
    }

    /// Whether liblzma's encoder would end the chunk here.
    pub fn chunk_is_full(&self) -> bool {
        let chunk = self.block.as_ref().and_then(|block| block.chunk.as_ref());
        chunk.is_some_and(OpenChunk::is_full)
    }

    /// Ends an LZMA chunk.
    pub fn end_chunk(&mut self) -> Result<(), XzWriteError> {
        let block = self.block.as_mut().ok_or(XzWriteError::Order)?;
        let OpenChunk { reset, encoder, plain_size } =
            block.chunk.take().ok_or(XzWriteError::Order)?;
        let plain_size = plain_size.checked_sub(1).ok_or(XzWriteError::EmptyChunk)?;
        let packed = encoder.finish();
        if packed.len() > MAX_PACKED || plain_size >= MAX_PLAIN {
            return Err(XzWriteError::ChunkSize);
        }

        let start = self.output.len();
        let [_, high, middle, low] = plain_size.to_be_bytes();
        let control = 0x80 | reset.level() << 5 | high;
        let [packed_high, packed_low] = (packed.len().wrapping_sub(1) as u16).to_be_bytes();
        self.output.extend_from_slice(&[control, middle, low, packed_high, packed_low]);
        self.output.extend(reset.properties().map(|properties| properties.byte()));
        self.output.extend_from_slice(&packed);
        block.progress.compressed_size += (self.output.len() - start) as u64;
        Ok(())
    }

    /// Writes a stored chunk of `length` bytes, which have the offset `at` in `plain`.
    pub fn write_stored_chunk(
        &mut self,
        dictionary: DictionaryUse,
        plain: TextView<'_>,
        at: u64,
        length: u32,
    ) -> Result<(), XzWriteError> {
        let block = self.block.as_mut().ok_or(XzWriteError::Order)?;
        if block.chunk.is_some() {
            return Err(XzWriteError::Order);
        }
        let stored_size = length.checked_sub(1).ok_or(XzWriteError::EmptyChunk)?;
        let stored_size = u16::try_from(stored_size).map_err(|_| XzWriteError::ChunkSize)?;
        if !block.progress.begin_chunk(ChunkKind::Stored(dictionary)) {
            return Err(XzWriteError::MissingReset);
        }

        let content = Content::new(plain, at, length)?.bytes();
        let control = match dictionary {
            DictionaryUse::Reset => 1,
            DictionaryUse::Keep => 2,
        };
        let [high, low] = stored_size.to_be_bytes();
        self.output.extend_from_slice(&[control, high, low]);
        self.output.extend_from_slice(content);
        block.progress.push(content);
        block.progress.compressed_size += 3 + u64::from(length);
        Ok(())
    }

    /// Writes the end of a block.
    pub fn end_block(&mut self, check: &XzCheck) -> Result<(), XzWriteError> {
        let Some(OpenBlock { mut progress, chunk: None }) = self.block.take() else {
            return Err(XzWriteError::Order);
        };
        self.output.push(0);
        progress.compressed_size += 1;
        progress.verify_sizes().map_err(|wrong| XzWriteError::DeclaredSize {
            kind: wrong.kind,
            declared: wrong.declared,
            actual: wrong.actual,
        })?;

        self.output.extend_from_slice(progress.padding());
        if !self.index.push(progress.unpadded_size(), progress.plain_size()) {
            return Err(XzWriteError::IndexSize { limit: MAX_RECORDS });
        }
        match check {
            XzCheck::Computed => {
                let bytes = progress.check.finish().ok_or(XzWriteError::CheckNotComputable)?;
                self.output.extend_from_slice(&bytes);
            }
            XzCheck::Stored(bytes) if bytes.len() == self.head.check.length() => {
                self.output.extend_from_slice(bytes);
            }
            XzCheck::Stored(bytes) => {
                return Err(XzWriteError::CheckLength { length: bytes.len() });
            }
        }
        Ok(())
    }

    /// Writes index and footer, and returns the bytes that were made since the last
    /// [`take_output`](Self::take_output).
    pub fn finish(mut self) -> Result<Vec<u8>, XzWriteError> {
        if self.block.is_some() {
            return Err(XzWriteError::Order);
        }
        let index = self.index.into_bytes();
        self.output.extend_from_slice(&index);
        self.output.extend_from_slice(&self.head.footer(index.len()));
        Ok(self.output)
    }
}

/// A block whose end is not written yet.
struct OpenBlock {
    progress: BlockProgress,
    chunk: Option<OpenChunk>,
}

/// An LZMA chunk whose end is not written yet.
struct OpenChunk {
    reset: Reset,
    encoder: RangeEncoder,
    plain_size: u32,
}

impl OpenChunk {
    /// Whether liblzma's encoder would end the chunk here.
    ///
    /// It reserves room for the longest sequence of packets that it chooses at once, and for the
    /// longest match.
    #[inline(always)]
    fn is_full(&self) -> bool {
        self.encoder.pending_length() + FLUSH >= MAX_PACKED as u64 - RESERVE
            || self.plain_size >= MAX_PLAIN - MATCH_LENGTHS.end()
    }

    /// Checks that the chunk can be longer, which bounds its memory.
    #[inline(always)]
    fn ensure_room(&self) -> Result<(), XzWriteError> {
        if self.encoder.pending_length() > MAX_PACKED as u64 || self.plain_size >= MAX_PLAIN {
            return Err(XzWriteError::ChunkSize);
        }
        Ok(())
    }

    fn write_literals(
        &mut self,
        model: &mut LzmaModel,
        progress: &mut BlockProgress,
        content: Content<'_>,
    ) -> Result<u32, XzWriteError> {
        let mut position = progress.dictionary_length() as usize;
        let mut before =
            if progress.dictionary_length() > 0 { content.byte_before(0, 1)? } else { 0 };
        let bytes = content.bytes();
        let mut written = 0;
        for (index, &byte) in bytes.iter().enumerate() {
            if index > 0 && self.is_full() {
                break;
            }
            self.ensure_room()?;

            model.code_match_bit(&mut self.encoder, position, 0);
            match model.matched_distance() {
                None => model.code_literal(&mut self.encoder, position, before, byte),
                Some(distance) => {
                    let matched = content.byte_before(index, distance)?;
                    let context = [before, matched];
                    model.code_literal_after_match(&mut self.encoder, position, context, byte)
                }
            };
            before = byte;
            position = position.wrapping_add(1);
            self.plain_size += 1;
            written += 1;
        }
        progress.push(bytes.get(..written).unwrap_or_default());
        Ok(written as u32)
    }

    fn write_match(
        &mut self,
        model: &mut LzmaModel,
        progress: &mut BlockProgress,
        content: Content<'_>,
        packet: Packet,
    ) -> Result<u32, XzWriteError> {
        let length_is_possible = match packet.kind {
            PacketKind::ShortRepeat => packet.length == 1,
            _ => MATCH_LENGTHS.contains(&packet.length),
        };
        if !length_is_possible {
            return Err(XzWriteError::PacketLength { length: packet.length });
        }
        if packet.kind == PacketKind::Match && packet.distance == 0 {
            return Err(XzWriteError::PacketDistance { distance: 0 });
        }
        self.ensure_room()?;

        let position = progress.dictionary_length() as usize;
        model.code_match_bit(&mut self.encoder, position, 1);
        let Packet { distance, .. } = model.code_match(&mut self.encoder, position, packet);
        if u64::from(distance) > progress.dictionary_length() {
            return Err(XzWriteError::PacketDistance { distance });
        }
        self.plain_size += packet.length;
        progress.push(content.bytes());
        Ok(packet.length)
    }
}

/// The plain content of a packet, and that before it.
#[derive(Clone, Copy)]
struct Content<'a> {
    /// All bytes that are held.
    held: &'a [u8],
    bytes: &'a [u8],
    /// Index of the content in `held`.
    start: usize,
    at: u64,
}

impl<'a> Content<'a> {
    /// Finds content of `length` bytes, at least one.
    #[inline(always)]
    fn new(plain: TextView<'a>, at: u64, length: u32) -> Result<Self, XzWriteError> {
        if length == 0 {
            return Err(XzWriteError::PacketLength { length });
        }
        let missing = XzWriteError::MissingContent { at };
        let start = usize::try_from(at).ok().and_then(|at| at.checked_sub(plain.start));
        let start = start.ok_or(missing)?;
        let held = plain.bytes;
        let rest = held.get(start..).ok_or(missing)?;
        let bytes = rest.get(..length as usize).ok_or(missing)?;
        Ok(Content { held, bytes, start, at })
    }

    fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The byte at `distance` before byte `index` of the content.
    #[inline(always)]
    fn byte_before(&self, index: usize, distance: u32) -> Result<u8, XzWriteError> {
        let from = (self.start + index).checked_sub(distance as usize);
        from.and_then(|from| self.held.get(from)).copied().ok_or_else(|| {
            let at = (self.at + index as u64).saturating_sub(distance.into());
            XzWriteError::MissingContent { at }
        })
    }
}
