//! Trees as values: any tree can be described, changed, and written to a disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Items by their paths. A directory without an item of its own has default metadata.
pub type Tree = BTreeMap<Vec<u8>, Item>;

/// The state of a tree before an update, or after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Generation {
    First,
    Second,
}

impl Generation {
    pub const BOTH: [Generation; 2] = [Generation::First, Generation::Second];

    pub fn is_second(self) -> bool {
        self == Generation::Second
    }
}

/// An entry of a tree: its kind and its metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub kind: ItemKind,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    pub xattrs: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ItemKind {
    Dir,
    /// A hole of this length, followed by the data.
    File {
        hole: u64,
        data: Vec<u8>,
    },
    /// Another hard link to the file, symbolic link, pipe or device at this path; shares its
    /// metadata.
    Link(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    Char(u32, u32),
    Block(u32, u32),
}

impl Item {
    pub fn new(kind: ItemKind) -> Self {
        let mode = match kind {
            ItemKind::Dir => 0o755,
            ItemKind::Symlink(_) => 0o777,
            _ => 0o644,
        };
        Item { kind, mode, owner: (0, 0), mtime: (1_600_000_000, 123_456_789), xattrs: Vec::new() }
    }

    pub fn file(data: impl Into<Vec<u8>>) -> Self {
        Item::new(ItemKind::File { hole: 0, data: data.into() })
    }

    pub fn dir() -> Self {
        Item::new(ItemKind::Dir)
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub fn mtime(mut self, seconds: i64, nanos: i64) -> Self {
        self.mtime = (seconds, nanos);
        self
    }

    pub fn xattr(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.xattrs.push((name, value.into()));
        self
    }
}

/// Path on disk of `path` in a tree written at `top`.
pub fn place(top: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { top.to_owned() } else { top.join(OsStr::from_bytes(path)) }
}

/// Writes `tree` to the new directory `top`.
pub fn write(tree: &Tree, top: &Path) {
    fs::create_dir_all(top).expect("the top of a tree");
    for (path, item) in tree {
        if !matches!(item.kind, ItemKind::Link(_)) {
            create(&place(top, path), item);
        }
    }

    for (path, item) in tree {
        if let ItemKind::Link(first) = &item.kind {
            let at = place(top, path);
            fs::create_dir_all(at.parent().expect("a path in a tree")).expect("a directory");
            rustix::fs::linkat(CWD, place(top, first), CWD, &at, AtFlags::empty())
                .unwrap_or_else(|e| panic!("{}: {e}", at.display()));
        }
    }

    // Children precede their directory, so that its time is set after the last change in it.
    for (path, item) in tree.iter().rev() {
        if !matches!(item.kind, ItemKind::Link(_)) {
            decorate(&place(top, path), item);
        }
    }
}

fn create(at: &Path, item: &Item) {
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent).expect("a directory");
    }
    let node =
        |kind, device| rustix::fs::mknodat(CWD, at, kind, Mode::from_raw_mode(0o600), device);

    let done = match &item.kind {
        ItemKind::Dir => fs::create_dir_all(at),
        ItemKind::File { hole, data } => File::create(at).and_then(|mut file| {
            file.set_len(*hole)?;
            file.seek(SeekFrom::Start(*hole))?;
            file.write_all(data)
        }),
        ItemKind::Symlink(target) => symlink(OsStr::from_bytes(target), at),
        ItemKind::Fifo => node(FileType::Fifo, 0).map_err(Into::into),
        ItemKind::Char(major, minor) => {
            node(FileType::CharacterDevice, rustix::fs::makedev(*major, *minor)).map_err(Into::into)
        }
        ItemKind::Block(major, minor) => {
            node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor)).map_err(Into::into)
        }
        ItemKind::Link(_) => Ok(()),
    };

    done.unwrap_or_else(|e| panic!("{}: {e}", at.display()));
}

fn decorate(at: &Path, item: &Item) {
    let (uid, gid) = item.owner;
    if rustix::process::geteuid().is_root() {
        lchown(at, Some(uid), Some(gid)).expect("lchown");
    } else {
        chown(at, None, None).ok();
    }

    if !matches!(item.kind, ItemKind::Symlink(_)) {
        rustix::fs::chmodat(CWD, at, Mode::from_raw_mode(item.mode), AtFlags::empty())
            .expect("chmod");
    }

    for (name, value) in &item.xattrs {
        rustix::fs::lsetxattr(at, *name, value, XattrFlags::empty())
            .unwrap_or_else(|e| panic!("{} of {}: {e}", name, at.display()));
    }

    let time = Timespec { tv_sec: item.mtime.0, tv_nsec: item.mtime.1 as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
}

/// `security.capability` for `cap_net_raw+ep`, in revision 2 of the kernel's format.
fn capability() -> Vec<u8> {
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `system.posix_acl_access` that permits user 1000 to read a file of mode 0640.
fn acl() -> Vec<u8> {
    const UNDEFINED: u32 = u32::MAX;
    let mut value = 2u32.to_le_bytes().to_vec();
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, UNDEFINED),
        (2, 4, 1000),
        (4, 4, UNDEFINED),
        (16, 4, UNDEFINED),
        (32, 0, UNDEFINED),
    ];

    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }

    value
}

/// A small system.
pub fn system() -> Tree {
    let files: [(&str, &str); 6] = [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("etc/hostname", "golden\n"),
        ("usr/bin/tool", "a tool"),
        ("usr/lib/app/one.py", "1"),
        ("usr/lib/app/two.py", "2"),
        ("boot/vmlinuz", "a kernel"),
    ];
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    for (path, text) in files {
        put(&mut tree, path, Item::file(text));
    }
    for dir in ["tmp", "var/log", "var/cache", "var/lib"] {
        put(&mut tree, dir, Item::dir());
    }

    tree
}

/// Adds `item`, and the missing directories above it.
pub fn put(tree: &mut Tree, path: &str, item: Item) {
    let bytes = path.as_bytes();
    for at in (0..bytes.len()).filter(|&at| bytes[at] == b'/') {
        tree.entry(bytes[..at].to_vec()).or_insert_with(Item::dir);
    }
    tree.insert(bytes.to_vec(), item);
}

/// Adds every missing directory of a tree, so that each has a defined time.
pub fn with_parents(mut tree: Tree) -> Tree {
    for path in tree.keys().cloned().collect::<Vec<_>>() {
        for at in (0..path.len()).filter(|&at| path[at] == b'/') {
            tree.entry(path[..at].to_vec()).or_insert_with(Item::dir);
        }
    }
    tree
}

/// Writes a file and the missing directories above it, as a user of the node would.
pub fn write_text(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a path with a directory"))
        .expect("makes the directory");
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// A tree with every kind of entry that an image can hold. Needs root.
pub fn everything() -> Tree {
    let mut tree = Tree::new();
    let mut put = |path: &[u8], item: Item| {
        tree.insert(path.to_vec(), item);
    };
    put(b"", Item::dir().mtime(1_500_000_000, 1));
    put(b"etc", Item::dir().mtime(-5, 999_999_999));
    put(b"etc/passwd", Item::file("root:x:0:0::/root:/bin/sh\n"));
    put(b"etc/shadow", Item::file("root:*:1:\n").mode(0o640).owner(0, 42));
    put(b"etc/empty", Item::file(""));
    put(b"etc/future", Item::file("x").mtime(5_000_000_000, 0));
    put(b"etc/before-1970", Item::file("x").mtime(-1, 500_000_000));
    put(b"etc/acl", Item::file("x").mode(0o640).xattr("system.posix_acl_access", acl()));
    put(
        b"etc/user-xattr",
        Item::file("x").xattr("user.note", "a\nb\0c=d".as_bytes()).xattr("user.empty", ""),
    );
    put(b"usr/bin/ping", Item::file("ELF").mode(0o755).xattr("security.capability", capability()));
    put(b"usr/bin/su", Item::file("ELF").mode(0o4755));
    put(b"usr/bin/wall", Item::file("ELF").mode(0o2755).owner(0, 5));
    put(b"tmp", Item::dir().mode(0o1777));
    put(b"var/private", Item::dir().mode(0o700).owner(1000, 1000).xattr("user.dir", "x"));
    put(b"bin", Item::new(ItemKind::Symlink(b"usr/bin".to_vec())));
    put(
        b"etc/dangling",
        Item::new(ItemKind::Symlink(b"/no/where/\xff".to_vec())).owner(1000, 1000).mtime(7, 7),
    );
    put(b"dev/null", Item::new(ItemKind::Char(1, 3)).mode(0o666));
    put(b"dev/big", Item::new(ItemKind::Char(4095, 1_048_575)).mode(0o600));
    put(b"dev/sda", Item::new(ItemKind::Block(8, 0)).mode(0o660).owner(0, 6));
    put(b"run/pipe", Item::new(ItemKind::Fifo).mode(0o600));
    put(b"usr/lib/a", Item::file("one inode, three names").owner(1000, 100));
    put(b"usr/lib/b", Item::new(ItemKind::Link(b"usr/lib/a".to_vec())));
    put(b"opt/c", Item::new(ItemKind::Link(b"usr/lib/a".to_vec())));
    put(b"dev/zero", Item::new(ItemKind::Char(1, 5)));
    put(b"dev/zero2", Item::new(ItemKind::Link(b"dev/zero".to_vec())));
    put(b"usr/lib/sparse", Item::new(ItemKind::File { hole: 5 << 20, data: b"end".to_vec() }));
    put(b"usr/lib/large", Item::file(noise(300_000, 1)));
    put(b"usr/lib/text", Item::file("the same line again and again\n".repeat(5_000)));

    for (number, name) in ODD_NAMES.iter().enumerate() {
        put(&[b"odd/", *name].concat(), Item::file(format!("odd {number}")));
        put(&[b"odd/in/", *name, b"/f"].concat(), Item::file("below"));
    }

    put(&[b"odd/", &[b'n'; 255][..]].concat(), Item::file("the longest name"));
    put(&deep(), Item::file("far down"));
    tree
}

/// Names that have caused errors in programs.
pub const ODD_NAMES: [&[u8]; 16] = [
    b" ",
    b"a b ",
    b"new\nline",
    b"cr\rlf",
    b"\x01\x1b[31m\x7f",
    b"\xff\xfe not utf-8",
    "\u{e4}\u{1f600}".as_bytes(),
    b"-rf",
    b"--",
    b"#hash",
    b"; echo",
    b"*?[a]",
    b"back\\slash \\012",
    b"'quote\"`",
    b"...",
    b"$HOME%s=,",
];

/// A path of about 900 bytes in 30 components.
fn deep() -> Vec<u8> {
    let mut path = b"deep".to_vec();
    for _ in 0..30 {
        path.extend_from_slice(b"/ddddddddddddddddddddddddddddd");
    }
    path
}

/// Incompressible bytes; the same seed gives the same bytes.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// The next generation of a tree that holds [`everything`].
///
/// It adds, removes and edits paths and changes each kind of metadata. It also adds a directory
/// `types` in which everything changes its type in the next round.
pub fn mutate(tree: &Tree, round: u32) -> Tree {
    let mut next = tree.clone();
    let text = |name: &str| format!("{name} in round {round}");
    let mut edit = |path: &[u8], change: &dyn Fn(&mut Item)| {
        if let Some(item) = next.get_mut(path) {
            change(item);
        }
    };
    edit(b"etc/passwd", &|item| item.kind = Item::file(text("passwd")).kind);
    edit(b"etc/shadow", &|item| item.mode ^= 0o040);
    edit(b"etc/acl", &|item| item.xattrs.clear());
    edit(b"etc/user-xattr", &|item| item.xattrs = vec![("user.note", text("note").into_bytes())]);
    edit(b"etc/future", &|item| item.mtime.1 += 1);
    edit(b"etc/dangling", &|item| item.kind = ItemKind::Symlink(text("/target").into_bytes()));
    edit(b"var/private", &|item| item.owner.0 += 1);
    edit(b"dev/null", &|item| item.kind = ItemKind::Char(1, 100 + round));
    edit(b"usr/bin/ping", &|item| item.xattrs.clear());
    edit(b"usr/lib/a", &|item| item.kind = Item::file(text("shared")).kind);
    edit(b"tmp", &|item| item.mtime.0 += 1);

    if let Some(Item { kind: ItemKind::File { data, .. }, .. }) =
        next.get_mut(&b"usr/lib/large"[..])
    {
        data[150_000..150_100].copy_from_slice(&noise(100, u64::from(round) + 2));
    }

    // A hard-link group loses one link and gains another.
    next.remove(&b"usr/lib/b"[..]);
    next.insert(text("opt/link").into_bytes(), Item::new(ItemKind::Link(b"usr/lib/a".to_vec())));
    next.insert(text("opt/new").into_bytes(), Item::file(text("new")));
    next.remove(
        text("opt/new").replace(&round.to_string(), &round.wrapping_sub(1).to_string()).as_bytes(),
    );
    type_changes(&mut next, round);

    next
}

/// Changes every type into every other: `types/I-J` is type I in even rounds, type J in odd ones.
fn type_changes(tree: &mut Tree, round: u32) {
    tree.retain(|path, _| !path.starts_with(b"types/"));
    const KINDS: usize = 7;

    for (from, to) in (0..KINDS).flat_map(|from| (0..KINDS).map(move |to| (from, to))) {
        let path = format!("types/{from}-{to}").into_bytes();
        let kind = if round.is_multiple_of(2) { from } else { to };
        let item = match kind {
            0 => Item::dir(),
            1 => Item::file(format!("file {from} {to}")),
            2 => Item::new(ItemKind::Symlink(b"../etc/passwd".to_vec())),
            3 => Item::new(ItemKind::Fifo),
            4 => Item::new(ItemKind::Char(1, 3)),
            5 => Item::new(ItemKind::Block(7, 1)),
            _ => Item::new(ItemKind::Link(b"etc/empty".to_vec())),
        };

        if kind == 0 {
            tree.insert([&path[..], b"/child"].concat(), Item::file("child"));
            tree.insert([&path[..], b"/sub/child"].concat(), Item::file("grandchild"));
        }

        tree.insert(path, item);
    }
}

/// Any small tree. Few names exist, so that two trees share many paths with different types.
pub fn any_tree() -> impl Strategy<Value = Tree> {
    let name = prop::sample::select(vec![&b"a"[..], b"b", b"c d", b"e\n", b"\xfe"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'));
    prop::collection::vec((path, any_item()), 0..12).prop_map(|items| {
        let mut tree = Tree::from([(Vec::new(), Item::dir())]);
        for (path, item) in items {
            insert_consistently(&mut tree, path, item);
        }
        tree
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    let kind = prop_oneof![
        3 => Just(ItemKind::Dir),
        4 => prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|data| ItemKind::File { hole: 0, data }),
        1 => (1u64..200_000).prop_map(|hole| ItemKind::File { hole, data: b"x".to_vec() }),
        2 => Just(ItemKind::Symlink(b"a".to_vec())),
        1 => Just(ItemKind::Fifo),
        1 => Just(ItemKind::Char(1, 3)),
        2 => Just(ItemKind::Link(Vec::new())),
    ];

    (kind, prop::sample::select(vec![0o600, 0o755, 0o4711]), 0u32..3, -2i64..3, 0i64..2).prop_map(
        |(kind, mode, owner, seconds, nanos)| {
            Item::new(kind).mode(mode).owner(owner, owner).mtime(seconds, nanos)
        },
    )
}

/// Adds `item` if only directories are above it; a link points to the first file of the tree.
fn insert_consistently(tree: &mut Tree, path: Vec<u8>, mut item: Item) {
    let is_dir = |item: &Item| item.kind == ItemKind::Dir;
    if tree.contains_key(&path) {
        return;
    }
    if let ItemKind::Symlink(_) = item.kind {
        item.mode = 0o777;
    }

    if let ItemKind::Link(_) = item.kind {
        let first = tree.iter().find(|(_, item)| matches!(item.kind, ItemKind::File { .. }));
        let Some((first, _)) = first else { return };
        item = Item::new(ItemKind::Link(first.clone()));
    }

    let parents: Vec<Vec<u8>> =
        (0..path.len()).filter(|&at| path[at] == b'/').map(|at| path[..at].to_vec()).collect();
    if parents.iter().any(|parent| tree.get(parent).is_some_and(|item| !is_dir(item))) {
        return;
    }
    for parent in parents {
        tree.entry(parent).or_insert_with(Item::dir);
    }
    tree.insert(path, item);
}
