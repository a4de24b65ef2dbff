//! The old client's list of overrides, `etc/systemimager/overrides`.

use crate::host::{BadFile, lines, text};
use crate::image::ImageName;

/// Parses a list of overrides: one name in a line; empty lines and comments are ignored.
pub fn parse_overrides_list(file: &str, content: &[u8]) -> Result<Vec<ImageName>, BadFile> {
    lines(text(file, content)?)
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| line.parse().map_err(|e| BadFile::in_line(file, number, e)))
        .collect()
}
