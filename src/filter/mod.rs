//! Which paths of a node are the image's business, in rsync's pattern language.
//!
#![doc = include_str!("format.md")]

mod builtin;
mod cursor;
mod parse;
mod pattern;

use std::fmt;

use crate::digest::Digest;
use crate::tree_path::{Quoted, TreePath};

pub use cursor::Cursor;
pub use parse::{BadRule, MAX_EXCLUDE_FILE, MAX_RULES};
use pattern::Pattern;

/// An ordered list of rules, of which the first that matches decides.
#[derive(Clone, Debug)]
pub struct Filter {
    rules: Vec<Rule>,
    /// Names of the exclude files, by [`RuleOrigin::File`]'s index.
    files: Vec<String>,
    /// The directory that alone is the image's business; the top for all.
    within: TreePath,
}

#[derive(Clone, Debug)]
struct Rule {
    action: RuleAction,
    pattern: Pattern,
    origin: RuleOrigin,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum RuleAction {
    Exclude,
    Include,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum RuleOrigin {
    OwnState,
    Stage,
    LostAndFound,
    ForeignMount,
    File { index: usize, line: usize },
}

/// Why a path is excluded.
#[derive(Clone, Copy, Debug)]
pub struct ExcludeReason<'f> {
    filter: &'f Filter,
    /// The rule; `None` where the path lies outside of the directory that the filter is for.
    rule: Option<usize>,
}

/// Collects the layers of a [`Filter`], in whatever order they are known.
#[derive(Clone, Debug)]
pub struct FilterBuilder {
    foreign: Vec<TreePath>,
    within: TreePath,
    file_rules: Vec<Rule>,
    files: Vec<String>,
}

impl Filter {
    /// Begins with the built-in rules alone.
    pub fn builder() -> FilterBuilder {
        FilterBuilder {
            foreign: Vec::new(),
            within: TreePath::root(),
            file_rules: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Why `path` is neither to be changed nor to be deleted; `None` where the image decides.
    ///
    /// Below an excluded directory everything is excluded. The top of the tree never is. For many
    /// paths in tree order a [`Cursor`] does the same faster.
    pub fn excludes(&self, path: &TreePath, is_dir: bool) -> Option<ExcludeReason<'_>> {
        self.cursor().excludes(path, is_dir)
    }

    /// A cursor for a walk over many paths.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor::new(self)
    }

    /// A cursor for what is in `directory`, which is known not to be excluded, nor any directory above it.
    pub fn cursor_inside(&self, directory: &TreePath) -> Cursor<'_> {
        Cursor::inside(self, directory)
    }

    /// Whether `path` stays though the image lacks it: the agent, its configuration and its keys.
    ///
    /// What the image does hold at such a path is brought up to date as everywhere. A directory
    /// above a protected path is not protected by itself; it stays because it is not empty.
    pub fn protects(&self, path: &TreePath) -> bool {
        builtin::protects(path.as_bytes())
    }

    /// Names the rules that are in effect; comments, spacing and the place of a rule's text count
    /// for nothing.
    ///
    /// What is protected does not enter: it decides about deletions, not about what is tracked. Nor do
    /// stages below the top: no image that can be published has any.
    pub fn digest(&self) -> Digest {
        Digest::of(&lines(self.rules.iter().filter(|rule| rule.origin != RuleOrigin::Stage)))
    }

    /// The same rules and protections as a file for `rsync --filter='merge FILE'`.
    pub fn rsync_rules(&self) -> Vec<u8> {
        self.rsync_rules_without(std::iter::empty())
    }

    /// The same, where paths at which something else is laid over do not come either: with `true` a directory,
    /// over which only another directory comes; else nothing, nor what is below it.
    pub fn rsync_rules_without<'p>(
        &self,
        hidden: impl IntoIterator<Item = (&'p TreePath, bool)>,
    ) -> Vec<u8> {
        let mut lines = Vec::new();
        for (path, is_dir) in hidden {
            let literal = builtin::literal(path);
            if is_dir {
                lines.extend([b"+ ", &literal[..], b"/\n"].concat());
            }
            lines.extend([b"- ", &literal[..], b"\n"].concat());
        }
        for path in builtin::PROTECTED {
            lines.extend_from_slice(b"P /");
            lines.extend_from_slice(path.as_bytes());
            // a directory, or whatever else stands there, and what is below it
            lines.extend_from_slice(b"\nP /");
            lines.extend_from_slice(path.as_bytes());
            lines.extend_from_slice(b"/**\n");
        }
        lines.extend(self::lines(&self.rules));
        lines
    }

    /// Whether `path` is neither in the directory that the filter is for nor above it.
    fn is_outside(&self, path: &[u8]) -> bool {
        let within = self.within.as_bytes();
        let (shorter, longer) =
            if path.len() < within.len() { (path, within) } else { (within, path) };
        let begins = longer.strip_prefix(shorter);
        !shorter.is_empty() && begins.is_none_or(|rest| !rest.is_empty() && rest[0] != b'/')
    }

    /// The rule that excludes this very path; what its ancestors say is the cursor's business.
    fn excluding_rule(&self, path: &[u8], is_dir: bool) -> Option<usize> {
        let index = self.rules.iter().position(|rule| rule.pattern.matches(path, is_dir))?;
        (self.rules[index].action == RuleAction::Exclude).then_some(index)
    }
}

impl FilterBuilder {
    /// Names what is mounted below the root and does not belong to the image: it and everything
    /// below it is excluded.
    pub fn foreign_mounts(mut self, paths: impl IntoIterator<Item = TreePath>) -> Self {
        self.foreign.extend(paths);
        self
    }

    /// Leaves to the node all but what is in `directory`; nothing where that is the top.
    pub fn within(mut self, directory: TreePath) -> Self {
        self.within = directory;
        self
    }

    /// Adds the rules of an exclude file after those of earlier ones; `name` is used in messages.
    ///
    /// A `!` in it drops the rules of exclude files so far, never the built-in ones.
    pub fn exclude_file(mut self, name: &str, content: &[u8]) -> Result<Self, BadRule> {
        let index = self.files.len();
        self.files.push(name.to_owned());
        parse::exclude_file(name, content, index, &mut self.file_rules)?;
        Ok(self)
    }

    /// Puts the layers in order: our own state, foreign mounts, exclude files.
    pub fn build(self) -> Filter {
        let mut rules = builtin::rules(self.foreign);
        rules.extend(self.file_rules);
        Filter { rules, files: self.files, within: self.within }
    }
}

/// Rules as text, one a line.
fn lines<'r>(rules: impl IntoIterator<Item = &'r Rule>) -> Vec<u8> {
    let mut lines = Vec::new();
    for rule in rules {
        lines.extend_from_slice(match rule.action {
            RuleAction::Exclude => b"- ",
            RuleAction::Include => b"+ ",
        });
        lines.extend_from_slice(rule.pattern.source());
        lines.push(b'\n');
    }
    lines
}

impl ExcludeReason<'_> {
    /// Whether an exclude file says so, and not a built-in rule.
    pub fn is_configured(&self) -> bool {
        self.configured().is_some()
    }

    /// Pattern, file and line of the rule, where an exclude file says so.
    pub fn configured(&self) -> Option<(String, &str, usize)> {
        let rule = &self.filter.rules[self.rule?];
        match rule.origin {
            RuleOrigin::File { index, line } => {
                Some((Quoted(rule.pattern.source()).to_string(), &self.filter.files[index], line))
            }
            _ => None,
        }
    }
}

impl fmt::Display for ExcludeReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(rule) = self.rule.map(|rule| &self.filter.rules[rule]) else {
            return write!(f, "it is not in {}", self.filter.within);
        };
        let pattern = Quoted(rule.pattern.source());
        match rule.origin {
            RuleOrigin::OwnState | RuleOrigin::Stage => {
                write!(f, "the agent's own state ({pattern})")
            }
            RuleOrigin::LostAndFound => write!(f, "the filesystem's own ({pattern})"),
            RuleOrigin::ForeignMount => {
                write!(f, "another filesystem is mounted there ({pattern})")
            }
            RuleOrigin::File { index, line } => {
                write!(f, "{}:{line}: {pattern}", self.filter.files[index])
            }
        }
    }
}

#[cfg(test)]
mod tests;
