//! Reading of a frame.

use std::hash::Hasher;
use std::io::{self, BufRead};

use twox_hash::XxHash64;

use super::block::BlockBuffer;
use super::head::MIN_HEAD_LENGTH;
use super::literals::LiteralsReader;
use super::sequences::{SequenceOutput, SequencesReader};
use super::{BlockHead, BlockKind, Checksum, CompressedHead, MAX_BLOCK_SIZE, ZstdFrameHead};
use super::{FrameOpenError, FrameRefusal, ZstdDefect};
use crate::replay::{Packet, Window};

/// Bounds of the frames that are read.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Greatest window in bytes. The caller holds that much content.
    pub window: u64,
}

/// Reads a frame block by block.
pub struct ZstdFrameReader<R> {
    input: R,
    head: ZstdFrameHead,
    progress: SequenceProgress,
    /// Length of the content so far.
    position: u64,
    hash: XxHash64,
    /// The current block.
    body: Vec<u8>,
    block: BlockBuffer,
    literals: LiteralsReader,
    sequences: SequencesReader,
}

enum SequenceProgress {
    Blocks,
    Finished(Option<Checksum>),
}

impl<R: BufRead> ZstdFrameReader<R> {
    /// Reads the header of a frame at the beginning of `input`.
    ///
    /// # Errors
    ///
    /// The input fails, the header is invalid, or the frame needs a dictionary or a window beyond
    /// the limit.
    pub fn open(mut input: R, limits: FrameLimits) -> Result<Self, FrameOpenError> {
        let mut beginning = [0; MIN_HEAD_LENGTH];
        read_exact(&mut input, &mut beginning)?;
        let mut bytes = beginning.to_vec();
        bytes.resize(ZstdFrameHead::length_from(&beginning)?, 0);
        read_exact(&mut input, bytes.get_mut(MIN_HEAD_LENGTH..).unwrap_or_default())?;
        let head = ZstdFrameHead::from_bytes(&bytes)?;
        if head.window() > limits.window {
            let (size, limit) = (head.window(), limits.window);
            return Err(FrameRefusal::Window { size, limit }.into());
        }

        Ok(ZstdFrameReader {
            input,
            head,
            progress: SequenceProgress::Blocks,
            position: 0,
            hash: XxHash64::with_seed(0),
            body: Vec::new(),
            block: BlockBuffer::default(),
            literals: LiteralsReader::default(),
            sequences: SequencesReader::default(),
        })
    }

    /// The frame header.
    pub fn head(&self) -> &ZstdFrameHead {
        &self.head
    }

    /// The checksum, after the last block, if the frame has one.
    pub fn checksum(&self) -> Option<Checksum> {
        match self.progress {
            SequenceProgress::Blocks => None,
            SequenceProgress::Finished(checksum) => checksum,
        }
    }

    /// Returns the input, which is behind the frame after the last block.
    pub fn into_input(self) -> R {
        self.input
    }

    /// Appends the next block's content to `plain`, and its decisions to `packets`.
    ///
    /// Matches refer to the end of `plain`. Between two calls, the caller may forget content before
    /// the last [`window`](ZstdFrameHead::window) bytes. The call for the last block also reads the
    /// checksum, and further calls return `None`. After an error, `packets` may hold a part of the
    /// block's packets.
    ///
    /// # Errors
    ///
    /// The input fails, or the frame is damaged or not supported.
    pub fn next_block(
        &mut self,
        plain: &mut Window,
        packets: &mut Vec<Packet>,
    ) -> Result<Option<BlockHead>, FrameOpenError> {
        if let SequenceProgress::Finished(_) = self.progress {
            return Ok(None);
        }

        let mut header = [0; 4];
        read_exact(&mut self.input, header.get_mut(..3).unwrap_or_default())?;
        let header = u32::from_le_bytes(header);
        let is_last = header & 1 != 0;
        let coded_size = (header >> 3) as usize;
        let max_size = self.head.window().min(MAX_BLOCK_SIZE as u64) as usize;
        if coded_size > max_size {
            return Err(ZstdDefect::BlockSize.into());
        }

        let begin = plain.end();
        let kind = match header >> 1 & 3 {
            0 => {
                self.read_body(coded_size)?;
                plain.push(&self.body);
                BlockKind::Raw
            }
            1 => {
                self.read_body(1)?;
                if coded_size == 0 {
                    return Err(FrameRefusal::EmptyRun.into());
                }
                plain.push_run(self.body.first().copied().unwrap_or_default(), coded_size);
                BlockKind::Rle
            }
            2 => {
                self.read_body(coded_size)?;
                let compressed = self.read_compressed(plain, packets, max_size)?;
                plain.push(self.block.content());
                BlockKind::Compressed(compressed)
            }
            _ => return Err(ZstdDefect::BlockKind.into()),
        };

        let content = plain.from(begin).unwrap_or_default();
        self.position += content.len() as u64;
        if self.head.has_checksum() {
            self.hash.write(content);
        }
        let block = BlockHead { is_last, size: content.len() as u32, kind };
        self.check_content_size(&block)?;
        if is_last {
            self.progress = SequenceProgress::Finished(self.read_checksum()?);
        }
        Ok(Some(block))
    }

    fn read_body(&mut self, size: usize) -> Result<(), FrameOpenError> {
        self.body.resize(size, 0);
        read_exact(&mut self.input, &mut self.body)
    }

    /// Decodes a compressed block.
    fn read_compressed(
        &mut self,
        plain: &Window,
        packets: &mut Vec<Packet>,
        max_size: usize,
    ) -> Result<CompressedHead, FrameOpenError> {
        let mut data = &self.body[..];
        self.block.clear();
        let mut target = SequenceOutput {
            plain,
            block: &mut self.block,
            packets,
            window: self.head.window(),
            position: self.position,
            max_size,
        };
        let literals = self.literals.read(&mut data)?;
        let sequences = self.sequences.read(data, self.literals.literals(), &mut target)?;
        Ok(CompressedHead { literals, sequences })
    }

    fn check_content_size(&self, head: &BlockHead) -> Result<(), ZstdDefect> {
        let Some(size) = self.head.content_size() else { return Ok(()) };
        if self.position > size || head.is_last && self.position < size {
            return Err(ZstdDefect::ContentSize);
        }
        Ok(())
    }

    fn read_checksum(&mut self) -> Result<Option<Checksum>, FrameOpenError> {
        if !self.head.has_checksum() {
            return Ok(None);
        }

        let mut stored = [0; 4];
        read_exact(&mut self.input, &mut stored)?;
        let computed = (self.hash.finish() as u32).to_le_bytes();
        let is_right = stored == computed;
        Ok(Some(if is_right { Checksum::Computed } else { Checksum::Stored(stored) }))
    }
}

/// Fills `target`; the end of the input is a defect.
fn read_exact(input: &mut impl BufRead, target: &mut [u8]) -> Result<(), FrameOpenError> {
    input.read_exact(target).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ZstdDefect::Truncated.into(),
        _ => FrameOpenError::Read(error),
    })
}
