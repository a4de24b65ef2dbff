//! Takes files apart, step by step.

use std::io::{BufRead, Read};

use super::error::{FileOpenError, FileRefusal};
use super::forms::Forms;
use crate::replay::{CpioHeader, Packet, PeekInput, Window, xz, zstd};

/// Largest piece of bytes as they are, in one step.
const PIECE: usize = 64 << 10;
/// Most memory that is reserved for content before it is read.
const RESERVED: u64 = 64 << 20;
/// Bytes that decide which part begins.
const AHEAD: usize = 1 << 10;

const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";
/// Magic of a skippable frame: its first byte is 0x50 to 0x5f.
const SKIPPABLE_MAGIC: &[u8] = b"\x2a\x4d\x18";

/// Limits on the files that are taken apart.
#[derive(Clone, Copy, Debug)]
pub struct OpenLimits {
    /// Largest dictionary of a part, in bytes: it is held in memory.
    pub dictionary: u64,
    /// Largest plain form, in bytes; less than 4 GiB.
    pub plain: u64,
}

impl OpenLimits {
    /// Largest dictionary that a part may declare, in bytes.
    ///
    /// A part may declare more than it has content; no more than the content is held.
    fn declared_dictionary(&self) -> u64 {
        if self.plain <= self.dictionary { u64::MAX } else { self.dictionary }
    }
}

/// A step through a file. Plain content and packets of a step are appended to the buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileStep {
    /// Bytes of the plain form that are in the file as they are.
    Raw {
        length: u32,
    },
    XzStart(xz::StreamHead),
    Xz(xz::XzStep),
    FrameStart(zstd::ZstdFrameHead),
    Block(zstd::BlockHead),
    FrameEnd(Option<zstd::Checksum>),
}

/// Reads a file as plain form and decisions.
pub struct PartReader<R> {
    place: FilePlace<R>,
    limits: OpenLimits,
    forms: Forms,
    /// Bytes of the plain form so far.
    length: u64,
    replayed: u64,
    /// Size of the dictionary of the current part, in bytes.
    dictionary: u64,
}

#[allow(clippy::large_enum_variant, reason = "a reader has one place, and moves it at each step")]
enum FilePlace<R> {
    /// Before a part.
    Between(PeekInput<R>),
    /// Inside bytes as they are.
    Raw {
        input: PeekInput<R>,
        left: u64,
    },
    Xz(xz::XzReader<PeekInput<R>>),
    Frame(zstd::ZstdFrameReader<PeekInput<R>>),
    /// At the end, or after an error.
    Ended,
}

/// The part that begins at a place.
enum Part {
    Raw { length: u64 },
    Xz,
    Frame,
    End,
}

impl<R: Read> PartReader<R> {
    /// Prepares to read a file from its beginning.
    pub fn new(input: R, limits: OpenLimits) -> Self {
        PartReader {
            place: FilePlace::Between(PeekInput::new(input)),
            limits,
            forms: Forms::default(),
            length: 0,
            replayed: 0,
            dictionary: 0,
        }
    }

    /// Size of the dictionary of the current part in bytes: so much plain content must be held.
    pub fn dictionary(&self) -> usize {
        usize::try_from(self.dictionary).unwrap_or(usize::MAX)
    }

    /// The forms that occurred so far.
    pub fn forms(&self) -> Forms {
        self.forms
    }

    /// Bytes of the plain form so far that are not in the file as they are.
    pub fn replayed(&self) -> u64 {
        self.replayed
    }

    /// Reads the next step; `None` at the end of the file.
    ///
    /// The content of the step is appended to `plain`, which must hold the last
    /// [`dictionary`](Self::dictionary) bytes, and its packets to `packets`.
    pub fn read_step(
        &mut self,
        plain: &mut Window,
        packets: &mut Vec<Packet>,
    ) -> Result<Option<FileStep>, FileOpenError> {
        let before = plain.end();
        let step = self.advance(plain, packets)?;
        if let Some(FileStep::FrameStart(_) | FileStep::Xz(xz::XzStep::BlockStart(_))) = step {
            // As much as is held at a time, so that the memory does not grow in large steps.
            let most = (self.dictionary / 4).saturating_mul(5).saturating_add(PIECE as u64);
            let most = most.min(self.limits.plain).min(RESERVED);
            plain.reserve(usize::try_from(most).unwrap_or(0));
        }
        let length = plain.end() - before;
        self.length += length;
        if !matches!(step, Some(FileStep::Raw { .. })) {
            self.replayed += length;
        }
        if self.length > self.limits.plain {
            return Err(FileRefusal::TooLarge(self.limits.plain).into());
        }
        Ok(step)
    }

    fn advance(
        &mut self,
        plain: &mut Window,
        packets: &mut Vec<Packet>,
    ) -> Result<Option<FileStep>, FileOpenError> {
        match std::mem::replace(&mut self.place, FilePlace::Ended) {
            FilePlace::Ended => Ok(None),
            FilePlace::Between(input) => self.begin_part(input, plain),
            FilePlace::Raw { input, left } => self.read_raw(input, left, plain),
            FilePlace::Xz(mut reader) => {
                let step = reader.read_step(plain, packets).map_err(FileOpenError::Xz)?;
                match &step {
                    None | Some(xz::XzStep::StreamEnd) => {
                        self.place = FilePlace::Between(reader.into_input());
                    }
                    Some(step) => {
                        if let xz::XzStep::BlockStart(head) = step {
                            self.dictionary = head.dictionary_size().into();
                        }
                        self.place = FilePlace::Xz(reader);
                    }
                }
                Ok(step.map(FileStep::Xz))
            }
            FilePlace::Frame(mut reader) => {
                let block = reader.next_block(plain, packets).map_err(FileOpenError::Zstd)?;
                match block {
                    None => {
                        let checksum = reader.checksum();
                        self.place = FilePlace::Between(reader.into_input());
                        Ok(Some(FileStep::FrameEnd(checksum)))
                    }
                    Some(head) => {
                        self.place = FilePlace::Frame(reader);
                        Ok(Some(FileStep::Block(head)))
                    }
                }
            }
        }
    }

    fn begin_part(
        &mut self,
        mut input: PeekInput<R>,
        plain: &mut Window,
    ) -> Result<Option<FileStep>, FileOpenError> {
        let is_first = input.offset() == 0;
        let ahead = input.peek(AHEAD)?;
        let part = if is_first { recognize_first(ahead) } else { recognize(ahead) };
        match part {
            Part::End if self.forms.is_empty() => Err(FileRefusal::NoPart.into()),
            Part::End => Ok(None),
            Part::Raw { length: u64::MAX } if self.forms.is_empty() => {
                Err(FileRefusal::NoPart.into())
            }
            Part::Raw { length } => self.read_raw(input, length, plain),
            Part::Xz => {
                self.forms.xz = true;
                let limits = xz::XzLimits { dictionary: self.limits.declared_dictionary() };
                let reader = xz::XzReader::open(input, limits).map_err(FileOpenError::Xz)?;
                let head = reader.head();
                self.place = FilePlace::Xz(reader);
                Ok(Some(FileStep::XzStart(head)))
            }
            Part::Frame => {
                self.forms.zstd = true;
                let limits = zstd::FrameLimits { window: self.limits.declared_dictionary() };
                let reader =
                    zstd::ZstdFrameReader::open(input, limits).map_err(FileOpenError::Zstd)?;
                self.dictionary = reader.head().window();
                let head = reader.head().clone();
                self.place = FilePlace::Frame(reader);
                Ok(Some(FileStep::FrameStart(head)))
            }
        }
    }

    /// Reads a piece of at most `left` bytes as they are.
    fn read_raw(
        &mut self,
        mut input: PeekInput<R>,
        left: u64,
        plain: &mut Window,
    ) -> Result<Option<FileStep>, FileOpenError> {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let bytes = input.peek(most)?;
        let length = bytes.len().min(most);
        if length == 0 {
            let refusal = self.forms.is_empty().then_some(FileRefusal::NoPart);
            return refusal.map_or(Ok(None), |refusal| Err(refusal.into()));
        }

        plain.push(&bytes[..length]);
        input.consume(length);
        let left = left.saturating_sub(length as u64);
        self.place =
            if left == 0 { FilePlace::Between(input) } else { FilePlace::Raw { input, left } };
        Ok(Some(FileStep::Raw { length: length as u32 }))
    }
}

/// The part at the beginning of a file, which may be a boot image, and not zero bytes.
fn recognize_first(ahead: &[u8]) -> Part {
    match kernel_payload_offset(ahead) {
        Some(length) => Part::Raw { length },
        None if ahead.first() == Some(&0) => Part::Raw { length: u64::MAX },
        None => recognize(ahead),
    }
}

/// The part that begins with `ahead`.
fn recognize(ahead: &[u8]) -> Part {
    if ahead.is_empty() {
        return Part::End;
    }
    if ahead.starts_with(XZ_MAGIC) {
        return Part::Xz;
    }
    if ahead.starts_with(ZSTD_MAGIC) {
        return Part::Frame;
    }

    let zeros = ahead.iter().take_while(|byte| **byte == 0).count();
    let entry = CpioHeader::parse(ahead).map(|header| header.entry_length());
    match entry.or_else(|| skippable_length(ahead)) {
        Some(length) => Part::Raw { length },
        None if zeros > 0 => Part::Raw { length: zeros as u64 },
        None => Part::Raw { length: u64::MAX },
    }
}

/// Offset of the compressed kernel in an x86 boot image (`Documentation/arch/x86/boot.rst`).
fn kernel_payload_offset(image: &[u8]) -> Option<u64> {
    const SECTOR: u64 = 512;
    let number = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?));
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    // A count of 0 means 4.
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        count => u64::from(count),
    };
    let offset = (sectors + 1) * SECTOR + u64::from(number(0x248)?);
    (number(0x24c)? > 0).then_some(offset)
}

/// Length of a skippable frame of zstd.
fn skippable_length(bytes: &[u8]) -> Option<u64> {
    let (magic, size) = (bytes.get(..4)?, bytes.get(4..8)?.first_chunk()?);
    (magic[0] & 0xf0 == 0x50 && magic[1..] == *SKIPPABLE_MAGIC)
        .then(|| 8 + u64::from(u32::from_le_bytes(*size)))
}
