//! Patches of the kind `prefix`: one zstd frame with the source as its reference prefix (clause 4).

use std::io;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

use super::effort::Effort;
use super::error::{DeltaError, PatchDefect, zstd_error};
use super::limits::MAX_GROUP;
use super::output_buffer::reserve_output;

/// A window of 128 MiB, which covers the largest source and the largest output together.
const MAX_WINDOW_LOG: u32 = 27;
const MIN_WINDOW_LOG: u32 = 10;

/// Compresses `output` with `source` as the reference prefix.
///
/// Memory: the patch, and tables of some MB, with [`Effort::Best`] up to 100 MB.
pub(super) fn encode(source: &[u8], output: &[u8], effort: Effort) -> io::Result<Vec<u8>> {
    let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
    for parameter in [
        CParameter::CompressionLevel(effort.delta_level()),
        CParameter::WindowLog(window_log(source.len() + output.len())),
        CParameter::EnableLongDistanceMatching(true),
        CParameter::ContentSizeFlag(true),
        CParameter::ChecksumFlag(false),
    ] {
        context.set_parameter(parameter).map_err(zstd_error)?;
    }
    if let Some(log) = effort.hash_log() {
        context.set_parameter(CParameter::HashLog(log)).map_err(zstd_error)?;
    }
    context.ref_prefix(source).map_err(zstd_error)?;

    let mut patch = Vec::with_capacity(zstd_safe::compress_bound(output.len()));
    context.compress2(&mut patch, output).map_err(zstd_error)?;
    patch.shrink_to_fit();
    Ok(patch)
}

/// Decodes `patch` with `source` as the prefix into exactly `length` bytes.
///
/// The decoder writes all at once into the output itself, so it allocates no window.
pub(super) fn decode(
    source: &[u8],
    patch: &[u8],
    length: u64,
    output: &mut Vec<u8>,
) -> Result<(), DeltaError> {
    if length > MAX_GROUP {
        return Err(DeltaError::TooLarge(length));
    }
    let one_frame = zstd_safe::find_frame_compressed_size(patch) == Ok(patch.len());
    if !one_frame || content_size(patch) != Some(length) {
        return Err(DeltaError::NotTheFrame(length));
    }

    reserve_output(output, length)?;
    let mut context = DCtx::try_create().ok_or(DeltaError::Memory(length))?;
    context.ref_prefix(source).map_err(damaged)?;
    context.decompress(output, patch).map_err(damaged)?;

    if output.len() as u64 != length {
        return Err(DeltaError::NotTheFrame(length));
    }
    Ok(())
}

/// Number of bytes that a patch states as its output.
pub(super) fn content_size(patch: &[u8]) -> Option<u64> {
    zstd_safe::get_frame_content_size(patch).ok().flatten()
}

fn window_log(length: usize) -> u32 {
    length.max(1).next_power_of_two().ilog2().clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG)
}

fn damaged(code: zstd_safe::ErrorCode) -> DeltaError {
    PatchDefect::Zstd(zstd_safe::get_error_name(code)).into()
}
