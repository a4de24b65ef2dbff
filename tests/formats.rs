//! Formats are frozen by samples, which are never edited: later versions read the files of older
//! ones.
//!
//! A new version of a format adds a sample; it does not replace one.

use std::path::{Path, PathBuf};

use systemimager::apply::downloaded::{ContentList, DownloadRecord};
use systemimager::catalog::{ArchiveKind, Catalog, Head};
use systemimager::diff_archive::content_index::ContentIndex;
use systemimager::digest::Digest;
use systemimager::image::{Layer, LayerKind};
use systemimager::manifest::Manifest;
use systemimager::signature::{KeySet, Passphrase, Protection, Role, SecretKeyFile, SignedText};
use systemimager::state::State;

/// Every sample, with its SHA-256.
const SAMPLES: &[(&str, &str)] = &[
    (
        "catalog/v2-cluster-head.toml",
        "ecd68705196b00890dfd944c7d703f8452d706c15285f61616e64753bfd5b649",
    ),
    ("catalog/v2-cluster.toml", "c5acd1eaa3f4fba5930a8592f09f6b3a9dd93f361e5de330407d2d177267bd49"),
    ("catalog/v2-head.toml", "4e9c0a490dfac4f2d31d51128ad180c26ee6f651f4446df979f3ed1c5e085e5a"),
    ("catalog/v2.toml", "f5c4e32d170a633685ce828a95f8260cd81567a314213789fab4ebea3c64dea6"),
    (
        "content_index/v2.idx.zst",
        "41dfbba887045e9aaf6eadfa86274321775151dd6f5dccab419390cc824d7aa3",
    ),
    (
        "diff_archive/v3-acls.tar.zst",
        "e64f8e41c95091a77450610a02fcb4e67f40938f418c4dde6e13f7dbb7c33979",
    ),
    (
        "diff_archive/v3-best.tar.zst",
        "b276bd3ff9d9153581775d2d1d8bf86b2cbe790a13eaacd86637b1f4b4671b67",
    ),
    (
        "diff_archive/v3-deltas.tar.gz",
        "64176f27889c1dadf2702371c7a2d370914787a32cae4cfb36b01a3b2ebf3511",
    ),
    (
        "diff_archive/v3-deltas.tar.zst",
        "4f0bbb66a542bff9bc81e18810ecfb83d53145f4b9675405d3e3e308a62b26b5",
    ),
    (
        "diff_archive/v3-normal.tar.zst",
        "c503ee0208a87e7c429fd0ff06f4a4e00818a529c156ebb9b764855f57ed3d52",
    ),
    (
        "diff_archive/v3-plain.tar.gz",
        "0488803928648f9a4f1cd3aa416c6d4da2bb5247d28a5457697a57e338c8d9dd",
    ),
    (
        "diff_archive/v3-plain.tar.zst",
        "e47b3862e3d05ad20d172456308cb127ed4c4d267cd547395bdace5602220c5a",
    ),
    ("downloaded/v1-contents", "2fb33c7a1d6e393ded8f15233fe7653f02d01e960b46d6d4557443e783e723f6"),
    (
        "downloaded/v1-record.toml",
        "b00331edc59dc7f7260794607504b8af61d5211a48f3020e94caebf5861bf675",
    ),
    ("journal/v1", "0960ce873dddac09ddaaa44af00f9e529ee7db99aae9a7f52045b24b92b84550"),
    ("manifest/v1.mtree", "ff2ba553fcdd4681b735e9512359194aa509ce0aa33c05e60eb941c1137dd0ba"),
    (
        "signature/v1-encrypted.key",
        "2702580f90e8190d8b4001cda1e9a8431c48a92a47fdd4ad923acdae7cfeb1e0",
    ),
    (
        "signature/v1-prehashed.toml",
        "5789171334a7bd9a59b2a35b7a87899ba5768611509242b64edf2e874a4dd910",
    ),
    ("signature/v1-pure.toml", "32a6ad55b45c40524d8f03e9d9244f0444c3d514a77fcc36166d95103fac9a96"),
    ("signature/v1.key", "94cd02ee3b7a3d376bc1c04518dd6651fce6a5ce0cb78f9a54b3669a67fcfc86"),
    ("signature/v1.pub", "5d119d673f9a89d7a722b5ddb7357b42117ab4d71769d6294fd969f1187eb36f"),
    ("state/v1-kernel.toml", "959d0abeb2f7c88180b6085a7586a2ee92d25c513e2af6eda25a8e9b58c67ee5"),
    ("state/v1.toml", "3fab4661d80ecab29beeedbc18e317cbdf99bc09e63c4cc8bd43210aba758779"),
    ("undo/v1", "ab7dbebb0ec4614ea6ec52f5e4941191f3bd6774be7be73f2e193acf5adf9c97"),
    ("undo/v2", "369cc09d7fea7d357bb9a73eebe6806a7bffb5abfa988885c488702dc0734359"),
    ("undo/v2-privileges", "10e9292a08de19ed82b183f7ad7abd87b2c86c3de18f368ebd942a4e2edea19f"),
];

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata")
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(testdata().join(name)).expect("the sample")
}

#[test]
fn samples_are_complete_and_unchanged() {
    let mut found = Vec::new();
    for kind in std::fs::read_dir(testdata()).expect("the samples") {
        let kind = kind.expect("a directory").path();

        // Golden files record wording, which may change.
        if kind.ends_with("golden") {
            continue;
        }
        for file in std::fs::read_dir(&kind).expect("a kind of sample") {
            let path = file.expect("a sample").path();
            let name = path.strip_prefix(testdata()).expect("below").display().to_string();
            found.push((name, Digest::of(&std::fs::read(&path).expect("reads")).to_string()));
        }
    }

    found.sort();
    let listed: Vec<(String, String)> =
        SAMPLES.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();

    assert_eq!(found, listed);
}

#[test]
fn head_and_catalog_2_round_trip() {
    let layer = Layer::Image("node".parse().expect("a name"));
    let (text, bytes) = (sample("catalog/v2-head.toml"), sample("catalog/v2.toml"));
    let head = Head::parse(&text, &layer).expect("reads");
    let catalog = Catalog::parse(&bytes, &layer).expect("reads");

    assert_eq!((catalog.serial, catalog.publishes.len(), catalog.archives.len()), (2, 2, 2));
    assert_eq!(catalog.head().label.as_deref(), Some("second, with a label"));
    assert!(matches!(catalog.archives[1].kind, ArchiveKind::Diff { .. }));
    assert_eq!(catalog.to_toml().expect("writes").as_bytes(), bytes);
    assert_eq!(head.to_toml().expect("writes").as_bytes(), text);
    assert_eq!((head.catalog, head.size), (Digest::of(&bytes), bytes.len() as u64));
    assert!(head.check(&catalog).is_ok());
}

#[test]
fn catalog_2_of_cluster_round_trips() {
    let (text, bytes) = (sample("catalog/v2-cluster-head.toml"), sample("catalog/v2-cluster.toml"));
    let head = Head::parse(&text, &Layer::Cluster).expect("reads");
    let catalog = Catalog::parse(&bytes, &Layer::Cluster).expect("reads");

    let file = catalog.cluster_file.as_ref().expect("a file");
    assert_eq!((catalog.serial, catalog.revision, file.size), (2, 1, 44));
    assert_eq!(catalog.to_toml().expect("writes").as_bytes(), bytes);
    assert_eq!(head.to_toml().expect("writes").as_bytes(), text);
    assert_eq!((head.catalog, head.size), (Digest::of(&bytes), bytes.len() as u64));
    assert!(head.check(&catalog).is_ok());
}

#[test]
fn manifest_1_round_trips() {
    let bytes = sample("manifest/v1.mtree");
    let manifest = Manifest::parse(bytes.as_slice()).expect("reads");
    assert_eq!(manifest.id().0, Digest::of(&bytes));
    let mut written = Vec::new();
    manifest.write_to(&mut written).expect("writes");
    assert_eq!(written, bytes);
}

#[test]
fn signatures_1_are_verified_and_keys_1_are_read() {
    let public = sample("signature/v1.pub");
    let mut keys = KeySet::new();
    keys.add(Role::Publish, "v1.pub", &public).expect("reads");

    for (name, comment) in [("pure", "a pure signature"), ("prehashed", "a prehashed signature")] {
        let bytes = sample(&format!("signature/v1-{name}.toml"));
        let signed = SignedText::split(&bytes).expect("divides");
        let authentic = signed.verify(&keys, Role::Publish).expect("verifies");
        assert_eq!(authentic.comment(), comment);
        let joined = SignedText::join(authentic.text(), signed.signatures());
        assert_eq!(joined.expect("joins"), bytes);
    }

    let Ok(SecretKeyFile::Plain(key)) = SecretKeyFile::parse(&sample("signature/v1.key")) else {
        panic!("a key without a passphrase");
    };
    assert_eq!(key.public_key().to_file().as_bytes(), public);
    assert_eq!(
        key.to_file(Protection::None).expect("writes").as_bytes(),
        sample("signature/v1.key")
    );
    let encrypted = SecretKeyFile::parse(&sample("signature/v1-encrypted.key")).expect("reads");
    let SecretKeyFile::Encrypted(encrypted) = encrypted else { panic!("an encrypted key") };
    encrypted.decrypt(&Passphrase::new(b"correct horse".to_vec())).expect("decrypts");
}

#[test]
fn state_1_round_trips() {
    let text = String::from_utf8(sample("state/v1.toml")).expect("text");
    let state = State::parse(&text, "the sample").expect("reads");

    assert_eq!((state.serial, state.deviations.len(), state.untracked), (2, 1, Some(0)));
    assert_eq!(
        state.deviating_paths().map(|path| path.to_string()).collect::<Vec<_>>(),
        ["/etc/a"]
    );
    assert_eq!(state.to_toml().expect("writes"), text);
    assert_eq!(state.kernel, None);
}

#[test]
fn state_1_with_kernel_paths_round_trips() {
    let text = String::from_utf8(sample("state/v1-kernel.toml")).expect("text");
    let state = State::parse(&text, "the sample").expect("reads");
    let kernel = state.kernel.as_ref().expect("it has one");
    let paths: Vec<String> = kernel.paths().iter().map(ToString::to_string).collect();
    let modules = "/usr/lib/modules/6.1.0-18";

    assert_eq!(kernel.release, "6.1.0-18");
    assert_eq!(paths, ["/boot/vmlinuz-6.1.0-18", modules, &format!("{modules}/a b.ko")]);

    let again = state.to_toml().expect("writes");
    assert_eq!(State::parse(&again, "the written state").expect("reads"), state);
}

#[test]
fn downloaded_update_1_round_trips() {
    let text = String::from_utf8(sample("downloaded/v1-record.toml")).expect("text");
    let record = DownloadRecord::parse(&text).expect("reads");
    let overrides: Vec<_> = record.layers_of(LayerKind::Override).collect();

    assert_eq!((record.serial, record.bytes, record.mount_roots().len()), (2, 27, 2));
    assert_eq!((overrides.len(), overrides[0].unheld.len()), (1, 1));
    assert_eq!(record.to_toml().expect("writes"), text);

    let text = String::from_utf8(sample("downloaded/v1-contents")).expect("text");
    let contents = ContentList::parse(&text, 2).expect("reads");
    assert_eq!(contents.of(&Digest::of(b"one\n")).len(), 3);
    assert_eq!(contents.to_text(), text);
}

#[test]
fn content_index_2_round_trips() {
    let bytes = sample("content_index/v2.idx.zst");
    let index =
        ContentIndex::read_published(bytes.as_slice(), bytes.len() as u64, None).expect("reads");
    let places = |content: &[u8]| index.places(&Digest::of(content)).count();
    assert_eq!([b"one\n".as_slice(), b"two\n", b"three\n"].map(places), [2, 1, 1]);

    let mut written = Vec::new();
    index.write_zstd(&mut written).expect("writes");
    let text = |bytes: &[u8]| zstd::decode_all(bytes).expect("plain zstd reads it");
    assert_eq!(text(&written), text(&bytes));
}
