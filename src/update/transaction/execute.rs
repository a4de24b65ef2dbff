//! The driver of every transaction: update, full sync, rsync-only sync, repair, and rollback.
//!
//! Pre-update hooks run before it; the boot loader's tool and post-update hooks run after it. In
//! between, the boot files of a kernel that the tree has left are removed by a transaction of their
//! own: see [`left_kernel`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::apply::journal::CommitRecord;
use crate::apply::plan::{ChangePlan, ItemizedLine};
use crate::apply::session::Session;
use crate::apply::stage::Stage;
use crate::apply::undo::RetentionLimits;
use crate::filter::Filter;
use crate::manifest::path_text;
use crate::report::Monitor;
use crate::state::State;
use crate::tree_path::TreePath;
use crate::update::error::FollowUpError;
use crate::update::hooks::Hooks;
use crate::update::transaction::commit::{clean_up, commit};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::left_kernel::{self, LeftKernel};

/// A planned transaction and its surroundings.
pub(in crate::update) struct Transaction<'a> {
    pub session: &'a Session,
    pub plan: &'a ChangePlan,
    pub hooks: Hooks<'a>,
    pub limits: RetentionLimits,
    pub filter: &'a Filter,
    /// Checks if a path is tracked; boot loader tools that rewrite such a path cause a deviation.
    pub is_tracked: &'a dyn Fn(&TreePath) -> bool,
    pub monitor: &'a dyn Monitor,
}

/// A completed transaction.
pub(in crate::update) struct Completed {
    /// The recorded state, if the generation of the tree is known.
    pub state: Option<State>,
    /// Paths that were left out, as manifests write them.
    pub left_out: BTreeSet<String>,
    /// Time from the first rename to the last rename or removal, in which the tree was mixed.
    pub mixed: Duration,
    /// Boot files of a left kernel that were removed afterwards.
    pub removed: Vec<ItemizedLine>,
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
    let Transaction { session, plan, hooks, limits, monitor, .. } = transaction;
    let earlier_changes = hooks.run_before()?;

    let result =
        fill().and_then(|(stage, record)| commit(&session.root, stage, record, limits, *monitor));
    let applied = match result {
        Ok(applied) => applied,
        Err(error) => {
            if !error.is_after_commit_point() {
                hooks.cancel_pending(&earlier_changes);
                clean_up(&session.root, &plan.filesystems);
            }
            return Err(error);
        }
    };

    let mut left_out: BTreeSet<String> = applied.left_out.iter().map(path_text).collect();
    left_out.extend(plan.left_out.iter().map(path_text));
    let follow_up_failures = hooks.run_boot_loader(&left_out, transaction.is_tracked);
    let mut completed = Completed {
        state: applied.state,
        left_out,
        mixed: applied.mixed,
        removed: Vec::new(),
        follow_up_failures,
    };
    let left_kernel = LeftKernel {
        session,
        filter: transaction.filter,
        context: &hooks.context,
        limits: *limits,
        is_tracked: transaction.is_tracked,
    };
    match left_kernel.remove_boot_files() {
        Ok(Some(removal)) => {
            completed.state = Some(removal.state);
            completed.removed = removal.items;
            completed.follow_up_failures.extend(removal.follow_up_failures);
        }
        Ok(None) => {}
        Err(error) if left_kernel::is_interrupted(&error) => return Err(error.into()),
        Err(error) => {
            completed.follow_up_failures.push(FollowUpError::BootFilesLeft(Box::new(error)));
        }
    }
    completed.follow_up_failures.extend(hooks.run_after(transaction.is_tracked));
    Ok(completed)
}
