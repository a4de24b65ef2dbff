//! What every transaction has in common once its stage is filled: durable, sealed, made, recorded.

use std::collections::HashMap;

use crate::apply::journal::Record;
use crate::apply::prepare::Transaction;
use crate::apply::roll_forward::{Applied, roll_forward};
use crate::apply::session::{Session, drop_stages};
use crate::apply::stage::{SealFailure, Stage};
use crate::apply::undo::Limits;
use crate::apply::{Interrupted, Untouched};
use crate::entry::Mtime;
use crate::full_sync;
use crate::report::{Event, Monitor};
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

use super::UpdateError;

/// What tops of filesystems have as the time of last modification, which a stage in them changes.
type Times = HashMap<TreePath, Mtime>;

/// On which side of the seal a transaction failed.
pub(super) enum Failure<E> {
    /// The tree is as it was.
    Before(E),
    /// The tree is between two states, and the next run finishes.
    After(UpdateError),
}

impl<E: From<UpdateError>> Failure<E> {
    /// Leaves nothing behind of a transaction that was not sealed, which began when the tops of filesystems
    /// had `times`.
    pub(super) fn clean_up(self, session: &Session, transaction: &Transaction, times: &Times) -> E {
        match self {
            Failure::Before(error) => {
                let root = &session.root;
                // Where even that fails, the next run tidies up.
                let _ = drop_stages(root, &transaction.tops)
                    .and_then(|()| full_sync::discard(root))
                    .and_then(|()| set_back(root, times));
                error
            }
            Failure::After(error) => E::from(error),
        }
    }
}

fn set_back(root: &Root, times: &Times) -> Result<(), RootError> {
    for (top, time) in times {
        if root.stat(top)?.is_some_and(|stat| stat.mtime != *time) {
            root.set_times(top, *time)?;
        }
    }
    Ok(())
}

/// Seals what is staged and makes it so.
pub(super) fn complete(
    session: &Session,
    stage: Stage,
    limits: &Limits,
    record: Record,
    monitor: &dyn Monitor,
) -> Result<Applied, Failure<UpdateError>> {
    let before = |error: Untouched| Failure::Before(UpdateError::from(error));
    let after = |error: Interrupted| Failure::After(UpdateError::Interrupted(error));
    let staged = stage.finish(limits).map_err(before)?;
    if monitor.is_stopped() {
        return Err(before(Untouched::Stopped));
    }
    let sealed = staged.seal(record).map_err(|failure| match failure {
        SealFailure::Untouched(error) => before(error),
        SealFailure::Interrupted(error) => after(error),
    })?;
    monitor.event(Event::Sealed);
    let applied = roll_forward(&session.root, sealed.journal(), monitor).map_err(after)?;
    monitor.event(Event::Applied { mixed_ms: applied.mixed.as_millis() as u64 });
    Ok(applied)
}
