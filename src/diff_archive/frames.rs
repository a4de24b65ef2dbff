//! Compression in independent frames: zstd frames or gzip members (clause 1).

use std::io::{self, BufRead, Read, Write};

use crate::delta::Effort;

/// Compression of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameCompression {
    /// zstd frames: `.tar.zst`.
    Zstd,
    /// gzip members: `.tar.gz`.
    Gzip,
}

/// Limit on the window of a zstd decoder: 8 MiB.
///
/// Level 19 uses this window, and every decoder has to support it.
const WINDOW_LOG: u32 = 23;
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

    /// Levels of a writer. A higher level of zstd would need more memory to read.
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

/// Decompresses all frames of a reader, one after the other, to its end.
pub enum FrameDecoder<R: BufRead> {
    /// Decoder of zstd frames.
    Zstd(zstd::stream::read::Decoder<'static, R>),
    /// Decoder of gzip members. `GzDecoder` would silently stop after the first.
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
}

impl<R: BufRead> FrameDecoder<R> {
    /// Prepares to decompress `from`.
    pub fn new(compression: FrameCompression, from: R) -> io::Result<Self> {
        Ok(match compression {
            FrameCompression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(from)?;
                decoder.window_log_max(WINDOW_LOG)?;
                FrameDecoder::Zstd(decoder)
            }
            FrameCompression::Gzip => {
                FrameDecoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(from)))
            }
        })
    }
}

impl<R: BufRead> Read for FrameDecoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            FrameDecoder::Zstd(decoder) => decoder.read(buffer),
            FrameDecoder::Gzip(decoder) => decoder.read(buffer),
        }
    }
}

/// Compresses one frame into `W`.
pub(super) enum FrameEncoder<W: Write> {
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Gzip(flate2::write::GzEncoder<W>),
}

impl<W: Write> FrameEncoder<W> {
    /// Begins a frame; `raw` is the exact number of bytes that will be written.
    pub fn new(compression: FrameCompression, level: i32, raw: u64, out: W) -> io::Result<Self> {
        Ok(match compression {
            FrameCompression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                encoder.set_pledged_src_size(Some(raw))?;
                encoder.include_contentsize(true)?;
                encoder.include_checksum(true)?;
                FrameEncoder::Zstd(encoder)
            }
            FrameCompression::Gzip => {
                let level = flate2::Compression::new(level.clamp(1, 9) as u32);
                // Without time and system, so that the same input gives the same bytes.
                FrameEncoder::Gzip(
                    flate2::GzBuilder::new().mtime(0).operating_system(255).write(out, level),
                )
            }
        })
    }

    pub fn finish(self) -> io::Result<W> {
        match self {
            FrameEncoder::Zstd(encoder) => encoder.finish(),
            FrameEncoder::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for FrameEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            FrameEncoder::Zstd(encoder) => encoder.write(bytes),
            FrameEncoder::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
