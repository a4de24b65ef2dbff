//! Coding of one file in both directions: step by step, with its packets.

use std::io::Read;

use super::error::{FileOpenError, RecordError, ReplayError};
use super::new_text::NewText;
use super::old_file::OldFile;
use super::reader::{FileStep, OpenLimits, PartReader};
use super::step_models::{PieceEnd, StepKind, StepModels, sizes};
use crate::replay::prediction::{Family, Models, NewView, Predictor, Reach, SizeModel};
use crate::replay::range_coder::Coder;
use crate::replay::{Packet, PacketKind, Window, xz, zstd};

/// Bytes of the new text for which one range of the old text is visible.
const STRIDE: u64 = 64 << 10;
/// Bytes after an offset that are read before a packet of xz is coded.
const AHEAD: u64 = 512;
/// Longest piece of bytes as they are, in one step.
const MAX_RAW: u32 = 64 << 10;
/// Longest check of a block, in bytes.
const MAX_CHECK: usize = 64;
/// Longest header of a part or a block, in bytes.
const MAX_HEAD: usize = 1024;
/// Number of the end of a chunk, and of a block.
const CHUNK_END: usize = 0;
const BLOCK_END: usize = 1;

/// Probabilities of everything in a decision stream, and the reach of its predictor.
pub struct FileModels {
    pub reach: Reach,
    packets: Models,
    steps: StepModels,
    /// Number of the old file of a file.
    pub old: SizeModel,
}

impl FileModels {
    pub fn new(reach: Reach) -> Self {
        FileModels {
            reach,
            packets: Models::default(),
            steps: StepModels::default(),
            old: SizeModel::default(),
        }
    }
}

/// The file whose decisions are recorded.
pub struct GivenFile<'f> {
    reader: PartReader<&'f mut dyn Read>,
    text: Window,
    /// Packets of the last step.
    packets: Vec<Packet>,
}

impl<'f> GivenFile<'f> {
    pub fn new(file: &'f mut dyn Read, limits: OpenLimits) -> Self {
        let reader = PartReader::new(file, limits);
        GivenFile { reader, text: Window::default(), packets: Vec::new() }
    }

    fn read_step(&mut self) -> Result<Option<FileStep>, FileOpenError> {
        self.text.forget_before_last(self.reader.dictionary());
        self.packets.clear();
        self.reader.read_step(&mut self.text, &mut self.packets)
    }
}

/// The part that is being written.
enum OpenPart {
    None,
    Xz(Box<xz::XzWriter>),
    Frame { writer: Box<zstd::ReplayedFrame>, has_checksum: bool },
}

/// Codes one file, and writes it.
pub struct FileCoder<'c, 'o, C> {
    coder: &'c mut C,
    models: &'c mut FileModels,
    old: Option<&'c mut OldFile<'o>>,
    predictor: Predictor,
    new: NewText<'c>,
    /// Offset in the new text.
    at: u64,
    /// Offset at which the visible range of the old text is moved next.
    next_stride: u64,
    part: OpenPart,
    packets: Vec<Packet>,
    /// Bytes of the file that were made and not read yet.
    pub output: Vec<u8>,
}

impl<'c, 'o, C: Coder> FileCoder<'c, 'o, C> {
    pub fn new(
        coder: &'c mut C,
        models: &'c mut FileModels,
        mut new: NewText<'c>,
        old: Option<&'c mut OldFile<'o>>,
    ) -> Self {
        let length = usize::try_from(new.length()).unwrap_or(usize::MAX);
        let reach = models.reach;
        new.hold(reach.bytes());
        FileCoder {
            coder,
            models,
            old,
            predictor: Predictor::new(length, reach),
            new,
            at: 0,
            next_stride: 0,
            part: OpenPart::None,
            packets: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Codes one step, and appends its bytes to the output; false at the end of the file.
    pub fn code_step(&mut self, given: Option<&mut GivenFile<'_>>) -> Result<bool, RecordError> {
        let (step, packets) = match given {
            Some(given) => (given.read_step()?, Some(&given.packets[..])),
            None => (None, None),
        };
        match self.models.steps.kind(self.coder, step_kind(step.as_ref()))? {
            StepKind::Raw => self.code_raw(step)?,
            StepKind::XzStart => self.code_xz_start(step)?,
            StepKind::XzBlock => self.code_xz_block(step)?,
            StepKind::XzChunk => self.code_chunk(step, packets)?,
            StepKind::XzBlockEnd => self.code_xz_block_end(step)?,
            StepKind::XzEnd => self.end_xz()?,
            StepKind::FrameStart => self.code_frame_start(step)?,
            StepKind::FrameBlock => self.code_block(step, packets)?,
            StepKind::FrameEnd => self.code_frame_end(step)?,
            StepKind::End => {
                self.check_end()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fails unless a file can end here.
    fn check_end(&mut self) -> Result<(), ReplayError> {
        self.begin_part()?;
        let is_complete = self.at == self.new.length();
        if !is_complete || !self.new.is_exhausted().map_err(ReplayError::Read)? {
            return Err(ReplayError::Length);
        }
        Ok(())
    }

    /// Bytes as they are.
    fn code_raw(&mut self, step: Option<FileStep>) -> Result<(), ReplayError> {
        let given = match step {
            Some(FileStep::Raw { length }) => length,
            _ => 0,
        };
        let length = self.models.steps.size(self.coder, sizes::RAW, given);
        if length == 0 || length > MAX_RAW {
            return Err(ReplayError::Head);
        }
        self.begin_part()?;
        self.move_old()?;
        self.read_until(length.into())?;
        let content = text_from(&self.new, self.at).get(..length as usize);
        self.output.extend_from_slice(content.ok_or(ReplayError::Length)?);
        self.at += u64::from(length);
        Ok(())
    }

    fn code_xz_start(&mut self, step: Option<FileStep>) -> Result<(), ReplayError> {
        let given = match &step {
            Some(FileStep::XzStart(head)) => head.check.id(),
            _ => 0,
        };
        let row = self.models.steps.heads.code(self.coder, &[given], 1);
        let check = row.first().and_then(|id| xz::CheckKind::from_id(*id));
        let head = xz::StreamHead { check: check.ok_or(ReplayError::Head)? };
        self.begin_part()?;
        self.predictor.begin_stream(Family::Lzma);
        let mut writer = Box::new(xz::XzWriter::new(head));
        self.output.append(&mut writer.take_output());
        self.part = OpenPart::Xz(writer);
        Ok(())
    }

    fn code_xz_block(&mut self, step: Option<FileStep>) -> Result<(), ReplayError> {
        let given = match &step {
            Some(FileStep::Xz(xz::XzStep::BlockStart(head))) => head.bytes(),
            _ => &[],
        };
        let row = self.models.steps.heads.code(self.coder, given, MAX_HEAD);
        let head = xz::XzBlockHead::from_bytes(&row).map_err(|_| ReplayError::Head)?;
        let OpenPart::Xz(writer) = &mut self.part else { return Err(ReplayError::Order) };
        writer.begin_block(&head)?;
        self.output.append(&mut writer.take_output());

        let dictionary = usize::try_from(head.dictionary_size()).unwrap_or(usize::MAX);
        let dictionary = dictionary.min(usize::try_from(self.new.length()).unwrap_or(usize::MAX));
        self.new.hold(dictionary.max(self.models.reach.bytes()));
        self.predictor.begin_dictionary(self.offset(), dictionary);
        self.predictor.begin_block();
        Ok(())
    }

    fn code_chunk(
        &mut self,
        step: Option<FileStep>,
        packets: Option<&[Packet]>,
    ) -> Result<(), ReplayError> {
        let given = match step {
            Some(FileStep::Xz(xz::XzStep::Chunk(head))) => Some(head),
            _ => None,
        };
        let kind = self.models.steps.chunk_kind(self.coder, given.map(|head| head.kind))?;
        let size = given.map_or(0, |head| head.plain_size);
        let OpenPart::Xz(mut writer) = std::mem::replace(&mut self.part, OpenPart::None) else {
            return Err(ReplayError::Order);
        };

        match kind {
            xz::ChunkKind::Stored(dictionary) => {
                if dictionary == xz::DictionaryUse::Reset {
                    self.predictor.reset_dictionary(self.offset());
                }
                let size = self.models.steps.size(self.coder, sizes::CHUNK, size);
                self.read_until(u64::from(size))?;
                writer.write_stored_chunk(dictionary, self.new.view(), self.at, size)?;
                self.at += u64::from(size);
            }
            xz::ChunkKind::Lzma(reset) => {
                if matches!(reset, xz::Reset::Dictionary(_)) {
                    self.predictor.reset_dictionary(self.offset());
                }
                if reset != xz::Reset::Nothing {
                    self.predictor.reset_repeats();
                }
                writer.begin_chunk(reset)?;
                match packets {
                    Some(packets) => self.record_chunk(&mut writer, packets, size)?,
                    None => self.rebuild_chunk(&mut writer)?,
                }
                writer.end_chunk()?;
            }
        }
        self.output.append(&mut writer.take_output());
        self.part = OpenPart::Xz(writer);
        Ok(())
    }

    /// Writes a chunk of LZMA of `size` bytes, and records its packets.
    fn record_chunk(
        &mut self,
        writer: &mut xz::XzWriter,
        packets: &[Packet],
        size: u32,
    ) -> Result<(), ReplayError> {
        // The writer shows whether the chunk ends where liblzma ends one: that is recorded first.
        self.read_until(u64::from(size))?;
        let (mut at, mut was_full) = (self.at, false);
        for packet in packets {
            let mut left = packet.length;
            while left > 0 {
                was_full |= at > self.at && writer.chunk_is_full();
                let piece = Packet { length: left, ..*packet };
                let written = writer.write_packet(piece, self.new.view(), at)?;
                at += u64::from(written);
                left = left.saturating_sub(written);
            }
        }
        let is_usual = writer.chunk_is_full() && !was_full;
        let is_rest = self.at + u64::from(size) == self.new.length();
        let end = match (is_usual, is_rest) {
            (true, _) => PieceEnd::Usual,
            (false, true) => PieceEnd::OfText,
            (false, false) => PieceEnd::Stated,
        };
        self.models.steps.end(self.coder, CHUNK_END, end)?;
        if end == PieceEnd::Stated {
            self.models.steps.size(self.coder, sizes::CHUNK, size);
        }

        for packet in packets {
            self.record_packet(*packet, self.new.length())?;
        }
        Ok(())
    }

    /// Reads the packets of a chunk of LZMA, and writes them.
    fn rebuild_chunk(&mut self, writer: &mut xz::XzWriter) -> Result<(), ReplayError> {
        let rest = self.new.length() - self.at;
        let end = match self.models.steps.end(self.coder, CHUNK_END, PieceEnd::Usual)? {
            PieceEnd::Usual => None,
            PieceEnd::OfText => Some(self.new.length()),
            PieceEnd::Stated => {
                let size = u64::from(self.models.steps.size(self.coder, sizes::CHUNK, 0));
                Some(self.at + size.min(rest))
            }
        };
        loop {
            let is_end = match end {
                Some(end) => self.at >= end,
                None => writer.chunk_is_full(),
            };
            if is_end {
                return Ok(());
            }
            let before = self.at;
            let packet = self.code_packet(Packet::default(), self.new.length())?;
            writer.write_packet(packet, self.new.view(), before)?;
        }
    }

    fn code_xz_block_end(&mut self, step: Option<FileStep>) -> Result<(), ReplayError> {
        let given = match &step {
            Some(FileStep::Xz(xz::XzStep::BlockEnd(xz::XzCheck::Stored(bytes)))) => {
                Some(&bytes[..])
            }
            _ => None,
        };
        let check = match self.models.steps.check(self.coder, given, MAX_CHECK) {
            None => xz::XzCheck::Computed,
            Some(bytes) => xz::XzCheck::Stored(bytes),
        };
        let OpenPart::Xz(writer) = &mut self.part else { return Err(ReplayError::Order) };
        writer.end_block(&check)?;
        self.output.append(&mut writer.take_output());
        Ok(())
    }

    fn end_xz(&mut self) -> Result<(), ReplayError> {
        let OpenPart::Xz(writer) = std::mem::replace(&mut self.part, OpenPart::None) else {
            return Err(ReplayError::Order);
        };
        self.output.extend_from_slice(&writer.finish()?);
        Ok(())
    }

    fn code_frame_start(&mut self, step: Option<FileStep>) -> Result<(), ReplayError> {
        let given = match &step {
            Some(FileStep::FrameStart(head)) => head.bytes(),
            _ => &[],
        };
        let row = self.models.steps.heads.code(self.coder, given, zstd::MAX_HEAD_LENGTH);
        let head = zstd::ZstdFrameHead::from_bytes(&row).map_err(|_| ReplayError::Head)?;
        self.begin_part()?;
        let window = usize::try_from(head.window()).unwrap_or(usize::MAX);
        let held = window.min(usize::try_from(self.new.length()).unwrap_or(usize::MAX));
        self.new.hold(held.max(self.models.reach.bytes()));
        self.predictor.begin_stream(Family::Zstd);
        self.predictor.begin_dictionary(self.offset(), window);
        let writer = Box::new(zstd::ReplayedFrame::new(&head, &mut self.output));
        self.part = OpenPart::Frame { writer, has_checksum: head.has_checksum() };
        Ok(())
    }

    fn code_block(
        &mut self,
        step: Option<FileStep>,
        packets: Option<&[Packet]>,
    ) -> Result<(), ReplayError> {
        let given = match &step {
            Some(FileStep::Block(head)) => Some(head),
            _ => None,
        };
        let mut head = self.models.steps.block_head(self.coder, given)?;
        head.size = self.code_block_size(given.map_or(0, |head| head.size))?;
        let (start, end) = (self.at, self.at + u64::from(head.size));
        self.read_until(u64::from(head.size))?;

        self.packets.clear();
        if matches!(head.kind, zstd::BlockKind::Compressed(_)) {
            self.predictor.begin_block();
            match packets {
                Some(packets) => {
                    for packet in packets {
                        self.record_packet(*packet, end)?;
                    }
                    self.packets.extend_from_slice(packets);
                }
                None => {
                    while self.at < end {
                        let packet = self.code_packet(Packet::default(), end)?;
                        packet.push(&mut self.packets, 0);
                    }
                }
            }
        }

        let content = text_from(&self.new, start).get(..head.size as usize);
        let content = content.ok_or(ReplayError::Length)?;
        let OpenPart::Frame { writer, .. } = &mut self.part else {
            return Err(ReplayError::Order);
        };
        writer.write_block(&head, content, &self.packets, &mut self.output)?;
        self.at = end;
        Ok(())
    }

    /// Codes the number of plain bytes of a block, which the text must have.
    fn code_block_size(&mut self, given: u32) -> Result<u32, ReplayError> {
        const USUAL: u32 = zstd::MAX_BLOCK_SIZE as u32;
        let rest = self.new.length() - self.at;
        let end = match given {
            USUAL => PieceEnd::Usual,
            size if u64::from(size) == rest => PieceEnd::OfText,
            _ => PieceEnd::Stated,
        };
        let size = match self.models.steps.end(self.coder, BLOCK_END, end)? {
            PieceEnd::Usual => USUAL,
            PieceEnd::OfText => u32::try_from(rest).map_err(|_| ReplayError::Length)?,
            PieceEnd::Stated => self.models.steps.size(self.coder, sizes::BLOCK, given),
        };
        match size {
            0..=USUAL if u64::from(size) <= rest => Ok(size),
            _ => Err(ReplayError::Length),
        }
    }

    fn code_frame_end(&mut self, step: Option<FileStep>) -> Result<(), ReplayError> {
        let OpenPart::Frame { writer, has_checksum } =
            std::mem::replace(&mut self.part, OpenPart::None)
        else {
            return Err(ReplayError::Order);
        };
        let checksum = if has_checksum {
            let given = match &step {
                Some(FileStep::FrameEnd(Some(zstd::Checksum::Stored(bytes)))) => Some(&bytes[..]),
                _ => None,
            };
            Some(match self.models.steps.check(self.coder, given, 4) {
                None => zstd::Checksum::Computed,
                Some(bytes) => {
                    let bytes = <[u8; 4]>::try_from(bytes).map_err(|_| ReplayError::Head)?;
                    zstd::Checksum::Stored(bytes)
                }
            })
        } else {
            None
        };
        writer.finish(checksum, &mut self.output)?;
        Ok(())
    }

    /// Records a packet: a run of literals byte by byte.
    fn record_packet(&mut self, packet: Packet, end: u64) -> Result<(), ReplayError> {
        if packet.kind != PacketKind::Literals {
            return self.code_packet(packet, end).map(drop);
        }
        for _ in 0..packet.length {
            self.code_packet(Packet::literals(1), end)?;
        }
        Ok(())
    }

    /// Codes the next packet, which ends before `end`.
    #[inline]
    fn code_packet(&mut self, given: Packet, end: u64) -> Result<Packet, ReplayError> {
        self.read_until(AHEAD)?;
        self.move_old()?;
        let (at, end) = (self.offset(), usize::try_from(end).unwrap_or(usize::MAX));
        if at >= end {
            return Err(ReplayError::Length);
        }
        let new = NewView { text: self.new.view().until(end), at, end };
        let view = self.old.as_ref().map(|old| old.view());
        let coded = (&mut *self.coder, &mut self.models.packets);
        let packet = self.predictor.code(coded, view, new, given)?;
        self.at += u64::from(packet.length);
        self.read_until(0)?;
        Ok(packet)
    }

    /// Moves the visible range of the old text, once for each stride.
    #[inline]
    fn move_old(&mut self) -> Result<(), ReplayError> {
        if self.at < self.next_stride {
            return Ok(());
        }
        if self.coder.has_overrun() {
            return Err(ReplayError::Cut);
        }
        self.next_stride = self.at + STRIDE;
        if let Some(old) = &mut self.old {
            let at = usize::try_from(self.at).unwrap_or(usize::MAX);
            let aligned = self.predictor.aligned_offset(at);
            old.show(aligned, 2 * STRIDE as usize, self.models.reach).map_err(ReplayError::Old)?;
            self.predictor.index_old(old.text());
        }
        Ok(())
    }

    fn begin_part(&mut self) -> Result<(), ReplayError> {
        match self.part {
            OpenPart::None => Ok(()),
            _ => Err(ReplayError::Order),
        }
    }

    /// Reads the new text up to `length` bytes after the present offset, or to its end.
    #[inline]
    fn read_until(&mut self, length: u64) -> Result<(), ReplayError> {
        self.new.read_until(self.at + length).map_err(ReplayError::Read)
    }

    /// The present offset: a text has less than 4 GiB.
    fn offset(&self) -> usize {
        usize::try_from(self.at).unwrap_or(usize::MAX)
    }
}

/// The text that is held, from an offset on.
fn text_from<'t>(text: &'t NewText<'_>, from: u64) -> &'t [u8] {
    text.view().from(usize::try_from(from).unwrap_or(usize::MAX))
}

fn step_kind(step: Option<&FileStep>) -> StepKind {
    match step {
        None => StepKind::End,
        Some(FileStep::Raw { .. }) => StepKind::Raw,
        Some(FileStep::XzStart(_)) => StepKind::XzStart,
        Some(FileStep::Xz(xz::XzStep::BlockStart(_))) => StepKind::XzBlock,
        Some(FileStep::Xz(xz::XzStep::Chunk(_))) => StepKind::XzChunk,
        Some(FileStep::Xz(xz::XzStep::BlockEnd(_))) => StepKind::XzBlockEnd,
        Some(FileStep::Xz(xz::XzStep::StreamEnd)) => StepKind::XzEnd,
        Some(FileStep::FrameStart(_)) => StepKind::FrameStart,
        Some(FileStep::Block(_)) => StepKind::FrameBlock,
        Some(FileStep::FrameEnd(_)) => StepKind::FrameEnd,
    }
}
