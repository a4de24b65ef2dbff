//! Compression of single frames: zstd frames or gzip members (clause 1).

use std::io::{self, Write};

use crate::delta::Effort;

/// Compression of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameCompression {
    /// zstd frames: `.tar.zst`.
    Zstd,
    /// gzip members: `.tar.gz`.
    Gzip,
}

/// Level for patches and other compressed data, of which a frame is only the container.
pub(super) const FAST: i32 = 1;

impl FrameCompression {
    /// Both compressions.
    pub const ALL: [FrameCompression; 2] = [FrameCompression::Zstd, FrameCompression::Gzip];

    /// The compression of a file by its name: `.zst`, `.gz` or `.tgz`.
    pub fn from_name(name: &str) -> Option<Self> {
        if name.ends_with(".zst") {
            Some(FrameCompression::Zstd)
        } else if name.ends_with(".gz") || name.ends_with(".tgz") {
            Some(FrameCompression::Gzip)
        } else {
            None
        }
    }

    /// Suffix of an archive's name: `tar.zst` or `tar.gz`.
    pub fn extension(self) -> &'static str {
        match self {
            FrameCompression::Zstd => "tar.zst",
            FrameCompression::Gzip => "tar.gz",
        }
    }

    /// Levels of a writer. A higher level of zstd would need more memory to write.
    pub fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            FrameCompression::Zstd => 1..=19,
            FrameCompression::Gzip => 1..=9,
        }
    }

    /// The level of an effort.
    pub(super) fn level_for(self, effort: Effort) -> i32 {
        match (self, effort) {
            (FrameCompression::Zstd, effort) => effort.whole_level(),
            (FrameCompression::Gzip, Effort::Fast) => 1,
            (FrameCompression::Gzip, Effort::Normal) => 6,
            (FrameCompression::Gzip, Effort::Best) => 9,
        }
    }
}

/// Compresses frames, one after the other; the same input and level give the same bytes.
pub(super) enum FrameCompressor {
    Zstd(zstd::bulk::Compressor<'static>),
    Gzip,
}

impl FrameCompressor {
    pub fn new(compression: FrameCompression) -> Self {
        match compression {
            FrameCompression::Zstd => FrameCompressor::Zstd(zstd::bulk::Compressor::default()),
            FrameCompression::Gzip => FrameCompressor::Gzip,
        }
    }

    /// Compresses `raw` into one frame. It has no checksum of its own: the table has its digest.
    pub fn compress(&mut self, raw: &[u8], level: i32) -> io::Result<Vec<u8>> {
        match self {
            FrameCompressor::Zstd(compressor) => {
                compressor.set_compression_level(level)?;
                compressor.compress(raw)
            }
            FrameCompressor::Gzip => {
                let level = flate2::Compression::new(level.clamp(1, 9) as u32);
                // Without time and system, so that the same input gives the same bytes.
                let builder = flate2::GzBuilder::new().mtime(0).operating_system(255);
                let mut encoder = builder.write(Vec::with_capacity(raw.len() / 2), level);
                encoder.write_all(raw)?;
                encoder.finish()
            }
        }
    }
}
