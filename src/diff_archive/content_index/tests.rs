use super::*;

fn record(digest: u8, frame: u64, group: Option<u64>) -> IndexRecord {
    let place = ContentLocation { frame, offset: 512, group };
    IndexRecord { digest: Digest([digest; 32]), size: 5, place }
}

fn file(name: &str) -> RepoPath {
    RepoPath::new(name).expect("a good name")
}

fn sample() -> ContentIndex {
    ContentIndex::new([
        (file("full/b.tar.zst"), vec![record(2, 9, None), record(1, 8, None)]),
        (
            file("diffs/a-b.tar.zst"),
            vec![record(1, 1, Some(0)), record(2, 0, None), record(3, 1, Some(0))],
        ),
    ])
}

/// An index of which head and blocks are these texts.
pub(crate) fn stored(head: &str, blocks: &[&str]) -> Vec<u8> {
    let compress = |text: &str| {
        let mut compressor = FrameCompressor::new(FrameCompression::Zstd);
        compressor.compress(text.as_bytes(), 6).expect("compresses")
    };
    let blocks: Vec<Vec<u8>> = blocks.iter().map(|block| compress(block)).collect();
    let frames: Vec<StoredFrame> = blocks.iter().map(|block| StoredFrame::of(block)).collect();
    let table = FrameTable::encode(FrameCompression::Zstd, &frames);
    [table, compress(head), blocks.concat()].concat()
}

fn read(bytes: &[u8]) -> Result<ContentIndex, IndexError> {
    ContentIndex::read_published(bytes, bytes.len() as u64, None)
}

fn written(index: &ContentIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = index.write_zstd(&mut bytes).expect("writes");
    assert_eq!(Digest::of(&bytes[..head.length as usize]), head.sha256);
    bytes
}

#[test]
fn index_round_trips() {
    let index = sample();

    assert_eq!(read(&written(&index)).expect("reads"), index);
    assert_eq!(ContentIndex::new(index.clone().into_archives()), index);
    let empty = ContentIndex::default();
    assert_eq!(read(&written(&empty)).expect("reads"), empty);
}

#[test]
fn large_index_has_blocks_that_are_read_alone() {
    let records = (0..5000u32).map(|number| {
        let place = ContentLocation { frame: 7, offset: 512, group: None };
        IndexRecord { digest: Digest::of(&number.to_le_bytes()), size: 5, place }
    });
    let index = ContentIndex::new([(file("full/b.tar.zst"), records.collect())]);

    let bytes = written(&index);

    assert_eq!(read(&bytes).expect("reads"), index);
    let head = zstd::decode_all(&bytes[..]).expect("plain zstd reads it");
    let text = String::from_utf8(head).expect("text");
    assert_eq!(text.lines().filter(|line| line.starts_with("block ")).count(), 6);
    assert_eq!(text.lines().count(), 2 + 6 + 5000);
}

#[test]
fn whole_contents_come_first() {
    let index = sample();
    let places = |digest| -> Vec<&str> {
        index.places(&Digest([digest; 32])).map(|(file, _)| file.as_str()).collect()
    };

    assert_eq!(places(1), ["full/b.tar.zst", "diffs/a-b.tar.zst"]);
    assert_eq!(places(2), ["diffs/a-b.tar.zst", "full/b.tar.zst"]);
    assert_eq!(places(3), ["diffs/a-b.tar.zst"]);
    assert!(places(4).is_empty());
}

#[test]
fn text_that_is_far_longer_than_stored_is_refused() {
    let line = |number: u64| format!("{number:064x} 5 0 7 512\n");
    let block: Vec<String> = (0..6)
        .map(|block| (0..10_000).map(|number| line(block * 10_000 + number)).collect())
        .collect();
    let firsts: String = (0..6).map(|block| format!("block {:064x}\n", block * 10_000)).collect();
    let head = format!("si-content 2\narchive a.tar.zst\n{firsts}");
    let blocks: Vec<&str> = block.iter().map(String::as_str).collect();
    let bytes = stored(&head, &blocks);

    assert!(block.concat().len() as u64 > bytes.len() as u64 * MAX_RATIO + SMALL_TEXT);
    assert!(matches!(read(&bytes), Err(IndexError::Line(_))));
    assert!(read(&stored(&head.replace(&firsts[70..], ""), &blocks[..1])).is_err());
}

#[test]
fn invalid_line_is_refused() {
    let digest = "ab".repeat(32);
    let head = format!("si-content 2\narchive a.tar.zst\nblock {digest}\n");
    let block = format!("{digest} 5 0 7 512\n");
    assert!(read(&stored(&head, &[&block])).is_ok());

    for (from, to) in [
        ("content 2", "content 1"),
        ("a.tar", "../a.tar"),
        ("block a", "block b"),
        ("block a", "block A"),
        ("block a", "blocka"),
        ("si-content 2\n", ""),
    ] {
        let bad = head.replacen(from, to, 1);
        assert!(read(&stored(&bad, &[&block])).is_err(), "{bad}");
    }
    for (from, to) in [
        (" 5 0 ", " 5 1 "),
        (" 5 0 ", " 05 0 "),
        (" 5 0 ", " -5 0 "),
        (" 512\n", " 512 0 0\n"),
        (" 512\n", " 512 \n"),
        (" 512\n", " 512"),
        (" 512\n", "\n"),
        (" 7 ", " 18446744073709551615 "),
        ("ab", "AB"),
    ] {
        let bad = block.replacen(from, to, 1);
        assert!(read(&stored(&head, &[&bad])).is_err(), "{bad}");
    }

    assert!(read(&stored(&head, &[&block.repeat(2)])).is_err(), "a line twice");
    assert!(read(&stored(&head, &[])).is_err(), "a block is missing");
    assert!(read(&stored(&head, &[&block, &block])).is_err(), "a block more");
    assert!(read(&stored(&head, &[""])).is_err(), "an empty block");
    assert!(read(b"").is_err());
    assert!(read(&stored("", &[])).is_err());
}

#[test]
fn other_head_than_that_of_catalog_is_refused() {
    let mut bytes = Vec::new();
    let head = sample().write_zstd(&mut bytes).expect("writes");
    let read = |head| ContentIndex::read_published(&bytes[..], bytes.len() as u64, Some(head));
    let before = crate::diff_archive::decoded_frames();

    let other = FirstFrame { sha256: Digest([7; 32]), ..head };
    assert!(matches!(read(other), Err(IndexError::Frames(_))));
    assert_eq!(crate::diff_archive::decoded_frames(), before);
    assert_eq!(read(head).expect("reads"), sample());
}

#[test]
fn damaged_block_is_refused_before_it_is_decoded() {
    let bytes = written(&sample());
    let last = bytes.len() - 1;
    let mut damaged = bytes.clone();
    damaged[last] ^= 1;
    let before = crate::diff_archive::decoded_frames();

    let error = read(&damaged).expect_err("it is damaged");

    assert_eq!(crate::diff_archive::decoded_frames() - before, 1, "the frame of the head");
    assert!(error.to_string().contains("digest of the frame table"), "{error}");
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_err());
    }
}
