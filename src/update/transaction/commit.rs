//! Commit of a stage, and the roll forward.
//!
//! The commit point is the seal. A failure before it removes everything that the transaction
//! created; a failure after it leaves the journal, and the next run completes the transaction.

use crate::apply::Untouched;
use crate::apply::filesystem::{Filesystems, mount_root_times};
use crate::apply::journal::CommitRecord;
use crate::apply::roll_forward::{Applied, roll_forward};
use crate::apply::session::drop_stages;
use crate::apply::stage::Stage;
use crate::apply::undo::RetentionLimits;
use crate::fetch::leave_system_resolver;
use crate::full_sync::ReceiveDir;
use crate::report::{Event, Monitor};
use crate::root::Root;
use crate::update::transaction::error::TransactionError;

/// Makes the stage durable, seals the journal, and rolls forward.
pub(super) fn commit(
    root: &Root,
    stage: Stage<'_>,
    record: CommitRecord,
    limits: &RetentionLimits,
    monitor: &dyn Monitor,
) -> Result<Applied, TransactionError> {
    let staged = stage.finish(limits)?;

    // Last check for cancellation: after the seal it has no effect.
    if monitor.is_cancelled() {
        return Err(Untouched::Cancelled.into());
    }

    // The renames may replace the modules that a lookup of a host name loads.
    leave_system_resolver(monitor)?;

    let sealed = staged.seal(record)?;
    monitor.event(Event::Sealed);

    let applied = roll_forward(root, sealed.journal(), monitor)?;
    monitor.event(Event::Applied { mixed_ms: applied.mixed.as_millis() as u64 });
    Ok(applied)
}

/// Removes the stages and the receive directory, and restores the mtimes of the mount roots.
pub(super) fn clean_up(root: &Root, filesystems: &Filesystems) {
    // If this fails, the next run cleans up.
    let _ = drop_stages(root, filesystems)
        .and_then(|()| ReceiveDir::discard(root))
        .and_then(|()| mount_root_times::restore(root));
}
