//! Tests of decision streams: files that are made again, streams that are read in part or damaged.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::{
    DecisionReader, DecisionWriter, NewText, OldFile, OpenLimits, PlainReader, ReplayError,
};
use crate::digest::Digest;
use crate::replay::prediction::Reach;

const LIMITS: OpenLimits = OpenLimits { dictionary: 64 << 20, plain: 1 << 30 };

/// Text with repetitions: words of a small vocabulary, and numbers.
pub(crate) fn text(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = state >> 20;
        if word.is_multiple_of(7) {
            text.extend_from_slice(format!("{state:x} ").as_bytes());
        } else {
            text.extend_from_slice(format!("word{} of line{}\n", word % 300, word % 11).as_bytes());
        }
    }
    text.truncate(length);
    text
}

/// The same text with a few changed, inserted and removed bytes.
pub(crate) fn changed(text: &[u8]) -> Vec<u8> {
    let mut changed = text.to_vec();
    let length = changed.len();
    for at in (length / 9..length).step_by(length / 5 + 1) {
        changed[at] ^= 0x11;
    }
    changed.splice(length / 3..length / 3, *b"some inserted bytes");
    changed.drain(length / 2..length / 2 + 40);
    changed
}

pub(crate) fn xz(plain: &[u8], options: &[&str]) -> Vec<u8> {
    let mut child = Command::new("xz")
        .args(["--stdout", "--compress"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("xz starts");
    let mut input = child.stdin.take().expect("a pipe");
    let plain = plain.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&plain).expect("xz reads"));
    let output = child.wait_with_output().expect("xz ends");
    writer.join().expect("written");
    assert!(output.status.success());
    output.stdout
}

pub(crate) fn zstd(plain: &[u8], level: i32) -> Vec<u8> {
    ::zstd::bulk::compress(plain, level).expect("compressed")
}

pub(crate) fn cpio_entry(name: &str, content: &[u8]) -> Vec<u8> {
    let mut entry = b"070701".to_vec();
    let fields = [0, 0o100_644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    fields.iter().for_each(|field| entry.extend_from_slice(format!("{field:08x}").as_bytes()));
    entry.extend_from_slice(name.as_bytes());
    entry.push(0);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}

/// A boot image with a compressed kernel inside.
pub(crate) fn boot_image(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![7; 0x800 + 100];
    image[0x1f1] = 3;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x248..0x24c].copy_from_slice(&100u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend_from_slice(payload);
    image.extend_from_slice(b"size and the rest of the image");
    image
}

fn plain_form(file: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    PlainReader::new(file, LIMITS).read_to_end(&mut plain).expect("a plain form");
    plain
}

/// The decision stream of files with their old versions.
fn record(pairs: &[(&[u8], Option<&[u8]>)]) -> Vec<u8> {
    let mut writer = DecisionWriter::new(Reach::from_bytes(1 << 20));
    for (number, (file, old)) in (0..).zip(pairs) {
        let mut old = old.map(|old| OldFile::new(Box::new(old), LIMITS));
        let mut made = Vec::new();
        let old = old.as_mut().map(|old| (number, old));
        writer
            .add(&mut &file[..], &plain_form(file), old, LIMITS, &mut made)
            .expect("decisions are recorded");
        assert!(made == *file, "file {number} is made again while it is recorded");
    }
    writer.finish()
}

/// Makes the files again; each old file is read as `open` does.
fn rebuild<'o>(
    stream: &[u8],
    pairs: &[(&'o [u8], Option<&'o [u8]>)],
    open: impl Fn(&'o [u8]) -> OldFile<'o>,
) -> std::io::Result<Vec<Vec<u8>>> {
    let mut reader = DecisionReader::new(stream).map_err(std::io::Error::other)?;
    let mut made = Vec::new();
    for (file, old) in pairs {
        let number = reader.old_file();
        let mut old = number.and(*old).map(&open);
        let plain = plain_form(file);
        let text = NewText::read(Box::new(&plain[..]), plain.len() as u64);
        let mut bytes = Vec::new();
        reader.rebuild(text, old.as_mut(), file.len() as u64).read_to_end(&mut bytes)?;
        made.push(bytes);
    }
    Ok(made)
}

fn streamed(old: &[u8]) -> OldFile<'_> {
    OldFile::new(Box::new(old), LIMITS)
}

fn held(old: &[u8]) -> OldFile<'_> {
    OldFile::read(Box::new(old), LIMITS).expect("an old file")
}

/// Makes a compressed file of its content.
type Compress = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Pairs of old and new files of each form that is supported.
fn samples() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let old = text(300_000, 1);
    let new = changed(&old);
    let cpio = |plain: &[u8], tail: &dyn Fn(&[u8]) -> Vec<u8>| {
        let mut archive = cpio_entry("kernel/x.ko.xz", &plain[..5000]);
        archive.extend(cpio_entry("TRAILER!!!", b""));
        archive.resize(archive.len().next_multiple_of(512), 0);
        archive.extend(tail(plain));
        archive
    };
    let several = |plain: &[u8]| {
        let mut file = zstd(&plain[..1000], 3);
        file.extend([0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9]);
        file.extend(zstd(&plain[1000..], 9));
        file
    };
    let streams = |plain: &[u8]| {
        let mut file = xz(&plain[..7000], &["-0", "--check=none"]);
        file.extend([0; 8]);
        file.extend(xz(&plain[7000..], &["-6", "--check=sha256"]));
        file
    };
    let module = ["--check=crc32", "--lzma2=dict=1MiB"];
    let blocks = ["-T2", "--block-size=100000"];
    let kernel = ["--check=crc32", "--x86", "--lzma2=dict=32MiB"];
    let forms: Vec<(&'static str, Compress)> = vec![
        ("xz of a module", Box::new(move |plain| xz(plain, &module))),
        ("xz in blocks with sizes", Box::new(move |plain| xz(plain, &blocks))),
        ("xz with a filter", Box::new(move |plain| xz(plain, &kernel))),
        ("two xz streams with padding", Box::new(streams)),
        ("zstd of level 3", Box::new(|plain| zstd(plain, 3))),
        ("zstd of level 19", Box::new(|plain| zstd(plain, 19))),
        ("two frames and a skippable one", Box::new(several)),
        ("cpio, then zstd", Box::new(move |plain| cpio(plain, &|plain| zstd(plain, 9)))),
        ("cpio, then xz", Box::new(move |plain| cpio(plain, &|plain| xz(plain, &["-6"])))),
        ("boot image with zstd", Box::new(|plain| boot_image(&zstd(plain, 19)))),
        ("boot image with xz", Box::new(move |plain| boot_image(&xz(plain, &kernel)))),
    ];
    forms.into_iter().map(|(name, form)| (name, form(&old), form(&new))).collect()
}

#[test]
fn files_of_each_form_are_made_again_from_few_bytes() {
    for (name, old, new) in samples() {
        let pair = [(&new[..], Some(&old[..]))];
        let stream = record(&pair);
        assert_eq!(rebuild(&stream, &pair, streamed).expect(name), [&new[..]], "{name}");

        // The same decisions cost much more without an old file.
        let alone = record(&[(&new, None)]);
        assert!(stream.len() * 2 < alone.len(), "{name}: {} of {}", stream.len(), alone.len());
    }
}

#[test]
fn group_shares_statistics_and_old_files_of_another_form_are_of_use() {
    let plain = text(60_000, 2);
    let (old, new) = (xz(&plain, &["-6"]), zstd(&changed(&plain), 19));
    let again = xz(&changed(&plain), &["-6"]);
    let pairs: [(&[u8], Option<&[u8]>); 3] =
        [(&new, Some(&old)), (&again, Some(&old)), (&again, None)];

    let stream = record(&pairs);

    assert_eq!(rebuild(&stream, &pairs, held).expect("files"), [&new[..], &again, &again]);
}

#[test]
fn old_file_in_memory_and_as_stream_predict_alike() {
    // More than the visible range, so that a stream forgets its beginning.
    let old = text(9 << 20, 3);
    let mut new = changed(&old);
    new.splice(100_000..100_000, text(300_000, 4));
    let (old, new) = (zstd(&old, 3), zstd(&new, 3));
    let pair = [(&new[..], Some(&old[..]))];

    let stream = record(&pair);

    assert!(rebuild(&stream, &pair, streamed).expect("a file") == [&new[..]]);
    assert!(rebuild(&stream, &pair, held).expect("a file") == [&new[..]]);
    let alone = record(&[(&new, None)]);
    assert!(stream.len() * 2 < alone.len(), "{} of {}", stream.len(), alone.len());
}

#[test]
fn file_is_never_larger_than_stated() {
    let plain = text(100_000, 5);
    let file = xz(&plain, &["-6"]);
    let stream = record(&[(&file, None)]);
    let mut reader = DecisionReader::new(&stream).expect("a stream");
    assert_eq!(reader.old_file(), None);

    let mut rebuilt = reader.rebuild(NewText::Held(&plain), None, 5000);
    let mut bytes = Vec::new();
    let error = rebuilt.read_to_end(&mut bytes).expect_err("too large");

    assert!(bytes.len() <= 5000);
    let inner = error.get_ref().map(ToString::to_string).unwrap_or_default();
    assert_eq!(inner, ReplayError::TooLarge(5000).to_string());
}

#[test]
fn plain_form_of_another_length_is_an_error() {
    let plain = text(50_000, 6);
    let file = zstd(&plain, 3);
    let stream = record(&[(&file, None)]);
    for length in [0, 1, plain.len() - 1, plain.len() + 1] {
        let mut reader = DecisionReader::new(&stream).expect("a stream");
        reader.old_file();
        let longer = [&plain[..], &[7]].concat();
        let mut made = Vec::new();
        let result =
            reader.rebuild(NewText::Held(&longer[..length]), None, 1 << 20).read_to_end(&mut made);
        assert!(result.is_err() || made != file, "{length}");
    }
}

#[test]
fn files_without_parts_have_no_plain_form() {
    let nothing: [&[u8]; 5] =
        [b"", b"text", &[0; 600], &cpio_entry("TRAILER!!!", b""), b"\xfd7zXZ\0\0"];
    for file in nothing {
        let read = PlainReader::new(file, LIMITS).read_to_end(&mut Vec::new());
        assert!(read.is_err(), "{file:?}");
    }
}

#[test]
fn plain_form_above_limit_is_refused() {
    let bomb = zstd(&vec![0; 8 << 20], 19);
    let limits = OpenLimits { plain: 1 << 20, ..LIMITS };
    let read = PlainReader::new(&bomb[..], limits).read_to_end(&mut Vec::new());
    assert!(read.expect_err("too large").to_string().contains("1048576"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_stream_gives_error_or_bounded_file(at in 0..2000usize, flip in 0..=255u8) {
        let plain = text(30_000, 7);
        for (old, file) in [
            (xz(&plain, &["-6"]), xz(&changed(&plain), &["-6"])),
            (zstd(&plain, 3), zstd(&changed(&plain), 3)),
        ] {
            let pair = [(&file[..], Some(&old[..]))];
            let mut stream = record(&pair);
            let at = at % stream.len();
            match flip {
                0..16 => stream.truncate(at),
                _ => stream[at] ^= flip,
            }
            if let Ok(made) = rebuild(&stream, &pair, streamed) {
                prop_assert!(made.iter().all(|made| made.len() <= file.len()));
            }
        }
    }
}

/// Frozen files, each with the recipe by which a distribution makes such files.
///
/// The content of the initrds is a cpio archive.
const RECIPES: [(&str, &str); 7] = [
    ("module.xz", "Debian 13, Fedora: xz --check=crc32 --lzma2=dict=1MiB"),
    ("older-module.xz", "RHEL 9, older kernels: xz --check=crc32 --lzma2=dict=2MiB"),
    ("module.zst", "Arch, SUSE: zstd -T0"),
    ("ubuntu-module.zst", "Ubuntu: zstd -T0 -19"),
    ("dracut-initrd.zst", "dracut: zstd -15 -T0"),
    ("initrd.zst", "initramfs-tools of Debian 13: an archive as it is, then zstd -9 -T0"),
    ("kernel.xz", "kernel image: xz --check=crc32 --x86 --lzma2=dict=32MiB"),
];

/// The frozen stream of the frozen files is read, and made again.
#[test]
fn stream_of_frozen_files_does_not_change() {
    let sample = |name: &str| {
        let path = format!("{}/src/replay/file/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let files =
        RECIPES.map(|(name, _)| (sample(&format!("new-{name}")), sample(&format!("old-{name}"))));
    let pairs: Vec<(&[u8], Option<&[u8]>)> =
        files.iter().map(|(new, old)| (&new[..], Some(&old[..]))).collect();

    if std::env::var_os("SI_UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/replay/file/testdata/decisions");
        std::fs::write(path, record(&pairs)).expect("written");
    }
    let frozen = sample("decisions");
    let made = rebuild(&frozen, &pairs, streamed).expect("frozen decisions");

    assert!(made.iter().zip(&pairs).all(|(made, (file, _))| made == file));
    assert_eq!(Digest::of(&record(&pairs)), Digest::of(&frozen), "the predictor has changed");
}
