//! A content index as text; the fuzzer would not get through the compression.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::diff_archive::content_index::ContentIndex;

fuzz_target!(|data: &[u8]| {
    let stored = zstd::encode_all(data, 1).expect("compresses");
    if let Ok(index) = ContentIndex::read_zstd(&stored[..]) {
        let mut written = Vec::new();
        index.write_zstd(&mut written).expect("an index is written");
        assert_eq!(zstd::decode_all(&written[..]).expect("decompresses"), data);
    }
});
