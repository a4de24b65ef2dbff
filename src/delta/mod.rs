//! Makes new contents out of old ones: which old file serves which new one, and the patch between them.
//!
#![doc = include_str!("format.md")]

use std::io;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

pub mod gzip;
mod pair;

pub use pair::{Group, pair};

/// A content larger than this travels whole, and serves no delta: both sides hold source and output in
/// memory, and a node has little of it.
pub const MAX_CONTENT: u64 = 48 << 20;
/// About this many bytes of source make a group: enough for small files to share one prefix, few enough
/// for the match finder's tables to cover all of them.
pub const GROUP_SOURCE: u64 = 4 << 20;
/// A group's output is cut at about this size, also where one source serves many targets.
pub const GROUP_OUTPUT: u64 = 8 << 20;
/// The source of a group, and its output, are never larger: a large content is alone in its group.
pub const MAX_GROUP: u64 = MAX_CONTENT;
/// A patch larger than this saves too little to be worth the node's memory.
pub const MAX_PATCH: u64 = 24 << 20;

/// The window that covers the largest source and the largest output together.
const MAX_WINDOW_LOG: u32 = 27;
const MIN_WINDOW_LOG: u32 = 10;

/// Why a patch does not give what its listing promises.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The listing claims more than any group may hold.
    #[error("the patch claims an output of {0} bytes, the limit is {MAX_GROUP}")]
    TooLarge(u64),
    /// The patch is not one frame with the claimed content size.
    #[error("the patch is not one zstd frame with {0} bytes of content")]
    NotTheFrame(u64),
    /// The decoder stumbled.
    #[error("the patch cannot be decoded: {0}")]
    Damaged(&'static str),
    /// This machine has too little memory.
    #[error("there is not enough memory for {0} bytes of output")]
    Memory(u64),
}

/// Compresses `targets` with `sources` as the reference prefix.
///
/// The same input and level give the same patch. Memory: the output, and tables of some 10 MB (level 9)
/// to 100 MB (level 19).
pub fn encode(sources: &[u8], targets: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window_log(sources.len() + targets.len())),
        CParameter::EnableLongDistanceMatching(true),
        CParameter::ContentSizeFlag(true),
        CParameter::ChecksumFlag(false),
    ] {
        context.set_parameter(parameter).map_err(zstd_error)?;
    }
    context.ref_prefix(sources).map_err(zstd_error)?;
    let mut patch = Vec::with_capacity(zstd_safe::compress_bound(targets.len()));
    context.compress2(&mut patch, targets).map_err(zstd_error)?;
    patch.shrink_to_fit();
    Ok(patch)
}

/// Decodes `patch` against `sources` into exactly `output_length` bytes.
///
/// Decodes in one piece into the output itself, so that no window is allocated besides.
pub fn decode(sources: &[u8], patch: &[u8], output_length: u64) -> Result<Vec<u8>, DeltaError> {
    let length = usize::try_from(output_length)
        .ok()
        .filter(|_| output_length <= MAX_GROUP)
        .ok_or(DeltaError::TooLarge(output_length))?;
    let one_frame = zstd_safe::find_frame_compressed_size(patch) == Ok(patch.len());
    let states_length = matches!(zstd_safe::get_frame_content_size(patch), Ok(Some(n)) if n == output_length);
    if !one_frame || !states_length {
        return Err(DeltaError::NotTheFrame(output_length));
    }
    let mut output = Vec::new();
    output.try_reserve_exact(length).map_err(|_| DeltaError::Memory(output_length))?;
    let mut context = DCtx::try_create().ok_or(DeltaError::Memory(output_length))?;
    let damaged = |code| DeltaError::Damaged(zstd_safe::get_error_name(code));
    context.ref_prefix(sources).map_err(damaged)?;
    context.decompress(&mut output, patch).map_err(damaged)?;
    if output.len() != length {
        return Err(DeltaError::NotTheFrame(output_length));
    }
    Ok(output)
}

fn window_log(length: usize) -> u32 {
    length.max(1).next_power_of_two().ilog2().clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG)
}

fn zstd_error(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

#[cfg(test)]
mod tests;
