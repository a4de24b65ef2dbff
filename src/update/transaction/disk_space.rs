//! Space check of an update, before the download and again before staging.
//!
//! If the undo set of the last update is in the way and its removal helps, it is removed first,
//! unless the configuration keeps it.

use crate::apply::filesystem::Filesystems;
use crate::apply::plan::ChangePlan;
use crate::apply::preflight::disk_space::{ExtraSpace, SpaceRequirement, StagingRoute};
use crate::apply::{Untouched, preflight, undo};
use crate::host::KeepUndo;
use crate::manifest::Manifest;
use crate::update::downloaded;
use crate::update::error::{SpaceError, UpdateError};
use crate::update::notice::{DropReason, TransactionNotice};
use crate::update::request::UpdateStep;
use crate::update::run::Run;
use crate::update::transaction::target::{Delivery, Target};

/// Refuses an update that cannot fit, by its manifests alone, before archives are downloaded.
pub(in crate::update) fn check_before_download(
    run: &Run<'_>,
    installed: &Manifest,
    target: &Manifest,
    extra: &ExtraSpace,
) -> Result<(), UpdateError> {
    provide(run, || {
        let mut required = requirement(run, &run.session.filesystems);
        required.add_manifests(installed, target, extra).map_err(Untouched::from)?;
        Ok(required)
    })
}

/// Refuses an update that cannot fit, by the contents that have to be staged.
pub(super) fn check_before_staging(
    run: &Run<'_>,
    target: &Target,
    plan: &ChangePlan,
) -> Result<(), UpdateError> {
    let session = run.session;
    let route = match target.delivery {
        Delivery::ReceiveDir => StagingRoute::ReceiveDir,
        Delivery::Archives | Delivery::FullSync => StagingRoute::Direct,
    };
    // On limited filesystems the backups are copies.
    let copied = preflight::check_limited_space(&session.root, plan, &plan.filesystems)?;

    provide(run, || {
        let required = requirement(run, &plan.filesystems);
        let mut required = match &run.downloaded {
            Some(downloaded) => required.with_downloaded(downloaded),
            None => required,
        };
        required.add_plan(plan, route).map_err(Untouched::from)?;
        required.add_bytes(copied).map_err(Untouched::from)?;
        Ok(required)
    })
}

/// Refuses a reception by rsync of `bytes` that cannot fit into the receive directory.
pub(in crate::update) fn check_before_receiving(
    run: &Run<'_>,
    bytes: u64,
) -> Result<(), UpdateError> {
    provide(run, || {
        let mut required = requirement(run, &run.session.filesystems);
        required.add_bytes(bytes).map_err(Untouched::from)?;
        Ok(required)
    })
}

/// A requirement on `filesystems`, without any space yet.
fn requirement<'a>(run: &Run<'a>, filesystems: &'a Filesystems) -> SpaceRequirement<'a> {
    let session = run.session;
    SpaceRequirement::new(&session.root, filesystems, session.host.as_ref(), &session.mounts)
}

/// Removes the undo set if the required space needs it; fails if that does not help.
fn provide<'a>(
    run: &Run<'a>,
    require: impl Fn() -> Result<SpaceRequirement<'a>, UpdateError>,
) -> Result<(), UpdateError> {
    let mut required = require()?;
    let mut shortages = required.shortages();
    if shortages.is_empty() {
        return Ok(());
    }

    let is_download = run.request.step == UpdateStep::DownloadOnly;
    if is_download && !run.request.dry_run && run.downloaded.is_some() {
        downloaded::discard(run.session, &DropReason::NoRoom, run.monitor)?;
        required = require()?;
        shortages = required.shortages();
        if shortages.is_empty() {
            return Ok(());
        }
    }
    let Some(bytes) = required.freed_by_undo(&shortages).map_err(Untouched::from)? else {
        return Err(SpaceError::Shortages(shortages).into());
    };
    if is_download {
        return Err(SpaceError::UndoSetNeeded(shortages).into());
    }
    if run.request.keep_undo == KeepUndo::Always {
        return Err(SpaceError::UndoSetKept(shortages).into());
    }

    let shortages = &shortages;
    if run.request.dry_run {
        run.monitor.warn(TransactionNotice::UndoSetWouldBeRemoved { shortages, bytes });
        return Ok(());
    }
    run.monitor.warn(TransactionNotice::UndoSetRemoved { shortages, bytes });
    let session = run.session;
    Ok(undo::remove_undo_set(&session.root, &session.filesystems).map_err(Untouched::from)?)
}
