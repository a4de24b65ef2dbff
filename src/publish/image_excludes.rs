//! Exclude rules that the nodes of an image have, as far as the publisher can know them.
//!
//! Contents that nodes exclude must not be needed for others. An image may ship the exclude file of
//! its nodes; otherwise they use the built-in rules. Rules that a node has in addition are unknown
//! here, and cost only that node.

use std::io::{self, Read};

use crate::diff_archive::ContentProvider;
use crate::filter::{BadRule, Filter, MAX_EXCLUDE_FILE};
use crate::host::DEFAULT_EXCLUDES;
use crate::manifest::Manifest;
use crate::publish::notice::PublishNotice;
use crate::report::Monitor;
use crate::tree_path::TreePath;

/// The exclude file of a node, and of an image that ships it.
const FILE: &str = "etc/systemimager/updateclient.local.exclude";
/// Name of the built-in rules.
const BUILT_IN: &str = "the built-in excludes";

/// Reads the exclude rules of `image`; without usable ones the built-in rules apply.
pub(crate) fn read_image_excludes(
    image: &Manifest,
    content: &dyn ContentProvider,
    monitor: &dyn Monitor,
) -> Filter {
    let shipped = read_file(image, content).and_then(|rules| match rules {
        Some(rules) => compile(FILE, &rules).map(Some).map_err(io::Error::other),
        None => Ok(None),
    });

    let shipped = shipped.unwrap_or_else(|error| {
        monitor.warn(PublishNotice::ExcludesUnusable { file: FILE, error });
        None
    });
    shipped.unwrap_or_else(|| {
        // A test shows that the built-in rules are good.
        compile(BUILT_IN, DEFAULT_EXCLUDES.as_bytes()).unwrap_or_else(|_| Filter::builder().build())
    })
}

/// Reads the exclude file of the image; `None` if it has none.
fn read_file(image: &Manifest, content: &dyn ContentProvider) -> io::Result<Option<Vec<u8>>> {
    let Ok(path) = TreePath::new(FILE) else { return Ok(None) };
    let Some(entry) = image.get(&path).filter(|entry| entry.file().is_some()) else {
        return Ok(None);
    };

    let mut rules = Vec::new();
    // A file above the limit is refused by the filter.
    content.open(entry)?.take(MAX_EXCLUDE_FILE as u64 + 1).read_to_end(&mut rules)?;
    Ok(Some(rules))
}

fn compile(name: &str, rules: &[u8]) -> Result<Filter, BadRule> {
    Ok(Filter::builder().exclude_file(name, rules)?.build())
}
