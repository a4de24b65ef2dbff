//! Members into frames, frames into an archive: compressed side by side, written in order.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use crate::diff_archive::ContentProvider;
use crate::diff_archive::content_index::{ContentLocation, IndexRecord};
use crate::diff_archive::frames::{Encoder, FAST, FrameCompression};
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::member::padding;
use crate::diff_archive::write::WriteError;
use crate::digest::{Digest, Hasher};
use crate::entry::Entry;
use crate::report::{Event, Job, Monitor};

/// About this many raw bytes make a frame: enough to compress well, few enough to fetch one file by range.
const FRAME: u64 = 1 << 20;
/// A frame with more raw bytes is compressed straight into the archive, since its output may not fit into
/// memory; others beside each other.
const LARGE: u64 = 32 << 20;
/// Frames of about this many raw bytes are compressed beside each other at a time.
const WINDOW: u64 = 96 << 20;
const BUFFER: usize = 128 << 10;
/// So much of a large file tells whether it is compressed.
const SAMPLE: u64 = 256 << 10;

/// One member on its way into a frame.
pub(super) struct ArchivePart<'p> {
    pub header: Vec<u8>,
    pub body: Body<'p>,
}

/// What follows a member's header.
#[derive(Clone, Copy)]
pub(super) enum Body<'p> {
    Nothing,
    File { entry: &'p Entry, size: u64, digest: Digest },
    Patch { group: &'p DeltaGroup, spool: &'p File, at: u64 },
}

/// Where the contents come from, and how they are compressed.
#[derive(Clone, Copy)]
pub(super) struct FrameWriter<'p> {
    pub content: &'p dyn ContentProvider,
    pub compression: FrameCompression,
    pub level: i32,
    pub monitor: &'p dyn Monitor,
}

/// The archive: counts and hashes what is written to it.
pub(super) struct Output<W> {
    to: W,
    hasher: Hasher,
    pub length: u64,
}

struct WrittenFrame<'p> {
    parts: Vec<ArchivePart<'p>>,
    raw: u64,
}

impl ArchivePart<'_> {
    fn raw(&self) -> u64 {
        let body = match self.body {
            Body::Nothing => 0,
            Body::File { size, .. } => size,
            Body::Patch { group, .. } => group.patch_length,
        };
        self.header.len() as u64 + body + padding(body) as u64
    }

    fn is_patch(&self) -> bool {
        matches!(self.body, Body::Patch { .. })
    }
}

impl FrameWriter<'_> {
    /// Writes one frame that holds `raw`.
    pub fn bytes(&self, raw: &[u8], to: &mut Output<impl Write>) -> Result<(), WriteError> {
        let mut encoder = Encoder::new(self.compression, self.level, raw.len() as u64, to)
            .map_err(WriteError::Compress)?;
        encoder
            .write_all(raw)
            .and_then(|()| encoder.finish().map(|_| ()))
            .map_err(WriteError::Output)
    }

    /// Writes `parts` in frames, and records where each content went.
    pub fn parts<'p>(
        &self,
        parts: impl Iterator<Item = ArchivePart<'p>>,
        to: &mut Output<impl Write>,
        index: &mut Vec<IndexRecord>,
    ) -> Result<(), WriteError> {
        let mut frames = frames(parts).peekable();
        while let Some(frame) = frames.peek() {
            if frame.raw > LARGE {
                let Some(frame) = frames.next() else { break };
                let offset = to.length;
                let places = self.frame(&frame, &mut *to)?;
                record(&frame, &places, (offset, to.length - offset), index);
                continue;
            }
            let mut window = Vec::new();
            let mut raw = 0;
            while let Some(frame) =
                frames.next_if(|next| next.raw <= LARGE && raw + next.raw <= WINDOW)
            {
                raw += frame.raw;
                window.push(frame);
            }
            let compress = |frame: &WrittenFrame<'_>| {
                let mut bytes = Vec::new();
                let places = self.frame(frame, &mut bytes)?;
                Ok((bytes, places))
            };
            let compressed: Vec<(Vec<u8>, Vec<u64>)> =
                window.par_iter().map(compress).collect::<Result<_, WriteError>>()?;
            for (frame, (bytes, places)) in window.iter().zip(compressed) {
                record(frame, &places, (to.length, bytes.len() as u64), index);
                to.write_all(&bytes).map_err(WriteError::Output)?;
            }
        }
        Ok(())
    }

    /// Compresses one frame; returns where in its raw bytes each body begins.
    fn frame(&self, frame: &WrittenFrame<'_>, to: impl Write) -> Result<Vec<u64>, WriteError> {
        let level = if self.is_compressed(frame)? { FAST } else { self.level };
        let mut encoder =
            Encoder::new(self.compression, level, frame.raw, to).map_err(WriteError::Compress)?;
        let mut places = Vec::with_capacity(frame.parts.len());
        let mut at = 0;
        let mut buffer = vec![0; BUFFER];
        for part in &frame.parts {
            encoder.write_all(&part.header).map_err(WriteError::Output)?;
            places.push(at + part.header.len() as u64);
            let length = match part.body {
                Body::Nothing => 0,
                Body::File { entry, size, digest } => {
                    self.file(entry, (size, digest), &mut buffer, &mut encoder)?;
                    size
                }
                Body::Patch { group, spool, at } => {
                    copy_patch(spool, at, group.patch_length, &mut buffer, &mut encoder)?;
                    group.patch_length
                }
            };
            encoder.write_all(&[0; 512][..padding(length)]).map_err(WriteError::Output)?;
            at += part.raw();
        }
        encoder.finish().map_err(WriteError::Output)?;
        Ok(places)
    }

    /// Whether a higher level would find nothing in a frame: in patches, and in a large file of which the
    /// beginning says so.
    fn is_compressed(&self, frame: &WrittenFrame<'_>) -> Result<bool, WriteError> {
        let [ArchivePart { body: Body::File { entry, size, .. }, .. }] = &frame.parts[..] else {
            return Ok(frame.parts.iter().all(ArchivePart::is_patch));
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

    /// Copies a file, which has to be what the manifest says it is.
    fn file(
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

/// Puts members into frames of about [`FRAME`] bytes; a larger member, and the first patch after other
/// members, begins a frame of its own.
fn frames<'p>(
    parts: impl Iterator<Item = ArchivePart<'p>>,
) -> impl Iterator<Item = WrittenFrame<'p>> {
    let mut parts = parts.peekable();
    std::iter::from_fn(move || {
        let first = parts.next()?;
        let (mut raw, patches) = (first.raw(), first.is_patch());
        let mut frame = vec![first];
        while let Some(part) =
            parts.next_if(|next| raw + next.raw() <= FRAME && next.is_patch() == patches)
        {
            raw += part.raw();
            frame.push(part);
        }
        Some(WrittenFrame { parts: frame, raw })
    })
}

fn record(
    frame: &WrittenFrame<'_>,
    places: &[u64],
    (frame_offset, frame_length): (u64, u64),
    index: &mut Vec<IndexRecord>,
) {
    for (part, offset) in frame.parts.iter().zip(places) {
        let place = |group| ContentLocation { frame_offset, frame_length, offset: *offset, group };
        match part.body {
            Body::Nothing => {}
            Body::File { size, digest, .. } => {
                index.push(IndexRecord { digest, size, place: place(None) })
            }
            Body::Patch { group, .. } => {
                for target in &group.targets {
                    let place = place(Some(group.number));
                    index.push(IndexRecord { digest: target.digest, size: target.size, place });
                }
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

/// Reads until `buffer` is full or the input ends: pieces of one size, whatever the input does, so that
/// the compressor sees the same every time.
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

impl<W: Write> Output<W> {
    pub fn new(to: W) -> Self {
        Output { to, hasher: Hasher::new(), length: 0 }
    }

    /// What was written until now.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    pub fn finish(mut self) -> io::Result<(u64, Digest)> {
        self.to.flush()?;
        Ok((self.length, self.hasher.finish()))
    }
}

impl<W: Write> Write for Output<W> {
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
