//! Reads streams.

use std::io::{BufRead, ErrorKind};

use super::block::{BlockProgress, XzBlockHead};
use super::check::XzCheck;
use super::chunk::{ChunkHead, ChunkKind, DictionaryUse, MAX_PACKED, Properties, Reset};
use super::chunk_decoder::ChunkDecoder;
use super::error::{XzDefect, XzOpenError, XzRefusal};
use super::index::{MAX_RECORDS, XzIndex};
use super::model::LzmaModel;
use super::stream::{HEADER_LENGTH, StreamHead};
use crate::replay::{Packet, Window};

/// Limits of the streams that are read.
#[derive(Clone, Copy, Debug)]
pub struct XzLimits {
    /// Largest size of a dictionary in bytes: the caller holds that much plain content.
    pub dictionary: u64,
}

/// One part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XzStep {
    BlockStart(XzBlockHead),
    /// A chunk, whose plain content and packets were appended.
    Chunk(ChunkHead),
    BlockEnd(XzCheck),
    /// The end of the stream; index and footer follow from the blocks.
    StreamEnd,
}

/// Reads one stream, part by part.
pub struct XzReader<R> {
    source: ExactSource<R>,
    limits: XzLimits,
    head: StreamHead,
    index: XzIndex,
    place: StreamPlace,
    model: Option<Box<LzmaModel>>,
    /// Compressed data of the current chunk.
    packed: Vec<u8>,
}

impl<R: BufRead> XzReader<R> {
    /// Reads the header of a stream.
    pub fn open(input: R, limits: XzLimits) -> Result<Self, XzOpenError> {
        let mut source = ExactSource { input };
        let mut header = [0; HEADER_LENGTH];
        source.fill(&mut header)?;
        Ok(XzReader {
            source,
            limits,
            head: StreamHead::read(&header)?,
            index: XzIndex::default(),
            place: StreamPlace::BetweenBlocks,
            model: None,
            packed: Vec::new(),
        })
    }

    /// The header of the stream.
    pub fn head(&self) -> StreamHead {
        self.head
    }

    /// Returns the input, whose next byte is the first after those that were read.
    pub fn into_input(self) -> R {
        self.source.input
    }

    /// Reads the next part; `None` after the end of the stream.
    ///
    /// Plain content is appended to `plain`, and the decisions of a chunk to `packets`: at most
    /// 2 MiB and as many packets. Runs of literals end with their chunk. Between two calls, the
    /// caller may take the packets away, and may trim `plain` to the size of the dictionary.
    ///
    /// After an error, `plain` and `packets` may have incomplete content.
    pub fn read_step(
        &mut self,
        plain: &mut Window,
        packets: &mut Vec<Packet>,
    ) -> Result<Option<XzStep>, XzOpenError> {
        let (step, place) = match std::mem::replace(&mut self.place, StreamPlace::AfterError) {
            StreamPlace::BetweenBlocks => self.read_block_start()?,
            StreamPlace::InBlock(block) => self.read_chunk(block, plain, packets)?,
            StreamPlace::AfterStream => (None, StreamPlace::AfterStream),
            StreamPlace::AfterError => return Err(XzOpenError::AfterError),
        };
        self.place = place;
        Ok(step)
    }

    /// Reads the header of a block, or the end of the stream.
    fn read_block_start(&mut self) -> Result<(Option<XzStep>, StreamPlace), XzOpenError> {
        let first = self.source.read_byte()?;
        let Some(length) = XzBlockHead::length(first) else {
            self.read_stream_end()?;
            return Ok((Some(XzStep::StreamEnd), StreamPlace::AfterStream));
        };

        let mut header = vec![0; length + 4];
        header[0] = first;
        self.source.fill(&mut header[1..])?;
        let head = XzBlockHead::read(&header)?;

        let size = u64::from(head.dictionary_size());
        let limit = self.limits.dictionary;
        if size > limit {
            return Err(XzRefusal::Dictionary { size, limit }.into());
        }
        let block = Box::new(BlockProgress::new(head.clone(), self.head.check));
        Ok((Some(XzStep::BlockStart(head)), StreamPlace::InBlock(block)))
    }

    /// Reads a chunk, or the end of a block.
    fn read_chunk(
        &mut self,
        mut block: Box<BlockProgress>,
        plain: &mut Window,
        packets: &mut Vec<Packet>,
    ) -> Result<(Option<XzStep>, StreamPlace), XzOpenError> {
        let control = self.source.read_byte()?;
        block.compressed_size += 1;
        let head = match control {
            0 => {
                let check = self.read_block_end(*block)?;
                return Ok((Some(XzStep::BlockEnd(check)), StreamPlace::BetweenBlocks));
            }
            1 => self.read_stored_chunk(&mut block, plain, DictionaryUse::Reset)?,
            2 => self.read_stored_chunk(&mut block, plain, DictionaryUse::Keep)?,
            3..0x80 => return Err(XzDefect::Control { control }.into()),
            0x80.. => {
                let head = self.read_lzma_head(&mut block, control)?;
                let model = self.model.as_mut().ok_or(XzDefect::MissingReset)?;
                let start = plain.bytes().len();
                let decoder = ChunkDecoder::new(&block, plain, head.plain_size as usize);
                decoder.decode(&self.packed, model, packets)?;
                block.push(plain.bytes().get(start..).unwrap_or_default());
                head
            }
        };
        Ok((Some(XzStep::Chunk(head)), StreamPlace::InBlock(block)))
    }

    fn read_stored_chunk(
        &mut self,
        block: &mut BlockProgress,
        plain: &mut Window,
        dictionary: DictionaryUse,
    ) -> Result<ChunkHead, XzOpenError> {
        let kind = ChunkKind::Stored(dictionary);
        if !block.begin_chunk(kind) {
            return Err(XzDefect::MissingReset.into());
        }

        let size = self.source.read_size()?;
        self.read_packed(size)?;
        block.compressed_size += 2 + u64::from(size);
        plain.push(&self.packed);
        block.push(&self.packed);
        Ok(ChunkHead { kind, plain_size: size })
    }

    /// Reads the head and the compressed data of an LZMA chunk, and makes its resets.
    fn read_lzma_head(
        &mut self,
        block: &mut BlockProgress,
        control: u8,
    ) -> Result<ChunkHead, XzOpenError> {
        let plain_size = (u32::from(control & 0x1f) << 16) + self.source.read_size()?;
        let packed_size = self.source.read_size()?;
        let reset = match control >> 5 & 3 {
            0 => Reset::Nothing,
            1 => Reset::State,
            2 => Reset::Properties(self.read_properties()?),
            _ => Reset::Dictionary(self.read_properties()?),
        };
        let kind = ChunkKind::Lzma(reset);
        if !block.begin_chunk(kind) {
            return Err(XzDefect::MissingReset.into());
        }

        match (&mut self.model, reset.properties()) {
            (Some(_), None) if reset == Reset::Nothing => {}
            (Some(model), properties) => model.reset(properties),
            (None, Some(properties)) => self.model = Some(LzmaModel::new(properties)),
            (None, None) => return Err(XzDefect::MissingReset.into()),
        }
        self.read_packed(packed_size)?;
        block.compressed_size +=
            4 + u64::from(reset.properties().is_some()) + u64::from(packed_size);
        Ok(ChunkHead { kind, plain_size })
    }

    fn read_properties(&mut self) -> Result<Properties, XzOpenError> {
        let properties = self.source.read_byte()?;
        Ok(Properties::from_byte(properties).ok_or(XzDefect::Properties { properties })?)
    }

    /// Reads compressed data of at most 64 KiB.
    fn read_packed(&mut self, size: u32) -> Result<(), XzOpenError> {
        self.packed.resize((size as usize).min(MAX_PACKED), 0);
        self.source.fill(&mut self.packed)
    }

    /// Reads padding and check of a block, and adds the block to the index.
    fn read_block_end(&mut self, block: BlockProgress) -> Result<XzCheck, XzOpenError> {
        block.verify_sizes().map_err(|wrong| XzDefect::DeclaredSize {
            kind: wrong.kind,
            declared: wrong.declared,
            actual: wrong.actual,
        })?;

        let mut padding = block.padding().to_vec();
        self.source.fill(&mut padding)?;
        if padding != block.padding() {
            return Err(XzDefect::BlockPadding.into());
        }

        let mut stored = vec![0; self.head.check.length()];
        self.source.fill(&mut stored)?;
        if !self.index.push(block.unpadded_size(), block.plain_size()) {
            return Err(XzRefusal::IndexSize { limit: MAX_RECORDS }.into());
        }
        Ok(match block.check.finish() {
            Some(computed) if computed == stored => XzCheck::Computed,
            _ => XzCheck::Stored(stored),
        })
    }

    /// Reads index and footer after the first byte of the index.
    fn read_stream_end(&mut self) -> Result<(), XzOpenError> {
        let index = std::mem::take(&mut self.index).into_bytes();
        for expected in index.get(1..).unwrap_or_default().chunks(MAX_PACKED) {
            self.read_packed(expected.len() as u32)?;
            if self.packed != expected {
                return Err(XzDefect::XzIndex.into());
            }
        }

        let mut footer = [0; HEADER_LENGTH];
        self.source.fill(&mut footer)?;
        if footer != self.head.footer(index.len()) {
            return Err(XzDefect::Footer.into());
        }
        Ok(())
    }
}

/// The place in the stream.
enum StreamPlace {
    BetweenBlocks,
    InBlock(Box<BlockProgress>),
    AfterStream,
    AfterError,
}

/// The input, of which only bytes that are needed are consumed.
struct ExactSource<R> {
    input: R,
}

impl<R: BufRead> ExactSource<R> {
    /// Reads as many bytes as `buffer` has.
    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), XzOpenError> {
        while !buffer.is_empty() {
            match self.input.read(buffer) {
                Ok(0) => return Err(XzDefect::Truncated.into()),
                Ok(length) => buffer = buffer.get_mut(length..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(XzOpenError::Read(error)),
            }
        }
        Ok(())
    }

    fn read_byte(&mut self) -> Result<u8, XzOpenError> {
        let mut byte = [0];
        self.fill(&mut byte)?;
        Ok(byte[0])
    }

    /// Reads a size of 16 bits, which is stored less one.
    fn read_size(&mut self) -> Result<u32, XzOpenError> {
        let mut bytes = [0; 2];
        self.fill(&mut bytes)?;
        Ok(u32::from(u16::from_be_bytes(bytes)) + 1)
    }
}
