//! Strict reader: a text that is not canonical is refused.
//!
//! The reader hashes the text while it parses, so the id costs no second pass.

use std::io::{self, BufRead, Read};
use std::sync::OnceLock;

use memchr::{memchr_iter, memrchr};
use rayon::prelude::*;

use super::{
    HEAD, MAX_LINE, MAX_TEXT, Manifest, ManifestError, PIECE, SMALL_MANIFEST, WINDOW_LOG, line,
};
use crate::digest::Hasher;
use crate::entry::Entry;
use crate::generation::GenerationId;

/// Bytes of text that are read while the bytes before them are parsed.
const WINDOW: u64 = 1 << 20;

impl Manifest {
    /// Reads a canonical text to its end; the caller limits its length.
    pub fn parse(from: impl BufRead) -> Result<Self, ManifestError> {
        Self::parse_limited(from, usize::MAX)
    }

    fn parse_limited(from: impl BufRead, max_entries: usize) -> Result<Self, ManifestError> {
        let mut hasher = Hasher::new();
        let entries = read_lines(from, &mut hasher, max_entries)?;
        let manifest = Manifest::from_sorted(entries)?;

        // There is only one canonical text, so the digest of this one is the id.
        Ok(Manifest { id: OnceLock::from(GenerationId(hasher.finish())), ..manifest })
    }

    /// Reads a canonical text of at most `max_text` bytes, compressed with zstd.
    pub fn read_zstd(from: impl Read, max_text: u64) -> Result<Self, ManifestError> {
        Self::read_zstd_limited(from, max_text, usize::MAX)
    }

    /// Reads a published manifest that has as many entries as its catalog states.
    ///
    /// A small one is read in any case. Without the limit, a few hundred KiB could become entries
    /// that take hundreds of MiB.
    pub fn read_published(from: impl Read, entries: u64) -> Result<Self, ManifestError> {
        let entries = usize::try_from(entries).unwrap_or(usize::MAX);
        Self::read_zstd_limited(from, MAX_TEXT, entries.max(SMALL_MANIFEST))
    }

    fn read_zstd_limited(
        from: impl Read,
        max_text: u64,
        max_entries: usize,
    ) -> Result<Self, ManifestError> {
        let mut decoder = zstd::Decoder::new(from)?;
        decoder.window_log_max(WINDOW_LOG)?;
        let text =
            io::BufReader::with_capacity(128 << 10, Limited { from: decoder, left: max_text });
        Self::parse_limited(text, max_entries)
    }
}

/// Reads a fragment to its end: entries in tree order, each path once; the caller limits its
/// length.
pub fn parse_entries(from: impl BufRead) -> Result<Vec<Entry>, ManifestError> {
    read_lines(from, &mut Hasher::new(), usize::MAX)
}

/// Reads a window of text at a time; while one window is hashed and parsed, the next is read.
fn read_lines(
    mut from: impl BufRead,
    hasher: &mut Hasher,
    max_entries: usize,
) -> Result<Vec<Entry>, ManifestError> {
    let mut head = Vec::new();
    from.by_ref().take(HEAD.len() as u64).read_to_end(&mut head)?;
    if head != HEAD {
        return Err(fault(1, "it does not begin like a manifest that this program knows"));
    }
    hasher.update(&head);

    let mut entries: Vec<Entry> = Vec::new();
    let (mut window, mut next) = (Vec::new(), Vec::new());
    // Number of lines before the window.
    let mut lines_before = 1;
    // The window begins with the last, incomplete line of the one before, which is hashed already.
    let mut hashed = 0;
    from.by_ref().take(WINDOW).read_to_end(&mut window)?;
    while !window.is_empty() {
        let complete = memrchr(b'\n', &window).map_or(0, |end| end + 1);
        let (lines, incomplete) = window.split_at(complete);
        next.clear();
        next.extend_from_slice(incomplete);

        let new = &window[hashed..];
        let mut parsed = Ok(0);
        let read = rayon::in_place_scope(|scope| {
            scope.spawn(|_| hasher.update(new));
            scope.spawn(|_| parsed = parse_lines(lines, lines_before, &mut entries));
            from.by_ref().take(WINDOW).read_to_end(&mut next)
        });

        lines_before += parsed?;
        if entries.len() > max_entries {
            return Err(fault(lines_before, "it has more entries than its catalog states"));
        }
        if incomplete.len() > MAX_LINE {
            return Err(fault(lines_before + 1, "it is longer than 4 MiB"));
        }
        if read? == 0 && !incomplete.is_empty() {
            return Err(fault(lines_before + 1, "it is cut off"));
        }
        hashed = incomplete.len();
        std::mem::swap(&mut window, &mut next);
    }
    Ok(entries)
}

/// Parses complete lines, and appends their entries; returns the number of lines.
fn parse_lines(
    text: &[u8],
    lines_before: u64,
    entries: &mut Vec<Entry>,
) -> Result<u64, ManifestError> {
    let mut begin = 0;
    let lines: Vec<&[u8]> = memchr_iter(b'\n', text)
        .map(|end| &text[std::mem::replace(&mut begin, end + 1)..=end])
        .collect();

    let parsed: Vec<Result<Vec<Entry>, (usize, &'static str)>> =
        lines.par_chunks(PIECE).map(parse_piece).collect();

    entries.reserve(lines.len());
    for (piece, number) in parsed.into_iter().zip((lines_before + 1..).step_by(PIECE)) {
        let piece = piece.map_err(|(at, why)| fault(number + at as u64, why))?;
        if let (Some(last), Some(first)) = (entries.last(), piece.first())
            && last.path >= first.path
        {
            return Err(fault(number, OUT_OF_ORDER));
        }
        entries.extend(piece);
    }
    Ok(lines.len() as u64)
}

const OUT_OF_ORDER: &str = "it is not in order";

/// The entries of some lines, or the index and fault of the first bad line.
fn parse_piece(lines: &[&[u8]]) -> Result<Vec<Entry>, (usize, &'static str)> {
    let mut entries: Vec<Entry> = Vec::with_capacity(lines.len());
    for (at, text) in lines.iter().enumerate() {
        let content = text.strip_suffix(b"\n").unwrap_or(text);
        let entry = line::parse(content).map_err(|why| (at, why))?;
        if entries.last().is_some_and(|last| last.path >= entry.path) {
            return Err((at, OUT_OF_ORDER));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn fault(line: u64, why: &'static str) -> ManifestError {
    ManifestError::Line { line, why }
}

/// Reader that fails after a number of bytes: the decompressed text has no other limit.
struct Limited<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.left = self
            .left
            .checked_sub(length as u64)
            .ok_or_else(|| io::Error::other("it is larger than it may be"))?;
        Ok(length)
    }
}
