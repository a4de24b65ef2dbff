//! Updates a node: the jobs of `si_updateclient`, without its command line.
//!
//! [`run`] is the main job: open the tree, repeat a pending boot loader run, then update by the
//! published catalog or by rsync alone. Read on in the order of the work:
//!
//! 1. `recover.rs` opens the session, and completes an interrupted transaction.
//! 2. `source/` fetches the catalog, overrides and exclude rules.
//! 3. `installed/` finds the generation that the node has.
//! 4. `strategy/` chooses between repair, diffs and full sync, and another one if it fails.
//! 5. `transaction/` compares, plans, checks, and executes; [`rollback`] uses the same driver.
//! 6. `hooks/` runs the programs around the transaction.

mod downloaded;
mod error;
mod explain;
mod fstab;
mod hooks;
mod installed;
mod notice;
mod reboot;
mod recover;
mod report;
mod request;
mod requester;
mod rollback;
mod run;
mod source;
mod status;
mod strategy;
mod transaction;
mod verify;

use crate::apply::Untouched;
use crate::apply::session::Session;
use crate::apply::undo::RetentionLimits;
use crate::entry::EntryKind;
use crate::host::boot_loader::pending;
use crate::host::releases_in;
use crate::manifest::Manifest;
use crate::process::surroundings;
use crate::report::Monitor;
use crate::state::{self, LoadedState, State};
use crate::tree_path::TreePath;

pub use downloaded::{DownloadedSource, downloaded_source};
pub use error::{FollowUpError, UnsignedRoute, UpdateError, UsageError};
pub use explain::{ExplainRequest, Provenance, why};
pub use reboot::reboot;
pub use recover::{
    UnmountedFilesystem, pending_filesystems, recover, recover_first, unmounted_filesystems,
};
pub use report::{ByDigest, Report, UpdateOutcome};
pub use request::{
    AssignmentSource, Check, Excludes, NewerHeads, RepairScope, RepositorySource, RsyncScope,
    SyncMode, TrustSettings, UpdateRequest, UpdateStep,
};
pub use rollback::{RollbackRequest, RolledBack, rollback};
pub use source::cluster::{Assigned, ClusterRequest, cluster, host_name, recorded_assignment};
pub(crate) use source::trust::refuse_unsigned;
pub use status::{Status, UndoSummary, status};
pub use verify::{
    Publication, PublishedSide, Standing, VerifiedDeviation, VerifiedTree, VerifyRequest,
    recorded_proof, verify,
};

use error::Refusal;
use hooks::default_entry::{self, KernelChange};
use hooks::{HookContext, boot_loader};
use notice::{TransactionNotice, UpdateNotice};
use run::Run;
use transaction::left_kernel::{self, LeftKernel};

/// Runs the job that `request` describes.
pub fn run(request: &UpdateRequest, monitor: &dyn Monitor) -> Result<Report, UpdateError> {
    let session = if request.dry_run {
        recover::open_for_dry_run(&request.root)?
    } else {
        recover::open_session(&request.root, &request.allow_root_fs, monitor)?
    };
    let run = downloaded::attach(Run::new(request, &session, &request.excludes, monitor)?)?;
    let pending_failures = repeat_pending_boot_loader(&run)?;

    let result = match &request.mode {
        SyncMode::Diffs(repo) => match request.step {
            UpdateStep::FromDownloaded(_) => strategy::install_downloaded(&run, repo),
            UpdateStep::Whole | UpdateStep::DownloadOnly => strategy::run_catalog(&run, repo),
        },
        SyncMode::Rsync(scope) => strategy::run_sync(&run, scope),
        SyncMode::Repair(scope) => strategy::run_repair(&run, scope),
    };
    if let Err(error) = run.discard_received() {
        monitor.warn(UpdateNotice::ReceiveDirLeft(error));
    }
    downloaded::settle(&run, &result);

    let mut report = match result {
        Ok(report) => report,
        Err(error) => {
            for failure in &pending_failures {
                monitor.warn(TransactionNotice::FollowUpFailed(failure));
            }
            return Err(error);
        }
    };
    // The update itself may have repeated the boot loader's run, with success.
    let is_pending = pending::load(&session.root).map_or(true, |pending| !pending.is_empty());
    if report.follow_up_failures.is_empty() {
        report.follow_up_failures = pending_failures
            .into_iter()
            .filter(|error: &FollowUpError| {
                is_pending || !matches!(error, FollowUpError::BootLoader(_))
            })
            .collect();
    }
    Ok(report)
}

/// Refuses a limit of file sizes: it could stop a transaction after its commit point.
pub fn check_file_size_limit() -> Result<(), UpdateError> {
    match surroundings::file_size_limit() {
        None => Ok(()),
        Some(bytes) => Err(Refusal::FileSizeLimit { bytes }.into()),
    }
}

/// Retries a boot loader update that an earlier run left pending; returns its failures.
fn repeat_pending_boot_loader(run: &Run<'_>) -> Result<Vec<FollowUpError>, UpdateError> {
    let root = &run.session.root;
    let request = run.request;
    if request.dry_run || request.adopt_only || request.step == UpdateStep::DownloadOnly {
        return Ok(Vec::new());
    }

    let state = load_recorded_state(run.session)?;
    let has_kernel_paths = state.as_ref().is_some_and(|state| state.kernel.is_some());
    if !has_kernel_paths && pending::load(root).map_err(Untouched::from)?.is_empty() {
        return Ok(Vec::new());
    }
    let recorded = match &state {
        Some(state) => load_recorded_tree(run.session, state)?,
        None => None,
    };
    let is_tracked = |path: &TreePath| {
        recorded.as_ref().is_some_and(|recorded| recorded.get(path).is_some())
            && run.filter.cursor().excludes(path, EntryKind::Other).is_none()
    };
    let context = HookContext::from_run(run);
    let failures = boot_loader::run_pending(&context, &is_tracked);
    let mut failures: Vec<FollowUpError> =
        failures.into_iter().map(FollowUpError::BootLoader).collect();

    let left_kernel = LeftKernel {
        session: run.session,
        filter: &run.filter,
        context: &context,
        limits: RetentionLimits {
            keep: run.request.keep_undo,
            share: run.request.undo_share,
            repairs: true,
            recorded_id: None,
        },
        is_tracked: &is_tracked,
    };
    match left_kernel.remove_boot_files() {
        Ok(removal) => {
            failures.extend(removal.into_iter().flat_map(|done| done.follow_up_failures))
        }
        Err(error) if left_kernel::is_interrupted(&error) => return Err(error),
        Err(error) => failures.push(FollowUpError::BootFilesLeft(Box::new(error))),
    }

    // The run that left the work has not verified the next boot.
    let kept = state.as_ref().and_then(|state| state.kernel.as_ref());
    let running = run.session.kernel.iter();
    let left = running.filter(|kernel| kept.is_some_and(|kept| kept.release == kernel.release()));
    let kernels = KernelChange {
        left: left.cloned().collect(),
        target: recorded.as_ref().map(releases_in).unwrap_or_default(),
    };
    if let Some(failure) = default_entry::arrange(&context, &kernels, &is_tracked) {
        failures.push(failure);
    }
    Ok(failures)
}

/// Returns the recorded state, if there is one.
fn load_recorded_state(session: &Session) -> Result<Option<Box<State>>, UpdateError> {
    Ok(match state::load(&session.root).map_err(Untouched::from)? {
        LoadedState::Valid(state) | LoadedState::FromCopy(state) => Some(state),
        LoadedState::Missing | LoadedState::Rejected(_) => None,
    })
}

/// Returns the composed manifest of a recorded state, unless it is lost.
fn load_recorded_tree(session: &Session, state: &State) -> Result<Option<Manifest>, UpdateError> {
    let manifest =
        state::load_manifest(&session.root, state.generation).map_err(Untouched::from)?;
    Ok(manifest.map(|manifest| source::overrides::compose_recorded(manifest, state)))
}
