//! FrameCompression in independent frames: zstd frames, or gzip members.

use std::io::{self, BufRead, Read, Write};

use crate::delta::Effort;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameCompression {
    /// zstd frames: `.tar.zst`.
    Zstd,
    /// gzip members: `.tar.gz`.
    Gzip,
}

/// A zstd decoder allocates no larger window than this, 8 MiB: what level 19 uses and every decoder has
/// to support.
const WINDOW_LOG: u32 = 23;
/// Patches are compressed already; the frame around them only carries them.
pub(super) const FAST: i32 = 1;

impl FrameCompression {
    /// Both, for those who have to try.
    pub const ALL: [FrameCompression; 2] = [FrameCompression::Zstd, FrameCompression::Gzip];

    /// The compression that a file's name tells: `.zst`, `.gz` or `.tgz`.
    pub fn of_name(name: &str) -> Option<Self> {
        if name.ends_with(".zst") {
            Some(FrameCompression::Zstd)
        } else if name.ends_with(".gz") || name.ends_with(".tgz") {
            Some(FrameCompression::Gzip)
        } else {
            None
        }
    }

    /// The end of an archive's name: `tar.zst` or `tar.gz`.
    pub fn extension(self) -> &'static str {
        match self {
            FrameCompression::Zstd => "tar.zst",
            FrameCompression::Gzip => "tar.gz",
        }
    }

    /// The levels that an archive may be written with: a higher one of zstd would need more memory to read.
    pub fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            FrameCompression::Zstd => 1..=19,
            FrameCompression::Gzip => 1..=9,
        }
    }

    /// The level that goes with an effort; gzip has few to choose from.
    pub(super) fn level_of(self, effort: Effort) -> i32 {
        match (self, effort) {
            (FrameCompression::Zstd, effort) => effort.whole_level(),
            (FrameCompression::Gzip, Effort::Fast) => 1,
            (FrameCompression::Gzip, Effort::Normal) => 6,
            (FrameCompression::Gzip, Effort::Best) => 9,
        }
    }
}

/// Decompresses all frames that a reader yields, one after the other, to its end.
pub enum Decoder<R: BufRead> {
    /// Of zstd frames.
    Zstd(zstd::stream::read::Decoder<'static, R>),
    /// Of gzip members: GzDecoder would stop after the first and say nothing.
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
}

impl<R: BufRead> Decoder<R> {
    /// Prepares to decompress what `from` yields.
    pub fn new(compression: FrameCompression, from: R) -> io::Result<Self> {
        Ok(match compression {
            FrameCompression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(from)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Decoder::Zstd(decoder)
            }
            FrameCompression::Gzip => {
                Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(from)))
            }
        })
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Zstd(decoder) => decoder.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
        }
    }
}

/// Compresses one frame into `W`.
pub(super) enum Encoder<W: Write> {
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Gzip(flate2::write::GzEncoder<W>),
}

impl<W: Write> Encoder<W> {
    /// `raw` is the exact number of bytes that will be written.
    pub fn new(compression: FrameCompression, level: i32, raw: u64, out: W) -> io::Result<Self> {
        Ok(match compression {
            FrameCompression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                encoder.set_pledged_src_size(Some(raw))?;
                encoder.include_contentsize(true)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
            FrameCompression::Gzip => {
                let level = flate2::Compression::new(level.clamp(1, 9) as u32);
                // No time and no system, so that the same input gives the same bytes.
                Encoder::Gzip(
                    flate2::GzBuilder::new().mtime(0).operating_system(255).write(out, level),
                )
            }
        })
    }

    pub fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Zstd(encoder) => encoder.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
