//! Undo retention: the rule for the backups of a transaction, chosen before its commit point.

use crate::apply::error::Untouched;
use crate::apply::filesystem::Filesystems;
use crate::apply::filesystem::stage_dirs::Stages;
use crate::apply::notice::ApplyNotice;
use crate::apply::plan::ChangePlan;
use crate::apply::undo::backup;
use crate::apply::undo::displaced::write_displaced;
use crate::apply::undo::identities::write_identities;
use crate::apply::undo::undo_log::UndoLog;
use crate::apply::undo::undo_set::{UndoSet, disk_usage};
use crate::generation::GenerationId;
use crate::host::KeepUndo;
use crate::report::Monitor;
use crate::root::{Root, RootError};
use crate::state;

/// Rule for the backups of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoRetention {
    /// They become the undo set and replace an earlier one.
    Replace,
    /// They are removed, and so is an earlier undo set, which would no longer fit the tree.
    Discard,
    /// They are removed; an earlier undo set is still valid and is kept.
    KeepPrevious,
    /// They are those of a repair: they are added to the undo set, which is still valid.
    Append,
}

/// Limits of the undo set, and the purpose of the transaction.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// The setting `keep_undo`.
    pub keep: KeepUndo,
    /// Largest share of a filesystem that the undo set may occupy, for [`KeepUndo::Auto`].
    pub share: f64,
    /// Whether the transaction leads to the recorded generation. The undo set then still leads to
    /// the generation before, which is worth more than the backups of a repair.
    pub repairs: bool,
    /// The generation that is recorded at the end, if it is known.
    pub recorded_id: Option<GenerationId>,
}

/// Chooses the undo retention of a transaction.
pub(in crate::apply) fn decide(
    root: &Root,
    filesystems: &Filesystems,
    plan: &ChangePlan,
    limits: &RetentionLimits,
    monitor: &dyn Monitor,
) -> Result<UndoRetention, Untouched> {
    let undo_set = if limits.repairs { UndoSet::find(root).ok().flatten() } else { None };
    let is_repair = undo_set.is_some_and(|undo_set| undo_set.leads_from(limits.recorded_id));
    if is_repair && !plan.displaced.is_empty() {
        // Displaced paths exist nowhere else.
        return Ok(UndoRetention::Append);
    }

    let (kept, removed) = if is_repair {
        (UndoRetention::Append, UndoRetention::KeepPrevious)
    } else {
        (UndoRetention::Replace, UndoRetention::Discard)
    };
    match limits.keep {
        KeepUndo::Never => return Ok(removed),
        KeepUndo::Always => return Ok(kept),
        KeepUndo::Auto => {}
    }

    // The backups of a repair share the limit with the undo set that they are added to.
    let usage = if is_repair { disk_usage(root, filesystems)? } else { Vec::new() };
    for (at, bytes) in backup::backup_sizes(root, plan)? {
        let mount_root = &filesystems.mount_roots()[at];
        let allowed = (root.below(mount_root)?.free_space()?.total as f64 * limits.share) as u64;
        let present = usage.iter().filter(|usage| usage.mount_root == *mount_root);
        let present: u64 = present.map(|usage| usage.bytes).sum();
        if bytes.saturating_add(present) > allowed {
            let place = root.show(mount_root);
            monitor.warn(if is_repair {
                ApplyNotice::RepairNotKept { bytes, place, present, allowed }
            } else {
                ApplyNotice::UpdateNotUndoable { bytes, place, allowed }
            });
            return Ok(removed);
        }
    }
    Ok(kept)
}

/// Writes the files of a rollback beside the backups: the undo log and the recorded state.
///
/// The list of displaced paths is written at any retention.
pub(in crate::apply) fn record_prior_state(
    root: &Root,
    stages: &Stages,
    plan: &ChangePlan,
    retention: UndoRetention,
    recorded_id: Option<GenerationId>,
) -> Result<(), RootError> {
    let Some(backups) = stages.backups(0) else { return Ok(()) };
    if !plan.displaced.is_empty() {
        write_displaced(backups, plan.displaced.iter())?;
    }
    if retention == UndoRetention::Replace {
        state::back_up(root, backups)?;
        write_identities(root, backups, plan.filesystems.mount_roots())?;
    }
    // At any retention: the transaction is reversed by it if a path refuses its change.
    UndoLog::read_live(root, stages, recorded_id, plan)?.write(backups)
}
