//! What every transaction has in common once its stage is filled: durable, sealed, made, recorded.

use crate::apply::filesystem::mount_root_times;
use crate::apply::journal::CommitRecord;
use crate::apply::plan::ChangePlan;
use crate::apply::roll_forward::{Applied, roll_forward};
use crate::apply::session::{Session, drop_stages};
use crate::apply::stage::{Stage, StageError};
use crate::apply::undo::RetentionLimits;
use crate::apply::{Interrupted, Untouched};
use crate::full_sync;
use crate::report::{Event, Monitor};
use crate::update::UpdateError;

/// On which side of the seal a transaction failed.
pub(in crate::update) enum Failure<E> {
    /// The tree is as it was.
    Before(E),
    /// The tree is between two states, and the next run finishes.
    After(UpdateError),
}

impl<E: From<UpdateError>> Failure<E> {
    /// Leaves nothing behind of a transaction that was not sealed.
    pub(in crate::update) fn clean_up(self, session: &Session, transaction: &ChangePlan) -> E {
        match self {
            Failure::Before(error) => {
                let root = &session.root;
                // Where even that fails, the next run tidies up.
                let _ = drop_stages(root, &transaction.filesystems)
                    .and_then(|()| full_sync::discard(root))
                    .and_then(|()| mount_root_times::restore(root));
                error
            }
            Failure::After(error) => E::from(error),
        }
    }
}

/// Seals what is staged and makes it so.
pub(in crate::update) fn commit(
    session: &Session,
    stage: Stage,
    limits: &RetentionLimits,
    record: CommitRecord,
    monitor: &dyn Monitor,
) -> Result<Applied, Failure<UpdateError>> {
    let before = |error: Untouched| Failure::Before(UpdateError::from(error));
    let after = |error: Interrupted| Failure::After(UpdateError::Interrupted(error));
    let staged = stage.finish(limits).map_err(before)?;
    if monitor.is_stopped() {
        return Err(before(Untouched::Stopped));
    }
    let sealed = staged.seal(record).map_err(|error| match error {
        StageError::Interrupted(error) => after(error),
        error => Failure::Before(error.into()),
    })?;
    monitor.event(Event::Sealed);
    let applied = roll_forward(&session.root, sealed.journal(), monitor).map_err(after)?;
    monitor.event(Event::Applied { mixed_ms: applied.mixed.as_millis() as u64 });
    Ok(applied)
}
