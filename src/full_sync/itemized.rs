//! What a module holds, as rsync itself lists it: a dry run into an empty directory.

use std::collections::{BTreeMap, HashMap};

use crate::full_sync::{FullSyncError, Module};
use crate::report::Monitor;
use crate::root::Root;
use crate::tree_path::TreePath;

/// More paths than this are refused: so many entries take the longest manifest.
const MAX_PATHS: usize = 5_000_000;

/// The paths of a module with the letter that rsync gives their type, and which of them are one inode.
pub(super) struct RsyncListing {
    /// In tree order, the top first.
    pub paths: BTreeMap<TreePath, u8>,
    /// The leader that rsync names for each other link of an inode.
    pub leaders: HashMap<TreePath, TreePath>,
}

impl Module<'_> {
    /// Lists the module; `place` holds the rules and an empty directory `none`.
    pub(super) fn list(
        &self,
        place: &Root,
        monitor: &dyn Monitor,
    ) -> Result<RsyncListing, FullSyncError> {
        let mut paths = BTreeMap::from([(TreePath::root(), b'd')]);
        let mut linked = false;
        self.dry(place, "%i %n", monitor, |line| {
            let (how, name) = itemized(line).ok_or_else(|| odd(line))?;
            linked |= how[0] == b'h';
            let name = unescape(name);
            let name = name.strip_suffix(b"/").filter(|_| how[1] == b'd').unwrap_or(&name);
            if name != b"." {
                paths.insert(TreePath::new(name).map_err(|_| odd(line))?, how[1]);
            }
            if paths.len() > MAX_PATHS {
                Err(FullSyncError::Server("it has too many paths".to_owned()))
            } else {
                Ok(())
            }
        })?;
        let mut leaders = HashMap::new();
        if linked {
            self.dry(place, "%i %n%L", monitor, |line| {
                let (how, rest) = itemized(line).ok_or_else(|| odd(line))?;
                if how[0] == b'h' {
                    let (path, leader) = link(&unescape(rest), &paths).ok_or_else(|| odd(line))?;
                    leaders.insert(path, leader);
                }
                Ok(())
            })?;
        }
        Ok(RsyncListing { paths, leaders })
    }

    fn dry(
        &self,
        place: &Root,
        format: &str,
        monitor: &dyn Monitor,
        hear: impl FnMut(&[u8]) -> Result<(), FullSyncError>,
    ) -> Result<(), FullSyncError> {
        let options = ["-aHn", "--numeric-ids", "--no-inc-recursive"].map(Into::into);
        let options =
            options.into_iter().chain([format!("--out-format={format}").into()]).collect();
        let outcome = self.run(place, options, "none/", hear, monitor)?;
        self.judge(&outcome).map_or(Ok(()), Err)
    }
}

fn odd(line: &[u8]) -> FullSyncError {
    let line = String::from_utf8_lossy(line).escape_debug().to_string();
    FullSyncError::Server(format!("it says what is not understood: {line}"))
}

/// The eleven letters of an itemised change, and what follows.
pub(super) fn itemized(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (how, rest) = line.split_at_checked(11)?;
    Some((how, rest.strip_prefix(b" ")?))
}

/// rsync writes unusual bytes as a backslash, a hash and three octal digits.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = rest.strip_prefix(b"\\#").and_then(|digits| digits.get(..3));
        let value = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        bytes.push(value.unwrap_or(first));
        rest = if value.is_some() { &rest[5..] } else { after };
    }
    bytes
}

/// The two known paths of `PATH => LEADER`; `None` where it could be read in several ways, or in none.
fn link(text: &[u8], known: &BTreeMap<TreePath, u8>) -> Option<(TreePath, TreePath)> {
    const ARROW: &[u8] = b" => ";
    let path = |bytes: &[u8]| TreePath::new(bytes).ok().filter(|path| known.contains_key(path));
    let splits = text
        .windows(ARROW.len())
        .enumerate()
        .filter(|(_, window)| *window == ARROW)
        .map(|(at, _)| at);
    let mut found =
        splits.filter_map(|at| Some((path(&text[..at])?, path(&text[at + ARROW.len()..])?)));
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_read_as_rsync_wrote_them() {
        assert_eq!(unescape(b"a\\#012b\\c\\#9\\#134#012"), b"a\nb\\c\\#9\\#012");
        assert_eq!(unescape(b"\\#"), b"\\#");
    }

    #[test]
    fn a_link_is_read_only_where_there_is_one_way_to() {
        let path = |text: &str| TreePath::new(text).expect("good");
        let known = |names: &[&str]| {
            names.iter().map(|name| (path(name), b'f')).collect::<BTreeMap<_, _>>()
        };
        let odd = known(&["we => ird", "x => y", "a", "a => a"]);
        assert_eq!(link(b"we => ird => x => y", &odd), Some((path("we => ird"), path("x => y"))));
        assert_eq!(link(b"a => a => a", &odd), None);
        assert_eq!(link(b"a => b", &odd), None);
    }
}
