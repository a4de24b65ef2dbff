//! What names tell: which old file a new one comes from, and whether it is compressed.

use std::collections::HashMap;

use super::size_of;
use crate::entry::Entry;
use crate::manifest::Manifest;

/// The base's files that can serve, by what remains of their names.
pub(super) struct Files<'m> {
    by_path: HashMap<Vec<u8>, Vec<&'m Entry>>,
    by_name: HashMap<Vec<u8>, Vec<&'m Entry>>,
}

impl<'m> Files<'m> {
    pub fn of(base: &'m Manifest) -> Self {
        let mut files = Files { by_path: HashMap::new(), by_name: HashMap::new() };
        for entry in base.entries().iter().filter(|entry| serves(entry)) {
            files.by_path.entry(without_versions(entry.path.as_bytes())).or_default().push(entry);
            files.by_name.entry(without_versions(entry.path.name())).or_default().push(entry);
        }
        files
    }

    pub fn source_of(&self, base: &'m Manifest, entry: &Entry, size: u64) -> Option<&'m Entry> {
        if let Some(same) = base.get(&entry.path).filter(|same| serves(same)) {
            return Some(same);
        }
        let similar = self.by_path.get(&without_versions(entry.path.as_bytes()));
        let similar = similar.or_else(|| self.by_name.get(&without_versions(entry.path.name())));
        similar?.iter().copied().min_by_key(|candidate| size_of(candidate).abs_diff(size))
    }
}

fn serves(entry: &Entry) -> bool {
    size_of(entry) > 0
}

/// `bytes` with each version number (digits, and digits joined by `.`, `-`, `+`, `~` or `_`) as one `#`.
fn without_versions(bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            kept.push(bytes[at]);
            at += 1;
            continue;
        }
        kept.push(b'#');
        while at < bytes.len() {
            let joined = b".-+~_".contains(&bytes[at]) && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
            if !bytes[at].is_ascii_digit() && !joined {
                break;
            }
            at += 1;
        }
    }
    kept
}

/// Whether a file's name tells that it may be gzip; its first bytes decide.
pub(super) fn is_gzip(name: &[u8]) -> bool {
    [b".gz".as_slice(), b".tgz"].iter().any(|end| name.ends_with(end)) || name.starts_with(b"initrd")
}

/// Whether a file's name tells that its bytes are compressed.
pub(super) fn is_packed(name: &[u8]) -> bool {
    const ENDS: [&[u8]; 16] = [
        b".gz", b".tgz", b".xz", b".zst", b".bz2", b".lz4", b".lzma", b".zip", b".jar", b".whl", b".png", b".jpg",
        b".webp", b".woff2", b".deb", b".rpm",
    ];
    ENDS.iter().any(|end| name.ends_with(end)) || name.starts_with(b"initrd") || name.starts_with(b"vmlinuz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_out() {
        for (a, b) in [
            ("usr/lib/modules/6.1.0-50-amd64/x.ko", "usr/lib/modules/6.1.0-56-amd64/x.ko"),
            ("libfoo.so.1.2.3", "libfoo.so.1.2.4"),
            ("libfoo.so.1.2.10.1", "libfoo.so.1.2"),
        ] {
            assert_eq!(without_versions(a.as_bytes()), without_versions(b.as_bytes()));
        }
        assert_ne!(without_versions(b"a1b"), without_versions(b"a1c"));
        assert_eq!(without_versions(b"1.2."), b"#.");
    }
}
