//! Export for the mtree(8) program, so that a node can be checked without our tools.

use std::io::{self, BufRead, Read, Write};

use super::{MAX_LINE, Manifest, ManifestError, line};

/// First line of an exported text.
const EXPORT_HEAD: &[u8] = b"#mtree\n";

impl Manifest {
    /// Writes the plain mtree(5) text that `mtree -f` of Debian's mtree-netbsd accepts.
    ///
    /// That program aborts on unknown keywords. So the text has neither extended attributes nor
    /// hard-link groups.
    pub fn export_mtree(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(EXPORT_HEAD)?;
        let mut text = Vec::new();
        for entry in self.entries() {
            text.clear();
            line::write_plain(&mut text, entry);
            text.push(b'\n');
            to.write_all(&text)?;
        }
        to.flush()
    }

    /// Whether a text begins like an exported one.
    pub fn is_export(start: &[u8]) -> bool {
        start.starts_with(EXPORT_HEAD)
    }

    /// Reads an exported text to its end; the caller limits its length.
    ///
    /// It has no extended attributes and no hard-link groups, so the id is usually another one.
    pub fn parse_export(mut from: impl BufRead) -> Result<Self, ManifestError> {
        let mut entries = Vec::new();
        let mut text = Vec::new();
        for number in 1u64.. {
            text.clear();
            if from.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut text)? == 0 {
                break;
            }
            if number == 1 && text == EXPORT_HEAD {
                continue;
            }

            let content = text.strip_suffix(b"\n").filter(|_| number > 1);
            let entry = content.ok_or("it is too long, or has no end").and_then(line::parse);
            entries.push(entry.map_err(|why| ManifestError::Line { line: number, why })?);
        }
        Manifest::new(entries)
    }
}
