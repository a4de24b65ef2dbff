//! An archive: the listing of the first frame, then each member. The first byte is the compression.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use systemimager::diff_archive::{
    ArchiveLimits, ArchiveMember, FrameCompression, Reader, read_listing,
};

/// Bytes of one member that are read.
const MAX_MEMBER: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let compression = if first % 2 == 0 { FrameCompression::Zstd } else { FrameCompression::Gzip };
    let limits = ArchiveLimits::default();
    let _ = read_listing(bytes, compression, &limits);

    let Ok(mut reader) = Reader::open(bytes, compression, &limits) else { return };
    while let Ok(Some(member)) = reader.next_member() {
        if let ArchiveMember::Whole(_, content) = member {
            let _ = std::io::copy(&mut content.take(MAX_MEMBER), &mut std::io::sink());
        }
    }
});
