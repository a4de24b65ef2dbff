//! The text `.si-diff/sources`: known contents and delta groups, a line each (clause 9).

use std::io::{BufRead, Read};

use crate::delta::Kind;
use crate::diff_archive::changes::KnownContent;
use crate::diff_archive::error::{ArchiveError, ListingDefect};
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::group_contents::{
    Container, GroupSource, GroupTarget, GzipParts, PlainForm, RebuiltParts,
};
use crate::digest::Digest;
use crate::manifest;
use crate::tree_path::TreePath;

/// The longest line: a digest, a number and a path of 4,095 bytes, all of them escaped.
const MAX_LINE: u64 = 32 << 10;

/// Writes the text.
pub(super) fn write_sources(known: &[KnownContent], groups: &[DeltaGroup]) -> Vec<u8> {
    let mut text = Vec::new();
    for KnownContent { digest, size, path } in known {
        write_path_line(&mut text, &format!("known {digest} {size}"), path);
    }

    for group in groups {
        let DeltaGroup { number, kind, patch_length, decisions, .. } = group;
        match (kind, decisions) {
            (Kind::Prefix, 0) => write_line(&mut text, &format!("group {number} {patch_length}")),
            (_, 0) => write_line(&mut text, &format!("group {number} {patch_length} {kind}")),
            _ => {
                write_line(&mut text, &format!("group {number} {patch_length} {kind} {decisions}"))
            }
        }

        for GroupSource { digest, size, path, plain } in &group.sources {
            let words = match plain {
                None => format!("from {digest} {size}"),
                Some(PlainForm { length, container: Container::Gzip }) => {
                    format!("gunzip {length} {digest} {size}")
                }
                Some(PlainForm { length, container: Container::Replayed(forms) }) => {
                    format!("open {forms} {length} {digest} {size}")
                }
            };
            write_path_line(&mut text, &words, path);
        }
        for GroupTarget { digest, size, rebuilt } in &group.targets {
            let words = match rebuilt {
                None => format!("to {digest} {size}"),
                Some(RebuiltParts::Gzip(GzipParts { corrections, plain })) => {
                    format!("gzip {corrections} {plain} {digest} {size}")
                }
                Some(RebuiltParts::Replayed(PlainForm { length, container })) => {
                    let Container::Replayed(forms) = container else { continue };
                    format!("replay {forms} {length} {digest} {size}")
                }
            };
            write_line(&mut text, &words);
        }
    }
    text
}

fn write_line(text: &mut Vec<u8>, words: &str) {
    text.extend_from_slice(words.as_bytes());
    text.push(b'\n');
}

fn write_path_line(text: &mut Vec<u8>, words: &str, path: &TreePath) {
    text.extend_from_slice(words.as_bytes());
    text.push(b' ');
    manifest::write_path(text, path);
    text.push(b'\n');
}

/// Reads the text to its end.
pub(super) fn read_sources(
    mut from: impl BufRead,
) -> Result<(Vec<KnownContent>, Vec<DeltaGroup>), ArchiveError> {
    let (mut known, mut groups) = (Vec::new(), Vec::new());
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        if from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        parse_line(&line, &mut known, &mut groups).ok_or(ListingDefect::SourcesLine(number))?;
    }
    Ok((known, groups))
}

/// Parses one line; known contents precede groups, and sources precede targets.
fn parse_line(
    line: &[u8],
    known: &mut Vec<KnownContent>,
    groups: &mut Vec<DeltaGroup>,
) -> Option<()> {
    let content = line.strip_suffix(b"\n")?;
    let mut words = content.split(|b| *b == b' ');

    match (words.next(), groups.last_mut()) {
        (Some(b"known"), None) => known.push(parse_known(&mut words)?),
        (Some(b"group"), _) => groups.push(parse_group(&mut words)?),
        (Some(b"from"), Some(group)) if group.targets.is_empty() => {
            group.sources.push(parse_source(&mut words, None)?);
        }
        (Some(b"gunzip"), Some(group)) if group.targets.is_empty() => {
            let length = parse_number(&mut words)?;
            let plain = PlainForm { length, container: Container::Gzip };
            group.sources.push(parse_source(&mut words, Some(plain))?);
        }
        (Some(b"open"), Some(group)) if group.targets.is_empty() => {
            let plain = parse_replayed(&mut words)?;
            group.sources.push(parse_source(&mut words, Some(plain))?);
        }
        (Some(b"to"), Some(group)) => group.targets.push(parse_target(&mut words, None)?),
        (Some(b"gzip"), Some(group)) => {
            let corrections = parse_number(&mut words)?;
            let plain = parse_number(&mut words)?;
            let gzip = RebuiltParts::Gzip(GzipParts { corrections, plain });
            group.targets.push(parse_target(&mut words, Some(gzip))?);
        }
        (Some(b"replay"), Some(group)) => {
            let replayed = RebuiltParts::Replayed(parse_replayed(&mut words)?);
            group.targets.push(parse_target(&mut words, Some(replayed))?);
        }
        _ => return None,
    }
    words.next().is_none().then_some(())
}

type LineWords<'a, 'w> = &'a mut dyn Iterator<Item = &'w [u8]>;

fn parse_known(words: LineWords<'_, '_>) -> Option<KnownContent> {
    let (digest, size) = parse_content(words)?;
    Some(KnownContent { digest, size, path: manifest::parse_path(words.next()?).ok()? })
}

/// Forms and length of the plain form of a replayed file.
fn parse_replayed(words: LineWords<'_, '_>) -> Option<PlainForm> {
    let forms = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    Some(PlainForm { length: parse_number(words)?, container: Container::Replayed(forms) })
}

fn parse_source(words: LineWords<'_, '_>, plain: Option<PlainForm>) -> Option<GroupSource> {
    let KnownContent { digest, size, path } = parse_known(words)?;
    Some(GroupSource { digest, size, path, plain })
}

fn parse_target(words: LineWords<'_, '_>, rebuilt: Option<RebuiltParts>) -> Option<GroupTarget> {
    let (digest, size) = parse_content(words)?;
    Some(GroupTarget { digest, size, rebuilt })
}

fn parse_content(words: LineWords<'_, '_>) -> Option<(Digest, u64)> {
    let digest = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    Some((digest, parse_number(words)?))
}

fn parse_group(words: LineWords<'_, '_>) -> Option<DeltaGroup> {
    let (number, patch_length) = (parse_number(words)?, parse_number(words)?);
    let mut words = words.peekable();
    let is_written = words.peek().is_some();
    let kind = match words.next() {
        None => Kind::Prefix,
        Some(word) => std::str::from_utf8(word).ok()?.parse().ok()?,
    };
    let decisions = match words.peek() {
        None => 0,
        Some(_) => parse_number(&mut words).filter(|decisions| *decisions > 0)?,
    };
    // The kind `prefix` is written only before a length of decisions.
    if kind == Kind::Prefix && is_written && decisions == 0 {
        return None;
    }
    let group = DeltaGroup {
        number,
        kind,
        patch_length,
        decisions,
        sources: Vec::new(),
        targets: Vec::new(),
    };
    Some(group)
}

/// A decimal number in its only form: no sign, no leading zero.
pub(super) fn parse_number<'w>(
    words: &mut (impl Iterator<Item = &'w [u8]> + ?Sized),
) -> Option<u64> {
    let text = std::str::from_utf8(words.next()?).ok()?;
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
