//! Sections of a catalog: the keys before the first table, and each table of the format.
//!
//! Each section is parsed by itself. A tree of the whole text would take many times its size in
//! memory, before anything in it is known to be valid.

use serde::de::DeserializeOwned;

use super::CatalogFault;

/// Longest section in bytes; it has room for a long label.
const MAX_SECTION: usize = 64 << 10;
/// Lines that begin a section.
const HEADERS: [(&str, SectionKind); 5] = [
    ("[content]", SectionKind::Content),
    ("[file]", SectionKind::File),
    ("[[publish]]", SectionKind::Publish),
    ("[[archive]]", SectionKind::Archive),
    ("[optional]", SectionKind::Optional),
];

/// Kind of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectionKind {
    /// Keys before the first table.
    Identity,
    Content,
    /// The file of a cluster.
    File,
    Publish,
    Archive,
    /// Keys of later programs that this one may ignore; nothing follows.
    Optional,
}

/// A section with its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    pub kind: SectionKind,
    text: &'a str,
}

impl<'a> Section<'a> {
    /// Splits a catalog.
    pub(super) fn split(text: &'a str) -> impl Iterator<Item = Section<'a>> {
        let mut rest = Some((SectionKind::Identity, text));
        std::iter::from_fn(move || {
            let (kind, mut text) = rest.take()?;
            if kind != SectionKind::Optional
                && let Some((at, next)) = next_header(text)
            {
                rest = Some((next, &text[at..]));
                text = &text[..at];
            }
            Some(Section { kind, text })
        })
    }

    /// Parses the section into a table with its key.
    pub(super) fn parse<T: DeserializeOwned>(self) -> Result<T, CatalogFault> {
        if self.text.len() > MAX_SECTION {
            return Err(CatalogFault::LongSection { limit: MAX_SECTION });
        }
        Ok(toml::from_str(self.text)?)
    }
}

/// Offset and kind of the first header after the first line of `text`.
fn next_header(text: &str) -> Option<(usize, SectionKind)> {
    memchr::memmem::find_iter(text.as_bytes(), b"\n[").find_map(|newline| {
        let line = text[newline + 1..].lines().next().unwrap_or_default().trim_end();
        let header = HEADERS.iter().find(|(header, _)| *header == line);
        header.map(|(_, kind)| (newline + 1, *kind))
    })
}
