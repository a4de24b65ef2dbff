//! Writing of a frame.

use std::hash::Hasher;

use twox_hash::XxHash64;

use super::FrameWriteError;
use super::literals::{LiteralsWriter, run_byte};
use super::sequences::SequencesWriter;
use super::{BlockHead, BlockKind, Checksum, CompressedHead, MAX_BLOCK_SIZE, ZstdFrameHead};
use crate::replay::Packet;

/// Writes a frame block by block.
#[must_use = "`finish` writes the checksum"]
pub struct ReplayedFrame {
    /// Hash of the content, if the frame has a checksum.
    hash: Option<XxHash64>,
    body: Vec<u8>,
    literals: LiteralsWriter,
    sequences: SequencesWriter,
}

impl ReplayedFrame {
    /// Begins a frame, and appends its header to `out`.
    pub fn new(head: &ZstdFrameHead, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(head.bytes());
        ReplayedFrame {
            hash: head.has_checksum().then(|| XxHash64::with_seed(0)),
            body: Vec::new(),
            literals: LiteralsWriter::default(),
            sequences: SequencesWriter::default(),
        }
    }

    /// Appends a block to `out`.
    ///
    /// # Errors
    ///
    /// Head, content and packets contradict each other, or no such block exists. Then nothing is
    /// appended, and the writer is of no further use.
    pub fn write_block(
        &mut self,
        head: &BlockHead,
        content: &[u8],
        packets: &[Packet],
        out: &mut Vec<u8>,
    ) -> Result<(), FrameWriteError> {
        if content.len() != head.size as usize {
            return Err(FrameWriteError::ContentSize { content: content.len(), size: head.size });
        }
        if content.len() > MAX_BLOCK_SIZE {
            return Err(FrameWriteError::BlockSize { size: content.len() });
        }

        self.body.clear();
        let (kind, size) = match &head.kind {
            BlockKind::Raw => {
                self.body.extend_from_slice(content);
                (0, content.len())
            }
            BlockKind::Rle => {
                self.body.push(run_byte(content)?);
                (1, content.len())
            }
            BlockKind::Compressed(compressed) => {
                self.write_compressed(compressed, content, packets)?;
                (2, self.body.len())
            }
        };
        if size > MAX_BLOCK_SIZE {
            return Err(FrameWriteError::BlockSize { size });
        }

        let header = u32::from(head.is_last) | kind << 1 | (size as u32) << 3;
        out.extend(header.to_le_bytes().iter().take(3));
        out.extend_from_slice(&self.body);
        if let Some(hash) = &mut self.hash {
            hash.write(content);
        }
        Ok(())
    }

    fn write_compressed(
        &mut self,
        head: &CompressedHead,
        content: &[u8],
        packets: &[Packet],
    ) -> Result<(), FrameWriteError> {
        self.sequences.split(content, packets)?;
        self.literals.write(&head.literals, self.sequences.literals(), &mut self.body)?;
        self.sequences.write(&head.sequences, &mut self.body)
    }

    /// Ends the frame, and appends its checksum to `out`.
    ///
    /// # Errors
    ///
    /// The checksum is to be computed, and the header does not announce one.
    pub fn finish(
        self,
        checksum: Option<Checksum>,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameWriteError> {
        match checksum {
            None => {}
            Some(Checksum::Stored(stored)) => out.extend_from_slice(&stored),
            Some(Checksum::Computed) => {
                let hash = self.hash.ok_or(FrameWriteError::Checksum)?;
                out.extend_from_slice(&(hash.finish() as u32).to_le_bytes());
            }
        }
        Ok(())
    }
}
