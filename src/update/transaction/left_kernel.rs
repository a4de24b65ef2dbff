//! Removal of the boot files of a running kernel that the tree has left for older ones.
//!
//! Boot loaders start the newest kernel that they find, so that its files must not stay in `/boot`.
//! But the boot menu names them until the boot loader's tool has run: if they were removed together
//! with the other paths, a power cut before that would leave a menu without any kernel. So the
//! transaction keeps them as paths of the running kernel, the tool then adds the kernels of the
//! tree to the menu, and only after that a second transaction removes the files, and the tool runs
//! again. The menu has a kernel that exists at each moment, though in the second run of the tool not as
//! its first entry. If the first run fails, or there is no tool, the files stay, and the next run
//! retries.

use crate::apply::Untouched;
use crate::apply::journal::CommitRecord;
use crate::apply::plan::{ChangePlan, ItemizedLine};
use crate::apply::session::Session;
use crate::apply::stage::Stage;
use crate::apply::undo::RetentionLimits;
use crate::filter::Filter;
use crate::host::boot_loader::pending;
use crate::host::{BootLoader, Kernel, KernelRetention, releases_in};
use crate::state::{self, KernelPaths, LoadedState, State};
use crate::tree_path::TreePath;
use crate::update::error::{FollowUpError, UpdateError};
use crate::update::hooks::HookContext;
use crate::update::hooks::boot_loader::{self, has_usable_tools, list_boot_changes};
use crate::update::notice::TransactionNotice;
use crate::update::source::overrides;
use crate::update::transaction::commit::{clean_up, commit};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::kernel_paths::KernelPathRemoval;

/// A tree that may have boot files of a left kernel.
pub(in crate::update) struct LeftKernel<'a> {
    pub session: &'a Session,
    pub filter: &'a Filter,
    pub context: &'a HookContext<'a>,
    pub limits: RetentionLimits,
    pub is_tracked: &'a dyn Fn(&TreePath) -> bool,
}

/// A completed removal of boot files.
pub(in crate::update) struct BootFileRemoval {
    /// The state that is recorded now.
    pub state: State,
    /// One line for each removed path.
    pub items: Vec<ItemizedLine>,
    pub follow_up_failures: Vec<FollowUpError>,
}

impl LeftKernel<'_> {
    /// Removes the boot files, if the boot loader knows the kernels of the tree.
    ///
    /// Returns `None` if there is nothing to remove, or if it cannot be removed yet.
    pub fn remove_boot_files(&self) -> Result<Option<BootFileRemoval>, UpdateError> {
        let root = &self.session.root;
        let Some(running) = &self.session.kernel else { return Ok(None) };
        let (LoadedState::Valid(state) | LoadedState::FromCopy(state)) = state::load(root)? else {
            return Ok(None);
        };
        let Some(kernel) = state.kernel.as_ref().filter(|kernel| has_boot_files(kernel, running))
        else {
            return Ok(None);
        };
        let Some(image) = state::load_manifest(root, state.generation)? else { return Ok(None) };
        let composed = overrides::compose_recorded(image, &state);
        if running.retention_for(&releases_in(&composed)) == KernelRetention::ModulesAndBootFiles {
            return Ok(None);
        }

        let removal = KernelPathRemoval {
            session: self.session,
            filter: self.filter,
            state: &state,
            kernel,
            composed: &composed,
        };
        let plan = removal.plan(KernelRetention::Modules)?;
        if plan.is_empty() {
            return Ok(None);
        }
        if *self.context.bootloader == BootLoader::Never {
            let release = running.release().to_owned();
            self.context.monitor.warn(TransactionNotice::BootFilesKept { release });
            return Ok(None);
        }
        if !self.is_menu_current(&plan)? {
            return Ok(None);
        }
        removal.check(&plan)?;
        self.commit(&plan, removal.new_state(&plan)).map(Some)
    }

    /// Whether the boot loader's tool has run, and can run again.
    fn is_menu_current(&self, plan: &ChangePlan) -> Result<bool, UpdateError> {
        let is_pending = !pending::load(&self.session.root).map_err(Untouched::from)?.is_empty();
        let changes = list_boot_changes(&plan.itemized);
        Ok(!is_pending && has_usable_tools(self.context, &changes))
    }

    fn commit(&self, plan: &ChangePlan, state: State) -> Result<BootFileRemoval, UpdateError> {
        let (root, monitor) = (&self.session.root, self.context.monitor);
        let pinned = state::pinned::load(root).map_err(Untouched::from)?;
        let record = CommitRecord {
            state: Some(state.to_toml()?),
            manifest: None,
            pinned: pinned.map(|pinned| pinned.to_toml()).transpose()?,
            synced: None,
        };
        let limits = RetentionLimits {
            repairs: true,
            recorded_id: Some(state.composed_id()),
            ..self.limits
        };

        boot_loader::record_pending(self.context, list_boot_changes(&plan.itemized))?;
        let committed = Stage::create(root, &plan.filesystems, plan, monitor)
            .map_err(TransactionError::from)
            .and_then(|stage| commit(root, stage, record, &limits, monitor));
        let applied = match committed {
            Ok(applied) => applied,
            Err(error) => {
                if !error.is_after_commit_point() {
                    clean_up(root, &plan.filesystems);
                }
                return Err(error.into_final());
            }
        };

        let failures = boot_loader::run_pending(self.context, self.is_tracked);
        Ok(BootFileRemoval {
            state: applied.state.unwrap_or(state),
            items: plan.itemized.clone(),
            follow_up_failures: failures.into_iter().map(FollowUpError::BootLoader).collect(),
        })
    }
}

/// Lists the boot files to be removed after the transaction of `plan`; `releases` are the kernels
/// of its target.
pub(in crate::update) fn list_boot_files(
    plan: &ChangePlan,
    running: Option<&Kernel>,
    releases: &[String],
) -> Vec<ItemizedLine> {
    let left = running.filter(|kernel| kernel.retention_for(releases) == KernelRetention::Modules);
    let Some(kernel) = left else { return Vec::new() };
    plan.kernel_paths
        .iter()
        .filter(|path| !kernel.keeps(path, KernelRetention::Modules))
        .map(|path| ItemizedLine::deletion(path.clone(), ""))
        .collect()
}

/// Whether an error means that the next run completes the transaction.
pub(in crate::update) fn is_interrupted(error: &UpdateError) -> bool {
    matches!(error, UpdateError::Interrupted(_))
}

/// Whether the recorded paths of the running kernel include boot files.
fn has_boot_files(kernel: &KernelPaths, running: &Kernel) -> bool {
    kernel.release == running.release()
        && kernel.paths().iter().any(|path| !running.keeps(path, KernelRetention::Modules))
}
