//! Filesystems that hold names, content and coarse times, and nothing else: vfat and its kin, such as the
//! EFI system partition.
//!
//! What they cannot hold is left out of every comparison; an entry that they cannot hold at all is a
//! deviation. They have no stage: what is to come there, and what is displaced, lies in the slots of the
//! root's filesystem, which has a journal, and is copied (`carry.rs`).

use std::collections::{BTreeMap, HashSet};

use crate::apply::plan::difference::Difference;
use crate::entry::{Entry, Mtime};
use crate::manifest::Manifest;
use crate::root::Stat;
use crate::root::mounts::Mount;
use crate::tree_path::TreePath;

/// FAT counts in steps of two seconds.
const GRAIN: i64 = 2;
/// From 1980-01-02 to 2107-12-30, which FAT holds in every time zone.
const YEARS: std::ops::Range<i64> = 315_619_200..4_354_732_800;
/// The largest file on FAT.
const LARGEST: u64 = u32::MAX as u64;

/// What of a difference is one that such a filesystem could hold.
pub fn mask_unsupported(difference: Difference, entry: &Entry, stat: Option<&Stat>) -> Difference {
    let same = stat.is_some_and(|stat| same_time(entry.meta.mtime, stat.mtime));
    Difference {
        mode: false,
        uid: false,
        gid: false,
        xattrs: false,
        links: false,
        time: difference.time && !same,
        ..difference
    }
}

/// Whether what was given the time `wanted` may show the time `found` there.
pub(in crate::apply) fn same_time(wanted: Mtime, found: Mtime) -> bool {
    !YEARS.contains(&wanted.seconds)
        || wanted.seconds.abs_diff(found.seconds) <= GRAIN.unsigned_abs()
}

/// The entries of a manifest that the filesystems mounted there cannot hold, and why.
pub fn unsupported_entries(manifest: &Manifest, mounts: &[Mount]) -> BTreeMap<TreePath, String> {
    let mut unheld = BTreeMap::new();
    for mount in mounts.iter().filter(|mount| mount.is_limited()) {
        let entries = manifest.entries();
        let first = entries.partition_point(|entry| entry.path <= mount.at);
        let mut names: HashSet<String> = HashSet::new();
        for entry in entries[first..].iter().take_while(|entry| entry.path.is_below(&mount.at)) {
            let lost = entry.path.parent().is_some_and(|parent| unheld.contains_key(&parent));
            let folded = String::from_utf8_lossy(entry.path.as_bytes()).to_lowercase();
            let why = if lost {
                Some("its directory cannot be held".to_owned())
            } else if !entry.is_dir() && entry.file().is_none() {
                Some(format!("a {} cannot be held", entry.type_name()))
            } else if !is_name(entry.path.name()) {
                Some("a file of this name cannot be held".to_owned())
            } else if !names.insert(folded) {
                Some("two names that differ by case cannot be held".to_owned())
            } else if mount.kind != "exfat" && entry.file().is_some_and(|(size, _)| size > LARGEST)
            {
                Some("a file of this size cannot be held".to_owned())
            } else {
                None
            };
            if let Some(why) = why {
                unheld.insert(entry.path.clone(), format!("{why} by {}", mount.kind));
            }
        }
    }
    unheld
}

/// Whether FAT can hold a file of this name.
fn is_name(name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else { return false };
    let odd = |c: char| c.is_control() || "\"*/:<>?\\|".contains(c);
    !text.contains(odd) && !text.ends_with(['.', ' ']) && text.encode_utf16().count() <= 255
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
        Entry::new(TreePath::new(path).expect("good"), meta, node)
    }

    fn leaf(kind: LeafKind) -> Node {
        Node::Leaf(Leaf { kind, group: None })
    }

    fn file(size: u64) -> Node {
        leaf(LeafKind::File { size, digest: Digest([0; 32]) })
    }

    fn mount(kind: &str) -> Mount {
        let at = TreePath::new("efi").expect("good");
        Mount {
            at,
            kind: kind.to_owned(),
            read_only: false,
            device: String::new(),
            source: b"/".to_vec(),
        }
    }

    #[test]
    fn what_cannot_be_held_is_named_with_its_reason() {
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
        .expect("good");
        let told = |kind| -> Vec<String> {
            unsupported_entries(&manifest, &[mount(kind)])
                .iter()
                .map(|(path, why)| format!("{path}: {why}"))
                .collect()
        };
        let expected = [
            "/efi/a: two names that differ by case cannot be held by vfat",
            "/efi/b:: a file of this name cannot be held by vfat",
            "/efi/b:/in: its directory cannot be held by vfat",
            "/efi/large: a file of this size cannot be held by vfat",
            "/efi/link: a link cannot be held by vfat",
            "/efi/pipe: a fifo cannot be held by vfat",
        ];
        assert_eq!(told("vfat"), expected);
        assert!(told("ext4").is_empty());
        assert!(told("exfat").iter().all(|line| !line.contains("size")));
    }

    #[test]
    fn names_that_fat_holds() {
        for good in ["BOOTX64.EFI", "a b", "\u{e9}", ".hidden", "x+y,z;[=]"] {
            assert!(is_name(good.as_bytes()), "{good}");
        }
        for bad in ["a:b", "end.", "end ", "tab\t", "what?", "a\\b", "*"] {
            assert!(!is_name(bad.as_bytes()), "{bad}");
        }
        assert!(!is_name(b"\xff"));
    }

    #[test]
    fn times_in_steps_of_two_seconds_are_the_same() {
        let at = |seconds, nanos| Mtime { seconds, nanos };
        assert!(same_time(at(1_600_000_001, 999_999_999), at(1_600_000_000, 0)));
        assert!(!same_time(at(1_600_000_010, 0), at(1_600_000_000, 0)));
        // before 1980 it holds none
        assert!(same_time(at(5, 0), at(315_532_800, 0)));
    }
}
