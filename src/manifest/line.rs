//! Writer and strict reader of one entry as one canonical line.
//!
//! For each entry there is exactly one line. If the reader accepted a second form, two texts of one
//! tree would have two ids.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use memchr::memchr;

use super::checks;
use crate::digest::Digest;
use crate::entry::{Device, Entry, Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::tree_path::TreePath;

/// Reason for which a line is not canonical.
type LineError = &'static str;

/// Bytes that clause 4 leaves unescaped.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        plain[byte] = matches!(byte as u8, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9'
            | b'.' | b'_' | b'/' | b'+' | b',' | b'@' | b'%' | b':' | b'-');
        byte += 1;
    }
    plain
};

fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| PLAIN[usize::from(byte)])
}

/// Appends the line of an entry, with its newline.
pub(super) fn write(to: &mut Vec<u8>, entry: &Entry) {
    write_plain(to, entry);
    for (name, value) in &entry.meta.xattrs {
        to.extend_from_slice(b" xattr.");
        escape(to, name);
        to.push(b'=');
        to.extend_from_slice(BASE64.encode(value).as_bytes());
    }
    if let Some(group) = entry.group() {
        to.extend_from_slice(b" hardlink=");
        write_path(to, group);
    }
    to.push(b'\n');
}

/// Appends the path and the keywords of plain mtree(5), without a newline.
pub(super) fn write_plain(to: &mut Vec<u8>, entry: &Entry) {
    write_path(to, &entry.path);
    to.extend_from_slice(b" type=");
    to.extend_from_slice(entry.type_name().as_bytes());
    to.extend_from_slice(b" mode=");
    to.extend([9, 6, 3, 0].map(|shift| b'0' + (entry.meta.mode >> shift & 7) as u8));
    write_number(to, b" uid=", entry.meta.uid.into());
    write_number(to, b" gid=", entry.meta.gid.into());
    if let Some((size, _)) = entry.file() {
        write_number(to, b" size=", size);
    }

    let Mtime { seconds, nanos } = entry.meta.mtime;
    write_number(to, if seconds < 0 { b" time=-" } else { b" time=" }, seconds.unsigned_abs());
    // Plus one second the nanoseconds have ten digits; the dot replaces the first of them.
    let at = to.len();
    write_number(to, b"", u64::from(nanos) + 1_000_000_000);
    to[at] = b'.';

    match entry.leaf().map(|leaf| &leaf.kind) {
        Some(LeafKind::File { digest, .. }) => {
            to.extend_from_slice(b" sha256digest=");
            to.extend_from_slice(&digest.hex());
        }
        Some(LeafKind::Symlink { target }) => {
            to.extend_from_slice(b" link=");
            escape(to, target);
        }
        Some(LeafKind::Char(device) | LeafKind::Block(device)) => {
            write_number(to, b" device=native,", device.major.into());
            write_number(to, b",", device.minor.into());
        }
        Some(LeafKind::Fifo) | None => {}
    }
}

/// Appends a path as clauses 3 and 4 define it: `.`, or `./` and the escaped path.
pub fn write_path(to: &mut Vec<u8>, path: &TreePath) {
    to.push(b'.');
    if !path.is_root() {
        to.push(b'/');
        escape(to, path.as_bytes());
    }
}

fn escape(to: &mut Vec<u8>, bytes: &[u8]) {
    if is_plain(bytes) {
        return to.extend_from_slice(bytes);
    }
    for &byte in bytes {
        if PLAIN[usize::from(byte)] {
            to.push(byte);
        } else {
            to.extend([b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]);
        }
    }
}

fn write_number(to: &mut Vec<u8>, before: &[u8], value: u64) {
    to.extend_from_slice(before);
    to.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Parses one line without its newline.
pub(super) fn parse(line: &[u8]) -> Result<Entry, LineError> {
    let mut fields = Fields(Some(line));
    let path = parse_path(fields.next().ok_or("it is empty")?)?;
    let kind = fields.value("type=", "it has no type")?;
    let mode = parse_mode(fields.value("mode=", "it has no mode")?)?;
    let uid = parse_id(fields.value("uid=", "it has no uid")?)?;
    let gid = parse_id(fields.value("gid=", "it has no gid")?)?;
    let size = match kind {
        b"file" => parse_number(fields.value("size=", "it has no size")?)
            .ok_or("its size is not a number")?,
        _ => 0,
    };
    let mtime =
        parse_time(fields.value("time=", "it has no time")?).ok_or("its time is not canonical")?;
    let kind = parse_kind(kind, size, &mut fields)?;
    let (xattrs, group) = parse_tail(&mut fields)?;

    let node = match (kind, group) {
        (Some(kind), group) => Node::Leaf(Leaf { kind, group }),
        (None, None) => Node::Directory,
        (None, Some(_)) => return Err("a directory cannot be hardlinked"),
    };

    let entry = Entry::new(path, Meta { mode, uid, gid, mtime, xattrs }, node);
    checks::check_entry(&entry)?;
    Ok(entry)
}

/// The rest of a line, as fields separated by one space; `None` after the last field.
struct Fields<'a>(Option<&'a [u8]>);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        match memchr(b' ', rest) {
            Some(space) => {
                self.0 = Some(&rest[space + 1..]);
                Some(&rest[..space])
            }
            None => {
                self.0 = None;
                Some(rest)
            }
        }
    }

    fn value(&mut self, keyword: &str, missing: LineError) -> Result<&'a [u8], LineError> {
        self.next().and_then(|field| field.strip_prefix(keyword.as_bytes())).ok_or(missing)
    }
}

fn parse_kind(kind: &[u8], size: u64, fields: &mut Fields) -> Result<Option<LeafKind>, LineError> {
    Ok(Some(match kind {
        b"dir" => return Ok(None),
        b"file" => {
            let digest = fields.value("sha256digest=", "it has no digest")?;
            LeafKind::File {
                size,
                digest: Digest::from_hex(digest).map_err(|_| "its digest is not canonical")?,
            }
        }
        b"link" => LeafKind::Symlink {
            target: unescape(fields.value("link=", "it has no symlink text")?)?.into(),
        },
        b"fifo" => LeafKind::Fifo,
        b"char" => LeafKind::Char(parse_device(fields)?),
        b"block" => LeafKind::Block(parse_device(fields)?),
        _ => return Err("its type is unknown"),
    }))
}

/// Parses the keywords after those of the type: extended attributes, then the hard-link group.
fn parse_tail(fields: &mut Fields) -> Result<(Xattrs, Option<TreePath>), LineError> {
    let mut xattrs = Xattrs::new();
    while let Some(field) = fields.next() {
        if let Some(group) = field.strip_prefix(b"hardlink=") {
            if fields.0.is_some() {
                return Err("something follows its hardlink group");
            }
            return Ok((xattrs, Some(parse_path(group)?)));
        }

        let field = field.strip_prefix(b"xattr.").ok_or("it has an unknown keyword")?;
        let equals =
            field.iter().position(|&b| b == b'=').ok_or("an extended attribute has no value")?;
        let name = unescape(&field[..equals])?.into();
        let value = BASE64
            .decode(&field[equals + 1..])
            .map_err(|_| "an extended attribute is not canonical base64")?;

        if xattrs.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err("its extended attributes are not in order");
        }
        xattrs.insert(name, value.into_boxed_slice());
    }
    Ok((xattrs, None))
}

/// Parses the text that [`write_path`] writes, and no other form of it.
pub fn parse_path(text: &[u8]) -> Result<TreePath, &'static str> {
    if text == b"." {
        return Ok(TreePath::root());
    }
    let bytes = unescape(text.strip_prefix(b"./").ok_or("its path does not begin with ./")?)?;
    match TreePath::new(bytes) {
        Ok(path) if !path.is_root() => Ok(path),
        _ => Err("its path is not a path inside a tree"),
    }
}

fn unescape(text: &[u8]) -> Result<Cow<'_, [u8]>, LineError> {
    const FAULT: LineError = "a byte is not escaped as it has to be";
    if is_plain(text) {
        return Ok(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;

    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if PLAIN[usize::from(byte)] {
            bytes.push(byte);
            continue;
        }

        let (&octal, after) =
            after.split_first_chunk::<3>().filter(|_| byte == b'\\').ok_or(FAULT)?;
        rest = after;
        let [high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7'] = octal else {
            return Err(FAULT);
        };
        let byte = (high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0');
        if PLAIN[usize::from(byte)] {
            return Err(FAULT);
        }
        bytes.push(byte);
    }

    Ok(bytes.into())
}

fn parse_mode(text: &[u8]) -> Result<u16, LineError> {
    if text.len() != 4 || !text.iter().all(|b| matches!(b, b'0'..=b'7')) {
        return Err("its mode is not four octal digits");
    }
    Ok(text.iter().fold(0, |mode, digit| mode << 3 | u16::from(digit - b'0')))
}

fn parse_id(text: &[u8]) -> Result<u32, LineError> {
    parse_number(text)
        .and_then(|id| u32::try_from(id).ok())
        .ok_or("its owner or group is not a number")
}

fn parse_number(text: &[u8]) -> Option<u64> {
    if text.is_empty()
        || (text.len() > 1 && text[0] == b'0')
        || !text.iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    text.iter()
        .try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add((digit - b'0').into()))
}

fn parse_time(text: &[u8]) -> Option<Mtime> {
    let dot = text.len().checked_sub(10).filter(|&dot| text[dot] == b'.')?;
    let nanos = &text[dot + 1..];
    if !nanos.iter().all(u8::is_ascii_digit) {
        return None;
    }

    let nanos = nanos.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    let seconds = match text[..dot].strip_prefix(b"-") {
        // `-0` is not canonical.
        Some(before) => {
            parse_number(before).filter(|&n| n > 0).and_then(|n| 0i64.checked_sub_unsigned(n))?
        }
        None => i64::try_from(parse_number(&text[..dot])?).ok()?,
    };
    Some(Mtime { seconds, nanos })
}

fn parse_device(fields: &mut Fields) -> Result<Device, LineError> {
    let text = fields.value("device=native,", "it has no device number")?;
    let mut numbers = text
        .splitn(2, |&b| b == b',')
        .map(|part| parse_number(part).and_then(|n| u32::try_from(n).ok()));
    match (numbers.next(), numbers.next()) {
        (Some(Some(major)), Some(Some(minor))) => Ok(Device { major, minor }),
        _ => Err("its device number is not canonical"),
    }
}
