//! A file that describes an image, told by what is in it and not by its name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::image_tar::{self, TarError, TarImage};
use crate::diff_archive::{
    ArchiveError, ArchiveLimits, FrameCompression, FrameDecoder, Listing, Reader,
};
use crate::manifest::{MAX_TEXT, Manifest, ManifestError};
use crate::report::Monitor;

/// What a file describes.
pub enum Artifact {
    /// A manifest, as text or compressed.
    Manifest(Manifest),
    /// An archive of a whole image.
    Image(TarImage),
    /// A diff.
    Diff(Box<Listing>),
}

/// Why a file describes nothing.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It is not a manifest.
    #[error("{path}: {source}")]
    Manifest {
        /// Which file.
        path: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// It is not an archive of an image.
    #[error("{path}: {source}")]
    Tar {
        /// Which file.
        path: String,
        /// What is wrong with it.
        source: TarError,
    },
    /// It is not a diff.
    #[error("{path}: {source}")]
    Diff {
        /// Which file.
        path: String,
        /// What is wrong with it.
        source: ArchiveError,
    },
}

/// Reads the file at `path`, of a diff only the listing.
pub fn read(path: &Path, monitor: &dyn Monitor) -> Result<Artifact, ArtifactError> {
    let shown = || path.display().to_string();
    let io = |source| ArtifactError::Io { path: shown(), source };
    let (compression, begin) = peek(path).map_err(io)?;
    let file = BufReader::with_capacity(128 << 10, File::open(path).map_err(io)?);
    if begin.starts_with(b".si-diff/")
        && let Some(compression) = compression
    {
        let reader = Reader::open(file, compression, &ArchiveLimits::default());
        let reader = reader.map_err(|source| ArtifactError::Diff { path: shown(), source })?;
        return Ok(Artifact::Diff(Box::new(reader.listing().clone())));
    }
    let content = plain(file, compression).map_err(io)?;
    if begin.starts_with(b"#mtree") {
        let text = BufReader::with_capacity(128 << 10, content.take(MAX_TEXT));
        let manifest = Manifest::parse(text)
            .map_err(|source| ArtifactError::Manifest { path: shown(), source })?;
        return Ok(Artifact::Manifest(manifest));
    }
    let image = image_tar::read(content, monitor)
        .map_err(|source| ArtifactError::Tar { path: shown(), source })?;
    Ok(Artifact::Image(image))
}

/// How the file is compressed, and the first bytes of its content.
fn peek(path: &Path) -> io::Result<(Option<FrameCompression>, Vec<u8>)> {
    let mut file = BufReader::new(File::open(path)?);
    let compression = match file.fill_buf()? {
        [0x1f, 0x8b, ..] => Some(FrameCompression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(FrameCompression::Zstd),
        _ => None,
    };
    let mut begin = Vec::new();
    plain(file, compression)?.take(16).read_to_end(&mut begin)?;
    Ok((compression, begin))
}

fn plain(
    from: BufReader<File>,
    compression: Option<FrameCompression>,
) -> io::Result<Box<dyn Read>> {
    Ok(match compression {
        Some(compression) => Box::new(FrameDecoder::new(compression, from)?),
        None => Box::new(from),
    })
}
