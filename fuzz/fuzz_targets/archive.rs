//! An archive: the listing of the head, then each member. The first bytes are the compression and
//! the length of the listing; the raw bytes follow, since no fuzzer finds the digest of a frame.

#![no_main]

use std::io::{Read, Write};

use libfuzzer_sys::fuzz_target;
use systemimager::diff_archive::{
    ArchiveLimits, ArchiveMember, FrameCompression, FramedFile, MAX_RAW_FRAME, Reader,
};
use systemimager::digest::Digest;

/// Bytes of one member that are read.
const MAX_MEMBER: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((&[first, low, high], raw)) = data.split_first_chunk::<3>() else { return };
    let compression = if first % 2 == 0 { FrameCompression::Zstd } else { FrameCompression::Gzip };
    let listing = usize::from(u16::from_le_bytes([low, high])).min(raw.len());
    let (listing, members) = raw.split_at(listing);
    let bytes = file(compression, listing, members);

    let size = bytes.len() as u64;
    let file = FramedFile { bytes: &bytes[..], size, compression, head: None };
    let Ok(mut reader) = Reader::open(file, &ArchiveLimits::default()) else { return };
    while let Ok(Some(member)) = reader.next_member() {
        if let ArchiveMember::Whole(_, content) = member {
            let _ = std::io::copy(&mut content.take(MAX_MEMBER), &mut std::io::sink());
        }
    }
});

/// An archive with these raw bytes; its table has at most one frame.
fn file(compression: FrameCompression, listing: &[u8], members: &[u8]) -> Vec<u8> {
    let members = &members[..members.len().min(MAX_RAW_FRAME)];
    let frames: Vec<Vec<u8>> =
        [members].iter().filter(|raw| !raw.is_empty()).map(|raw| frame(compression, raw)).collect();
    let mut table = b"siF\x01".to_vec();
    table.extend((frames.len() as u32).to_le_bytes());
    for frame in &frames {
        table.extend((frame.len() as u32).to_le_bytes());
        table.extend(Digest::of(frame).0);
    }

    let mut bytes = Vec::new();
    match compression {
        FrameCompression::Zstd => {
            bytes.extend([0x50, 0x2a, 0x4d, 0x18]);
            bytes.extend((table.len() as u32).to_le_bytes());
            bytes.extend(table);
        }
        FrameCompression::Gzip => {
            bytes.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255]);
            bytes.extend((table.len() as u16 + 4).to_le_bytes());
            bytes.extend(b"SI");
            bytes.extend((table.len() as u16).to_le_bytes());
            bytes.extend(table);
            bytes.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
    }
    if !listing.is_empty() {
        bytes.extend(frame(compression, listing));
    }
    bytes.extend(frames.concat());
    bytes
}

fn frame(compression: FrameCompression, raw: &[u8]) -> Vec<u8> {
    match compression {
        FrameCompression::Zstd => zstd::bulk::compress(raw, 1).expect("compresses"),
        FrameCompression::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(raw).expect("compresses");
            encoder.finish().expect("compresses")
        }
    }
}
