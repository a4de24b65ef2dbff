//! The server's `cluster.txt`: which host gets which image and overrides.

use super::{BadFile, lines, text};
use crate::image::ImageName;

/// What `cluster.txt` assigns to one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The image of the first group of the host that has one.
    pub image: ImageName,
    /// Overrides in the order in which they are laid over the image; a later one wins.
    pub overrides: Vec<ImageName>,
}

/// Looks `host` (its name up to the first dot) up in a `cluster.txt`; `None` where it has no image.
///
/// A line is `host:group:image:override`, one for each group and override of a host, the most
/// important first; one comment, `# global_override=:NAMES:`, names the overrides of all hosts, the
/// most important last. The old client laid the global ones over the image first, then the host's
/// from the least to the most important; so does this order.
pub fn assignment(file: &str, content: &[u8], host: &str) -> Result<Option<Assignment>, BadFile> {
    let mut image = None;
    let mut global = Vec::new();
    let mut own = Vec::new();
    for (number, line) in lines(text(file, content)?) {
        let name = |word: &str| word.parse::<ImageName>().map_err(|e| BadFile::at(file, number, e));
        if let Some(names) = line.strip_prefix("# global_override=:").and_then(|rest| rest.strip_suffix(':')) {
            for word in names.split_whitespace() {
                global.push(name(word)?);
            }
            continue;
        }
        let mut fields = line.split(':');
        if line.starts_with('#') || fields.next() != Some(host) {
            continue;
        }
        let mut field = || fields.next().map_or("", str::trim);
        let (_group, image_field, override_field) = (field(), field(), field());
        if image.is_none() && !image_field.is_empty() {
            image = Some(name(image_field)?);
        }
        for word in override_field.split_whitespace() {
            own.push(name(word)?);
        }
    }
    let mut overrides = global;
    overrides.extend(own.into_iter().rev());
    Ok(image.map(|image| Assignment { image, overrides: last_of_each(overrides) }))
}

/// A name that comes twice counts where it comes last.
fn last_of_each(names: Vec<ImageName>) -> Vec<ImageName> {
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<ImageName> = names.into_iter().rev().filter(|name| seen.insert(name.clone())).collect();
    kept.reverse();
    kept
}
