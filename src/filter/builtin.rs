//! The rules that no configuration takes away.

use super::pattern::Pattern;
use super::{Rule, RuleAction, RuleOrigin};
use crate::tree_path::TreePath;

/// What stays though an image lacks it: without the agent, its configuration and its keys a node
/// could not be updated again.
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

/// The agent's own state, then foreign mounts.
///
/// A stage lies at the top of each filesystem that takes part, and is seen again below the source of a
/// bind mount, in a snapshot, and on a second mount of the same disk: its name counts everywhere.
pub(super) fn rules(mut foreign: Vec<TreePath>) -> Vec<Rule> {
    // the digest must not depend on the order in which the kernel lists mounts
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

/// An anchored pattern that matches `path` alone.
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
            // a rule is one line
            b'\n' | b'\r' => pattern.extend_from_slice(b"[[:cntrl:]]"),
            other => pattern.push(other),
        }
    }
}
