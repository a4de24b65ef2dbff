//! The pinned head of a catalog: it is not installed, but work that waits for a reboot is done.
//!
//! A rollback under a newer kernel keeps the modules of that kernel. The node is pinned then, and
//! perhaps for weeks, so that no update would remove them after the reboot.

use std::collections::{BTreeSet, HashSet};

use crate::apply::journal::CommitRecord;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::{self, ChangePlan, CheckLevel, ComparePolicy, PlanInput, UntrackedPolicy};
use crate::apply::undo::RetentionLimits;
use crate::apply::{Untouched, preflight};
use crate::catalog::Catalog;
use crate::host::{Drift, KernelRetention, releases_in};
use crate::manifest::{Manifest, path_text};
use crate::state::pinned::{self, Pinned};
use crate::state::{self, KernelPaths, State, composed_id};
use crate::update::error::UpdateError;
use crate::update::hooks::default_entry::KernelChange;
use crate::update::hooks::payload::HookPlan;
use crate::update::hooks::{HookContext, Hooks};
use crate::update::notice::{Route, TransactionNotice};
use crate::update::run::Run;
use crate::update::source::overrides::{self, OverrideLayer};
use crate::update::transaction::commit::{Transaction, execute};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::target::kept_kernel_paths;

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
    let plan = plan_removal(run, &run.supported_manifest(&composed), kernel)?;
    let new_state = state_without_kernel_paths(state, kernel, &plan);
    if plan.is_empty() {
        return Ok(state::save(root, &new_state, None)?);
    }
    preflight::check_paths(root, &plan, &plan.filesystems, &run.session.mounts)?;
    preflight::check_agent_paths(root, &plan, state.generation)?;
    preflight::check_rollback_space(root, &plan)?;

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
            kernels: KernelChange::from_plan(
                &plan,
                run.session.kernel.as_ref(),
                releases_in(&composed),
            ),
        },
        limits: RetentionLimits {
            keep: run.request.keep_undo,
            share: run.request.undo_share,
            repairs: true,
            recorded_id: Some(state.composed_id()),
        },
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

/// Plans the removal of kernel paths from a tree whose other paths are not read.
fn plan_removal(
    run: &Run<'_>,
    tracked: &Manifest,
    kernel: &KernelPaths,
) -> Result<ChangePlan, UpdateError> {
    let session = run.session;
    let paths = kept_kernel_paths(run, Some(kernel));
    let live = LiveTree::stat_paths(&session.root, &paths).map_err(Untouched::from)?;
    let input = PlanInput {
        root: &session.root,
        installed: Some(tracked),
        target: tracked,
        formerly_tracked: &[],
        provisions: &[],
        old_kernel_paths: &paths,
        kernel: session.kernel.as_ref(),
        kernel_retention: KernelRetention::ModulesAndBootFiles,
        known_deviations: &HashSet::new(),
        filter: &run.filter,
        filesystems: &session.filesystems.with_roots(live.filesystem_roots()),
        host: session.host.as_ref(),
        mounts: &session.mounts,
        bind_mounts: &session.twins,
        policy: ComparePolicy {
            check_level: CheckLevel::Touched,
            drift: Drift::Report,
            untracked: UntrackedPolicy::Keep,
        },
    };
    Ok(plan::plan_changes(&input, &live)?)
}

/// Returns the state after the removal: other deviations stay as recorded.
fn state_without_kernel_paths(state: &State, kernel: &KernelPaths, plan: &ChangePlan) -> State {
    let mut new_state = state.clone();
    new_state.kernel = None;
    let removed: BTreeSet<&String> = kernel.paths.iter().collect();
    new_state.deviations.retain(|path, _| !removed.contains(path));
    let remaining = plan.deviations.iter();
    new_state.deviations.extend(remaining.map(|(path, why)| (path_text(path), why.clone())));
    new_state
}
