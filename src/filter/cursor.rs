//! Answers for many paths in a row, remembering the directories that were asked about last.
//!
//! A path is excluded if any directory above it is. Without the memory each path of a walk would
//! match every ancestor against every rule again.

use super::{ExcludeReason, Filter};
use crate::entry::EntryKind;
use crate::tree_path::TreePath;

/// Gives the answers of [`Filter::excludes`] for many paths.
///
/// It is right for paths in any order, and fast in tree order: each directory is matched once.
pub struct Cursor<'f> {
    filter: &'f Filter,
    /// A directory that is not excluded, nor is any above it.
    included: Vec<u8>,
    /// A directory that is excluded by its own name, and the rule.
    excluded: Option<(Vec<u8>, usize)>,
}

impl<'f> Cursor<'f> {
    pub(super) fn new(filter: &'f Filter) -> Self {
        Cursor { filter, included: Vec::new(), excluded: None }
    }

    /// A cursor that knows that `directory` is not excluded.
    pub(super) fn inside(filter: &'f Filter, directory: &TreePath) -> Self {
        Cursor { included: directory.as_bytes().to_vec(), ..Cursor::new(filter) }
    }

    /// Returns the reason for which `path` is excluded; `None` if the image manages it.
    pub fn excludes(&mut self, path: &TreePath, kind: EntryKind) -> Option<ExcludeReason<'f>> {
        let path = path.as_bytes();
        if path.is_empty() {
            return None;
        }
        if self.filter.is_outside(path) {
            return Some(ExcludeReason { filter: self.filter, rule: None });
        }

        let rule = self.match_ancestors(path).or_else(|| self.match_itself(path, kind))?;
        Some(ExcludeReason { filter: self.filter, rule: Some(rule) })
    }

    /// The rule that excludes a directory above `path`.
    fn match_ancestors(&mut self, path: &[u8]) -> Option<usize> {
        if let Some((excluded, rule)) = &self.excluded
            && is_below(path, excluded)
        {
            return Some(*rule);
        }

        let parent_end = path.iter().rposition(|&b| b == b'/')?;
        for end in (1..=parent_end).filter(|&at| path[at] == b'/') {
            let directory = &path[..end];
            if self.included == directory || is_below(&self.included, directory) {
                continue;
            }
            if let Some(rule) = self.match_itself(directory, EntryKind::Directory) {
                return Some(rule);
            }
        }
        None
    }

    /// The rule that excludes this path by its own name; no ancestor is excluded.
    fn match_itself(&mut self, path: &[u8], kind: EntryKind) -> Option<usize> {
        let rule = self.filter.excluding_rule(path, kind);
        if kind == EntryKind::Directory {
            match rule {
                Some(rule) => self.excluded = Some((path.to_vec(), rule)),
                None => {
                    self.included.clear();
                    self.included.extend_from_slice(path);
                }
            }
        }
        rule
    }
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.len() > directory.len() && path[directory.len()] == b'/' && path.starts_with(directory)
}
