//! The only decoder of frames: it gets a frame whose digest was compared, whole and in memory.
//!
//! [`HeadFrames`] reads the frames of a head, whose digest covers them all. [`VerifiedFrames`] reads
//! the frames of a table: each is read into memory, compared with its digest, and then decoded.

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::Arc;

use crate::diff_archive::compression::FrameCompression;
use crate::diff_archive::error::{DecodeFault, FrameFault};
use crate::diff_archive::frame_table::FrameTable;
use crate::diff_archive::limits::MAX_RAW_FRAME;
use crate::digest::Digest;

/// Magic of a zstd frame that is no skippable one.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

thread_local! {
    static DECODED: Cell<u64> = const { Cell::new(0) };
}

/// Number of frames that this thread has given to a decompressor.
///
/// Tests count with it that no frame was decoded before its digest was compared.
pub fn decoded_frames() -> u64 {
    DECODED.get()
}

/// Raw bytes of one frame, of which some are read.
struct RawFrame {
    decoder: FrameDecoder,
    bytes: Vec<u8>,
    position: usize,
}

/// Decompressor of single frames.
enum FrameDecoder {
    Zstd(zstd::bulk::Decompressor<'static>),
    Gzip,
}

/// Reads the raw bytes of the frames in a verified head, to its end.
pub(super) struct HeadFrames<'h> {
    rest: &'h [u8],
    frame: RawFrame,
}

/// Reads the raw bytes of adjacent frames of a table; each is verified before it is decoded.
///
/// The end is reported only after the reader of stored bytes has reported its own.
pub struct VerifiedFrames<R> {
    from: R,
    table: Arc<FrameTable>,
    /// Number of the next frame that `from` yields.
    next: usize,
    /// Number of the first frame that `from` does not yield.
    end: usize,
    stored: Vec<u8>,
    frame: RawFrame,
}

impl RawFrame {
    fn new(compression: FrameCompression) -> Self {
        let decoder = match compression {
            FrameCompression::Zstd => FrameDecoder::Zstd(zstd::bulk::Decompressor::default()),
            FrameCompression::Gzip => FrameDecoder::Gzip,
        };
        RawFrame { decoder, bytes: Vec::new(), position: 0 }
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.position..]
    }

    /// Decodes the first frame of `stored`; returns its length.
    ///
    /// This is the only call of a decompressor. Its caller has compared the digest of the bytes.
    fn decode(&mut self, stored: &[u8]) -> Result<usize, DecodeFault> {
        DECODED.set(DECODED.get() + 1);
        self.position = 0;
        self.bytes.clear();

        let length = match &mut self.decoder {
            FrameDecoder::Zstd(decoder) => decode_zstd(decoder, stored, &mut self.bytes),
            FrameDecoder::Gzip => decode_gzip(stored, &mut self.bytes),
        };
        let is_valid = length.is_ok() && (1..=MAX_RAW_FRAME).contains(&self.bytes.len());
        if !is_valid {
            self.bytes.clear();
        }
        let length = length.map_err(DecodeFault::Decompress)?;
        if is_valid { Ok(length) } else { Err(DecodeFault::RawLength) }
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.unread().len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.unread()[..count]);
        self.position += count;
        count
    }
}

fn decode_zstd(
    decoder: &mut zstd::bulk::Decompressor<'static>,
    stored: &[u8],
    raw: &mut Vec<u8>,
) -> io::Result<usize> {
    if !stored.starts_with(&ZSTD_MAGIC) {
        return Err(io::Error::other("it is no zstd frame"));
    }
    let length = zstd::zstd_safe::find_frame_compressed_size(stored)
        .map_err(|code| io::Error::other(zstd::zstd_safe::get_error_name(code)))?;
    let frame = stored.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;

    // The buffer never grows, so its capacity bounds the output.
    raw.reserve_exact(MAX_RAW_FRAME);
    decoder.decompress_to_buffer(frame, raw)?;
    Ok(length)
}

fn decode_gzip(stored: &[u8], raw: &mut Vec<u8>) -> io::Result<usize> {
    let mut decoder = flate2::bufread::GzDecoder::new(stored);
    decoder.by_ref().take(MAX_RAW_FRAME as u64 + 1).read_to_end(raw)?;
    Ok(stored.len() - decoder.into_inner().len())
}

impl<'h> HeadFrames<'h> {
    /// Reads the frames of `bytes`, whose digest the caller has compared.
    pub fn new(bytes: &'h [u8], compression: FrameCompression) -> Self {
        HeadFrames { rest: bytes, frame: RawFrame::new(compression) }
    }
}

impl Read for HeadFrames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.frame.unread().is_empty() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            let length = self.frame.decode(self.rest).map_err(FrameFault::InHead)?;
            self.rest = &self.rest[length..];
        }
        Ok(self.frame.read(buffer))
    }
}

impl<R: Read> VerifiedFrames<R> {
    /// Reads all frames of `table`; `from` yields the bytes after the head.
    pub fn new(from: R, table: Arc<FrameTable>, compression: FrameCompression) -> Self {
        let end = table.count();
        VerifiedFrames::part(from, table, 0..end, compression)
    }

    /// Reads the frames `frames` of `table`; `from` yields their bytes.
    pub fn part(
        from: R,
        table: Arc<FrameTable>,
        frames: std::ops::Range<usize>,
        compression: FrameCompression,
    ) -> Self {
        VerifiedFrames {
            from,
            table,
            next: frames.start,
            end: frames.end,
            stored: Vec::new(),
            frame: RawFrame::new(compression),
        }
    }

    /// Moves to the raw offset `offset` of the frame `number`, or of those after it.
    ///
    /// Frames before it are neither decoded nor compared. Returns false if it was passed already.
    pub fn move_to(&mut self, number: usize, offset: u64) -> io::Result<bool> {
        let loaded = self.next.checked_sub(1).filter(|_| !self.frame.bytes.is_empty());
        if loaded != Some(number) {
            if self.next > number {
                return Ok(false);
            }
            self.frame.bytes.clear();
            self.frame.position = 0;
            while self.next < number {
                self.read_stored()?;
            }
            self.load()?;
        }
        let Some(mut gap) = offset.checked_sub(self.frame.position as u64) else {
            return Ok(false);
        };
        loop {
            let unread = self.frame.unread().len();
            if gap <= unread as u64 {
                self.frame.position += gap as usize;
                return Ok(true);
            }
            gap -= unread as u64;
            if !self.load()? {
                return Err(FrameFault::CutOff.into());
            }
        }
    }

    /// Raw bytes of the next frame; `None` at the end.
    pub(super) fn next_frame(&mut self) -> io::Result<Option<&[u8]>> {
        if !self.load()? {
            return Ok(None);
        }
        self.frame.position = self.frame.bytes.len();
        Ok(Some(&self.frame.bytes))
    }

    /// Reads, compares and decodes the next frame; false at the end.
    fn load(&mut self) -> io::Result<bool> {
        if self.next >= self.end {
            self.frame.bytes.clear();
            self.frame.position = 0;
            return self.expect_end();
        }

        let number = self.next;
        let expected = self.read_stored()?;
        if Digest::of(&self.stored) != expected {
            return Err(FrameFault::Digest(number).into());
        }

        let fault = match self.frame.decode(&self.stored) {
            Ok(length) if length == self.stored.len() => return Ok(true),
            Ok(_) => DecodeFault::Trailing,
            Err(fault) => fault,
        };
        self.frame.bytes.clear();
        Err(FrameFault::Decode { number, fault }.into())
    }

    /// Reads the next frame as it is stored; returns the digest that it must have.
    fn read_stored(&mut self) -> io::Result<Digest> {
        let frame = *self.table.frame(self.next).ok_or(FrameFault::CutOff)?;
        self.next += 1;
        self.stored.resize(frame.length as usize, 0);
        self.from.read_exact(&mut self.stored).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FrameFault::CutOff.into(),
            _ => error,
        })?;
        Ok(frame.sha256)
    }

    /// Fails unless nothing follows; returns false.
    fn expect_end(&mut self) -> io::Result<bool> {
        loop {
            match self.from.read(&mut [0]) {
                Ok(0) => return Ok(false),
                Ok(_) => return Err(FrameFault::Trailing.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl<R: Read> Read for VerifiedFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.frame.unread().is_empty() && !self.load()? {
            return Ok(0);
        }
        Ok(self.frame.read(buffer))
    }
}
