//! A walk's memory: which directory was last found excluded, and which not.

use super::{ExcludeReason, Filter};
use crate::tree_path::TreePath;

/// Answers what [`Filter::excludes`] answers, for many paths.
///
/// Right for paths in any order, fast in tree order: each directory is asked about once.
pub struct Cursor<'f> {
    filter: &'f Filter,
    /// A directory that is not excluded, nor is any above it.
    open: Vec<u8>,
    /// A directory that is excluded by its own name, and the rule.
    closed: Option<(Vec<u8>, usize)>,
}

impl<'f> Cursor<'f> {
    pub(super) fn new(filter: &'f Filter) -> Self {
        Cursor { filter, open: Vec::new(), closed: None }
    }

    /// Knows from the beginning that `directory` is not excluded, nor is any above it.
    pub(super) fn inside(filter: &'f Filter, directory: &TreePath) -> Self {
        Cursor { open: directory.as_bytes().to_vec(), ..Cursor::new(filter) }
    }

    /// Why `path` is neither to be changed nor to be deleted; `None` where the image decides.
    pub fn excludes(&mut self, path: &TreePath, is_dir: bool) -> Option<ExcludeReason<'f>> {
        let path = path.as_bytes();
        if path.is_empty() {
            return None;
        }
        if self.filter.is_outside(path) {
            return Some(ExcludeReason { filter: self.filter, rule: None });
        }
        let rule = self.above(path).or_else(|| self.itself(path, is_dir))?;
        Some(ExcludeReason { filter: self.filter, rule: Some(rule) })
    }

    /// The rule that excludes a directory above `path`.
    fn above(&mut self, path: &[u8]) -> Option<usize> {
        if let Some((closed, rule)) = &self.closed
            && is_below(path, closed)
        {
            return Some(*rule);
        }
        let parent = path.iter().rposition(|&b| b == b'/')?;
        for end in (1..=parent).filter(|&at| path[at] == b'/') {
            let directory = &path[..end];
            if self.open == directory || is_below(&self.open, directory) {
                continue;
            }
            if let Some(rule) = self.itself(directory, true) {
                return Some(rule);
            }
        }
        None
    }

    /// The rule that excludes this very path, all above which are open.
    fn itself(&mut self, path: &[u8], is_dir: bool) -> Option<usize> {
        let rule = self.filter.excluding_rule(path, is_dir);
        match rule {
            Some(rule) if is_dir => self.closed = Some((path.to_vec(), rule)),
            None if is_dir => {
                self.open.clear();
                self.open.extend_from_slice(path);
            }
            _ => {}
        }
        rule
    }
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.len() > directory.len() && path[directory.len()] == b'/' && path.starts_with(directory)
}
