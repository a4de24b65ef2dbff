//! The paths of a module, as rsync lists them in a dry run into an empty directory.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};

use super::error::{FullSyncError, ServerFault};
use super::module::Module;
use crate::report::Monitor;
use crate::root::Root;
use crate::tree_path::TreePath;

/// Limit of the number of paths: that of a manifest.
const MAX_PATHS: usize = 5_000_000;

/// The paths of a module, with their types and hard links.
pub(super) struct RsyncListing {
    /// In tree order, with rsync's letter for the type.
    pub paths: BTreeMap<TreePath, u8>,
    /// For each further link of an inode, the link that rsync names first.
    pub leaders: HashMap<TreePath, TreePath>,
}

impl RsyncListing {
    /// Lists a module; the layer directory has the rules and an empty directory `none`.
    pub(super) fn read(
        module: &Module<'_>,
        layer_dir: &Root,
        monitor: &dyn Monitor,
    ) -> Result<Self, FullSyncError> {
        let mut paths = BTreeMap::from([(TreePath::root(), b'd')]);
        let mut has_links = false;
        list(module, layer_dir, "%i %n", monitor, |line| {
            let unknown_line = || FullSyncError::unknown_line(line);
            let (letters, name) = split_item(line).ok_or_else(unknown_line)?;
            has_links |= letters[0] == b'h';

            let name = unescape(name);
            let name = name.strip_suffix(b"/").filter(|_| letters[1] == b'd').unwrap_or(&name);
            if name != b"." {
                paths.insert(TreePath::new(name).map_err(|_| unknown_line())?, letters[1]);
            }

            if paths.len() > MAX_PATHS {
                Err(FullSyncError::Server(ServerFault::TooManyPaths { limit: MAX_PATHS }))
            } else {
                Ok(())
            }
        })?;

        // Only a second listing can name the leaders: `PATH => LEADER` is ambiguous without the
        // known paths.
        let mut leaders = HashMap::new();
        if has_links {
            list(module, layer_dir, "%i %n%L", monitor, |line| {
                let unknown_line = || FullSyncError::unknown_line(line);
                let (letters, rest) = split_item(line).ok_or_else(unknown_line)?;
                if letters[0] == b'h' {
                    let (path, leader) =
                        split_link(&unescape(rest), &paths).ok_or_else(unknown_line)?;
                    leaders.insert(path, leader);
                }
                Ok(())
            })?;
        }
        Ok(RsyncListing { paths, leaders })
    }
}

/// Passes a line in `format` for each path of the module to `on_line`.
fn list(
    module: &Module<'_>,
    layer_dir: &Root,
    format: &str,
    monitor: &dyn Monitor,
    on_line: impl FnMut(&[u8]) -> Result<(), FullSyncError>,
) -> Result<(), FullSyncError> {
    let mut options: Vec<OsString> =
        ["-aHn", "--numeric-ids", "--no-inc-recursive"].map(Into::into).into();
    options.push(format!("--out-format={format}").into());

    let outcome = module.run((layer_dir, OsStr::new("none/")), options, on_line, monitor)?;
    module.check_outcome(&outcome)
}

/// Splits a line into the eleven letters of an itemized change and the rest.
pub(super) fn split_item(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (letters, rest) = line.split_at_checked(11)?;
    Some((letters, rest.strip_prefix(b" ")?))
}

/// Whether the eleven letters name no difference except that of the time.
pub(super) fn is_time_only(letters: &[u8]) -> bool {
    let mut attributes = letters.iter().skip(2).enumerate();
    let has_time = letters.get(4).is_some_and(u8::is_ascii_alphabetic);
    has_time && attributes.all(|(at, letter)| at == 2 || matches!(letter, b'.' | b' '))
}

/// Reverses rsync's escapes: a backslash, a hash and three octal digits.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = rest.strip_prefix(b"\\#").and_then(|digits| digits.get(..3));
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &rest[5..] } else { after };
    }
    bytes
}

/// Splits `PATH => LEADER` into two known paths; `None` if that is possible in no or several ways.
fn split_link(text: &[u8], known: &BTreeMap<TreePath, u8>) -> Option<(TreePath, TreePath)> {
    const ARROW: &[u8] = b" => ";
    let known_path =
        |bytes: &[u8]| TreePath::new(bytes).ok().filter(|path| known.contains_key(path));

    let mut pairs =
        text.windows(ARROW.len()).enumerate().filter(|(_, window)| *window == ARROW).filter_map(
            |(at, _)| Some((known_path(&text[..at])?, known_path(&text[at + ARROW.len()..])?)),
        );
    pairs.next().filter(|_| pairs.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_restored() {
        assert_eq!(unescape(b"a\\#012b\\c\\#9\\#134#012"), b"a\nb\\c\\#9\\#012");
        assert_eq!(unescape(b"\\#"), b"\\#");
    }

    #[test]
    fn item_that_differs_in_time_alone_is_recognised() {
        let cases = [
            (".f..t......", true),
            (">f..t......", true),
            (".d..t......", true),
            ("cL..T......", true),
            (">f.st......", false),
            (".f..tp.....", false),
            (".f.........", false),
            (">f+++++++++", false),
        ];

        for (letters, expected) in cases {
            assert_eq!(is_time_only(letters.as_bytes()), expected, "{letters}");
        }
    }

    #[test]
    fn ambiguous_links_are_refused() {
        let path = |text: &str| TreePath::new(text).expect("a valid path");
        let known: BTreeMap<TreePath, u8> =
            ["we => ird", "x => y", "a", "a => a"].map(|name| (path(name), b'f')).into();

        let link = split_link(b"we => ird => x => y", &known);
        assert_eq!(link, Some((path("we => ird"), path("x => y"))));
        assert_eq!(split_link(b"a => a => a", &known), None);
        assert_eq!(split_link(b"a => b", &known), None);
    }
}
