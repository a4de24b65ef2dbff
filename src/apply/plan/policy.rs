//! How closely a plan compares the tree, and its treatment of deviations and untracked paths.

use crate::host::Drift;

/// Treatment of deviations and of untracked paths.
#[derive(Clone, Copy, Debug)]
pub struct ComparePolicy {
    /// Check level of tracked paths that do not change.
    pub check_level: CheckLevel,
    /// Treatment of tracked paths that deviate.
    pub drift: Drift,
    /// Treatment of untracked paths.
    pub untracked: UntrackedPolicy,
}

/// How closely the planner compares a path that is equal in the installed and the target manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckLevel {
    /// No comparison.
    Touched,
    /// Type, size, mode, owner and times, as rsync's quick check.
    Stat,
    /// Also content, extended attributes and the target of a symbolic link.
    Content,
}

/// Treatment of untracked paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UntrackedPolicy {
    /// They belong to the node.
    Keep,
    /// They are removed.
    Remove,
}
