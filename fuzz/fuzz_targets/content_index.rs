//! A content index as text; the fuzzer would not get through the compression.
//!
//! The text is that of the head up to the first line of a record, then that of one block.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::diff_archive::content_index::ContentIndex;
use systemimager::digest::Digest;

fuzz_target!(|data: &[u8]| {
    let lines = data.split_inclusive(|byte| *byte == b'\n');
    let is_head = |line: &&[u8]| {
        [&b"si-"[..], b"archive ", b"block "].iter().any(|word| line.starts_with(word))
    };
    let head: usize = lines.take_while(is_head).map(<[u8]>::len).sum();
    let (head, block) = data.split_at(head);
    let compress = |text: &[u8]| zstd::bulk::compress(text, 1).expect("compresses");
    let frames = if block.is_empty() { Vec::new() } else { compress(block) };

    let count = u32::from(!block.is_empty());
    let mut stored = vec![0x50, 0x2a, 0x4d, 0x18];
    stored.extend((8 + 36 * count).to_le_bytes());
    stored.extend(b"siF\x01");
    stored.extend(count.to_le_bytes());
    if !block.is_empty() {
        stored.extend((frames.len() as u32).to_le_bytes());
        stored.extend(Digest::of(&frames).0);
    }
    stored.extend(compress(head));
    stored.extend(frames);

    if let Ok(index) = ContentIndex::read_published(&stored[..], stored.len() as u64, None) {
        let mut written = Vec::new();
        index.write_zstd(&mut written).expect("an index is written");
        assert_eq!(zstd::decode_all(&written[..]).expect("decompresses"), data);
    }
});
