use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::entry::{Device, Leaf, LeafKind, Meta, Mtime};

const SAMPLE: &[u8] = include_bytes!("../../tests/testdata/manifest/v1.mtree");
const SAMPLE_ID: &str = "ff2ba553fcdd4681b735e9512359194aa509ce0aa33c05e60eb941c1137dd0ba";

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("a good path")
}

fn meta(mode: u16) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: Mtime { seconds: 0, nanos: 0 }, xattrs: Default::default() }
}

fn dir(at: &str) -> Entry {
    Entry::new(path(at), meta(0o755), Node::Directory)
}

fn file(at: &str, content: &[u8], group: Option<&str>) -> Entry {
    let kind = LeafKind::File { size: content.len() as u64, digest: Digest::of(content) };
    Entry::new(path(at), meta(0o644), Node::Leaf(Leaf { kind, group: group.map(path) }))
}

fn text(manifest: &Manifest) -> Vec<u8> {
    let mut text = Vec::new();
    manifest.write_to(&mut text).expect("memory writes");
    text
}

#[test]
fn frozen_sample_keeps_id() {
    let manifest = Manifest::parse(SAMPLE).expect("the sample is canonical");
    assert_eq!(manifest.id().to_string(), SAMPLE_ID);
    assert_eq!(Manifest::new(manifest.entries().to_vec()).expect("sound").id(), manifest.id());
    assert_eq!(text(&manifest), SAMPLE);
    assert_eq!((manifest.len(), manifest.bytes()), (8, 3));
}

#[test]
fn text_not_canonical_refused() {
    let good = String::from_utf8(SAMPLE.to_vec()).expect("ASCII");

    for (from, to, why) in [
        ("systemimager 1", "systemimager 2", "does not begin"),
        ("./a type=dir", "a type=dir", "./"),
        ("./a type=dir", "./a  type=dir", "type"),
        ("./a type=dir", "./../a type=dir", "inside"),
        ("./a-b ", "./a\\055b ", "escaped"),
        ("mode=2775", "mode=02775", "mode"),
        ("uid=1000", "uid=01000", "owner"),
        ("uid=1000", "uid=4294967295", "chown"),
        ("size=3", "size=+3", "size"),
        ("size=3", "size=9223372036854775808", "size"),
        ("size=3", "size=99999999999999999999", "size"),
        ("time=0.000000000", "time=-0.000000000", "time"),
        ("time=0.000000001", "time=0.00000001", "time"),
        ("native,5,1", "native,4096,1", "device"),
        ("native,5,1", "0x501", "device"),
        ("device=native,5,1", "device=native,5,1 flags=none", "keyword"),
        ("device=native,5,1", "device=native,5,1 ", "keyword"),
        ("xattr.user.empty=", "xattr.security.capability=", "order"),
        ("AgAAAA==", "AgAAAA", "base64"),
        ("AgAAAA==", "AgAAAB==", "base64"),
        ("mode=0777", "mode=0755", "symlink"),
        ("./pipe type=fifo", "./pipe type=socket", "type"),
        ("./pipe ", "./disk ", "order"),
        ("./pipe ", "./absent/pipe ", "order"),
        ("./pipe ", "./pipe/absent/deep ", "parent"),
        ("./pipe ", "./pip\\000 ", "inside"),
        ("./a/c type", "./a/d type", "first path"),
        ("hardlink=./a/c\n", "hardlink=./a/c x\n", "follows"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from} is in the sample");
        let error = Manifest::parse(bad.as_bytes()).expect_err(to).to_string();
        assert!(error.contains(why), "{to}: {error}");
    }
    assert!(
        Manifest::parse(&SAMPLE[..SAMPLE.len() - 1])
            .expect_err("cut")
            .to_string()
            .contains("cut off")
    );
    assert!(Manifest::parse(&b""[..]).is_err());
    assert!(Manifest::parse(HEAD).is_err());
}

#[test]
fn longest_path_written_and_read() {
    let mut entries = vec![dir("x").at(TreePath::root())];
    let mut at = TreePath::root();
    while at.as_bytes().len() + 201 <= 4095 {
        at = at.join(&[b'\n'; 200]).expect("a good name");
        entries.push(dir("x").at(at.clone()));
    }
    let last = at.join(&vec![0xff; 4095 - at.as_bytes().len() - 1]).expect("4,095 bytes");

    assert_eq!(last.as_bytes().len(), 4095);

    let link = LeafKind::Symlink { target: vec![b' '; 4095].into() };
    entries.push(Entry::new(last, meta(0o777), Node::Leaf(Leaf { kind: link, group: None })));
    let manifest = Manifest::new(entries).expect("sound");

    assert_eq!(Manifest::parse(&text(&manifest)[..]).expect("canonical"), manifest);
}

#[test]
fn incomplete_hardlink_group_refused() {
    let top = || dir("x").at(TreePath::root());
    let refused = |entries: Vec<Entry>| Manifest::new(entries).expect_err("refused").to_string();

    assert!(refused(vec![top(), file("a", b"1", Some("a"))]).contains("no other member"));
    assert!(
        refused(vec![top(), file("a", b"1", None), file("b", b"1", Some("a"))])
            .contains("first path")
    );
    assert!(
        refused(vec![top(), file("a", b"1", Some("a")), file("b", b"2", Some("a"))])
            .contains("not like")
    );
    assert!(
        refused(vec![top(), file("a", b"1", Some("b")), file("b", b"1", Some("b"))])
            .contains("first path")
    );
}

#[test]
fn filtered_group_keeps_remaining_members() {
    let top = dir("x").at(TreePath::root());
    let group = |at| file(at, b"1", Some("d/a"));
    let whole =
        Manifest::new(vec![top, dir("d"), group("d/a"), group("e"), group("f")]).expect("sound");
    let without_dir = whole.filtered(|entry| entry.path != path("d"));

    assert!(without_dir.get(&path("d/a")).is_none());
    assert_eq!(without_dir.get(&path("f")).and_then(Entry::group), Some(&path("e")));

    let alone = whole.filtered(|entry| entry.is_dir() || entry.path == path("f"));

    assert_eq!(alone.get(&path("f")).and_then(Entry::group), None);
    assert_eq!(whole.filtered(|_| false).len(), 1);
    for filtered in [without_dir, alone] {
        assert_eq!(Manifest::new(filtered.entries().to_vec()).expect("sound"), filtered);
    }
}

#[test]
fn changes_for_other_base_refused() {
    let top = dir("x").at(TreePath::root());
    let base = Manifest::new(vec![top.clone(), file("a", b"1", None)]).expect("sound");
    let other = Manifest::new(vec![top, file("a", b"2", None)]).expect("sound");
    let changes = ManifestChanges { removed: vec![file("a", b"1", None)], changed: vec![] };

    assert_eq!(base.apply(&changes.removed, &changes.changed).expect("fits").len(), 1);
    assert!(other.apply(&changes.removed, &changes.changed).is_err());
    assert!(base.apply(&changes.removed, &[file("a", b"3", None)]).is_err());
    assert!(base.apply(&[], &[file("b/c", b"3", None)]).is_err());

    let twice = |removed: &[Entry], changed: &[Entry]| {
        base.apply(removed, changed).expect_err("refused").to_string()
    };

    assert!(twice(&[], &[file("z", b"1", None), file("z", b"2", None)]).contains("changed twice"));

    let gone = base.entries()[1].clone();

    assert!(
        twice(std::slice::from_ref(&gone), std::slice::from_ref(&gone))
            .contains("both removed and changed")
    );
}

#[test]
fn compressed_manifest_read_up_to_limit() {
    let manifest = Manifest::parse(SAMPLE).expect("canonical");
    let mut packed = Vec::new();
    manifest.write_zstd(&mut packed, 19).expect("memory writes");
    assert_eq!(Manifest::read_zstd(&packed[..], SAMPLE.len() as u64).expect("fits"), manifest);
    assert!(Manifest::read_zstd(&packed[..], SAMPLE.len() as u64 - 1).is_err());
    assert!(Manifest::read_zstd(&packed[..packed.len() - 1], MAX_TEXT).is_err());
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'a'), Just(b'b'), Just(b'-'), Just(b'.'), Just(b'~'), 1..=255u8];
    let real = |name: &Vec<u8>| !name.contains(&b'/') && name != b"." && name != b"..";
    vec(byte, 1..4).prop_filter("names a component", real)
}

fn any_meta() -> impl Strategy<Value = Meta> {
    let xattrs = btree_map(vec(1..=255u8, 1..4), vec(any::<u8>(), 0..4), 0..3);
    let xattrs = xattrs.prop_map(|map| {
        let named = |name: Vec<u8>| [b"user.".to_vec(), name].concat().into();
        map.into_iter().map(|(name, value)| (named(name), value.into())).collect()
    });
    (0..=0o7777u16, 0..u32::MAX, 0..u32::MAX, any::<i64>(), 0..1_000_000_000u32, xattrs).prop_map(
        |(mode, uid, gid, seconds, nanos, xattrs)| Meta {
            mode,
            uid,
            gid,
            mtime: Mtime { seconds, nanos },
            xattrs,
        },
    )
}

fn any_kind() -> impl Strategy<Value = LeafKind> {
    let device = (0..1u32 << 12, 0..1u32 << 20).prop_map(|(major, minor)| Device { major, minor });
    prop_oneof![
        4 => (0..=i64::MAX as u64, any::<[u8; 32]>()).prop_map(|(size, d)| LeafKind::File { size, digest: Digest(d) }),
        1 => vec(1..=255u8, 1..9).prop_map(|target| LeafKind::Symlink { target: target.into() }),
        1 => Just(LeafKind::Fifo),
        1 => device.clone().prop_map(LeafKind::Char),
        1 => device.prop_map(LeafKind::Block),
    ]
}

/// A random tree: directories and leaves at random paths, some leaves with several links.
fn any_manifest() -> impl Strategy<Value = Manifest> {
    let names = || btree_set(vec(any_name(), 1..4), 1..4);
    let leaves = vec((names(), any_meta(), any_kind()), 0..12);
    (any_meta(), vec((vec(any_name(), 1..4), any_meta()), 0..6), leaves).prop_map(
        |(top, dirs, leaves)| {
            let mut tree =
                std::collections::BTreeMap::from([(TreePath::root(), (top.clone(), None))]);
            for (names, meta) in dirs {
                add(&mut tree, &names, meta, None, &top);
            }
            for (index, (names, mut meta, kind)) in leaves.into_iter().enumerate() {
                if matches!(kind, LeafKind::Symlink { .. }) {
                    meta.mode = 0o777;
                }
                for names in names {
                    add(&mut tree, &names, meta.clone(), Some((index, kind.clone())), &top);
                }
            }
            grouped(tree)
        },
    )
}

type Tree = std::collections::BTreeMap<TreePath, (Meta, Option<(usize, LeafKind)>)>;

fn add(
    tree: &mut Tree,
    names: &[Vec<u8>],
    meta: Meta,
    leaf: Option<(usize, LeafKind)>,
    filler: &Meta,
) {
    let mut at = TreePath::root();
    for (depth, name) in names.iter().enumerate() {
        at = at.join(name).expect("a good name");
        let last = depth + 1 == names.len();
        let new = if last { (meta.clone(), leaf.clone()) } else { (filler.clone(), None) };
        let there = tree.entry(at.clone()).or_insert(new);
        if !last && there.1.is_some() {
            return;
        }
    }
}

fn grouped(tree: Tree) -> Manifest {
    let mut members = HashMap::<usize, Vec<TreePath>>::new();
    for (path, (_, leaf)) in &tree {
        if let Some((index, _)) = leaf {
            members.entry(*index).or_default().push(path.clone());
        }
    }
    let entry = |(path, (meta, leaf)): (TreePath, (Meta, Option<(usize, LeafKind)>))| {
        let node = leaf.map_or(Node::Directory, |(index, kind)| {
            let group = (members[&index].len() > 1).then(|| members[&index][0].clone());
            Node::Leaf(Leaf { kind, group })
        });
        Entry::new(path, meta, node)
    };
    Manifest::new(tree.into_iter().map(entry).collect()).expect("sound by construction")
}

proptest! {
    #[test]
    fn arbitrary_manifest_written_and_read(manifest in any_manifest()) {
        let text = text(&manifest);
        let read = Manifest::parse(&text[..]).expect("canonical");
        prop_assert_eq!(read.id(), manifest.id());
        prop_assert_eq!(read.id().0, Digest::of(&text));
        prop_assert_eq!(read, manifest);
    }

    #[test]
    fn arbitrary_changes_give_target(base in any_manifest(), target in any_manifest()) {
        let ManifestChanges { removed, changed } = compare(&base, &target);
        let mut listing = Vec::new();
        write_entries(&changed, &mut listing).expect("memory writes");
        prop_assert_eq!(&parse_entries(&listing[..]).expect("canonical"), &changed);
        prop_assert_eq!(base.apply(&removed, &changed).expect("fits"), target);
    }

    #[test]
    fn damaged_text_refused_or_canonical(
        manifest in any_manifest(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = text(&manifest);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(read) = Manifest::parse(&bytes[..]) {
            prop_assert_eq!(text(&read), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = line::parse(&bytes);
        let _ = Manifest::parse(&[HEAD, &bytes].concat()[..]);
        let _ = Manifest::read_zstd(&bytes[..], MAX_TEXT);
    }

    #[test]
    fn arbitrary_filter_gives_valid_manifest(manifest in any_manifest(), seed in any::<u64>()) {
        let keep = |entry: &Entry| !(Digest::of(entry.path.as_bytes()).0[0] ^ seed as u8).is_multiple_of(3);
        let filtered = manifest.filtered(keep);
        prop_assert_eq!(Manifest::new(filtered.entries().to_vec()).expect("sound"), filtered);
    }
}

#[test]
fn group_above_the_limit_is_split() {
    let entries = |groups: &[&[&str]]| {
        let mut entries = vec![dir("")];
        for names in groups {
            entries.extend(names.iter().map(|name| file(name, b"x", Some(names[0]))));
        }
        entries
    };
    let manifest = Manifest::new(entries(&[&["a", "b", "c", "d", "e"], &["x", "y"]]));
    let manifest = manifest.expect("sound");

    let (same, none) = manifest.with_group_limit(|_| 5);
    assert_eq!((&same, none), (&manifest, Vec::new()));

    let (split, firsts) = manifest.with_group_limit(|_| 2);
    let mut expected = entries(&[&["a", "b"], &["c", "d"], &["x", "y"]]);
    expected.push(file("e", b"x", None));
    assert_eq!(split, Manifest::new(expected).expect("sound"));
    assert_eq!(firsts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["/c", "/e"]);
}

#[test]
fn more_entries_than_stated_refused() {
    let entries = (0..60_000).map(|n| file(&format!("f{n:06}"), b"", None));
    let manifest = Manifest::new(std::iter::once(dir("")).chain(entries).collect()).expect("sound");
    let mut stored = Vec::new();
    manifest.write_zstd(&mut stored, 1).expect("memory writes");

    assert!(Manifest::read_published(&stored[..], 60_001).is_ok());
    let error = Manifest::read_published(&stored[..], 1).expect_err("refused").to_string();
    assert!(error.contains("more entries than its catalog states"), "{error}");

    // A small manifest is read at any stated number.
    let small = Manifest::new(vec![dir(""), file("f", b"", None)]).expect("sound");
    let mut stored = Vec::new();
    small.write_zstd(&mut stored, 1).expect("memory writes");
    assert!(Manifest::read_published(&stored[..], 0).is_ok());
}

/// The text is longer than one window, so lines are cut at its end and joined again.
#[test]
fn text_of_several_windows_read_and_faults_located() {
    let entries = (0..60_000).map(|n| file(&format!("f{n:06}"), b"", None));
    let manifest = Manifest::new(std::iter::once(dir("")).chain(entries).collect()).expect("sound");
    let text = text(&manifest);
    assert!(text.len() > 2 * MAX_LINE);
    let read = Manifest::parse(&text[..]).expect("reads");
    assert_eq!((read.id(), &read), (manifest.id(), &manifest));

    let lines: Vec<&[u8]> = text.split_inclusive(|&b| b == b'\n').collect();
    let fault = |lines: &[&[u8]]| {
        Manifest::parse(&lines.concat()[..]).expect_err("is not canonical").to_string()
    };
    for at in [1024 + 1, 1024 + 2, 50_000] {
        let mut swapped = lines.clone();
        swapped.swap(at, at + 1);
        assert!(
            fault(&swapped).contains(&format!("line {}: it is not in order", at + 2)),
            "{}",
            fault(&swapped)
        );
        let mut other = lines.clone();
        other[at] = b"nonsense\n";
        assert!(fault(&other).contains(&format!("line {}:", at + 1)), "{}", fault(&other));
    }

    let last = lines.len();
    let cut = text.len() - 1;
    let error = Manifest::parse(&text[..cut]).expect_err("is cut off").to_string();
    assert!(error.contains(&format!("line {last}: it is cut off")), "{error}");

    let long = [HEAD, &vec![b'x'; MAX_LINE + 1]].concat();
    let error = Manifest::parse(&long[..]).expect_err("is too long").to_string();
    assert!(error.contains("line 2: it is longer than 4 MiB"), "{error}");
}

#[test]
fn attribute_that_does_not_travel_refused() {
    for name in [
        "security.selinux",
        "security.ima",
        "security.evm",
        "trusted.overlay.redirect",
        "trusted.SGI_ACL_FILE",
        "system.nfs4_acl",
        "btrfs.compression",
        "unknown",
    ] {
        let mut entry = file("f", b"x", None);
        entry.meta.xattrs.insert(name.as_bytes().into(), (*b"y").into());
        let mut line = b"#mtree systemimager 1\n".to_vec();
        line::write(&mut line, &dir(""));
        line::write(&mut line, &entry);

        assert!(Manifest::new(vec![dir(""), entry]).is_err(), "{name}");
        let error = Manifest::parse(&line[..]).expect_err("is refused").to_string();
        assert!(error.contains("security module"), "{name}: {error}");
    }
}
