//! Heads of frames and blocks: everything except content and packets.

use super::{FrameOpenError, FrameRefusal, ZstdDefect};

/// Most bytes of a frame header, including the magic number.
pub const MAX_HEAD_LENGTH: usize = 18;
/// Bytes of the magic number and the frame header descriptor.
pub const MIN_HEAD_LENGTH: usize = 5;
const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// Header of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZstdFrameHead {
    bytes: Vec<u8>,
    has_checksum: bool,
    window: u64,
    content: Option<u64>,
}

impl ZstdFrameHead {
    /// Parses a frame header, which is all of `bytes`.
    ///
    /// # Errors
    ///
    /// The header is invalid, or names a dictionary.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameOpenError> {
        let beginning = bytes.first_chunk().ok_or(ZstdDefect::Truncated)?;
        let fields = HeadFields::of(beginning)?;
        if bytes.len() != fields.head_length() {
            return Err(ZstdDefect::HeadLength.into());
        }

        let mut rest = bytes.get(MIN_HEAD_LENGTH..).unwrap_or_default();
        let window = take_number(&mut rest, fields.window)?;
        let dictionary = take_number(&mut rest, fields.dictionary)?;
        if let id @ 1.. = dictionary as u32 {
            return Err(FrameRefusal::Dictionary { id }.into());
        }

        // A content size of two bytes does not repeat the range of one byte.
        let mut content = None;
        if fields.content > 0 {
            let offset = if fields.content == 2 { 256 } else { 0 };
            content = Some(take_number(&mut rest, fields.content)? + offset);
        }

        // Without a window descriptor, the window is the whole content.
        let window = if fields.window == 0 {
            content.unwrap_or(0)
        } else {
            let base = 1u64 << (10 + (window >> 3));
            base + (base >> 3) * (window & 7)
        };
        Ok(ZstdFrameHead {
            bytes: bytes.to_vec(),
            has_checksum: fields.has_checksum,
            window,
            content,
        })
    }

    /// Length of the header that begins with these bytes.
    ///
    /// # Errors
    ///
    /// The magic number is wrong, or a reserved bit is set.
    pub fn length_from(beginning: &[u8; MIN_HEAD_LENGTH]) -> Result<usize, ZstdDefect> {
        HeadFields::of(beginning).map(|fields| fields.head_length())
    }

    /// The header, at most [`MAX_HEAD_LENGTH`] bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether a checksum follows the last block.
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// Greatest distance of a match in bytes.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Length of the content in bytes, if the header declares it.
    pub fn content_size(&self) -> Option<u64> {
        self.content
    }
}

/// Lengths of the header's fields, as declared by the descriptor.
struct HeadFields {
    window: usize,
    dictionary: usize,
    content: usize,
    has_checksum: bool,
}

impl HeadFields {
    fn of(beginning: &[u8; MIN_HEAD_LENGTH]) -> Result<Self, ZstdDefect> {
        let [magic @ .., descriptor] = *beginning;
        if magic != MAGIC {
            return Err(ZstdDefect::Magic);
        }
        if descriptor & 8 != 0 {
            return Err(ZstdDefect::ReservedBit);
        }

        let is_single_segment = descriptor & 0x20 != 0;
        let content = match descriptor >> 6 {
            0 => usize::from(is_single_segment),
            1 => 2,
            2 => 4,
            _ => 8,
        };
        let dictionary = match descriptor & 3 {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => 4,
        };
        Ok(HeadFields {
            window: usize::from(!is_single_segment),
            dictionary,
            content,
            has_checksum: descriptor & 4 != 0,
        })
    }

    fn head_length(&self) -> usize {
        MIN_HEAD_LENGTH + self.window + self.dictionary + self.content
    }
}

/// Removes a little-endian number of at most eight bytes from the beginning of `bytes`.
fn take_number(bytes: &mut &[u8], length: usize) -> Result<u64, ZstdDefect> {
    let (number, rest) = bytes.split_at_checked(length).ok_or(ZstdDefect::Truncated)?;
    *bytes = rest;
    Ok(number.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Checksum of a frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// It is right, so it follows from the content.
    Computed,
    /// It is wrong.
    Stored([u8; 4]),
}

/// Properties of a block that do not follow from its content and packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockHead {
    pub is_last: bool,
    /// Length of the content in bytes, at most [`MAX_BLOCK_SIZE`](super::MAX_BLOCK_SIZE).
    pub size: u32,
    pub kind: BlockKind,
}

/// Codings of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// The content itself.
    Raw,
    /// One byte that is repeated; never empty.
    Rle,
    /// Literals and sequences.
    Compressed(CompressedHead),
}

/// Properties of a compressed block's two sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedHead {
    pub literals: LiteralsHead,
    pub sequences: SequencesHead,
}

/// Properties of a literals section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteralsHead {
    pub kind: LiteralsKind,
    /// Size format, 0 to 3. Encoders may choose a larger one than the size needs.
    ///
    /// For raw literals and runs it is 0 (one byte), 1 (two bytes) or 3 (three bytes). For Huffman
    /// codes, 0 means a single stream, and 1 to 3 mean four streams.
    pub format: u8,
}

/// Codings of literals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiteralsKind {
    /// The literals themselves.
    Raw,
    /// One byte that is repeated; never empty.
    Rle,
    /// Huffman codes with a new table.
    Huffman {
        /// Description of the table, verbatim.
        table: Vec<u8>,
    },
    /// Huffman codes with the table of an earlier block.
    Repeat,
}

/// Properties of a sequences section. Without sequences, only the form of their number matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequencesHead {
    pub count_form: CountForm,
    /// Modes of the three tables: bits 6 and 7 literals lengths, 4 and 5 offsets, 2 and 3 match
    /// lengths; 0 predefined, 1 single symbol, 2 described, 3 that of an earlier block.
    pub modes: u8,
    /// Descriptions of the tables, verbatim.
    pub tables: Vec<u8>,
    /// States with which the encoding began, for literals lengths, offsets and match lengths.
    ///
    /// Each is a rank among the states of the first symbol that is encoded. The reference encoder
    /// takes the lowest state, which has rank 0.
    pub first_ranks: [u16; 3],
}

/// Forms of the number of sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CountForm {
    /// One byte below 128, two bytes below 0x7f00, otherwise three.
    #[default]
    Shortest,
    /// Two bytes for a number below 128.
    TwoBytes,
}
