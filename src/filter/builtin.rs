//! Rules that no configuration can remove.

use super::pattern::Pattern;
use super::{Rule, RuleAction, RuleOrigin};
use crate::client_paths::{
    DOWNLOADED_DIR, KEY_DIR, KEY_SUFFIX, LAST_SYNCED, OWN_PREFIX, STAGE_DIR, STATE_DIR, UNDO_DIR,
};
use crate::entry::EntryKind;
use crate::tree_path::TreePath;

/// Paths that are never removed, even if the image does not have them.
///
/// Without the agent, its configuration and its keys a node could not be updated again.
pub(super) const PROTECTED: [&str; 7] = [
    "usr/sbin/si_updateclient",
    "usr/bin/si_updateclient",
    "etc/systemimager/updateclient.toml",
    "etc/systemimager/updateclient.local.exclude",
    "etc/systemimager/client.conf",
    KEY_DIR,
    "etc/systemimager/overrides",
];

pub(super) fn protects(path: &[u8]) -> bool {
    PROTECTED.iter().any(|protected| {
        path.strip_prefix(protected.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// The protected paths as rules for rsync.
pub(super) fn protections() -> Vec<u8> {
    // A path may be a directory: its content is protected as well.
    PROTECTED.iter().flat_map(|path| format!("P /{path}\nP /{path}/**\n").into_bytes()).collect()
}

/// Rules for the agent's own state and for foreign mounts.
///
/// Each filesystem has a stage in its top directory. The stage can also be seen below the source of
/// a bind mount, in a snapshot, and through a second mount of the disk: its name is excluded
/// everywhere.
pub(super) fn rules(mut foreign: Vec<TreePath>) -> Vec<Rule> {
    // The digest must not depend on the order in which the kernel lists mounts.
    foreign.sort();
    foreign.dedup();

    let mut rules = vec![
        exclude(RuleOrigin::OwnState, format!("/{OWN_PREFIX}*")),
        exclude(RuleOrigin::Stage, format!("{STAGE_DIR}/")),
        exclude(RuleOrigin::Stage, format!("{UNDO_DIR}/")),
        exclude(RuleOrigin::Stage, format!("{DOWNLOADED_DIR}/")),
        exclude(RuleOrigin::OwnState, format!("/{STATE_DIR}/")),
        exclude(RuleOrigin::OwnState, format!("/{LAST_SYNCED}")),
        exclude(RuleOrigin::LostAndFound, "lost+found/"),
    ];
    let foreign = foreign.iter().filter(|path| !path.is_root());
    rules.extend(foreign.map(|path| exclude(RuleOrigin::ForeignMount, literal(path))));
    rules
}

/// Rules that include the public keys of an image, and the file `included`, before `file_rules`.
///
/// A node whose exclude file has `/etc/systemimager/*` would keep a key that the image has dropped.
/// A directory at or above an included file that `file_rules` exclude is included, and everything
/// else in it is excluded by its name. So exactly these files become part of the image.
pub(super) fn inclusions(included: Option<&TreePath>, file_rules: &[Rule]) -> Vec<Rule> {
    let excluding = |dir: &[u8]| {
        let mut rules = file_rules.iter();
        let rule = rules.find(|rule| rule.pattern.matches(dir, EntryKind::Directory))?;
        (rule.action == RuleAction::Exclude).then_some(rule.origin)
    };
    let below = [format!("{KEY_DIR}/head"), format!("{KEY_DIR}/revoked")];
    let mut rules: Vec<Rule> = included.iter().map(|path| include(literal(path))).collect();
    rules.push(include(format!("/{KEY_DIR}/*{KEY_SUFFIX}")));
    rules.extend(below.iter().map(|dir| include(format!("/{dir}/*{KEY_SUFFIX}"))));

    // Everything below an excluded directory is excluded by the same rule.
    let mut excluded_above = None;
    let mut opened: Vec<(Vec<u8>, RuleOrigin)> = Vec::new();
    for dir in ["etc", "etc/systemimager", KEY_DIR] {
        excluded_above = excluded_above.or_else(|| excluding(dir.as_bytes()));
        opened.extend(excluded_above.map(|origin| (format!("/{dir}").into_bytes(), origin)));
    }
    for dir in &below {
        let origin = excluded_above.or_else(|| excluding(dir.as_bytes()));
        opened.extend(origin.map(|origin| (format!("/{dir}").into_bytes(), origin)));
    }

    let above = included.map(|path| std::iter::successors(path.parent(), TreePath::parent));
    let mut above: Vec<TreePath> = above.into_iter().flatten().collect();
    above.retain(|dir| !dir.is_root());
    let mut excluded_above = None;
    for dir in above.iter().rev() {
        excluded_above = excluded_above.or_else(|| excluding(dir.as_bytes()));
        let pattern = literal(dir);
        if !opened.iter().any(|(other, _)| *other == pattern) {
            opened.extend(excluded_above.map(|origin| (pattern, origin)));
        }
    }
    opened.sort_by_key(|(dir, _)| dir.iter().filter(|byte| **byte == b'/').count());

    // The first rule that matches decides, so the deepest directory is first.
    for (dir, origin) in opened.into_iter().rev() {
        rules.push(include([&dir[..], b"/"].concat()));
        rules.push(exclude(origin, [&dir[..], b"/*"].concat()));
    }
    rules
}

fn include(pattern: impl AsRef<[u8]>) -> Rule {
    Rule { action: RuleAction::Include, ..exclude(RuleOrigin::Keys, pattern) }
}

fn exclude(origin: RuleOrigin, pattern: impl AsRef<[u8]>) -> Rule {
    Rule { action: RuleAction::Exclude, pattern: Pattern::new(pattern.as_ref()), origin }
}

/// An anchored pattern that matches only `path`.
pub(super) fn literal(path: &TreePath) -> Vec<u8> {
    let mut pattern = vec![b'/'];
    if path.as_bytes().iter().any(|b| b"*?[\n\r".contains(b)) {
        escape(path.as_bytes(), &mut pattern);
    } else {
        pattern.extend_from_slice(path.as_bytes());
    }
    pattern
}

/// An anchored pattern that matches every directory below `path`.
pub(super) fn directories_below(path: &TreePath) -> Vec<u8> {
    let mut pattern = vec![b'/'];
    // The pattern has wildcards, so that a backslash of the path has to be escaped as well.
    escape(path.as_bytes(), &mut pattern);
    pattern.extend_from_slice(b"/**/");
    pattern
}

fn escape(path: &[u8], pattern: &mut Vec<u8>) {
    for &byte in path {
        match byte {
            b'*' | b'?' | b'[' | b'\\' => pattern.extend([b'\\', byte]),
            // A rule is one line, so these bytes can only be matched by their class.
            b'\n' | b'\r' => pattern.extend_from_slice(b"[[:cntrl:]]"),
            other => pattern.push(other),
        }
    }
}
