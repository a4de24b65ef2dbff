//! The driver of every transaction: update, full sync, rsync-only sync, repair, and rollback.
//!
//! The commit point is the seal. A failure before it removes everything that the transaction
//! created; a failure after it leaves the journal, and the next run completes the transaction.

use crate::apply::Untouched;
use crate::apply::filesystem::mount_root_times;
use crate::apply::journal::CommitRecord;
use crate::apply::plan::ChangePlan;
use crate::apply::roll_forward::{Applied, roll_forward};
use crate::apply::session::{Session, drop_stages};
use crate::apply::stage::Stage;
use crate::apply::undo::RetentionLimits;
use crate::full_sync::ReceiveDir;
use crate::report::{Event, Monitor};
use crate::tree_path::TreePath;
use crate::update::error::FollowUpError;
use crate::update::hooks::Hooks;
use crate::update::transaction::error::TransactionError;

/// A planned transaction and its surroundings.
pub(in crate::update) struct Transaction<'a> {
    pub session: &'a Session,
    pub plan: &'a ChangePlan,
    pub hooks: Hooks<'a>,
    pub limits: RetentionLimits,
    /// Checks if a path is tracked; boot loader tools that rewrite such a path cause a deviation.
    pub is_tracked: &'a dyn Fn(&TreePath) -> bool,
    pub monitor: &'a dyn Monitor,
}

/// A completed transaction.
pub(in crate::update) struct Completed {
    pub applied: Applied,
    /// Failures of the boot loader's tool and of post-update hooks.
    pub follow_up_failures: Vec<FollowUpError>,
}

impl<'a> Transaction<'a> {
    /// Creates the stages, with everything in them that needs no content.
    pub fn create_stage(&self) -> Result<Stage<'a>, TransactionError> {
        let (root, plan) = (&self.session.root, self.plan);
        Ok(Stage::create(root, &plan.filesystems, plan, self.monitor)?)
    }
}

/// Runs a transaction with its hooks: pre-update hooks, stage, seal, roll forward, post-update
/// hooks.
///
/// `fill` creates the stage, fills it, and returns it with the record for the journal.
pub(in crate::update) fn execute<'a>(
    transaction: &Transaction<'a>,
    fill: impl FnOnce() -> Result<(Stage<'a>, CommitRecord), TransactionError>,
) -> Result<Completed, TransactionError> {
    let earlier_changes = transaction.hooks.run_before()?;

    let result = fill().and_then(|(stage, record)| commit(transaction, stage, record));
    let applied = match result {
        Ok(applied) => applied,
        Err(error) => {
            if !error.is_after_commit_point() {
                transaction.hooks.cancel_pending(&earlier_changes);
                clean_up(transaction);
            }
            return Err(error);
        }
    };

    let follow_up_failures = transaction.hooks.run_after(transaction.is_tracked);
    Ok(Completed { applied, follow_up_failures })
}

/// Makes the stage durable, seals the journal, and rolls forward.
fn commit(
    transaction: &Transaction<'_>,
    stage: Stage<'_>,
    record: CommitRecord,
) -> Result<Applied, TransactionError> {
    let monitor = transaction.monitor;
    let staged = stage.finish(&transaction.limits)?;

    // Last check for cancellation: after the seal it has no effect.
    if monitor.is_cancelled() {
        return Err(Untouched::Cancelled.into());
    }

    let sealed = staged.seal(record)?;
    monitor.event(Event::Sealed);

    let applied = roll_forward(&transaction.session.root, sealed.journal(), monitor)?;
    monitor.event(Event::Applied { mixed_ms: applied.mixed.as_millis() as u64 });
    Ok(applied)
}

/// Removes the stages and the receive directory, and restores the mtimes of the mount roots.
fn clean_up(transaction: &Transaction<'_>) {
    let root = &transaction.session.root;
    // If this fails, the next run cleans up.
    let _ = drop_stages(root, &transaction.plan.filesystems)
        .and_then(|()| ReceiveDir::discard(root))
        .and_then(|()| mount_root_times::restore(root));
}
