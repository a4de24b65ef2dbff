//! Small files with one word a line.

use super::{BadFile, lines, text};
use crate::image::ImageName;

/// The host's name up to its first dot, from the content of `/etc/hostname`; `None` where that
/// names nothing that could be a host.
pub fn hostname(content: &[u8]) -> Option<String> {
    let text = text("hostname", content).ok()?;
    let line = lines(text).map(|(_, line)| line).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let name = line.split('.').next().unwrap_or(line);
    let good = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        && !name.starts_with('-');
    good.then(|| name.to_owned())
}

/// The names in the node's `overrides` file, one a line; a later one wins.
pub fn overrides(file: &str, content: &[u8]) -> Result<Vec<ImageName>, BadFile> {
    lines(text(file, content)?)
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| line.parse().map_err(|e| BadFile::at(file, number, e)))
        .collect()
}
