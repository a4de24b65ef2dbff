//! Reading, strictly: what is not canonical is refused.

use std::io::{self, BufRead, Read};
use std::sync::OnceLock;

use super::{HEAD, MAX_LINE, Manifest, ManifestError, WINDOW_LOG, line};
use crate::digest::Hasher;
use crate::entry::Entry;
use crate::generation::GenerationId;

impl Manifest {
    /// Reads a canonical text to its end; the caller limits its length.
    pub fn parse(from: impl BufRead) -> Result<Self, ManifestError> {
        let mut hasher = Hasher::new();
        let entries = lines(from, &mut hasher)?;
        let manifest = Manifest::from_sorted(entries)?;
        // There is one canonical text, so what was read is what would be written.
        Ok(Manifest { id: OnceLock::from(GenerationId(hasher.finish())), ..manifest })
    }

    /// Reads a canonical text of at most `max_text` bytes, compressed with zstd.
    pub fn read_zstd(from: impl Read, max_text: u64) -> Result<Self, ManifestError> {
        let mut decoder = zstd::Decoder::new(from)?;
        decoder.window_log_max(WINDOW_LOG)?;
        Self::parse(io::BufReader::with_capacity(128 << 10, Limited { from: decoder, left: max_text }))
    }
}

/// Reads a fragment to its end: entries that are sorted and unique; the caller limits its length.
pub fn parse_entries(from: impl BufRead) -> Result<Vec<Entry>, ManifestError> {
    lines(from, &mut Hasher::new())
}

fn lines(mut from: impl BufRead, hasher: &mut Hasher) -> Result<Vec<Entry>, ManifestError> {
    let mut text = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    for number in 1.. {
        let fault = |why: &str| ManifestError::Line { line: number, why: why.to_owned() };
        text.clear();
        from.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut text)?;
        hasher.update(&text);
        if number == 1 {
            if text != HEAD {
                return Err(fault("it does not begin like a manifest that this program knows"));
            }
            continue;
        }
        let Some((end, content)) = text.split_last() else { break };
        if *end != b'\n' {
            return Err(fault(if text.len() > MAX_LINE { "it is longer than 4 MiB" } else { "it is cut off" }));
        }
        let entry = line::parse(content).map_err(fault)?;
        if entries.last().is_some_and(|last| last.path >= entry.path) {
            return Err(fault("it is not in order"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Fails where a reader yields more than it may.
struct Limited<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other("it is larger than it may be"))?;
        Ok(n)
    }
}
