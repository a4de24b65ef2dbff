//! Lines of key files and signature blocks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::FormFault;

/// Begins the first line of a signature block or a key file.
pub(super) const UNTRUSTED: &str = "untrusted comment: ";
/// Begins the third line of a signature block.
pub(super) const TRUSTED: &str = "trusted comment: ";
/// Longest line of a signature block, with its newline. minisign writes comments up to this length.
pub(super) const MAX_LINE: usize = 1024;

/// Reads a line that consists of a prefix and a comment.
pub(super) fn read_comment(line: &[u8], prefix: &'static str) -> Result<String, FormFault> {
    let comment =
        line.strip_prefix(prefix.as_bytes()).ok_or(FormFault::Prefix { expected: prefix })?;
    let comment = std::str::from_utf8(comment).map_err(|_| FormFault::Comment)?;
    check_comment(comment)?;
    Ok(comment.to_owned())
}

/// Refuses a comment that no line can hold.
pub(super) fn check_comment(comment: &str) -> Result<(), FormFault> {
    if UNTRUSTED.len() + comment.len() >= MAX_LINE {
        return Err(FormFault::LongLine { limit: MAX_LINE });
    }
    if comment.chars().any(|c| c.is_control() && c != '\t') {
        return Err(FormFault::Comment);
    }
    Ok(())
}

/// Reads a line of base64 that encodes exactly `LENGTH` bytes.
pub(super) fn read_base64<const LENGTH: usize>(line: &[u8]) -> Result<[u8; LENGTH], FormFault> {
    let fault = FormFault::Base64 { bytes: LENGTH };
    // The exact length, so that the size of the output is known before the decoding.
    if line.len() != LENGTH.div_ceil(3) * 4 {
        return Err(fault);
    }
    let bytes = STANDARD.decode(line).map_err(|_| fault)?;
    bytes.try_into().map_err(|_| fault)
}

/// The base64 of `bytes`, without a newline.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
