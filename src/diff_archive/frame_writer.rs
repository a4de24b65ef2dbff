//! Writer of members in frames: frames are compressed in parallel and written in order.
//!
//! The cuts between frames depend only on the members, so the archive is the same on any number of
//! processors, and the number of frames is known before anything is compressed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use crate::diff_archive::compression::{FAST, FrameCompression, FrameCompressor};
use crate::diff_archive::content_index::{ContentLocation, IndexRecord};
use crate::diff_archive::error::WriteError;
use crate::diff_archive::frame_table::StoredFrame;
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::limits::MAX_RAW_FRAME;
use crate::diff_archive::member::{END, padding};
use crate::diff_archive::sources::ContentProvider;
use crate::digest::{Digest, Hasher};
use crate::entry::Entry;
use crate::report::{Event, Job, Monitor};

/// Raw bytes of all frames that are compressed in parallel at a time.
const WINDOW: u64 = 64 << 20;
/// Pieces of a large member that are compressed in parallel at a time: they are in memory.
const PIECES: usize = 32;
const BUFFER: usize = 128 << 10;
/// Bytes at the beginning of a piece by which it counts as compressed or not.
const SAMPLE: usize = 256 << 10;

/// A member to be written.
pub(super) struct OutgoingMember<'p> {
    pub header: Vec<u8>,
    pub body: MemberBody<'p>,
}

/// Content of a member.
#[derive(Clone, Copy)]
pub(super) enum MemberBody<'p> {
    /// The member is its header.
    Empty,
    /// The end of the archive, which is in place of a header.
    End,
    File {
        entry: &'p Entry,
        size: u64,
        digest: Digest,
    },
    /// A patch, at an offset of the scratch file.
    Patch {
        group: &'p DeltaGroup,
        spool: &'p File,
        at: u64,
    },
}

/// Writes members in frames.
#[derive(Clone, Copy)]
pub(super) struct FrameWriter<'p> {
    pub content: &'p dyn ContentProvider,
    pub compression: FrameCompression,
    pub level: i32,
    /// Raw bytes until which members share a frame.
    pub group_limit: u64,
    pub monitor: &'p dyn Monitor,
}

/// Frames that were written, and the location of each content in them.
#[derive(Default)]
pub(super) struct WrittenFrames {
    pub frames: Vec<StoredFrame>,
    pub index: Vec<IndexRecord>,
}

/// Members that share a frame, or one member and its frames; with their number of raw bytes.
struct FrameMembers<'p> {
    members: Vec<OutgoingMember<'p>>,
    raw: u64,
}

/// The pieces of a large member, each of which becomes a frame.
struct MemberPieces<'w, 'p, W> {
    writer: &'w FrameWriter<'p>,
    is_patch: bool,
    full: Vec<Vec<u8>>,
    current: Vec<u8>,
    written: &'w mut WrittenFrames,
    to: W,
}

/// Receiver of the raw bytes of a member.
type RawSink<'s> = dyn FnMut(&[u8]) -> Result<(), WriteError> + 's;

impl OutgoingMember<'_> {
    /// The end of an archive.
    pub fn end() -> Self {
        OutgoingMember { header: END.to_vec(), body: MemberBody::End }
    }

    /// Number of raw bytes: header, content and padding.
    fn raw_length(&self) -> u64 {
        let body = self.body_length();
        self.header.len() as u64 + body + padding(body) as u64
    }

    fn body_length(&self) -> u64 {
        match self.body {
            MemberBody::Empty | MemberBody::End => 0,
            MemberBody::File { size, .. } => size,
            MemberBody::Patch { group, .. } => group.patch_length,
        }
    }

    fn is_patch(&self) -> bool {
        matches!(self.body, MemberBody::Patch { .. })
    }
}

impl WrittenFrames {
    fn write(&mut self, frame: &[u8], to: &mut impl Write) -> Result<(), WriteError> {
        self.frames.push(StoredFrame::of(frame));
        to.write_all(frame).map_err(WriteError::Output)
    }

    /// Adds the locations of `members`, which begin in the next frame.
    fn add_locations(&mut self, members: &FrameMembers<'_>) {
        let frame = self.frames.len() as u64;
        let mut at = 0;
        for member in &members.members {
            let offset = at + member.header.len() as u64;
            let location = |group| ContentLocation { frame, offset, group };
            match member.body {
                MemberBody::Empty | MemberBody::End => {}
                MemberBody::File { size, digest, .. } => {
                    self.index.push(IndexRecord { digest, size, place: location(None) })
                }
                MemberBody::Patch { group, .. } => {
                    let place = location(Some(group.number));
                    self.index.extend(group.targets.iter().map(|target| IndexRecord {
                        digest: target.digest,
                        size: target.size,
                        place,
                    }));
                }
            }
            at += member.raw_length();
        }
    }
}

impl FrameMembers<'_> {
    /// Number of frames that these members fill.
    fn frame_count(&self) -> u64 {
        self.raw.div_ceil(MAX_RAW_FRAME as u64)
    }

    fn is_large(&self) -> bool {
        self.raw > MAX_RAW_FRAME as u64
    }

    fn has_only_patches(&self) -> bool {
        let mut members = self.members.iter();
        members.all(|member| member.is_patch() || matches!(member.body, MemberBody::End))
    }
}

impl<'p> FrameWriter<'p> {
    /// Number of frames that [`write_members`](Self::write_members) writes.
    pub fn count_frames(&self, members: impl Iterator<Item = OutgoingMember<'p>>) -> u64 {
        self.cut_into_frames(members).map(|members| members.frame_count()).sum()
    }

    /// Compresses `raw` into as many frames as it needs.
    pub fn compress_all(&self, raw: &[u8]) -> Result<Vec<u8>, WriteError> {
        let mut compressor = FrameCompressor::new(self.compression);
        let frames = raw
            .chunks(MAX_RAW_FRAME)
            .map(|raw| compressor.compress(raw, self.level))
            .collect::<io::Result<Vec<_>>>();
        Ok(frames.map_err(WriteError::Compress)?.concat())
    }

    /// Writes `members` in frames.
    pub fn write_members(
        &self,
        members: impl Iterator<Item = OutgoingMember<'p>>,
        to: &mut impl Write,
    ) -> Result<WrittenFrames, WriteError> {
        let mut written = WrittenFrames::default();
        let mut frames = self.cut_into_frames(members).peekable();
        while let Some(frame) = frames.next() {
            if frame.is_large() {
                self.write_large(&frame, &mut written, to)?;
                continue;
            }

            let mut raw = frame.raw;
            let mut window = vec![frame];
            while let Some(frame) =
                frames.next_if(|next| !next.is_large() && raw + next.raw <= WINDOW)
            {
                raw += frame.raw;
                window.push(frame);
            }

            let compressed: Vec<Vec<u8>> = window
                .par_iter()
                .map_init(
                    || (FrameCompressor::new(self.compression), Vec::new()),
                    |(compressor, raw), frame| self.compress_frame(frame, compressor, raw),
                )
                .collect::<Result<_, WriteError>>()?;
            for (frame, bytes) in window.iter().zip(compressed) {
                written.add_locations(frame);
                written.write(&bytes, to)?;
            }
        }
        Ok(written)
    }

    /// Compresses members that share a frame; `raw` is a buffer.
    fn compress_frame(
        &self,
        frame: &FrameMembers<'_>,
        compressor: &mut FrameCompressor,
        raw: &mut Vec<u8>,
    ) -> Result<Vec<u8>, WriteError> {
        raw.clear();
        for member in &frame.members {
            self.copy_member(member, &mut |bytes| {
                raw.extend_from_slice(bytes);
                Ok(())
            })?;
        }

        // A higher level would save nothing of a patch.
        let level = if frame.has_only_patches() { FAST } else { self.level };
        compressor.compress(raw, level).map_err(WriteError::Compress)
    }

    /// Writes a member that fills several frames, and perhaps the end of the archive.
    fn write_large(
        &self,
        frame: &FrameMembers<'_>,
        written: &mut WrittenFrames,
        to: &mut impl Write,
    ) -> Result<(), WriteError> {
        written.add_locations(frame);
        let mut pieces = MemberPieces {
            writer: self,
            is_patch: frame.has_only_patches(),
            full: Vec::new(),
            current: Vec::new(),
            written,
            to,
        };
        for member in &frame.members {
            self.copy_member(member, &mut |bytes| pieces.push(bytes))?;
        }
        pieces.finish()
    }

    /// Passes header, content and padding of a member to `sink`.
    fn copy_member(
        &self,
        member: &OutgoingMember<'_>,
        sink: &mut RawSink<'_>,
    ) -> Result<(), WriteError> {
        sink(&member.header)?;
        match member.body {
            MemberBody::Empty | MemberBody::End => {}
            MemberBody::File { entry, size, digest } => {
                self.copy_file(entry, (size, digest), sink)?
            }
            MemberBody::Patch { group, spool, at } => {
                copy_patch(spool, at, group.patch_length, sink)?
            }
        }
        sink(&[0; 512][..padding(member.body_length())])
    }

    /// Copies a file; fails unless it has the size and digest of the manifest.
    fn copy_file(
        &self,
        entry: &Entry,
        (size, digest): (u64, Digest),
        sink: &mut RawSink<'_>,
    ) -> Result<(), WriteError> {
        let failed = |source| WriteError::Content { path: entry.path.clone(), source };
        let changed = || WriteError::Changed(entry.path.clone());

        let mut from = self.content.open(entry).map_err(failed)?;
        let mut buffer = vec![0; BUFFER.min(usize::try_from(size).unwrap_or(BUFFER) + 1)];
        let mut hasher = Hasher::new();
        let mut left = size;
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failed(e)),
            };
            left = left.checked_sub(n as u64).ok_or_else(changed)?;
            hasher.update(&buffer[..n]);
            sink(&buffer[..n])?;
            self.monitor.event(Event::Advanced { job: Job::Write, by: n as u64 });
        }

        if left > 0 || hasher.finish() != digest { Err(changed()) } else { Ok(()) }
    }

    /// Cuts members into frames (clause 5).
    fn cut_into_frames(
        &self,
        members: impl Iterator<Item = OutgoingMember<'p>>,
    ) -> impl Iterator<Item = FrameMembers<'p>> {
        let limit = self.group_limit;
        let mut members = members.peekable();
        std::iter::from_fn(move || {
            let first = members.next()?;
            let (mut raw, patches) = (first.raw_length(), first.is_patch());
            let mut frame = vec![first];
            while let Some(member) = members.next_if(|next| match next.body {
                MemberBody::End => fits_last_frame(raw),
                _ => raw + next.raw_length() <= limit && next.is_patch() == patches,
            }) {
                raw += member.raw_length();
                frame.push(member);
            }
            Some(FrameMembers { members: frame, raw })
        })
    }
}

impl<W: Write> MemberPieces<'_, '_, W> {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            if self.current.len() == MAX_RAW_FRAME {
                self.full.push(std::mem::take(&mut self.current));
                if self.full.len() == PIECES {
                    self.write_full()?;
                }
            }
            let n = bytes.len().min(MAX_RAW_FRAME - self.current.len());
            self.current.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), WriteError> {
        self.full.push(std::mem::take(&mut self.current));
        self.write_full()
    }

    fn write_full(&mut self) -> Result<(), WriteError> {
        let (writer, is_patch) = (self.writer, self.is_patch);
        let compressed: Vec<Vec<u8>> = self
            .full
            .par_iter()
            .map_init(
                || FrameCompressor::new(writer.compression),
                |compressor, raw| {
                    let level = if is_patch || is_compressed(raw)? { FAST } else { writer.level };
                    compressor.compress(raw, level)
                },
            )
            .collect::<io::Result<_>>()
            .map_err(WriteError::Compress)?;

        self.full.clear();
        for frame in compressed {
            self.written.write(&frame, &mut self.to)?;
        }
        Ok(())
    }
}

/// Whether the end of the archive fits into the last frame of `raw` bytes.
fn fits_last_frame(raw: u64) -> bool {
    let frame = MAX_RAW_FRAME as u64;
    (raw - 1) % frame + 1 + END.len() as u64 <= frame
}

/// Whether a higher level would save nothing of a piece: it is compressed data.
fn is_compressed(raw: &[u8]) -> io::Result<bool> {
    let sample = &raw[..raw.len().min(SAMPLE)];
    let packed = zstd::bulk::compress(sample, FAST)?;
    Ok(packed.len() > sample.len() / 10 * 9)
}

fn copy_patch(
    spool: &File,
    mut at: u64,
    mut left: u64,
    sink: &mut RawSink<'_>,
) -> Result<(), WriteError> {
    let mut buffer = vec![0; BUFFER];
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        spool.read_exact_at(&mut buffer[..n], at).map_err(WriteError::Spool)?;
        sink(&buffer[..n])?;
        at += n as u64;
        left -= n as u64;
    }
    Ok(())
}
