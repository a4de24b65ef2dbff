//! Writer of members in frames: frames are compressed in parallel and written in order.
//!
//! The cuts between frames depend only on the members, so the archive is the same on any number of
//! processors.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use crate::diff_archive::content_index::{ContentLocation, IndexRecord};
use crate::diff_archive::error::WriteError;
use crate::diff_archive::frames::{FAST, FrameCompression, FrameEncoder};
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::member::padding;
use crate::diff_archive::sources::ContentProvider;
use crate::digest::{Digest, Hasher};
use crate::entry::Entry;
use crate::report::{Event, Job, Monitor};

/// Usual number of raw bytes of a frame: enough to compress well, and to fetch one file by range.
const FRAME: u64 = 1 << 20;
/// A frame with more raw bytes is compressed directly into the archive.
///
/// Its output may not fit into memory. Smaller frames are compressed in parallel.
const LARGE: u64 = 32 << 20;
/// Raw bytes of all frames that are compressed in parallel at a time.
const WINDOW: u64 = 96 << 20;
const BUFFER: usize = 128 << 10;
/// Bytes at the beginning of a large file by which it counts as compressed or not.
const SAMPLE: u64 = 256 << 10;

/// A member to be written.
pub(super) struct OutgoingMember<'p> {
    pub header: Vec<u8>,
    pub body: MemberBody<'p>,
}

/// Content of a member.
#[derive(Clone, Copy)]
pub(super) enum MemberBody<'p> {
    Empty,
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
    pub monitor: &'p dyn Monitor,
}

/// The members of one frame, with their number of raw bytes.
struct FrameMembers<'p> {
    members: Vec<OutgoingMember<'p>>,
    raw: u64,
}

/// Position of a frame in the archive, in bytes.
#[derive(Clone, Copy)]
struct FramePosition {
    offset: u64,
    length: u64,
}

impl OutgoingMember<'_> {
    /// Number of raw bytes: header, content and padding.
    fn raw_length(&self) -> u64 {
        let body = match self.body {
            MemberBody::Empty => 0,
            MemberBody::File { size, .. } => size,
            MemberBody::Patch { group, .. } => group.patch_length,
        };
        self.header.len() as u64 + body + padding(body) as u64
    }

    fn is_patch(&self) -> bool {
        matches!(self.body, MemberBody::Patch { .. })
    }
}

impl FrameWriter<'_> {
    /// Writes one frame with the bytes `raw`.
    pub fn write_raw(
        &self,
        raw: &[u8],
        to: &mut HashingOutput<impl Write>,
    ) -> Result<(), WriteError> {
        let mut encoder = FrameEncoder::new(self.compression, self.level, raw.len() as u64, to)
            .map_err(WriteError::Compress)?;
        encoder
            .write_all(raw)
            .and_then(|()| encoder.finish().map(|_| ()))
            .map_err(WriteError::Output)
    }

    /// Writes `members` in frames, and adds the location of each content to `index`.
    pub fn write_members<'p>(
        &self,
        members: impl Iterator<Item = OutgoingMember<'p>>,
        to: &mut HashingOutput<impl Write>,
        index: &mut Vec<IndexRecord>,
    ) -> Result<(), WriteError> {
        let mut frames = cut_into_frames(members).peekable();
        while let Some(frame) = frames.next() {
            if frame.raw > LARGE {
                let offset = to.length;
                let offsets = self.compress_frame(&frame, &mut *to)?;
                let position = FramePosition { offset, length: to.length - offset };
                add_locations(&frame, &offsets, position, index);
                continue;
            }

            let mut raw = frame.raw;
            let mut window = vec![frame];
            while let Some(frame) =
                frames.next_if(|next| next.raw <= LARGE && raw + next.raw <= WINDOW)
            {
                raw += frame.raw;
                window.push(frame);
            }

            let compressed: Vec<(Vec<u8>, Vec<u64>)> = window
                .par_iter()
                .map(|frame| {
                    let mut bytes = Vec::new();
                    let offsets = self.compress_frame(frame, &mut bytes)?;
                    Ok((bytes, offsets))
                })
                .collect::<Result<_, WriteError>>()?;
            for (frame, (bytes, offsets)) in window.iter().zip(compressed) {
                let position = FramePosition { offset: to.length, length: bytes.len() as u64 };
                add_locations(frame, &offsets, position, index);
                to.write_all(&bytes).map_err(WriteError::Output)?;
            }
        }
        Ok(())
    }

    /// Compresses one frame; returns the offset of each content in its raw bytes.
    fn compress_frame(
        &self,
        frame: &FrameMembers<'_>,
        to: impl Write,
    ) -> Result<Vec<u64>, WriteError> {
        let level = if self.is_compressed(frame)? { FAST } else { self.level };
        let mut encoder = FrameEncoder::new(self.compression, level, frame.raw, to)
            .map_err(WriteError::Compress)?;

        let mut offsets = Vec::with_capacity(frame.members.len());
        let mut at = 0;
        let mut buffer = vec![0; BUFFER];
        for member in &frame.members {
            encoder.write_all(&member.header).map_err(WriteError::Output)?;
            offsets.push(at + member.header.len() as u64);

            let length = match member.body {
                MemberBody::Empty => 0,
                MemberBody::File { entry, size, digest } => {
                    self.copy_file(entry, (size, digest), &mut buffer, &mut encoder)?;
                    size
                }
                MemberBody::Patch { group, spool, at } => {
                    copy_patch(spool, at, group.patch_length, &mut buffer, &mut encoder)?;
                    group.patch_length
                }
            };
            encoder.write_all(&[0; 512][..padding(length)]).map_err(WriteError::Output)?;
            at += member.raw_length();
        }
        encoder.finish().map_err(WriteError::Output)?;
        Ok(offsets)
    }

    /// Whether a higher level would save nothing: for patches, and for large files of compressed
    /// data.
    fn is_compressed(&self, frame: &FrameMembers<'_>) -> Result<bool, WriteError> {
        let [OutgoingMember { body: MemberBody::File { entry, size, .. }, .. }] =
            &frame.members[..]
        else {
            return Ok(frame.members.iter().all(OutgoingMember::is_patch));
        };
        if *size < FRAME {
            return Ok(false);
        }

        let failed = |source| WriteError::Content { path: entry.path.clone(), source };
        let mut sample = Vec::new();
        self.content
            .open(entry)
            .map_err(failed)?
            .take(SAMPLE)
            .read_to_end(&mut sample)
            .map_err(failed)?;
        let packed = zstd::bulk::compress(&sample, FAST).map_err(WriteError::Compress)?;
        Ok(packed.len() > sample.len() / 10 * 9)
    }

    /// Copies a file; fails unless it has the size and digest of the manifest.
    fn copy_file(
        &self,
        entry: &Entry,
        (size, digest): (u64, Digest),
        buffer: &mut [u8],
        to: &mut impl Write,
    ) -> Result<(), WriteError> {
        let failed = |source| WriteError::Content { path: entry.path.clone(), source };
        let changed = || WriteError::Changed(entry.path.clone());

        let mut from = self.content.open(entry).map_err(failed)?;
        let mut hasher = Hasher::new();
        let mut left = size;
        loop {
            let n = fill(&mut from, buffer).map_err(failed)?;
            left = left.checked_sub(n as u64).ok_or_else(changed)?;
            hasher.update(&buffer[..n]);
            to.write_all(&buffer[..n]).map_err(WriteError::Output)?;
            self.monitor.event(Event::Advanced { job: Job::Write, by: n as u64 });
            if n < buffer.len() {
                break;
            }
        }

        if left > 0 || hasher.finish() != digest { Err(changed()) } else { Ok(()) }
    }
}

/// Cuts members into frames of about [`FRAME`] bytes.
///
/// A larger member, and the first patch after other members, begins a new frame.
fn cut_into_frames<'p>(
    members: impl Iterator<Item = OutgoingMember<'p>>,
) -> impl Iterator<Item = FrameMembers<'p>> {
    let mut members = members.peekable();
    std::iter::from_fn(move || {
        let first = members.next()?;
        let (mut raw, patches) = (first.raw_length(), first.is_patch());
        let mut frame = vec![first];
        while let Some(member) =
            members.next_if(|next| raw + next.raw_length() <= FRAME && next.is_patch() == patches)
        {
            raw += member.raw_length();
            frame.push(member);
        }
        Some(FrameMembers { members: frame, raw })
    })
}

fn add_locations(
    frame: &FrameMembers<'_>,
    offsets: &[u64],
    position: FramePosition,
    index: &mut Vec<IndexRecord>,
) {
    for (member, offset) in frame.members.iter().zip(offsets) {
        let location = |group| ContentLocation {
            frame_offset: position.offset,
            frame_length: position.length,
            offset: *offset,
            group,
        };
        match member.body {
            MemberBody::Empty => {}
            MemberBody::File { size, digest, .. } => {
                index.push(IndexRecord { digest, size, place: location(None) })
            }
            MemberBody::Patch { group, .. } => {
                let place = location(Some(group.number));
                index.extend(group.targets.iter().map(|target| IndexRecord {
                    digest: target.digest,
                    size: target.size,
                    place,
                }));
            }
        }
    }
}

fn copy_patch(
    spool: &File,
    mut at: u64,
    mut left: u64,
    buffer: &mut [u8],
    to: &mut impl Write,
) -> Result<(), WriteError> {
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        spool.read_exact_at(&mut buffer[..n], at).map_err(WriteError::Spool)?;
        to.write_all(&buffer[..n]).map_err(WriteError::Output)?;
        at += n as u64;
        left -= n as u64;
    }
    Ok(())
}

/// Reads until `buffer` is full or the input ends.
///
/// The compressor gets pieces of the same size in every run, so it writes the same bytes.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// The archive file: counts and hashes the bytes that are written to it.
pub(super) struct HashingOutput<W> {
    to: W,
    hasher: Hasher,
    pub length: u64,
}

impl<W: Write> HashingOutput<W> {
    pub fn new(to: W) -> Self {
        HashingOutput { to, hasher: Hasher::new(), length: 0 }
    }

    /// Digest of the bytes so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    pub fn finish(mut self) -> io::Result<(u64, Digest)> {
        self.to.flush()?;
        Ok((self.length, self.hasher.finish()))
    }
}

impl<W: Write> Write for HashingOutput<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
