//! Brings back what the last update displaced: the whole of `si_updateclient --rollback`.
//!
//! Needs neither the server nor the network. The generation that is left is held: the node does not go
//! back to it by itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::apply::journal::CommitRecord;
use crate::apply::plan::{ChangePlan, ItemizedLine};
use crate::apply::session::Session;
use crate::apply::stage::Stage;
use crate::apply::undo::{RetentionLimits, RollbackInput, UndoSet, plan_rollback};
use crate::apply::{Untouched, preflight};
use crate::generation::GenerationId;
use crate::host::{BootLoader, KeepUndo};
use crate::manifest::{MAX_TEXT, Manifest, path_text};
use crate::report::Monitor;
use crate::state::pinned::{self, Pinned};
use crate::state::{self, KernelPaths, State, StoredState};
use crate::tree_path::TreePath;
use crate::update::hooks::payload::HookPlan;
use crate::update::hooks::{HookContext, Hooks};
use crate::update::source::overrides;
use crate::update::transaction::commit::{Failure, commit};
use crate::update::{UpdateError, open_session};

/// What a rollback is to do.
#[derive(Clone, Debug)]
pub struct RollbackRequest {
    /// The tree.
    pub root: PathBuf,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Kinds of root filesystem that are accepted though they are not known to be safe.
    pub allow_root_fs: Vec<String>,
    /// Whether what the rollback displaces is kept in turn.
    pub keep_undo: KeepUndo,
    /// The largest share of a filesystem that it may hold.
    pub undo_share: f64,
    /// What makes changed boot files known to the boot loader.
    pub bootloader: BootLoader,
    /// The most time that a hook or the boot loader's program may take.
    pub program_timeout: Duration,
}

/// What a rollback did, or would do.
#[derive(Debug)]
pub struct RolledBack {
    /// The generation that was recorded before the update; `None` where nothing was.
    pub to: Option<GenerationId>,
    /// The serial of its publish.
    pub serial: Option<u64>,
    /// The generation that is held now.
    pub held: Option<Pinned>,
    /// What happened to each path.
    pub items: Vec<ItemizedLine>,
    /// Paths that neither the update nor the image knew, and that went along with a directory.
    pub displaced: Vec<TreePath>,
    /// Tracked paths that deviate from the generation of before.
    pub deviations: BTreeMap<String, String>,
    /// From the first rename to the last; `None` after a dry run.
    pub mixed: Option<Duration>,
    /// What failed of what follows: a sentence each.
    pub afterwards: Vec<String>,
}

/// Brings back what stood before the last transaction.
pub fn rollback(
    request: &RollbackRequest,
    monitor: &dyn Monitor,
) -> Result<RolledBack, UpdateError> {
    let session = open_session(&request.root, request.dry_run, &request.allow_root_fs, monitor)?;
    let root = &session.root;
    let refused = |why: String| UpdateError::from(Untouched::refused(why));
    let undo = UndoSet::find(root).map_err(|error| refused(error.to_string()))?;
    let Some(undo) = undo else {
        return Err(UpdateError::NothingToUndo(session.root.show(&TreePath::root())));
    };
    let now = match state::load(root).map_err(Untouched::from)? {
        StoredState::State(state) | StoredState::Copied(state) => Some(*state),
        StoredState::Nothing | StoredState::SetAside(_) => None,
    };
    let made = now.as_ref().map(State::made);
    if !undo.leads_from(made) {
        return Err(UpdateError::NothingToUndo(session.root.show(&TreePath::root())));
    }
    let tracked = match &now {
        Some(state) => {
            let manifest = state::load_manifest(root, state.generation).map_err(Untouched::from)?;
            manifest.map(|manifest| overrides::as_recorded(manifest, state))
        }
        None => None,
    };
    let kept = undo.record().map_err(Untouched::from)?;
    let before = kept
        .state
        .as_deref()
        .map(|text| State::parse(text, "the state in the undo set"))
        .transpose();
    let before = before.map_err(Untouched::from)?;
    let known =
        kept.manifest.as_deref().and_then(|bytes| Manifest::read_zstd(bytes, MAX_TEXT).ok());
    let known = known
        .zip(before.as_ref())
        .map(|(manifest, before)| overrides::as_recorded(manifest, before));
    let input = RollbackInput {
        root,
        host: session.host.as_ref(),
        mounts: &session.mounts,
        kernel: session.kernel.as_ref(),
        tracked: tracked.as_ref(),
        before: known.as_ref(),
    };
    let transaction = plan_rollback(&undo, input)?;
    preflight::check_paths(root, &transaction, &transaction.filesystems, &session.mounts)?;
    preflight::check_rollback_space(root, &transaction)?;
    let before_made = before.as_ref().map(State::made);
    let held = hold(&session, now.as_ref(), before.as_ref())?;
    let published = before.as_ref().filter(|state| state.is_published());
    let mut done = RolledBack {
        to: published.map(|state| state.generation),
        serial: published.map(|state| state.serial),
        held: held.clone(),
        items: transaction.itemized.clone(),
        displaced: transaction.displaced.clone(),
        deviations: transaction
            .deviations
            .iter()
            .map(|(path, what)| (path_text(path), what.clone()))
            .collect(),
        mixed: None,
        afterwards: Vec::new(),
    };
    if request.dry_run {
        return Ok(done);
    }
    let image = before.as_ref().map(|state| state.image.clone());
    let around = Hooks {
        scene: HookContext {
            root,
            bootloader: &request.bootloader,
            longest: request.program_timeout,
            monitor,
        },
        plan: HookPlan {
            image: image.as_ref(),
            generation: done.to,
            base: now.as_ref().map(|state| state.generation),
            serial: done.serial,
            way: "rollback",
            why: "what the last update displaced comes back",
            items: &transaction.itemized,
        },
    };
    let state =
        before.map(|state| as_of_now(state, &session, now.as_ref(), &transaction)).transpose()?;
    let record = CommitRecord {
        synced: None,
        manifest: state.as_ref().and(kept.manifest),
        state: state.map(|state| state.to_toml()).transpose().map_err(Untouched::from)?,
        held: held.map(|held| held.to_toml()).transpose().map_err(Untouched::from)?,
    };
    let limits = RetentionLimits {
        keep: request.keep_undo,
        share: request.undo_share,
        repairs: false,
        made: before_made,
    };
    let overdue = around.before()?;
    let made = Stage::create(root, &transaction.filesystems, &transaction, monitor)
        .map_err(|error| Failure::Before(UpdateError::from(error)))
        .and_then(|stage| commit(&session, stage, &limits, record, monitor));
    let applied = made.map_err(|failure| {
        if let Failure::Before(_) = failure {
            around.cancel_pending(&overdue);
        }
        failure.clean_up(&session, &transaction)
    })?;
    done.mixed = Some(applied.mixed);
    done.deviations = applied.state.map_or_else(BTreeMap::new, |state| state.deviations);
    // What came back is the image's; whether it decides here about more than that, no filter tells.
    done.afterwards =
        around.after(&|path| transaction.itemized.iter().any(|item| item.path == *path));
    Ok(done)
}

/// The generation that the rollback leaves is held, unless it only undoes an earlier rollback.
fn hold(
    session: &Session,
    now: Option<&State>,
    before: Option<&State>,
) -> Result<Option<Pinned>, UpdateError> {
    let held = pinned::load(&session.root).map_err(Untouched::from)?;
    let back = before.map(State::made);
    if held.is_some_and(|held| Some(held.made()) == back) {
        return Ok(None);
    }
    let left = now.filter(|state| state.is_published() && Some(state.made()) != back);
    Ok(left.map(|state| Pinned {
        image: state.image.clone(),
        generation: state.generation,
        serial: state.serial,
        made: (!state.overrides.is_empty()).then(|| state.made()),
        since: jiff::Timestamp::now(),
    }))
}

/// The state of before, for the tree of now: the newest catalog that was seen stays seen.
fn as_of_now(
    mut state: State,
    session: &Session,
    now: Option<&State>,
    transaction: &ChangePlan,
) -> Result<State, UpdateError> {
    state.home = session.root.identity().map_err(Untouched::from)?;
    let seen = now.and_then(|now| now.catalog.clone()).or(state.catalog.take());
    // The server is asked anew: what it answered belongs to the generation that was left.
    state.catalog = seen.map(|seen| state::SeenCatalog { etag: None, ..seen });
    for (path, what) in &transaction.deviations {
        state.deviate(path, what.clone());
    }
    if let Some(kernel) = session.kernel.as_ref() {
        let mut paths = transaction.kernel_paths.clone();
        paths.extend(state.kernel.iter().flat_map(KernelPaths::paths));
        paths.sort_unstable();
        paths.dedup();
        state.kernel = KernelPaths::new(kernel.release(), &paths);
    }
    Ok(state)
}
