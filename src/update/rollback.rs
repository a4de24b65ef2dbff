//! Rollback: one more transaction, whose staged content is the undo set of the last one.
//!
//! It needs neither server nor network. The generation that it leaves is pinned, so that the next
//! update does not install it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apply::filesystem::held_times::HeldTimes;
use crate::apply::journal::CommitRecord;
use crate::apply::plan::{ChangePlan, ItemizedLine};
use crate::apply::session::{self, Session};
use crate::apply::undo::{
    MountedTree, RetentionLimits, RollbackInput, UndoSet, check_filesystems,
    check_state_filesystem, plan_rollback,
};
use crate::apply::{Untouched, preflight};
use crate::filter::Filter;
use crate::generation::GenerationId;
use crate::host::{BootLoader, KeepUndo, KernelRetention, releases_in};
use crate::manifest::{MAX_TEXT, Manifest, path_text};
use crate::report::Monitor;
use crate::state::pinned::{self, Pinned};
use crate::state::{self, KernelPaths, LoadedState, SeenCatalog, State};
use crate::tree_path::TreePath;
use crate::update::downloaded;
use crate::update::error::{FollowUpError, Refusal, UpdateError};
use crate::update::hooks::default_entry::KernelChange;
use crate::update::hooks::payload::HookPlan;
use crate::update::hooks::{HookContext, Hooks};
use crate::update::notice::{DropReason, Route};
use crate::update::recover::{open_for_dry_run, open_session};
use crate::update::request::Excludes;
use crate::update::run::build_filter;
use crate::update::source::overrides;
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::execute::{Transaction, execute};
use crate::update::transaction::image_keys;
use crate::update::transaction::left_kernel;
use crate::update::transaction::user_refusals::plan_without_user_refusals;

/// Everything that a rollback needs to know.
#[derive(Clone, Debug)]
pub struct RollbackRequest {
    /// Top of the tree.
    pub root: PathBuf,
    /// Exclude rules: an excluded path is no deviation.
    pub excludes: Excludes,
    /// Whether the run only reports its plan.
    pub dry_run: bool,
    /// Mount roots of filesystems that are lost and left out.
    pub skip_filesystems: Vec<TreePath>,
    /// Filesystem types of the root that are accepted although they are not known to be safe.
    pub allow_root_fs: Vec<String>,
    /// Whether the backups of the rollback become the next undo set.
    pub keep_undo: KeepUndo,
    /// Largest share of a filesystem that the undo set may use.
    pub undo_share: f64,
    /// Boot loader tool that runs after boot files changed.
    pub bootloader: BootLoader,
    /// Limit for the time of one hook or boot loader tool.
    pub program_timeout: Duration,
}

/// Result of a rollback or of its dry run.
#[derive(Debug)]
pub struct RolledBack {
    /// Restored generation; `None` if it was not a published one.
    pub to: Option<GenerationId>,
    /// Serial of its publish.
    pub serial: Option<u64>,
    /// Generation that is pinned now.
    pub pinned: Option<Pinned>,
    /// One line for each changed path.
    pub items: Vec<ItemizedLine>,
    /// Displaced paths.
    pub displaced: Vec<TreePath>,
    /// Tracked paths that deviate from the restored generation, with the reason.
    pub deviations: BTreeMap<String, String>,
    /// Paths that the rollback left out; they are deviations too.
    pub left_out: BTreeSet<String>,
    /// Time from the first rename to the last; `None` after a dry run.
    pub switch_time: Option<Duration>,
    /// Failures after the completed transaction.
    pub follow_up_failures: Vec<FollowUpError>,
}

impl RolledBack {
    fn add_items(&mut self, items: Vec<ItemizedLine>) {
        self.items.extend(items);
        self.items.sort_by(|a, b| a.path.cmp(&b.path));
    }
}

/// An undo set with the states before and after the update that it undoes.
struct Undo {
    set: UndoSet,
    /// State of the tree now.
    current: Option<State>,
    /// State before the update.
    previous: Option<State>,
    /// Compressed manifest of the state before the update.
    previous_manifest: Option<Vec<u8>>,
    /// Composed manifest of the state before the update.
    previous_tree: Option<Manifest>,
    /// Times that the filesystems of the tree can hold.
    times: HeldTimes,
}

/// Restores the state before the last transaction.
pub fn rollback(
    request: &RollbackRequest,
    monitor: &dyn Monitor,
) -> Result<RolledBack, UpdateError> {
    let session = if request.dry_run {
        open_for_dry_run(&request.root)?
    } else {
        check_state_mounted(&request.root)?;
        open_session(&request.root, &request.allow_root_fs, monitor)?
    };
    let undo = Undo::open(&session, &request.skip_filesystems)?;

    // A faulty exclude file must not prevent a rollback: without rules every path counts.
    let filter = build_filter(&session, None, &request.excludes, None).ok();
    let no_rules = Filter::builder().build();
    let plan = undo.plan(&session, filter.as_ref())?;
    let pinned = choose_pinned(&session, undo.current.as_ref(), undo.previous.as_ref())?;
    let mut result = undo.forecast(&plan, pinned.clone());
    if request.dry_run {
        if undo.previous.is_some() {
            let running = session.kernel.as_ref();
            let later = left_kernel::list_boot_files(&plan, running, &undo.releases());
            let is_removed = |path: &str| later.iter().any(|item| path_text(&item.path) == path);
            result.deviations.retain(|path, _| !is_removed(path));
            result.add_items(later);
        }
        return Ok(result);
    }

    let record = undo.commit_record(&session, &plan, pinned)?;
    let transaction = Transaction {
        session: &session,
        plan: &plan,
        hooks: Hooks {
            context: HookContext {
                root: &session.root,
                bootloader: &request.bootloader,
                timeout: request.program_timeout,
                monitor,
            },
            plan: HookPlan {
                image: undo.previous.as_ref().map(|state| &state.image),
                generation: result.to,
                base: undo.current.as_ref().map(|state| state.generation),
                serial: result.serial,
                strategy: "rollback",
                description: Route::Rollback.to_string(),
                items: &plan.itemized,
            },
            kernels: KernelChange::from_plan(&plan, undo.releases()),
        },
        limits: RetentionLimits {
            keep: request.keep_undo,
            share: request.undo_share,
            repairs: false,
            recorded_id: undo.previous.as_ref().map(State::composed_id),
        },
        filter: filter.as_ref().unwrap_or(&no_rules),
        // The exclude rules are not known here, so only restored paths count as tracked.
        is_tracked: &|path| plan.itemized.iter().any(|item| item.path == *path),
        monitor,
    };
    let completed = execute(&transaction, || Ok((transaction.create_stage()?, record)))
        .map_err(TransactionError::into_final)?;

    if downloaded::exists(&session).unwrap_or(true) {
        downloaded::discard_or_warn(&session, &DropReason::RolledBack, monitor);
    }

    result.switch_time = Some(completed.mixed);
    result.add_items(completed.removed);
    result.left_out = completed.left_out;
    result.deviations = completed.state.map(|state| state.deviations).unwrap_or_default();
    result.follow_up_failures = completed.follow_up_failures;
    Ok(result)
}

/// Refuses a tree without the filesystem of the state directory, before the lock is created there.
///
/// An interrupted transaction is completed first, and then has another undo set.
fn check_state_mounted(root: &Path) -> Result<(), UpdateError> {
    let session = Session::look(root)?;
    if session::is_interrupted(&session.root).map_err(Untouched::from)? {
        return Ok(());
    }
    // An undo set that cannot be read is reported later.
    if let Ok(Some(set)) = UndoSet::find(&session.root) {
        check_state_filesystem(&set, mounted_tree(&session))?;
    }
    Ok(())
}

fn mounted_tree(session: &Session) -> MountedTree<'_> {
    MountedTree { root: &session.root, mounts: &session.mounts }
}

impl Undo {
    /// Opens the undo set; it has to belong to the tree as recorded.
    fn open(session: &Session, skip: &[TreePath]) -> Result<Self, UpdateError> {
        let root = &session.root;
        let nothing = || UpdateError::NothingToUndo { root: root.show(&TreePath::root()) };
        let set = UndoSet::find(root).map_err(Refusal::UndoSet)?.ok_or_else(nothing)?;
        check_state_filesystem(&set, mounted_tree(session))?;

        let current = match state::load(root).map_err(Untouched::from)? {
            LoadedState::Valid(state) | LoadedState::FromCopy(state) => Some(*state),
            LoadedState::Missing | LoadedState::Rejected(_) => None,
        };
        if !set.leads_from(current.as_ref().map(State::composed_id)) {
            return Err(nothing());
        }
        let set = check_filesystems(set, mounted_tree(session), skip)?;

        let record = set.record().map_err(Untouched::from)?;
        let previous = record
            .state
            .as_deref()
            .map(|text| State::parse(text, "the state in the undo set"))
            .transpose()
            .map_err(Untouched::from)?;
        let previous_manifest = record.manifest;
        let previous_tree = previous_manifest
            .as_deref()
            .and_then(|bytes| Manifest::read_zstd(bytes, MAX_TEXT).ok())
            .zip(previous.as_ref())
            .map(|(manifest, state)| overrides::compose_recorded(manifest, state));
        let times = HeldTimes::probe(root, &session.filesystems).map_err(Untouched::from)?;
        Ok(Undo { set, current, previous, previous_manifest, previous_tree, times })
    }

    /// Plans the rollback, and refuses one that cannot be applied.
    fn plan(&self, session: &Session, filter: Option<&Filter>) -> Result<ChangePlan, UpdateError> {
        let root = &session.root;
        let current_tree = match &self.current {
            Some(state) => {
                let manifest =
                    state::load_manifest(root, state.generation).map_err(Untouched::from)?;
                manifest.map(|manifest| overrides::compose_recorded(manifest, state))
            }
            None => None,
        };

        let shown_tree = self.previous_tree.as_ref().map(|tree| self.times.apply(tree));
        let nothing = BTreeMap::new();
        let kept = image_keys::kept_in_rollback(root, self.set.paths())?;
        let input = RollbackInput {
            root,
            host: session.host.as_ref(),
            mounts: &session.mounts,
            kernel: session.kernel.as_ref(),
            // Without a recorded state, nothing could remove the boot files later.
            kernel_retention: match &self.previous {
                Some(_) => KernelRetention::ModulesAndBootFiles,
                None => KernelRetention::Modules,
            },
            tracked: current_tree.as_ref(),
            before: shown_tree.as_ref(),
            times: &self.times,
            filter,
            kept: &kept,
            refused: &nothing,
        };
        let plan = plan_without_user_refusals(session, |refused| {
            Ok(plan_rollback(&self.set, RollbackInput { refused, ..input })?)
        })?;
        preflight::check_paths(root, &plan, &plan.filesystems, &session.mounts)?;
        if let Some(previous) = &self.previous {
            preflight::check_state_paths(root, previous.generation)?;
        }
        preflight::check_rollback_space(root, &plan)?;
        Ok(plan)
    }

    /// Returns the kernels of the restored tree.
    fn releases(&self) -> Vec<String> {
        self.previous_tree.as_ref().map(releases_in).unwrap_or_default()
    }

    /// Returns the result as far as it is known before the transaction.
    fn forecast(&self, plan: &ChangePlan, pinned: Option<Pinned>) -> RolledBack {
        let published = self.previous.as_ref().filter(|state| state.is_published());
        let deviations =
            plan.deviations.iter().map(|(path, reason)| (path_text(path), reason.clone()));
        RolledBack {
            to: published.map(|state| state.generation),
            serial: published.map(|state| state.serial),
            pinned,
            items: plan.itemized.clone(),
            displaced: plan.displaced.clone(),
            deviations: deviations.collect(),
            left_out: BTreeSet::new(),
            switch_time: None,
            follow_up_failures: Vec::new(),
        }
    }

    /// Returns the record that the roll forward writes after the changes.
    fn commit_record(
        &self,
        session: &Session,
        plan: &ChangePlan,
        pinned: Option<Pinned>,
    ) -> Result<CommitRecord, UpdateError> {
        let state = match &self.previous {
            Some(previous) => Some(restore_state(previous, session, self.current.as_ref(), plan)?),
            None => None,
        };
        Ok(CommitRecord {
            synced: None,
            manifest: state.as_ref().and(self.previous_manifest.clone()),
            state: state.map(|state| state.to_toml()).transpose().map_err(Untouched::from)?,
            pinned: pinned.map(|pinned| pinned.to_toml()).transpose().map_err(Untouched::from)?,
        })
    }
}

/// Returns the generation that the rollback leaves, to be pinned.
///
/// A rollback that only undoes an earlier rollback pins nothing.
fn choose_pinned(
    session: &Session,
    current: Option<&State>,
    previous: Option<&State>,
) -> Result<Option<Pinned>, UpdateError> {
    let pinned = pinned::load(&session.root).map_err(Untouched::from)?;
    let restored = previous.map(State::composed_id);
    if pinned.is_some_and(|pinned| Some(pinned.composed_id()) == restored) {
        return Ok(None);
    }
    let left =
        current.filter(|state| state.is_published() && Some(state.composed_id()) != restored);
    Ok(left.map(|state| Pinned {
        image: state.image.clone(),
        generation: state.generation,
        serial: state.serial,
        composed_id: (!state.overrides.is_empty()).then(|| state.composed_id()),
        since: jiff::Timestamp::now(),
    }))
}

/// Returns the state before the update, adapted to the tree after the rollback.
fn restore_state(
    previous: &State,
    session: &Session,
    current: Option<&State>,
    plan: &ChangePlan,
) -> Result<State, UpdateError> {
    let mut state = previous.clone();
    state.tree_identity = session.root.identity().map_err(Untouched::from)?;

    // The serial of the newest catalog seen is kept, so that an older one is still refused. Its
    // etag belongs to the generation that was left.
    let seen = current.and_then(|current| current.catalog.clone()).or(state.catalog.take());
    state.catalog = seen.map(|seen| SeenCatalog { sha256: None, ..seen });
    for (path, reason) in &plan.deviations {
        state.record_deviation(path, reason.clone());
    }
    state.left_out = plan.left_out.iter().map(path_text).collect();

    // If nothing is kept for the running kernel, the next run removes those of another one.
    if let Some(kernel) = session.kernel.as_ref().filter(|_| !plan.kernel_paths.is_empty()) {
        let mut paths = plan.kernel_paths.clone();
        paths.extend(state.kernel.iter().flat_map(KernelPaths::paths));
        paths.sort_unstable();
        paths.dedup();
        state.kernel = KernelPaths::new(kernel.release(), &paths);
    }
    Ok(state)
}
