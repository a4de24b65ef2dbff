//! Programs around a transaction: pre-update hooks, the boot loader's tool, post-update hooks.
//!
//! A pre-update hook that fails ends the run before anything is changed. A failure after the
//! transaction undoes nothing: it is reported, and the remaining programs run.

pub(super) mod boot_loader;
mod context;
pub(super) mod default_entry;
pub(super) mod payload;

use std::collections::BTreeSet;

use crate::host::boot_loader::{BootChanges, is_boot_path, pending};
use crate::host::{CancelPolicy, HookPhase, ToolError, ToolInput, list_hooks};
use crate::manifest::parse_path;
use crate::tree_path::TreePath;
use crate::update::error::{FollowUpError, HookError, UpdateError};

pub(super) use context::HookContext;
use default_entry::KernelChange;
use payload::HookPlan;

/// Hooks and boot loader tool of one transaction.
pub(super) struct Hooks<'a> {
    pub context: HookContext<'a>,
    pub plan: HookPlan<'a>,
    pub kernels: KernelChange,
}

impl Hooks<'_> {
    /// Runs the pre-update hooks, then records the boot loader's run as pending.
    ///
    /// Returns the boot files that were pending before.
    pub fn run_before(&self) -> Result<BootChanges, UpdateError> {
        let root = self.context.root;
        for hook in list_hooks(root, HookPhase::Before).map_err(HookError::Unreadable)? {
            self.run_hook(&hook, HookPhase::Before).map_err(|error| match error {
                ToolError::Cancelled => UpdateError::Cancelled,
                error => HookError::Failed(error).into(),
            })?;
        }

        let changes = boot_loader::list_boot_changes(self.plan.items);
        boot_loader::record_pending(&self.context, changes)
    }

    /// Restores the record of pending boot files after a discarded transaction.
    pub fn cancel_pending(&self, earlier: &BootChanges) {
        // If this fails, the next run repeats the boot loader's tool, which is harmless.
        let _ = pending::save(self.context.root, earlier);
    }

    /// Runs the boot loader's tool if boot files have changed; returns its failures.
    ///
    /// It does not run if a boot file was left out: its list of kernels would lack that file. The
    /// record of pending boot files stays, so that a later run calls it.
    pub fn run_boot_loader(
        &self,
        left_out: &BTreeSet<String>,
        is_tracked: &dyn Fn(&TreePath) -> bool,
    ) -> Vec<FollowUpError> {
        let mut paths = left_out.iter().filter_map(|path| parse_path(path.as_bytes()).ok());
        if let Some(path) = paths.find(is_boot_path) {
            let path = self.context.root.show(&path);
            return vec![FollowUpError::BootFileLeftOut { path }];
        }
        if boot_loader::list_boot_changes(self.plan.items).is_empty() {
            return Vec::new();
        }
        let failures = boot_loader::run_pending(&self.context, is_tracked);
        failures.into_iter().map(FollowUpError::BootLoader).collect()
    }

    /// Verifies the next boot, and runs all post-update hooks; returns all failures.
    pub fn run_after(&self, is_tracked: &dyn Fn(&TreePath) -> bool) -> Vec<FollowUpError> {
        let mut failures: Vec<FollowUpError> = Vec::new();
        if let Some(failure) = default_entry::arrange(&self.context, &self.kernels, is_tracked) {
            // The next run retries.
            let changes = boot_loader::list_boot_changes(self.plan.items);
            if let Err(error) = boot_loader::record_pending(&self.context, changes) {
                failures.push(FollowUpError::BootFilesLeft(Box::new(error)));
            }
            failures.push(failure);
        }

        match list_hooks(self.context.root, HookPhase::After) {
            Ok(hooks) => {
                for hook in &hooks {
                    if let Err(error) = self.run_hook(hook, HookPhase::After) {
                        failures.push(FollowUpError::Hook(error));
                    }
                }
            }
            Err(error) => failures.push(FollowUpError::HooksUnreadable(error)),
        }
        failures
    }

    fn run_hook(&self, hook: &TreePath, phase: HookPhase) -> Result<(), ToolError> {
        let root = self.context.root;
        let cancellation = match phase {
            HookPhase::Before => CancelPolicy::Honor,
            HookPhase::After => CancelPolicy::Ignore,
        };
        let environment = self.plan.environment(phase, root);
        let input = self.plan.json(phase, root);
        let arguments = ToolInput { arguments: &[], environment: &environment, stdin: &input };

        self.context.tools(cancellation)?.run(hook, &arguments)
    }
}
