//! The downloaded update of a node: whether a run may use it, and its removal.
//!
//! It leads from one recorded state of one tree, under one set of rules, to one target. As soon as
//! one of them is another, it is removed, with a line. A dry run removes nothing.

use std::path::Path;
use std::sync::Arc;

use crate::apply::Untouched;
use crate::apply::downloaded::{
    self, DownloadRecord, DownloadSummary, DownloadedUpdate, FoundDownload,
};
use crate::apply::error::DownloadedFault;
use crate::apply::filesystem::Filesystems;
use crate::apply::session::Session;
use crate::catalog::{MAX_CATALOG, MAX_HEAD};
use crate::digest::Digest;
use crate::filter::Filter;
use crate::generation::GenerationId;
use crate::image::{ImageName, Layer, LayerKind};
use crate::report::Monitor;
use crate::root::Root;
use crate::state::{self, LoadedState, State};
use crate::tree_path::TreePath;
use crate::update::error::{Refusal, UpdateError, UsageError};
use crate::update::notice::{DownloadNotice, DropReason};
use crate::update::report::{Report, UpdateOutcome};
use crate::update::request::{
    AssignmentSource, Excludes, SignedFiles, SyncMode, UpdateRequest, UpdateStep,
};
use crate::update::run::Run;

/// Image, overrides and repository of a downloaded update.
#[derive(Clone, Debug)]
pub struct DownloadedSource {
    pub image: ImageName,
    pub overrides: Vec<ImageName>,
    /// Source of these names.
    pub assignment: AssignmentSource,
    /// Address of the repository.
    pub repository: String,
}

/// Summarizes the downloaded update of a tree, or returns its fault; `None` if there is none.
///
/// The contents are not compared, and it may lead from another state.
pub(super) fn summarize(root: &Root) -> Option<Result<DownloadSummary, DownloadedFault>> {
    match DownloadedUpdate::find(root, &Filesystems::default()) {
        Ok(FoundDownload::Nothing) => None,
        Ok(FoundDownload::Unusable(fault)) => Some(Err(fault)),
        Ok(FoundDownload::Valid(update)) => {
            Some(update.verify_data().map(|()| update.record.summary()))
        }
        // A run that does not use it must not fail by it.
        Err(error) => Some(Err(error.into())),
    }
}

/// Reports the downloaded update of a tree in a run that leaves it alone.
pub(super) fn show(root: &Root, monitor: &dyn Monitor) {
    match summarize(root) {
        Some(Ok(summary)) => monitor.note(DownloadNotice::Found(summary)),
        Some(Err(fault)) => monitor.note(DownloadNotice::Damaged(fault)),
        None => {}
    }
}

/// Finds image, overrides and repository of the downloaded update of the tree at `root`.
///
/// The switch needs them before it opens the tree, and must not ask the server for them. `None` if
/// there is no downloaded update: a directory without a record is left by an interrupted run. A
/// record that cannot be used is an error, since a node that reports success would stay behind.
pub fn downloaded_source(root: &Path) -> Result<Option<DownloadedSource>, UpdateError> {
    let root = Root::open(root).map_err(Untouched::from)?;
    let found = DownloadedUpdate::find(&root, &Filesystems::default()).map_err(Untouched::from)?;
    let update = match found {
        FoundDownload::Valid(update) => update,
        FoundDownload::Nothing | FoundDownload::Unusable(DownloadedFault::Incomplete) => {
            return Ok(None);
        }
        FoundDownload::Unusable(fault) => return Err(Refusal::Downloaded(fault).into()),
    };
    let Some(image) = update.record.image().cloned() else { return Ok(None) };

    let overrides = update.record.layers_of(LayerKind::Override);
    let overrides = overrides.map(|layer| layer.name.clone()).collect();
    let assignment = match read_cluster(&update)? {
        Some(cluster) => AssignmentSource::Cluster(cluster),
        None => AssignmentSource::Record,
    };
    let repository = update.record.repository.clone();
    Ok(Some(DownloadedSource { image, overrides, assignment, repository }))
}

/// Head and catalog of the `cluster.txt` that named image and overrides.
fn read_cluster(update: &DownloadedUpdate) -> Result<Option<SignedFiles>, UpdateError> {
    let Some(layer) = update.record.layers_of(LayerKind::Cluster).next() else { return Ok(None) };
    let (Some(head), Some(catalog)) = (layer.head, layer.catalog) else { return Ok(None) };
    let read = |file, limit| update.read_data(file, limit).map_err(Refusal::Downloaded);
    Ok(Some(SignedFiles {
        layer: Layer::Cluster,
        head: read(head, MAX_HEAD)?,
        catalog: read(catalog, MAX_CATALOG)?,
    }))
}

/// Gives a run its downloaded update; one that cannot be used is removed.
pub(super) fn attach<'a>(run: Run<'a>) -> Result<Run<'a>, UpdateError> {
    let request = run.request;
    if request.adopt_only || !matches!(request.mode, SyncMode::Diffs(_)) {
        return Ok(run);
    }
    let root = &run.session.root;
    let filesystems = &run.session.filesystems;
    let reason = match DownloadedUpdate::find(root, filesystems).map_err(Untouched::from)? {
        FoundDownload::Nothing => return Ok(run),
        FoundDownload::Unusable(fault) => DropReason::Damaged(fault),
        FoundDownload::Valid(update) => match find_mismatch(&run, &update.record)? {
            None => {
                if request.dry_run {
                    run.monitor.note(DownloadNotice::Found(update.record.summary()));
                }
                return Ok(Run { downloaded: Some(Arc::from(update)), ..run });
            }
            Some(reason) => reason,
        },
    };

    if request.dry_run {
        run.monitor.note(DownloadNotice::WouldBeDropped(&reason));
        return Ok(run);
    }
    // Without it the run does its job, and the next run tries again to remove it.
    discard_or_warn(run.session, &reason, run.monitor);
    // After a switch that was killed at its end, there is nothing left to install.
    let is_nothing =
        matches!(reason, DropReason::Installed | DropReason::Damaged(DownloadedFault::Incomplete));
    match request.step {
        UpdateStep::FromDownloaded(_) if !is_nothing => Err(Refusal::DownloadDropped.into()),
        _ => Ok(run),
    }
}

/// Removes the downloaded update after a run that has used or replaced it.
pub(super) fn settle(run: &Run<'_>, result: &Result<Report, UpdateError>) {
    let request = run.request;
    let Ok(report) = result else { return };
    // A download replaces an older one itself, unless the newest generation is installed.
    let is_download = request.step == UpdateStep::DownloadOnly;
    if request.dry_run || (is_download && report.outcome != UpdateOutcome::UpToDate) {
        return;
    }

    let is_ended = matches!(request.mode, SyncMode::Diffs(_)) && !request.adopt_only;
    match (&run.downloaded, report.outcome) {
        (Some(update), _) if is_ended => {
            let is_installed = report.generation == Some(update.record.generation);
            let reason = if is_installed { DropReason::Installed } else { DropReason::Replaced };
            discard_or_warn(run.session, &reason, run.monitor);
        }
        (None, UpdateOutcome::Updated | UpdateOutcome::Adopted) => {
            drop_outdated(run.session, run.monitor);
        }
        _ => {}
    }
}

/// Whether any part of a downloaded update is on this node.
pub(super) fn exists(session: &Session) -> Result<bool, UpdateError> {
    Ok(downloaded::exists(&session.root, &session.filesystems).map_err(Untouched::from)?)
}

/// Removes the downloaded update if it does not lead from the recorded state any more.
fn drop_outdated(session: &Session, monitor: &dyn Monitor) {
    let outdated = DownloadedUpdate::find(&session.root, &session.filesystems)
        .map_err(Untouched::from)
        .and_then(|found| match found {
            FoundDownload::Valid(update) => find_node_mismatch(session, &update.record),
            FoundDownload::Nothing | FoundDownload::Unusable(_) => Ok(None),
        });
    match outdated {
        Ok(Some(reason)) => discard_or_warn(session, &reason, monitor),
        Ok(None) => {}
        Err(error) => monitor.warn(DownloadNotice::Left(error)),
    }
}

/// Removes the downloaded update with a line, unless it was just installed.
pub(super) fn discard(
    session: &Session,
    reason: &DropReason,
    monitor: &dyn Monitor,
) -> Result<(), Untouched> {
    if !matches!(reason, DropReason::Installed) {
        monitor.warn(DownloadNotice::Dropped(reason));
    }
    Ok(downloaded::discard(&session.root, &session.filesystems)?)
}

/// Removes the downloaded update; a failure is a warning.
pub(super) fn discard_or_warn(session: &Session, reason: &DropReason, monitor: &dyn Monitor) {
    if let Err(error) = discard(session, reason, monitor) {
        monitor.warn(DownloadNotice::Left(error));
    }
}

/// Digest of the configured exclude rules, without those of mounts, which differ between runs.
pub(super) fn rules_digest(request: &UpdateRequest) -> Result<Digest, UpdateError> {
    let Excludes { name, rules, .. } = &request.excludes;
    let builder = Filter::builder()
        .foreign_mounts(excluded_types(request))
        .exclude_file(name, rules)
        .map_err(UsageError::Excludes)?;
    Ok(builder.build().digest())
}

/// The types of filesystems that are updated, as names that a digest covers.
fn excluded_types(request: &UpdateRequest) -> Vec<TreePath> {
    let types = request.fstypes.iter().flatten();
    types.filter_map(|kind| TreePath::new(format!("fstype/{kind}")).ok()).collect()
}

/// Finds the reason for which a run cannot use a downloaded update.
fn find_mismatch(
    run: &Run<'_>,
    record: &DownloadRecord,
) -> Result<Option<DropReason>, UpdateError> {
    if let Some(reason) = find_node_mismatch(run.session, record)? {
        return Ok(Some(reason));
    }

    let request = run.request;
    let is_same = |overrides: &[ImageName]| {
        record.layers_of(LayerKind::Override).map(|layer| &layer.name).eq(overrides)
    };
    if record.image() != Some(&request.image) {
        return Ok(Some(DropReason::OtherImage));
    }
    if !is_same(&request.overrides) {
        return Ok(Some(DropReason::OtherOverrides));
    }
    if record.rules != rules_digest(request)? {
        return Ok(Some(DropReason::OtherRules));
    }
    Ok(None)
}

/// Finds the reason for which no run on this node can use a downloaded update.
fn find_node_mismatch(
    session: &Session,
    record: &DownloadRecord,
) -> Result<Option<DropReason>, Untouched> {
    let root = &session.root;
    if !record.is_of_this_agent() {
        return Ok(Some(DropReason::OtherAgent { version: record.agent.clone() }));
    }
    if record.tree_identity != root.identity()? {
        return Ok(Some(DropReason::OtherTree));
    }
    let recorded = recorded_id(root)?;
    if record.base != recorded {
        // A switch that was killed after its commit point has been completed since.
        let is_installed = recorded == Some(record.target);
        return Ok(Some(if is_installed { DropReason::Installed } else { DropReason::OtherBase }));
    }
    Ok(None)
}

/// Composed id of the recorded state.
pub(super) fn recorded_id(root: &Root) -> Result<Option<GenerationId>, Untouched> {
    Ok(match state::load(root)? {
        LoadedState::Valid(state) | LoadedState::FromCopy(state) => {
            Some(State::composed_id(&state))
        }
        LoadedState::Missing | LoadedState::Rejected(_) => None,
    })
}
