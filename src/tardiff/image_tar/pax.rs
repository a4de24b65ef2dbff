//! Records of a pax header. Values can have any byte, so records are separated by their lengths.

use std::collections::BTreeMap;

use super::TarError;
use super::blocks::Blocks;
use crate::entry::{Mtime, Xattrs, xattr_travels};

/// Key of the offset of a data region.
const OFFSET: &[u8] = b"GNU.sparse.offset";
/// Key of its length.
const NUMBYTES: &[u8] = b"GNU.sparse.numbytes";

/// Records of one member; if a key occurs twice, the last one counts.
#[derive(Default)]
pub(super) struct Pax {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Values of `GNU.sparse.offset` and `GNU.sparse.numbytes`, which occur once for each region.
    regions: Vec<Vec<u8>>,
}

impl Pax {
    pub(super) fn parse<R>(mut text: &[u8], blocks: &Blocks<R>) -> Result<Self, TarError> {
        let (mut records, mut regions) = (BTreeMap::new(), Vec::new());
        while !text.is_empty() {
            let (key, value, rest) =
                record(text).ok_or_else(|| blocks.error("a pax record is damaged"))?;
            let expected: &[u8] = if regions.len().is_multiple_of(2) { OFFSET } else { NUMBYTES };
            if key == OFFSET || key == NUMBYTES {
                if key != expected {
                    return Err(blocks.error("the regions of a sparse file are not in pairs"));
                }
                regions.push(value.to_vec());
            } else {
                records.insert(key.to_vec(), value.to_vec());
            }
            text = rest;
        }
        Ok(Pax { records, regions })
    }

    pub(super) fn bytes(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.get(key).map(Vec::as_slice)
    }

    /// Offsets and lengths of the data regions, of the sparse formats 0.0 and 0.1.
    pub(super) fn sparse_regions(&self) -> Vec<&[u8]> {
        match self.bytes(b"GNU.sparse.map") {
            Some(map) => map.split(|&byte| byte == b',').collect(),
            None => self.regions.iter().map(Vec::as_slice).collect(),
        }
    }

    /// Name of a sparse member; GNU tar gives its header another one, for other programs.
    pub(super) fn sparse_name(&self) -> Option<&[u8]> {
        self.bytes(b"GNU.sparse.name")
    }

    pub(super) fn number<R>(
        &self,
        key: &[u8],
        blocks: &Blocks<R>,
    ) -> Result<Option<u64>, TarError> {
        let Some(text) = self.bytes(key) else { return Ok(None) };
        decimal(text).map(Some).ok_or_else(|| blocks.error("a pax record is not a number"))
    }

    pub(super) fn time<R>(
        &self,
        key: &[u8],
        blocks: &Blocks<R>,
    ) -> Result<Option<Mtime>, TarError> {
        let Some(text) = self.bytes(key) else { return Ok(None) };
        time(text).map(Some).ok_or_else(|| blocks.error("a pax record is not a time"))
    }

    /// The extended attributes that belong to an image.
    pub(super) fn xattrs(&self) -> Xattrs {
        self.records
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?, value)))
            .map(|(key, value)| (unescape(key), value))
            .filter(|(name, _)| xattr_travels(name))
            .map(|(name, value)| (name.into(), value.clone().into()))
            .collect()
    }

    pub(super) fn is_comment(&self) -> bool {
        self.records.keys().all(|key| key == b"comment")
    }
}

/// Splits `LENGTH KEY=VALUE\n` off; the length is that of the whole record.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(20).position(|&b| b == b' ')?;
    let length = usize::try_from(decimal(&text[..space])?).ok()?;
    let (whole, rest) = text.split_at_checked(length)?;

    let body = whole.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Parses a signed decimal number of seconds; digits after the ninth are ignored.
fn time(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };

    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, _) => Mtime { seconds, nanos },
        (true, 0) => Mtime { seconds: -seconds, nanos },
        (true, _) => Mtime { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// Decodes the name of an attribute: GNU tar writes `=` as `%3D` and `%` as `%25`.
fn unescape(key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match after {
            [b'3', b'D', after @ ..] if byte == b'%' => (b'=', after),
            [b'2', b'5', after @ ..] if byte == b'%' => (b'%', after),
            _ => (byte, after),
        };
        name.push(byte);
        rest = after;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_with_newline_and_equals_sign_is_parsed() {
        let text = b"31 SCHILY.xattr.user.a=1\n9 b=2\n12 path=a/b\n";
        let pax = Pax::parse(text, &Blocks::new(&b""[..])).expect("two records");
        assert_eq!(pax.bytes(b"SCHILY.xattr.user.a"), Some(&b"1\n9 b=2"[..]));
        assert_eq!(pax.bytes(b"path"), Some(&b"a/b"[..]));
        assert_eq!(pax.xattrs().len(), 1);
    }

    #[test]
    fn times_are_rounded_down() {
        let at = |seconds, nanos| Some(Mtime { seconds, nanos });
        assert_eq!(time(b"5.25"), at(5, 250_000_000));
        assert_eq!(time(b"-1.75"), at(-2, 250_000_000));
        assert_eq!(time(b"-3"), at(-3, 0));
        assert_eq!(time(b"1.1234567899"), at(1, 123_456_789));
        assert_eq!(time(b"1e9"), None);
        assert_eq!(time(b""), None);
    }

    #[test]
    fn attribute_name_is_decoded_once() {
        assert_eq!(unescape(b"user.a%3Db%253D%zz"), b"user.a=b%3D%zz");
    }
}
