//! Decides which paths of a node an image manages, in rsync's pattern language.
//!
//! A full sync leaves this decision to rsync, every other update makes it here. Both have to agree
//! about every path: a path that only one of them excludes would be removed by the other.
#![doc = include_str!("format.md")]

mod builtin;
mod cursor;
mod excluded_contents;
mod parse;
mod pattern;

use std::collections::BTreeSet;
use std::fmt;

use crate::digest::Digest;
use crate::entry::EntryKind;
use crate::manifest::Manifest;
use crate::printable::Quoted;
use crate::tree_path::TreePath;

pub use cursor::Cursor;
pub use excluded_contents::ExcludedContents;
pub use parse::{BadRule, MAX_EXCLUDE_FILE, MAX_RULES};
use pattern::Pattern;

/// An ordered list of rules; the first that matches a path decides.
#[derive(Clone, Debug)]
pub struct Filter {
    rules: Vec<Rule>,
    /// Names of the exclude files, by the index of [`RuleOrigin::File`].
    files: Vec<String>,
    /// The image manages only this directory; the root means the whole tree.
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
    /// Includes public keys, and one file; it excludes nothing.
    Keys,
    File {
        index: usize,
        line: usize,
    },
}

/// Reason for which a path is excluded.
#[derive(Clone, Copy, Debug)]
pub struct ExcludeReason<'f> {
    filter: &'f Filter,
    /// `None` if the path is outside the directory that the image manages.
    rule: Option<usize>,
}

/// Collects the layers of a [`Filter`], in any order.
#[derive(Clone, Debug)]
pub struct FilterBuilder {
    foreign: Vec<TreePath>,
    within: TreePath,
    /// Included although an exclude file excludes it.
    included: Option<TreePath>,
    file_rules: Vec<Rule>,
    files: Vec<String>,
}

impl Filter {
    /// Starts with the built-in rules alone.
    pub fn builder() -> FilterBuilder {
        FilterBuilder {
            foreign: Vec::new(),
            within: TreePath::root(),
            included: None,
            file_rules: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Returns the reason for which `path` is excluded; `None` if the image manages it.
    ///
    /// All paths below an excluded directory are excluded. The root never is. For many paths in
    /// tree order a [`Cursor`] gives the same answers faster.
    pub fn excludes(&self, path: &TreePath, kind: EntryKind) -> Option<ExcludeReason<'_>> {
        self.cursor().excludes(path, kind)
    }

    /// The manifest without excluded paths.
    pub fn included_part(&self, manifest: &Manifest) -> Manifest {
        let mut cursor = self.cursor();
        manifest.filtered(|entry| cursor.excludes(&entry.path, entry.kind()).is_none())
    }

    /// A cursor for a walk over many paths.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor::new(self)
    }

    /// A cursor for the content of a directory that is known not to be excluded.
    pub fn cursor_inside(&self, directory: &TreePath) -> Cursor<'_> {
        Cursor::inside(self, directory)
    }

    /// Whether `path` is never removed: the agent, its configuration and its keys.
    ///
    /// If the image has the path, it is brought up to date. A directory above a protected path is
    /// not protected itself; it stays because it is not empty.
    pub fn protects(&self, path: &TreePath) -> bool {
        builtin::protects(path.as_bytes())
    }

    /// Digest of the rules in effect; comments and spacing do not change it.
    ///
    /// Protected paths are no part of it: they decide about removals, not about tracked paths. Nor
    /// are stages below the root, since no publishable image has any.
    pub fn digest(&self) -> Digest {
        Digest::of(&rule_lines(self.rules.iter().filter(|rule| rule.origin != RuleOrigin::Stage)))
    }

    /// The same rules and protections as a file for `rsync --filter='merge FILE'`.
    pub fn rsync_rules(&self) -> Vec<u8> {
        self.rsync_rules_without(std::iter::empty())
    }

    /// As [`rsync_rules`](Self::rsync_rules), but rsync also leaves out paths that an override
    /// replaces.
    ///
    /// At a hidden directory rsync transfers only a directory, and not its content. At any other
    /// hidden path it transfers nothing.
    pub fn rsync_rules_without<'p>(
        &self,
        hidden: impl IntoIterator<Item = (&'p TreePath, EntryKind)>,
    ) -> Vec<u8> {
        let mut lines = Vec::new();

        for (path, kind) in hidden {
            let literal = builtin::literal(path);
            if kind == EntryKind::Directory {
                lines.extend([b"+ ", &literal[..], b"/\n"].concat());
            }
            lines.extend([b"- ", &literal[..], b"\n"].concat());
        }

        lines.extend(builtin::protections());
        lines.extend(rule_lines(&self.rules));
        lines
    }

    /// The same rules, then rules for rsync that include nothing except these paths.
    ///
    /// Of `directories` all directories at and below them are included, but no files.
    pub fn rsync_rules_selecting(&self, directories: &[TreePath], files: &[TreePath]) -> Vec<u8> {
        let mut lines = builtin::protections();
        let is_general = |rule: &&Rule| rule.origin != RuleOrigin::Keys;
        lines.extend(rule_lines(self.rules.iter().filter(is_general)));
        let mut include = |pattern: &[u8], end: &[u8]| {
            lines.extend([b"+ ", pattern, end, b"\n"].concat());
        };

        for path in directories.iter().chain(files) {
            let above = std::iter::successors(path.parent(), TreePath::parent);
            for directory in above.filter(|directory| !directory.is_root()) {
                include(&builtin::literal(&directory), b"/");
            }
        }
        for directory in directories {
            include(&builtin::literal(directory), b"/");
            include(&builtin::directories_below(directory), b"");
        }
        for file in files {
            include(&builtin::literal(file), b"");
        }

        lines.extend_from_slice(b"- *\n");
        lines
    }

    /// Rules for rsync that include only `files`, in spite of all exclude rules.
    pub fn rsync_rules_of_files(files: &[TreePath]) -> Vec<u8> {
        let mut lines = Vec::new();
        let mut directories: BTreeSet<TreePath> = BTreeSet::new();
        for file in files {
            let above = std::iter::successors(file.parent(), TreePath::parent);
            directories.extend(above.filter(|directory| !directory.is_root()));
        }

        for directory in &directories {
            lines.extend([b"+ ", &builtin::literal(directory)[..], b"/\n"].concat());
        }
        for file in files {
            lines.extend([b"+ ", &builtin::literal(file)[..], b"\n"].concat());
        }
        lines.extend_from_slice(b"- *\n");
        lines
    }

    /// Whether `path` is neither inside the directory that the image manages nor above it.
    fn is_outside(&self, path: &[u8]) -> bool {
        let within = self.within.as_bytes();
        let (shorter, longer) =
            if path.len() < within.len() { (path, within) } else { (within, path) };

        let rest = longer.strip_prefix(shorter);
        !shorter.is_empty() && rest.is_none_or(|rest| !rest.is_empty() && rest[0] != b'/')
    }

    /// Index of the rule that excludes this path by its own name; the cursor asks about its
    /// ancestors.
    fn excluding_rule(&self, path: &[u8], kind: EntryKind) -> Option<usize> {
        let index = self.rules.iter().position(|rule| rule.pattern.matches(path, kind))?;
        (self.rules[index].action == RuleAction::Exclude).then_some(index)
    }
}

impl FilterBuilder {
    /// Excludes mounts that do not belong to the image, with everything below them.
    pub fn foreign_mounts(mut self, paths: impl IntoIterator<Item = TreePath>) -> Self {
        self.foreign.extend(paths);
        self
    }

    /// Excludes everything outside `directory`; nothing if that is the root.
    pub fn within(mut self, directory: TreePath) -> Self {
        self.within = directory;
        self
    }

    /// Includes the file `path` in spite of all exclude files; nothing else becomes included.
    pub fn including(mut self, path: Option<TreePath>) -> Self {
        self.included = path;
        self
    }

    /// Adds the rules of an exclude file after those of earlier files; `name` is for messages.
    ///
    /// A line `!` removes the rules of all exclude files before it, never the built-in rules.
    pub fn exclude_file(mut self, name: &str, content: &[u8]) -> Result<Self, BadRule> {
        let index = self.files.len();
        self.files.push(name.to_owned());
        parse::exclude_file(name, content, index, &mut self.file_rules)?;
        Ok(self)
    }

    /// Puts the layers in order: own state, foreign mounts, keys, exclude files.
    pub fn build(self) -> Filter {
        let mut rules = builtin::rules(self.foreign);
        rules.extend(builtin::inclusions(self.included.as_ref(), &self.file_rules));
        rules.extend(self.file_rules);
        Filter { rules, files: self.files, within: self.within }
    }
}

/// Rules as text, one in a line.
fn rule_lines<'r>(rules: impl IntoIterator<Item = &'r Rule>) -> Vec<u8> {
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
    /// Whether the rule is in an exclude file, and not built in.
    pub fn is_configured(&self) -> bool {
        self.configured().is_some()
    }

    /// Whether the rule is no more than a name, which it excludes in every directory.
    pub fn is_bare_name(&self) -> bool {
        self.rule.is_some_and(|rule| self.filter.rules[rule].pattern.is_bare_name())
    }

    /// Pattern, file and line of a rule in an exclude file.
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
            RuleOrigin::Keys => write!(f, "a key of the image ({pattern})"),
            RuleOrigin::File { index, line } => {
                write!(f, "{}:{line}: {pattern}", self.filter.files[index])
            }
        }
    }
}

#[cfg(test)]
mod tests;
