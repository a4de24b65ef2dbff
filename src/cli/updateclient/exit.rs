//! Exit codes. They are a format: a number never gets another meaning.

use std::process::ExitCode;

use crate::fetch::Side;
use crate::host::Drift;
use crate::update::{Report, SyncMode, UpdateError, UpdateOutcome, UpdateRequest, VerifiedTree};

/// Result of the program; the help lists the same table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The node is at the head of its image, or the requested action succeeded.
    Done = 0,
    /// Internal failure of the program; nothing was changed.
    Failed = 1,
    /// Invalid command line or configuration; nothing was changed.
    Usage = 2,
    /// The server's data cannot be trusted; nothing was changed.
    Trust = 3,
    /// The server or the network failed; nothing was changed.
    Fetch = 4,
    /// The update cannot be applied on this node; nothing was changed.
    Node = 5,
    /// The update was interrupted after its commit point; the next run completes it.
    Interrupted = 6,
    /// Another run is working on the tree.
    Locked = 7,
    /// A full sync is needed, but unavailable or forbidden; nothing was changed.
    NoFullSync = 8,
    /// The deletion budget is exceeded; nothing was changed.
    Budget = 9,
    /// The node deviates from its image, and deviations are only reported.
    Deviates = 10,
    /// Cancelled before anything was changed.
    Cancelled = 11,
    /// The newest generation is pinned after a rollback; nothing was installed.
    Held = 12,
    /// The tree was updated, but a later step failed: boot loader, post-update hook or reboot.
    Afterwards = 13,
    /// A pre-update hook stopped the update; nothing was changed.
    Hook = 14,
    /// The tree was updated, except paths that were left out; the next run tries them first.
    LeftOut = 15,
    /// The downloaded update may not be installed now (paused or superseded); nothing was changed.
    NotNow = 16,
}

/// Whether a run has changed the tree, or the state of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Unchanged,
    /// An update is kept on the node, and the tree is as before.
    Downloaded,
    Changed,
}

/// End of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub exit: Exit,
    pub effect: Effect,
}

impl Ended {
    /// End of a run that has changed nothing, or that failed.
    pub fn unchanged(exit: Exit) -> Self {
        Ended { exit, effect: Effect::Unchanged }
    }
}

impl Exit {
    /// Exit code of a run that ended with `error`.
    pub fn from_error(error: &UpdateError) -> Self {
        match error {
            UpdateError::Usage(_) => Exit::Usage,
            UpdateError::Trust(_) => Exit::Trust,
            UpdateError::Fetch(error) if error.side == Side::Node => Exit::Node,
            UpdateError::Fetch(_) | UpdateError::UnknownImage { .. } => Exit::Fetch,
            UpdateError::Locked(_) => Exit::Locked,
            UpdateError::Node(_)
            | UpdateError::Refused(_)
            | UpdateError::DiskSpace(_)
            | UpdateError::Reversed(_) => Exit::Node,
            UpdateError::Budget(_) => Exit::Budget,
            UpdateError::Cancelled => Exit::Cancelled,
            UpdateError::NothingToUndo { .. } => Exit::Node,
            UpdateError::Pinned { .. } => Exit::Held,
            UpdateError::Hook(_) => Exit::Hook,
            UpdateError::NotNow(_) => Exit::NotNow,
            UpdateError::Afterwards(_) => Exit::Afterwards,
            UpdateError::NoFullSync(_) => Exit::NoFullSync,
            UpdateError::Unfinished(_)
            | UpdateError::Interrupted(_)
            | UpdateError::NotVerifiable { .. } => Exit::Interrupted,
        }
    }

    /// Exit code of a completed run: drift that is only reported has its own code.
    ///
    /// Kernel paths that wait for the next boot are no drift.
    pub fn from_report(report: &Report, request: &UpdateRequest) -> Self {
        let is_compared =
            matches!(report.outcome, UpdateOutcome::UpToDate | UpdateOutcome::Updated);
        let has_drift = report.deviations.len() > report.kernel_deviations;

        if is_compared && !report.left_out.is_empty() {
            Exit::LeftOut
        } else if is_compared && has_drift && reports_drift(request) {
            Exit::Deviates
        } else {
            Exit::Done
        }
    }

    /// Exit code of a verification: a newer published generation is no deviation.
    pub fn from_verification(verification: &VerifiedTree) -> Self {
        if verification.deviations.is_empty() { Exit::Done } else { Exit::Deviates }
    }
}

/// Whether deviations that remain have a code of their own: a repair was to leave none.
fn reports_drift(request: &UpdateRequest) -> bool {
    request.drift == Drift::Report || matches!(request.mode, SyncMode::Repair(_))
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
