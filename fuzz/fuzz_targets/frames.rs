//! A file in frames as it is stored: the head, then the frames. The first byte is the compression.

#![no_main]

use std::io::Read;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use systemimager::diff_archive::{
    ArchiveLimits, FrameCompression, FrameHead, FramedFile, VerifiedFrames, read_listing,
};

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let compression = if first % 2 == 0 { FrameCompression::Zstd } else { FrameCompression::Gzip };
    let mut file = FramedFile { bytes, size: bytes.len() as u64, compression, head: None };
    let Ok(head) = FrameHead::read(&mut file) else { return };
    let _ = read_listing(&head, &ArchiveLimits::default());

    let mut frames = VerifiedFrames::new(file.bytes, Arc::clone(head.table()), compression);
    let _ = std::io::copy(&mut frames.by_ref(), &mut std::io::sink());
});
