//! The pinned head of a catalog: it is not installed, but work that waits for a reboot is done.
//!
//! A rollback under a newer kernel keeps the modules of that kernel. The node is pinned then, and
//! perhaps for weeks, so that no update would remove them after the reboot.

use crate::apply::Untouched;
use crate::apply::journal::CommitRecord;
use crate::apply::undo::RetentionLimits;
use crate::catalog::Catalog;
use crate::host::{KernelRetention, releases_in};
use crate::state::pinned::{self, Pinned};
use crate::state::{self, KernelPaths, State, composed_id};
use crate::update::error::UpdateError;
use crate::update::hooks::default_entry::KernelChange;
use crate::update::hooks::payload::HookPlan;
use crate::update::hooks::{HookContext, Hooks};
use crate::update::notice::{Route, TransactionNotice};
use crate::update::run::Run;
use crate::update::source::overrides::{self, OverrideLayer};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::execute::{Transaction, execute};
use crate::update::transaction::kernel_paths::KernelPathRemoval;

/// Refuses to install the pinned generation, or unpins it if the request permits that.
///
/// Before it refuses, it removes the paths that were kept for a kernel that runs no more.
pub(super) fn check_pinned(
    run: &Run<'_>,
    catalog: &Catalog,
    overrides: &[OverrideLayer],
    state: Option<&State>,
) -> Result<(), UpdateError> {
    let root = &run.session.root;
    let Some(pinned) = pinned::load(root).map_err(Untouched::from)? else { return Ok(()) };

    let generation = catalog.head().generation;
    let composed_id = composed_id(generation, overrides.iter().map(|layer| layer.manifest.id()));
    let is_other = pinned.image != run.request.image || pinned.composed_id() != composed_id;
    if run.request.adopt_only || is_other {
        return Ok(());
    }
    if run.request.unhold {
        if !run.request.dry_run {
            pinned::record(root, None).map_err(Untouched::from)?;
        }
        return Ok(());
    }

    if let Some(state) = state
        && let Some(kernel) = &state.kernel
        && run.has_rebooted_since(Some(kernel))
        && !run.request.dry_run
    {
        remove_kernel_paths(run, state, kernel, &pinned)?;
    }
    Err(UpdateError::Pinned { image: pinned.image, generation })
}

/// Removes the kernel paths of the recorded state, as a transaction that changes nothing else.
fn remove_kernel_paths(
    run: &Run<'_>,
    state: &State,
    kernel: &KernelPaths,
    pinned: &Pinned,
) -> Result<(), UpdateError> {
    let root = &run.session.root;
    let Some(image) = state::load_manifest(root, state.generation)? else {
        // Without the manifest, nobody knows which of the paths the generation has.
        return Ok(());
    };
    let composed = overrides::compose_recorded(image, state);
    let removal = KernelPathRemoval {
        session: run.session,
        filter: &run.filter,
        state,
        kernel,
        composed: &composed,
    };
    let plan = removal.plan(KernelRetention::ModulesAndBootFiles)?;
    let new_state = removal.new_state(&plan);
    if plan.is_empty() {
        return Ok(state::save(root, &new_state, None)?);
    }
    removal.check(&plan)?;

    let record = CommitRecord {
        state: Some(new_state.to_toml()?),
        manifest: None,
        pinned: Some(pinned.to_toml()?),
        synced: None,
    };
    let generation = state.is_published().then_some(state.generation);
    let transaction = Transaction {
        session: run.session,
        plan: &plan,
        hooks: Hooks {
            context: HookContext::from_run(run),
            plan: HookPlan {
                image: Some(&state.image),
                generation,
                base: generation,
                serial: generation.map(|_| state.serial),
                strategy: "repair",
                description: Route::KernelPaths { release: kernel.release.clone() }.to_string(),
                items: &plan.itemized,
            },
            kernels: KernelChange::from_plan(&plan, releases_in(&composed)),
        },
        limits: RetentionLimits {
            keep: run.request.keep_undo,
            share: run.request.undo_share,
            repairs: true,
            recorded_id: Some(state.composed_id()),
        },
        filter: &run.filter,
        is_tracked: &|path| composed.get(path).is_some(),
        monitor: run.monitor,
    };
    let completed = execute(&transaction, || Ok((transaction.create_stage()?, record)))
        .map_err(TransactionError::into_final)?;

    let (release, paths) = (kernel.release.as_str(), plan.itemized.len());
    run.monitor.note(TransactionNotice::KernelPathsRemoved { release, paths });
    for failure in &completed.follow_up_failures {
        run.monitor.warn(TransactionNotice::FollowUpFailed(failure));
    }
    Ok(())
}
