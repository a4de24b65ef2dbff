//! Trees in memory, and pairs of them, for all tests of archives.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

use super::noise;
use crate::delta::gzip::tests::gzip_best;
use crate::delta::tests::cpio_member;
use crate::diff_archive::{ContentProvider, Sources};
use crate::digest::Digest;
use crate::entry::{Device, Entry, Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// A tree in memory: a manifest, and the contents by digest.
#[derive(Clone, Debug)]
pub(crate) struct MemoryTree {
    pub manifest: Manifest,
    pub contents: HashMap<Digest, Vec<u8>>,
}

impl ContentProvider for MemoryTree {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + Send + '_>> {
        let (_, digest) = entry.file().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Box::new(self.contents.get(&digest).ok_or(io::ErrorKind::NotFound)?.as_slice()))
    }
}

impl Sources for MemoryTree {
    fn read(&self, digest: &Digest, _: u64, _: &TreePath) -> io::Result<Option<Vec<u8>>> {
        Ok(self.contents.get(digest).cloned())
    }
}

/// Builds a [`MemoryTree`]; adds the parent directories of each entry.
#[derive(Default)]
pub(crate) struct TreeBuilder {
    pub entries: BTreeMap<TreePath, Entry>,
    pub contents: HashMap<Digest, Vec<u8>>,
    /// Seconds added to the times of parent directories.
    pub younger: i64,
}

pub(crate) fn meta(mode: u16, seconds: i64, nanos: u32) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: Mtime { seconds, nanos }, xattrs: Xattrs::new() }
}

impl TreeBuilder {
    pub fn put(&mut self, path: &[u8], meta: Meta, kind: Option<LeafKind>) -> &mut Self {
        let path = TreePath::new(path).expect("a good path");
        let time = self::meta(0o755, 7 + self.younger, 0);

        let mut above = path.parent();
        while let Some(dir) = above {
            let node = Node::Directory;
            above = dir.parent();
            self.entries.entry(dir.clone()).or_insert(Entry::new(dir, time.clone(), node));
        }

        let node = kind.map_or(Node::Directory, |kind| Node::Leaf(Leaf { kind, group: None }));
        self.entries.insert(path.clone(), Entry::new(path, meta, node));
        self
    }

    pub fn file(&mut self, path: &[u8], meta: Meta, content: &[u8]) -> &mut Self {
        let digest = Digest::of(content);
        self.contents.insert(digest, content.to_vec());
        self.put(path, meta, Some(LeafKind::File { size: content.len() as u64, digest }))
    }

    /// Makes all of `paths`, which are sorted, links of the first.
    pub fn link(&mut self, paths: &[&[u8]]) -> &mut Self {
        let path = |bytes: &[u8]| TreePath::new(bytes).expect("a good path");
        let mut first = self.entries[&path(paths[0])].clone();
        if let Node::Leaf(leaf) = &mut first.node {
            leaf.group = Some(path(paths[0]));
        }

        for link in paths {
            let path = path(link);
            self.put(link, first.meta.clone(), None);
            self.entries.insert(path.clone(), first.at(path));
        }
        self
    }

    pub fn tree(&self) -> MemoryTree {
        let manifest =
            Manifest::new(self.entries.values().cloned().collect()).expect("a good manifest");
        MemoryTree { manifest, contents: self.contents.clone() }
    }
}

/// A pair of trees with every kind of entry and every kind of change.
pub(crate) fn rich_pair() -> (MemoryTree, MemoryTree) {
    let (mut old, mut new) =
        (TreeBuilder::default(), TreeBuilder { younger: 1, ..TreeBuilder::default() });

    let library = noise(1, 300_000);
    let mut patched = library.clone();
    patched[100_000..100_020].fill(0);

    let mut attributed = meta(0o644, 5, 999_999_999);
    attributed.xattrs.insert(
        b"user.a=b%\xff".as_slice().into(),
        b"\0binary\nwith = lines\n\xff".as_slice().into(),
    );
    attributed.xattrs.insert(b"user.empty".as_slice().into(), b"".as_slice().into());

    let long = [vec![b'd'; 250], vec![b'e'; 250], vec![b'\xfe'; 200]].join(&b'/');
    let owned = Meta { uid: 3_000_000, gid: 4_000_000_000, ..meta(0o4755, -3, 250_000_000) };
    let symlink = |target: &[u8]| Some(LeafKind::Symlink { target: target.into() });
    let device = Device { major: 254, minor: 1_000_000 };

    for (builder, time) in [(&mut old, 1), (&mut new, 2)] {
        builder.file(b"same/file", meta(0o600, 1, 0), b"unchanged").file(
            b"same/link-a",
            meta(0o644, 1, 0),
            b"linked",
        );
        builder.put(b"etc", meta(0o755, time, 0), None);
    }

    old.link(&[b"same/link-a", b"same/link-c"]);
    new.link(&[b"same/link-a", b"same/link-b", b"same/link-c"]);
    old.file(b"usr/lib/libx.so.1.2.3", meta(0o755, 1, 0), &library).file(
        b"gone/file",
        meta(0o644, 1, 0),
        b"gone",
    );
    new.file(b"usr/lib/libx.so.1.2.4", meta(0o755, 2, 0), &patched).file(
        b"copy",
        meta(0o644, 2, 0),
        b"unchanged",
    );

    old.file(b"type", meta(0o644, 1, 0), b"was a file").put(
        b"mode",
        meta(0o644, 1, 0),
        Some(LeafKind::Fifo),
    );
    new.put(b"type", meta(0o1777, 2, 0), None).put(
        b"mode",
        meta(0o600, 1, 0),
        Some(LeafKind::Fifo),
    );

    new.file(b"odd\n\xff name", attributed, &noise(2, 1500)).file(&long, owned, b"long").file(
        b"empty",
        meta(0, 0, 0),
        b"",
    );
    new.put(b"sym", meta(0o777, 9, 1), symlink(b"some/where")).put(
        b"far",
        meta(0o777, 9, 0),
        symlink(&[b'x'; 4095]),
    );

    new.put(b"dev/c", meta(0o620, 3, 0), Some(LeafKind::Char(device)));
    new.put(b"dev/b", meta(0o660, 1 << 33, 0), Some(LeafKind::Block(device)));
    new.file(b"big", meta(0o644, 2, 0), &noise(3, 1_500_000)).file(
        b"linked-1",
        meta(0o644, 8, 0),
        b"new links",
    );
    new.link(&[b"linked-1", b"linked-2", b"type/linked-3"]);
    new.file(b"acl", with_xattr(meta(0o640, 1, 0), b"system.posix_acl_access", ACL), b"acl");
    new.file(
        b"capable",
        with_xattr(meta(0o755, 1, 0), b"security.capability", CAPABILITY),
        b"capable",
    );
    (old.tree(), new.tree())
}

/// rw- for the owner, r-- for user 1000, the group and the mask, nothing for others.
pub(super) const ACL: &[u8] =
    b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
    \x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
/// cap_net_raw=ep
pub(super) const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A pair whose diffs have every kind of patch and every form of a target.
///
/// The efforts are `normal` and `best`. Frozen samples hold this pair, so it must never change.
pub(crate) fn pair_of_every_kind() -> (MemoryTree, MemoryTree) {
    let (mut old, mut new) =
        (TreeBuilder::default(), TreeBuilder { younger: 1, ..TreeBuilder::default() });
    let text = |n: u32| {
        (0..400u32)
            .flat_map(move |i| format!("line {i} of {}\n", i.wrapping_mul(n) % 7919).into_bytes())
    };
    for (builder, n) in [(&mut old, 3u32), (&mut new, 5)] {
        let time = meta(0o644, i64::from(n), 0);

        // Two kernel modules, of which one changes, and an archive of them.
        let changed = [&noise(11, 700_000)[..], &n.to_le_bytes(), &noise(12, 100_000)].concat();
        let same = noise(13, 260_000);
        let members = [
            cpio_member("x.ko", &changed),
            cpio_member("y.ko", &same),
            cpio_member("TRAILER!!!", &[]),
        ]
        .concat();
        builder.file(format!("modules/{n}.1/x.ko").as_bytes(), time.clone(), &changed);
        builder.file(format!("modules/{n}.1/y.ko").as_bytes(), time.clone(), &same);
        builder.file(format!("initrd.img-{n}.1").as_bytes(), time.clone(), &gzip_best(&members));

        let log: Vec<u8> = text(7).chain(text(n)).collect();
        builder.file(b"doc/changelog.gz", time.clone(), &gzip_best(&log));
        builder.file(
            b"doc/no.gz",
            time.clone(),
            &[&noise(14, 3000)[..], &n.to_le_bytes()].concat(),
        );

        let moved = |i: u32| if (600_000..600_100).contains(&i) { n } else { 0 };
        let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8).wrapping_add(moved(i));
        let large: Vec<u8> = (0..1_200_000u32).flat_map(|i| number(i).to_le_bytes()).collect();
        builder.file(b"lib/large.so", time, &large);
    }
    (old.tree(), new.tree())
}

fn with_xattr(mut meta: Meta, name: &[u8], value: &[u8]) -> Meta {
    meta.xattrs.insert(name.into(), value.into());
    meta
}
