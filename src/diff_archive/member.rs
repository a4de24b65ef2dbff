//! The headers of tar members (clause 13).
//!
//! A member has exactly one form of header. So the writer and the reader use the same functions:
//! the reader compares the bytes of an archive with the expected header, and interprets nothing.

use tar::{EntryType, Header};

use crate::acl;
use crate::entry::{Device, Entry, Leaf, LeafKind, Mtime, Node};
use crate::tree_path::TreePath;

/// Block size of a tar archive.
pub(super) const BLOCK: u64 = 512;
/// End of an archive: two blocks of zeros.
pub(super) const END: [u8; 1024] = [0; 1024];
/// Directory of all members that are not entries of the image.
pub(super) const OWN: &str = ".si-diff";

/// Largest number in an octal field of 12 bytes: sizes and times.
const MAX_LONG: u64 = (1 << 33) - 1;
/// Largest number in an octal field of 8 bytes: owners.
const MAX_SHORT: u64 = (1 << 21) - 1;
/// Size of the fields of name and link target.
const FIELD: usize = 100;

/// The header of a member below [`OWN`]: a text of the listing, or a patch.
pub(super) fn own_header(name: &str, size: u64) -> Vec<u8> {
    let mut member = HeaderDraft::new(format!("{OWN}/{name}").into_bytes(), EntryType::Regular);
    member.header.set_mode(0o644);
    member.set_size(size);
    member.finish()
}

/// The name of a patch, below [`OWN`].
pub(super) fn patch_name(number: u64) -> String {
    format!("delta/{number}")
}

/// Whether headers have ACLs also as text, which `tar --acls` needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AclRecords {
    /// Diffs with deltas, and full archives.
    Omitted,
    /// Diffs without deltas.
    Written,
}

/// The header of an entry: as a link if another path names its hard-link group.
pub(super) fn entry_header(entry: &Entry, acls: AclRecords) -> Vec<u8> {
    match link_target(entry) {
        Some(first) => link_header(entry, first),
        None => content_header(entry, acls),
    }
}

/// Whether an entry has an ACL that can be written as text.
pub(super) fn has_acl(entry: &Entry) -> bool {
    acl_texts(entry).next().is_some()
}

/// Key and value of the records for the ACLs of an entry.
fn acl_texts(entry: &Entry) -> impl Iterator<Item = (&'static [u8], String)> {
    [(&b"SCHILY.acl.access"[..], acl::ACCESS), (b"SCHILY.acl.default", acl::DEFAULT)]
        .into_iter()
        .filter_map(|(key, attribute)| {
            Some((key, acl::to_text(entry.meta.xattrs.get(attribute)?)?))
        })
}

/// The header of an entry as itself, even if another path names its hard-link group.
pub(super) fn content_header(entry: &Entry, acls: AclRecords) -> Vec<u8> {
    let (name, kind) = match &entry.node {
        Node::Directory => (directory_name(&entry.path), EntryType::Directory),
        Node::Leaf(leaf) => (entry.path.as_bytes().to_vec(), tar_type(leaf)),
    };
    let mut member = HeaderDraft::new(name, kind);
    member.set_meta(entry);
    if acls == AclRecords::Written {
        for (key, text) in acl_texts(entry) {
            member.add_record(key, text.as_bytes());
        }
    }
    for (name, value) in &entry.meta.xattrs {
        member.add_record(&xattr_key(name), value);
    }

    if let Some(leaf) = entry.leaf() {
        match &leaf.kind {
            LeafKind::File { size, .. } => member.set_size(*size),
            LeafKind::Symlink { target } => member.set_link_name(target),
            LeafKind::Fifo => {}
            LeafKind::Char(device) | LeafKind::Block(device) => member.set_device(*device),
        }
    }
    member.finish()
}

fn link_header(entry: &Entry, first: &TreePath) -> Vec<u8> {
    let mut member = HeaderDraft::new(entry.path.as_bytes().to_vec(), EntryType::Link);
    member.set_meta(entry);
    member.set_link_name(first.as_bytes());
    member.finish()
}

/// The path that names the hard-link group of `entry`, unless that is its own path.
pub(super) fn link_target(entry: &Entry) -> Option<&TreePath> {
    entry.group().filter(|first| **first != entry.path)
}

/// Number of zeros after a content of `size` bytes.
pub(super) fn padding(size: u64) -> usize {
    ((BLOCK - size % BLOCK) % BLOCK) as usize
}

fn directory_name(path: &TreePath) -> Vec<u8> {
    let name = if path.is_root() { b".".as_slice() } else { path.as_bytes() };
    [name, b"/"].concat()
}

fn tar_type(leaf: &Leaf) -> EntryType {
    match leaf.kind {
        LeafKind::File { .. } => EntryType::Regular,
        LeafKind::Symlink { .. } => EntryType::Symlink,
        LeafKind::Fifo => EntryType::Fifo,
        LeafKind::Char(_) => EntryType::Char,
        LeafKind::Block(_) => EntryType::Block,
    }
}

/// Keyword of an extended attribute, as GNU tar writes it.
///
/// `=` would end the keyword early, so it and `%` are escaped.
fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for &byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            _ => key.push(byte),
        }
    }
    key
}

/// A header, and the pax records for values that do not fit its fields.
struct HeaderDraft {
    header: Header,
    records: Vec<u8>,
}

impl HeaderDraft {
    fn new(name: Vec<u8>, kind: EntryType) -> Self {
        let mut draft = HeaderDraft { header: empty_ustar(), records: Vec::new() };
        draft.header.set_entry_type(kind);
        draft.header.set_size(0);
        copy_cut(&mut draft.header.as_old_mut().name, &name);
        if name.len() > FIELD {
            draft.add_record(b"path", &name);
        }
        draft
    }

    fn set_meta(&mut self, entry: &Entry) {
        let meta = &entry.meta;
        self.header.set_mode(u32::from(meta.mode));

        if u64::from(meta.uid) > MAX_SHORT {
            self.add_record(b"uid", meta.uid.to_string().as_bytes());
        } else {
            self.header.set_uid(u64::from(meta.uid));
        }
        if u64::from(meta.gid) > MAX_SHORT {
            self.add_record(b"gid", meta.gid.to_string().as_bytes());
        } else {
            self.header.set_gid(u64::from(meta.gid));
        }

        let seconds = u64::try_from(meta.mtime.seconds).ok().filter(|s| *s <= MAX_LONG);
        self.header.set_mtime(seconds.unwrap_or(0));
        if seconds.is_none() || meta.mtime.nanos != 0 {
            self.add_record(b"mtime", decimal(meta.mtime).as_bytes());
        }
    }

    fn set_size(&mut self, size: u64) {
        if size > MAX_LONG {
            self.add_record(b"size", size.to_string().as_bytes());
        } else {
            self.header.set_size(size);
        }
    }

    fn set_link_name(&mut self, target: &[u8]) {
        copy_cut(&mut self.header.as_old_mut().linkname, target);
        if target.len() > FIELD {
            self.add_record(b"linkpath", target);
        }
    }

    /// Sets device numbers. Those of Linux fit the fields, and a manifest has no others.
    fn set_device(&mut self, device: Device) {
        if let Some(ustar) = self.header.as_ustar_mut() {
            ustar.set_device_major(device.major);
            ustar.set_device_minor(device.minor);
        }
    }

    /// Adds a pax record. Its length includes the digits of the length.
    fn add_record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }

        self.records.extend_from_slice(length.to_string().as_bytes());
        self.records.push(b' ');
        self.records.extend_from_slice(key);
        self.records.push(b'=');
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }

    fn finish(mut self) -> Vec<u8> {
        self.header.set_cksum();
        let mut bytes = Vec::with_capacity(512);

        if !self.records.is_empty() {
            let mut extended = empty_ustar();
            extended.set_entry_type(EntryType::XHeader);
            copy_cut(&mut extended.as_old_mut().name, b"././@PaxHeader");
            extended.set_mode(0o644);
            extended.set_size(self.records.len() as u64);
            extended.set_cksum();

            bytes.extend_from_slice(extended.as_bytes());
            bytes.extend_from_slice(&self.records);
            bytes.resize(bytes.len() + padding(self.records.len() as u64), 0);
        }

        bytes.extend_from_slice(self.header.as_bytes());
        bytes
    }
}

fn empty_ustar() -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    if let Some(ustar) = header.as_ustar_mut() {
        ustar.set_device_major(0);
        ustar.set_device_minor(0);
    }
    header
}

/// Fills `field` with `bytes`, cut to its size.
fn copy_cut(field: &mut [u8; FIELD], bytes: &[u8]) {
    let length = bytes.len().min(FIELD);
    field.fill(0);
    field[..length].copy_from_slice(&bytes[..length]);
}

/// A time as a signed decimal. The nanoseconds of [`Mtime`] always count upwards.
fn decimal(time: Mtime) -> String {
    let text = match time {
        Mtime { seconds, nanos: 0 } => return seconds.to_string(),
        Mtime { seconds, nanos } if seconds >= 0 => format!("{seconds}.{nanos:09}"),
        // Seconds -2 and nanoseconds 250,000,000 are -1.75 s.
        Mtime { seconds, nanos } => {
            format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos)
        }
    };
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_are_signed_decimals() {
        for (seconds, nanos, text) in [
            (0, 0, "0"),
            (5, 10, "5.00000001"),
            (-1, 500_000_000, "-0.5"),
            (-2, 250_000_000, "-1.75"),
            (-2, 0, "-2"),
            (1 << 40, 1, "1099511627776.000000001"),
            (i64::MIN, 1, "-9223372036854775807.999999999"),
        ] {
            assert_eq!(decimal(Mtime { seconds, nanos }), text);
        }
    }

    #[test]
    fn value_beyond_its_field_becomes_record() {
        let mut draft = HeaderDraft::new(vec![b'n'; 101], EntryType::Regular);
        draft.set_size(MAX_LONG);
        draft.set_link_name(&[b'l'; 100]);

        assert_eq!(draft.records, [b"111 path=".as_slice(), &[b'n'; 101], b"\n"].concat());

        draft.set_size(MAX_LONG + 1);
        draft.set_link_name(&[b'l'; 101]);

        let text = String::from_utf8_lossy(&draft.records).into_owned();
        assert!(text.contains("\n19 size=8589934592\n115 linkpath=lll"), "{text}");
    }

    #[test]
    fn record_length_includes_its_own_digits() {
        for length in [1, 80, 91, 92, 93, 988, 989, 990, 9990] {
            let mut draft = HeaderDraft::new(b"x".to_vec(), EntryType::Regular);
            draft.add_record(b"path", &vec![b'v'; length]);

            let digits = draft.records.split(|b| *b == b' ').next().expect("a first field");
            let counted: usize =
                std::str::from_utf8(digits).expect("digits").parse().expect("a number");
            assert_eq!(counted, draft.records.len());
        }
    }
}
