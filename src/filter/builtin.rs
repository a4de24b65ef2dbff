//! Rules that no configuration can remove.

use super::pattern::Pattern;
use super::{Rule, RuleAction, RuleOrigin};
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
    "etc/systemimager/keys",
    "etc/systemimager/overrides",
];

pub(super) fn protects(path: &[u8]) -> bool {
    PROTECTED.iter().any(|protected| {
        path.strip_prefix(protected.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
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

    let mut rules = Vec::new();
    let mut exclude = |origin, pattern: &[u8]| {
        rules.push(Rule { action: RuleAction::Exclude, pattern: Pattern::new(pattern), origin });
    };

    exclude(RuleOrigin::OwnState, b"/.si-*");
    exclude(RuleOrigin::Stage, b".si-stage/");
    exclude(RuleOrigin::Stage, b".si-undo/");
    exclude(RuleOrigin::OwnState, b"/var/lib/systemimager/client/");
    exclude(RuleOrigin::OwnState, b"/etc/systemimager/IMAGE_LAST_SYNCED_TO");
    exclude(RuleOrigin::LostAndFound, b"lost+found/");
    for path in foreign.iter().filter(|path| !path.is_root()) {
        exclude(RuleOrigin::ForeignMount, &literal(path));
    }
    rules
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
