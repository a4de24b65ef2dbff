//! The undo set: the backups of the last transaction, and the rollback that restores them.
//!
//! A rollback is a transaction like any other. Its staged content is the undo set, which is
//! complete and durable already; its backups become the next undo set, so that a rollback can be
//! undone too.

pub(super) mod backup;
mod displaced;
mod filesystem_check;
mod identities;
mod privileges;
mod retention;
mod rollback_plan;
pub mod undo_log;
mod undo_set;

pub(super) use displaced::{append_displaced, displaced_slots, read_displaced};
pub use filesystem_check::{MountedTree, check_filesystems, check_state_filesystem};
pub(super) use privileges::{
    record_privileges, remove_privileges, remove_staged_privileges, restore_backup_privileges,
    restore_privileges,
};
pub use retention::{RetentionLimits, UndoRetention};
pub(super) use retention::{decide, record_prior_state};
pub use rollback_plan::{RollbackInput, plan_rollback};
pub(super) use undo_set::disk_usage;
pub use undo_set::{UndoSet, remove_undo_set};
