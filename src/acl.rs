//! POSIX ACLs: the kernel's value of an extended attribute, and the text of acl_from_text(3).
//!
//! The kernel's value is a version, then eight bytes for each entry: tag, permissions and id, all
//! in little-endian order. Archives of `tar --acls` hold the text.

use std::fmt::Write;

/// Attribute of the access ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Attribute of the default ACL of a directory.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// First four bytes of the value.
const VERSION: [u8; 4] = [2, 0, 0, 0];
/// Bytes of an entry of the value.
const ENTRY: usize = 8;
/// Id of an entry that names nobody.
const NO_ID: u32 = u32::MAX;
/// Number of entries that the mode of a file expresses.
const MINIMAL: usize = 3;

/// Tags of entries, in the order of the kernel: number, word of the text, whether it has an id.
const TAGS: [(u16, &str, bool); 6] = [
    (0x01, "user", false),
    (0x02, "user", true),
    (0x04, "group", false),
    (0x08, "group", true),
    (0x10, "mask", false),
    (0x20, "other", false),
];

/// The text of an attribute's value, with a line for each entry; `None` if the value is not valid.
pub fn to_text(value: &[u8]) -> Option<String> {
    let (entries, rest) = value.strip_prefix(&VERSION)?.as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return None;
    }

    let mut text = String::new();
    for &[tag_0, tag_1, bits_0, bits_1, id @ ..] in entries {
        let (tag, bits) =
            (u16::from_le_bytes([tag_0, tag_1]), u16::from_le_bytes([bits_0, bits_1]));
        let (_, word, has_id) = TAGS.iter().find(|(number, ..)| *number == tag)?;
        let id = if *has_id { u32::from_le_bytes(id).to_string() } else { String::new() };
        let letter = |bit, letter| if bits & bit != 0 { letter } else { '-' };
        let (r, w, x) = (letter(4, 'r'), letter(2, 'w'), letter(1, 'x'));
        // Writing to memory cannot fail.
        let _ = writeln!(text, "{word}:{id}:{r}{w}{x}");
    }
    Some(text)
}

/// The attribute's value of a text with numbers of users and groups.
///
/// `None` if the text is not valid, or names users: only the system that wrote it knows their
/// numbers.
pub fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let mut value = VERSION.to_vec();
    for (tag, id, bits) in parse(text)? {
        value.extend(tag.to_le_bytes());
        value.extend(bits.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Some(value)
}

/// Whether an access ACL says no more than the mode of its file; it is no attribute then.
pub fn is_minimal(value: &[u8]) -> bool {
    value.len() <= VERSION.len() + MINIMAL * ENTRY
}

/// Tag, id and permissions of each entry, in the order of the kernel.
fn parse(text: &[u8]) -> Option<Vec<(u16, u32, u16)>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries = Vec::new();
    for line in text.split(['\n', ',']) {
        // A comment shows the effective permissions.
        let entry = line.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            entries.push(parse_entry(entry)?);
        }
    }

    entries.sort_unstable();
    let is_unique = entries.windows(2).all(|pair| (pair[0].0, pair[0].1) != (pair[1].0, pair[1].1));
    is_unique.then_some(entries)
}

/// Parses `TAG:ID:PERMISSIONS`; star adds the number of a named user or group at the end.
fn parse_entry(entry: &str) -> Option<(u16, u32, u16)> {
    let mut fields = entry.split(':').map(str::trim);
    let (word, name, letters) = (fields.next()?, fields.next()?, fields.next()?);
    let number = fields.next().unwrap_or(name);
    let has_id = !name.is_empty();
    let word = match word {
        "u" => "user",
        "g" => "group",
        "m" => "mask",
        "o" => "other",
        word => word,
    };

    let (tag, ..) = TAGS.iter().find(|(_, other, id)| *other == word && *id == has_id)?;
    let id = if has_id { number.parse().ok()? } else { NO_ID };
    let mut bits = 0;
    for letter in letters.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some((*tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "user::rw-\nuser:7:r--\nuser:1234:rw-\ngroup::r--\ngroup:5:---\nmask::rw-\n\
                        other::r--\n";

    #[test]
    fn text_and_value_are_converted_into_each_other() {
        let value = from_text(TEXT.as_bytes()).expect("it is valid");

        assert_eq!(value.len(), 4 + 7 * ENTRY);
        assert_eq!(value[..12], [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255]);
        assert_eq!(to_text(&value).as_deref(), Some(TEXT));
    }

    #[test]
    fn other_spellings_have_same_value() {
        let usual = from_text(TEXT.as_bytes());
        for spelling in [
            "u::rw,u:1234:rw-,u:7:r,g::r--,g:5:,m::rw,o::r",
            "other::r--\nmask::rw-\ngroup:staff:---:5\ngroup::r-- # effective\nuser:bob:rw-:1234\n\
             user:7:r--\nuser::rw-",
        ] {
            assert_eq!(from_text(spelling.as_bytes()), usual, "{spelling}");
        }
    }

    #[test]
    fn unusable_text_and_value_are_refused() {
        for text in ["user:bob:rw-\nuser::rw-\ngroup::r--\nother::r--", "x", "user::q", "\u{ff}:"] {
            assert_eq!(from_text(text.as_bytes()), None, "{text}");
        }

        assert_eq!(from_text(b"\xff"), None);
        assert_eq!(from_text(b"user::rw-\nuser::rw-\nmask::r"), None);
        let minimal = from_text(b"user::rw-\ngroup::r--\nother::r--").expect("it is valid");
        assert!(is_minimal(&minimal));

        for value in
            [&b""[..], &[2, 0, 0, 0, 1], &[1, 0, 0, 0], &[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(to_text(value), None, "{value:?}");
        }
    }
}
