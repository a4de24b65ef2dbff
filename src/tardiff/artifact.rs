//! A file that describes an image; its type is recognised by its content, not by its name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::error::ArtifactError;
use super::image_tar::{self, TarImage};
use crate::diff_archive::{
    ArchiveError, ArchiveLimits, FrameFault, FrameHead, FramedFile, Listing, VerifiedFrames,
    read_listing,
};
use crate::host::named_file;
use crate::manifest::{MAX_TEXT, Manifest};
use crate::report::Monitor;

/// Bytes that are read ahead.
const BUFFER: usize = 128 << 10;

/// Memory for the decoder of xz, in KiB: `xz -9` needs 65 MiB.
const MAX_XZ_KIB: u32 = 256 << 10;

/// Limit on the window of a zstd decoder: 8 MiB, as of `zstd -19`.
const WINDOW_LOG: u32 = 23;

/// Compression of a file on the image server that other programs wrote.
#[derive(Clone, Copy, Debug)]
enum ImageCompression {
    Zstd,
    Gzip,
    Bzip2,
    Xz,
}

/// Content of a file.
pub enum Artifact {
    /// A manifest, as text or compressed.
    Manifest(Manifest),
    /// A manifest for mtree(8), without extended attributes and hard-link groups.
    Export(Manifest),
    /// An archive of a whole image.
    Image(TarImage),
    /// The listing of a diff.
    Diff(Box<Listing>),
}

/// Reads the file at `path`; only the listing if it is a diff.
pub fn read(path: &Path, monitor: &dyn Monitor) -> Result<Artifact, ArtifactError> {
    let shown = || path.display().to_string();
    let io_error = |source| ArtifactError::Io { path: shown(), source };
    let mut file = BufReader::with_capacity(BUFFER, named_file::open(path).map_err(io_error)?);
    if let Some(compression) = FrameHead::recognize(file.fill_buf().map_err(io_error)?) {
        let size = file.get_ref().metadata().map_err(io_error)?.len();
        return read_framed(
            path,
            FramedFile { bytes: file, size, compression, head: None },
            monitor,
        );
    }

    let (compression, start) = peek(path).map_err(io_error)?;
    if start.starts_with(b".si-diff/") {
        let source = ArchiveError::from(FrameFault::NoTable);
        return Err(ArtifactError::Diff { path: shown(), source });
    }
    let content = decompress(file, compression).map_err(io_error)?;
    if start.starts_with(b"#mtree") {
        let text = BufReader::with_capacity(BUFFER, content.take(MAX_TEXT));
        let fail = |source| ArtifactError::Manifest { path: shown(), source };
        return if Manifest::is_export(&start) {
            Manifest::parse_export(text).map(Artifact::Export).map_err(fail)
        } else {
            Manifest::parse(text).map(Artifact::Manifest).map_err(fail)
        };
    }

    let image = image_tar::read(content, monitor)
        .map_err(|source| ArtifactError::Tar { path: shown(), source })?;
    Ok(Artifact::Image(image))
}

/// Reads a diff or a full archive of this program: its frames are verified before they are decoded.
fn read_framed(
    path: &Path,
    mut file: FramedFile<BufReader<File>>,
    monitor: &dyn Monitor,
) -> Result<Artifact, ArtifactError> {
    let shown = || path.display().to_string();
    let invalid = |source| ArtifactError::Diff { path: shown(), source };
    let head = FrameHead::read(&mut file).map_err(|fault| invalid(fault.into()))?;
    if head.has_frames() {
        let listing = read_listing(&head, &ArchiveLimits::default()).map_err(invalid)?;
        return Ok(Artifact::Diff(Box::new(listing)));
    }

    let frames = VerifiedFrames::new(file.bytes, Arc::clone(head.table()), file.compression);
    let image = image_tar::read(frames, monitor)
        .map_err(|source| ArtifactError::Tar { path: shown(), source })?;
    Ok(Artifact::Image(image))
}

/// Returns the compression of a file, and the first bytes of its content.
fn peek(path: &Path) -> io::Result<(Option<ImageCompression>, Vec<u8>)> {
    let mut file = BufReader::new(named_file::open(path)?);
    let compression = match file.fill_buf()? {
        [0x1f, 0x8b, ..] => Some(ImageCompression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Some(ImageCompression::Zstd)
        }
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(ImageCompression::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(ImageCompression::Xz),
        _ => None,
    };

    let mut start = Vec::new();
    decompress(file, compression)?.take(16).read_to_end(&mut start)?;
    Ok((compression, start))
}

fn decompress(
    file: BufReader<File>,
    compression: Option<ImageCompression>,
) -> io::Result<Box<dyn Read>> {
    Ok(match compression {
        Some(ImageCompression::Zstd) => {
            let mut decoder = ZstdDecoder::with_buffer(file)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
        // `GzDecoder` would silently stop after the first member.
        Some(ImageCompression::Gzip) => Box::new(MultiGzDecoder::new(file)),
        Some(ImageCompression::Bzip2) => Box::new(MultiBzDecoder::new(file)),
        Some(ImageCompression::Xz) => Box::new(XzReader::new_mem_limit(file, true, MAX_XZ_KIB)),
        None => Box::new(file),
    })
}
