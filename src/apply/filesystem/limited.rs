//! Limited filesystems: vfat and its kin, such as the EFI system partition.
//!
//! They hold names, content and coarse times, but no owners, permissions, links or extended
//! attributes. Everything else is left out of comparisons, and an entry that cannot exist there is
//! a deviation. A limited filesystem has no stage. Its slots are on the root's filesystem, which
//! has a journal, and a copy replaces each rename (`roll_forward/copy_rename.rs`).

use std::collections::{BTreeMap, HashSet};

use crate::apply::difference::Difference;
use crate::entry::{Entry, Mtime};
use crate::manifest::Manifest;
use crate::root::Stat;
use crate::root::mounts::Mount;
use crate::tree_path::TreePath;

/// Resolution of FAT times in seconds.
const TIME_RESOLUTION: u64 = 2;
/// From 1980-01-02 to 2107-12-30 in seconds since 1970: FAT holds these times in every time zone.
const TIME_RANGE: std::ops::Range<i64> = 315_619_200..4_354_732_800;
/// Largest file on FAT, except exFAT, in bytes.
const MAX_SIZE: u64 = u32::MAX as u64;

/// The part of a difference that a limited filesystem could hold.
pub fn mask_unsupported(difference: Difference, entry: &Entry, stat: Option<&Stat>) -> Difference {
    let has_same_time = stat.is_some_and(|stat| same_time(entry.meta.mtime, stat.mtime));
    Difference {
        mode: false,
        uid: false,
        gid: false,
        xattrs: false,
        links: false,
        time: difference.time && !has_same_time,
        ..difference
    }
}

/// Whether a file that was given the time `set` may show the time `shown`.
pub(in crate::apply) fn same_time(set: Mtime, shown: Mtime) -> bool {
    !TIME_RANGE.contains(&set.seconds) || set.seconds.abs_diff(shown.seconds) <= TIME_RESOLUTION
}

/// Entries of a manifest that cannot exist on the limited filesystems of `mounts`, with the reason.
pub fn unsupported_entries(manifest: &Manifest, mounts: &[Mount]) -> BTreeMap<TreePath, String> {
    let mut unsupported = BTreeMap::new();
    for mount in mounts.iter().filter(|mount| mount.is_limited()) {
        let entries = manifest.entries();
        let first = entries.partition_point(|entry| entry.path <= mount.at);
        let mut names: HashSet<String> = HashSet::new();

        for entry in entries[first..].iter().take_while(|entry| entry.path.is_below(&mount.at)) {
            let parent = entry.path.parent();
            let object = if parent.is_some_and(|parent| unsupported.contains_key(&parent)) {
                Some("its directory".to_owned())
            } else {
                unsupported_object(entry, mount, &mut names)
            };
            if let Some(object) = object {
                unsupported.insert(
                    entry.path.clone(),
                    format!("{} does not support {object}", mount.kind),
                );
            }
        }
    }
    unsupported
}

/// The property of an entry that a limited filesystem does not support.
///
/// `names` are those of the entries before it, in lower case.
fn unsupported_object(entry: &Entry, mount: &Mount, names: &mut HashSet<String>) -> Option<String> {
    if !entry.is_dir() && entry.file().is_none() {
        return Some(format!("a {}", entry.type_name()));
    }
    if !is_valid_name(entry.path.name()) {
        return Some("this name".to_owned());
    }
    if !names.insert(String::from_utf8_lossy(entry.path.as_bytes()).to_lowercase()) {
        return Some("names that differ by case only".to_owned());
    }
    if mount.kind != "exfat" && entry.file().is_some_and(|(size, _)| size > MAX_SIZE) {
        return Some("a file of this size".to_owned());
    }
    None
}

/// Whether FAT can hold a file of this name.
fn is_valid_name(name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else { return false };
    !text.contains(|c: char| c.is_control() || "\"*/:<>?\\|".contains(c))
        && !text.ends_with(['.', ' '])
        && text.encode_utf16().count() <= 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::entry::{Leaf, LeafKind, Meta, Node, Xattrs};

    fn entry(path: &str, node: Node) -> Entry {
        let meta = Meta {
            mode: 0o777,
            uid: 0,
            gid: 0,
            mtime: Mtime { seconds: 1, nanos: 0 },
            xattrs: Xattrs::new(),
        };
        Entry::new(TreePath::new(path).expect("a valid path"), meta, node)
    }

    fn leaf(kind: LeafKind) -> Node {
        Node::Leaf(Leaf { kind, group: None })
    }

    fn file(size: u64) -> Node {
        leaf(LeafKind::File { size, digest: Digest([0; 32]) })
    }

    fn mount(kind: &str) -> Mount {
        let at = TreePath::new("efi").expect("a valid path");
        Mount {
            at,
            kind: kind.to_owned(),
            read_only: false,
            device: String::new(),
            source: b"/".to_vec(),
        }
    }

    #[test]
    fn unsupported_entries_are_named_with_their_reason() {
        let link = || leaf(LeafKind::Symlink { target: (*b"x").into() });
        let manifest = Manifest::new(vec![
            entry("", Node::Directory),
            entry("efi", Node::Directory),
            entry("efi/A", file(1)),
            entry("efi/a", file(1)),
            entry("efi/b:", Node::Directory),
            entry("efi/b:/in", file(1)),
            entry("efi/large", file(1 << 32)),
            entry("efi/link", link()),
            entry("efi-link", link()),
            entry("efi/pipe", leaf(LeafKind::Fifo)),
        ])
        .expect("a valid manifest");

        let unsupported = |kind| -> Vec<String> {
            unsupported_entries(&manifest, &[mount(kind)])
                .iter()
                .map(|(path, reason)| format!("{path}: {reason}"))
                .collect()
        };

        let expected = [
            "/efi/a: vfat does not support names that differ by case only",
            "/efi/b:: vfat does not support this name",
            "/efi/b:/in: vfat does not support its directory",
            "/efi/large: vfat does not support a file of this size",
            "/efi/link: vfat does not support a link",
            "/efi/pipe: vfat does not support a fifo",
        ];
        assert_eq!(unsupported("vfat"), expected);
        assert!(unsupported("ext4").is_empty());
        assert!(unsupported("exfat").iter().all(|line| !line.contains("size")));
    }

    #[test]
    fn fat_names_are_accepted_and_others_refused() {
        for good in ["BOOTX64.EFI", "a b", "\u{e9}", ".hidden", "x+y,z;[=]"] {
            assert!(is_valid_name(good.as_bytes()), "{good}");
        }
        for bad in ["a:b", "end.", "end ", "tab\t", "what?", "a\\b", "*"] {
            assert!(!is_valid_name(bad.as_bytes()), "{bad}");
        }
        assert!(!is_valid_name(b"\xff"));
    }

    #[test]
    fn times_within_the_resolution_are_the_same() {
        let at = |seconds, nanos| Mtime { seconds, nanos };
        assert!(same_time(at(1_600_000_001, 999_999_999), at(1_600_000_000, 0)));
        assert!(!same_time(at(1_600_000_010, 0), at(1_600_000_000, 0)));
        // FAT holds no time before 1980.
        assert!(same_time(at(5, 0), at(315_532_800, 0)));
    }
}
