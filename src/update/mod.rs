//! Brings a node to the head of its image: the whole of `si_updateclient --diff`.
//!
//! Read from [`run`] on: the session, the quick answer of the catalog, what the node is, the plan, and
//! then either the diffs of a chain or a full sync, both as one transaction.

mod explain;
mod hooks;
mod installed;
mod reboot;
mod report;
mod request;
mod rollback;
mod source;
mod strategy;
mod transaction;

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use crate::apply::filesystem::mount_root_times;
use crate::apply::roll_forward::Applied;
use crate::apply::session::{self, Session};
use crate::apply::undo::UndoSet;
use crate::apply::{Untouched, preflight};
use crate::catalog::Catalog;
use crate::fetch::Spool;
use crate::filter::Filter;
use crate::full_sync::{self, ReceiveDir};
use crate::host;
use crate::host::boot_loader::pending;
use crate::manifest::Manifest;
use crate::report::Monitor;
use crate::root::RootError;
use crate::state::{self, KernelPaths, SeenCatalog, State, pinned};
use crate::tree_path::TreePath;

pub use explain::{ExplainRequest, Provenance, why};
pub use reboot::reboot;
pub use report::{Report, Status, UndoSummary, UpdateError, UpdateOutcome};
pub use request::{Check, Excludes, Sync, SyncMode, UpdateRequest};
pub use rollback::{RollbackRequest, RolledBack, rollback};
pub use source::cluster::{Assigned, cluster, host_name};

/// What every step of a run needs.
struct Run<'a> {
    request: &'a UpdateRequest,
    session: &'a Session,
    /// The rules behind the filter.
    excludes: &'a Excludes,
    filter: Filter,
    monitor: &'a dyn Monitor,
}

/// Does what `request` says, and tells what was done.
pub fn run(request: &UpdateRequest, monitor: &dyn Monitor) -> Result<Report, UpdateError> {
    let session = open_session(&request.root, request.dry_run, &request.allow_root_fs, monitor)?;
    let overdue = catch_up(request, &session, monitor)?;
    let mut report = bring(request, &session, monitor)?;
    // The update itself may have told it of everything.
    if !overdue.is_empty()
        && report.afterwards.is_empty()
        && pending::load(&session.root).map_or(true, |due| !due.is_empty())
    {
        report.afterwards = overdue;
    }
    Ok(report)
}

/// Tells the boot loader what an earlier run changed and could not tell it; returns what failed again.
fn catch_up(
    request: &UpdateRequest,
    session: &Session,
    monitor: &dyn Monitor,
) -> Result<Vec<String>, UpdateError> {
    if request.dry_run
        || request.adopt_only
        || pending::load(&session.root).map_err(Untouched::from)?.is_empty()
    {
        return Ok(Vec::new());
    }
    let filter = filter_of(request, session, &request.excludes)?;
    let manifest = match state::load(&session.root).map_err(Untouched::from)? {
        state::StoredState::State(state) | state::StoredState::Copied(state) => {
            let manifest =
                state::load_manifest(&session.root, state.generation).map_err(Untouched::from)?;
            manifest.map(|manifest| source::overrides::as_recorded(manifest, &state))
        }
        state::StoredState::Nothing | state::StoredState::SetAside(_) => None,
    };
    let is_tracked = |path: &TreePath| {
        let named = manifest.as_ref().is_some_and(|manifest| manifest.get(path).is_some());
        named && filter.cursor().excludes(path, false).is_none()
    };
    Ok(request.scene(&session.root, monitor).tell_boot_loader(&is_tracked))
}

fn bring(
    request: &UpdateRequest,
    session: &Session,
    monitor: &dyn Monitor,
) -> Result<Report, UpdateError> {
    let filter = filter_of(request, session, &request.excludes)?;
    let run = Run { request, session, excludes: &request.excludes, filter, monitor };
    let done = match &request.way {
        SyncMode::Diffs(repo) => run.run_catalog(repo),
        SyncMode::Sync(sync) => run.run_rsync(sync),
    };
    if let Err(error) = run.discard_received() {
        monitor.warn(format!(
            "what rsync brought stays beside the tree, and goes with the next run: {error}"
        ));
    }
    done
}

/// What is recorded of the tree; changes nothing.
pub fn status(root: &Path) -> Result<Status, UpdateError> {
    let root = crate::root::Root::open(root).map_err(Untouched::from)?;
    let interrupted = session::is_interrupted(&root).map_err(Untouched::from)?;
    let found = state::load(&root).map_err(Untouched::from)?;
    let held = pinned::load(&root).map_err(Untouched::from)?;
    // What is interrupted has to be finished first.
    let undo = if interrupted { Ok(None) } else { UndoSet::find(&root) };
    let now = match &found {
        state::StoredState::State(state) | state::StoredState::Copied(state) => Some(state.made()),
        state::StoredState::Nothing | state::StoredState::SetAside(_) => None,
    };
    let undo = match undo.map_err(|error| Untouched::refused(error.to_string()))? {
        Some(undo) if !undo.leads_from(now) => None,
        Some(undo) => Some(undoable(&undo).map_err(Untouched::from)?),
        None => None,
    };
    Ok(Status { interrupted, found, held, undo })
}

fn undoable(undo: &UndoSet) -> Result<UndoSummary, RootError> {
    let state =
        undo.record()?.state.and_then(|text| State::parse(&text, "the state in the undo set").ok());
    let (generation, serial) =
        state.filter(State::is_published).map(|state| (state.generation, state.serial)).unzip();
    Ok(UndoSummary { generation, serial, bytes: undo.bytes()? })
}

/// Finishes an interrupted update, if there is one, and does nothing else.
pub fn recover(root: &Path, monitor: &dyn Monitor) -> Result<(), UpdateError> {
    let (session, finished) = Session::open(root, monitor)?;
    match finished {
        Some(applied) => monitor.note(stands(&session, &applied)),
        None => {
            monitor.note(format!("no update of {} was interrupted", session.root.shown().display()))
        }
    }
    // At boot, and still more in an initramfs, hardly anything is there that its programs need.
    if !pending::load(&session.root).map_err(Untouched::from)?.is_empty() {
        monitor.note(
            "boot files changed of which the boot loader was not told yet: the next update does",
        );
    }
    Ok(())
}

impl Run<'_> {
    /// Whether something stayed for a kernel that does not run any more.
    fn has_rebooted(&self, waiting: Option<&KernelPaths>) -> bool {
        let running = self.session.kernel.as_ref().map(|kernel| kernel.release());
        waiting.is_some_and(|waiting| running != Some(waiting.release.as_str()))
    }

    /// Whether `state` was recorded for this very tree and under this very filter.
    fn is_settled(&self, state: &State) -> Result<bool, UpdateError> {
        let home = self.session.root.identity().map_err(Untouched::from)?;
        Ok(state.home == home && state.filter == self.filter.digest())
    }

    /// Where downloads lie; `None` for a temporary place, in a dry run.
    fn spool(&self) -> Result<Option<Spool>, UpdateError> {
        if self.request.dry_run {
            return Ok(None);
        }
        let place = state::place("spool");
        self.session.root.create_dirs(&place).map_err(Untouched::from_root)?;
        let directory = self
            .session
            .root
            .below(&place)
            .and_then(|tree| tree.duplicate())
            .map_err(Untouched::from)?;
        Ok(Some(Spool::open(directory, self.request.spool_limit)?))
    }

    /// Where what rsync brings comes to lie: beside the tree, or elsewhere in a dry run.
    fn aside(&self) -> Result<ReceiveDir, UpdateError> {
        let made = match self.request.dry_run {
            true => ReceiveDir::temporary(&std::env::temp_dir()),
            false => ReceiveDir::create(&self.session.root),
        };
        Ok(made.map_err(Untouched::from_root)?)
    }

    /// When rsync is stopped that is started now.
    fn deadline(&self) -> Instant {
        Instant::now() + self.request.sync_timeout
    }

    /// Removes what rsync brought and no transaction took; the top of the tree gets its time back.
    fn discard_received(&self) -> Result<(), RootError> {
        let root = &self.session.root;
        if self.request.dry_run || root.stat(&full_sync::place())?.is_none() {
            return Ok(());
        }
        full_sync::discard(root).and_then(|()| mount_root_times::restore(root))
    }

    /// The mount points that the tree's own fstab names.
    fn fstab(&self) -> Result<Vec<TreePath>, UpdateError> {
        let root = &self.session.root;
        let path = TreePath::new("etc/fstab").map_err(|e| UpdateError::Usage(e.to_string()))?;
        let file = match root.open_file(&path) {
            Err(e) if e.is_absent() => return Ok(Vec::new()),
            answer => answer.map_err(Untouched::from)?,
        };
        let mut content = Vec::new();
        let read = file.take(host::MAX_FILE as u64).read_to_end(&mut content);
        read.map_err(|source| {
            Untouched::from(RootError { what: "read", path: root.show(&path), source })
        })?;
        Ok(host::mount_points(&content))
    }

    /// Says which paths of the image lie where something is mounted that this program does not write to.
    fn tell_foreign(&self, catalog_head: &Manifest) {
        const PSEUDO: [&str; 9] = [
            "proc",
            "sysfs",
            "devtmpfs",
            "devpts",
            "tmpfs",
            "mqueue",
            "hugetlbfs",
            "cgroup2",
            "securityfs",
        ];
        let mounts = self.session.mounts.iter();
        for mount in
            mounts.filter(|mount| !mount.takes_part() && !PSEUDO.contains(&mount.kind.as_str()))
        {
            let held = catalog_head
                .entries()
                .iter()
                .filter(|entry| entry.path.is_below(&mount.at))
                .count();
            if held > 0 {
                let (place, kind) = (self.session.root.show(&mount.at), &mount.kind);
                self.monitor.warn(format!(
                    "{place} is {kind}: {held} paths that the image has there are not updated"
                ));
            }
        }
    }

    /// Refuses a catalog that is older than the one that was `seen`.
    fn check_serial(
        &self,
        catalog: &Catalog,
        what: &str,
        seen: Option<&SeenCatalog>,
    ) -> Result<(), UpdateError> {
        let newest = seen.map_or(0, |seen| seen.serial);
        if catalog.serial < newest && !self.request.allow_downgrade {
            let older = catalog.serial;
            return Err(UpdateError::Trust(format!(
                "the server offers serial {older} of {what} and this node has seen {newest}; --allow-downgrade accepts the older one"
            )));
        }
        let now = jiff::Timestamp::now();
        if let Some(expires) = catalog.expires.filter(|expires| *expires < now) {
            return Err(UpdateError::Trust(format!(
                "the catalog of {what} expired at {expires}; the server does not get new ones"
            )));
        }
        Ok(())
    }

    fn check_catalog(&self, catalog: &Catalog, state: Option<&State>) -> Result<(), UpdateError> {
        let seen = state.and_then(|state| state.catalog.as_ref());
        self.check_serial(catalog, catalog.image.as_str(), seen)?;
        let now = jiff::Timestamp::now();
        if now < catalog.published {
            self.monitor
                .warn(format!("this node's clock says {now}, before the catalog was written; expiry cannot be judged"));
        }
        self.monitor.note(
            "the catalog is not signed: who controls the server or the network controls this node",
        );
        Ok(())
    }
}

fn open_session(
    root: &Path,
    dry_run: bool,
    allow_root_fs: &[String],
    monitor: &dyn Monitor,
) -> Result<Session, UpdateError> {
    if dry_run {
        let session = Session::look(root)?;
        if session::is_interrupted(&session.root).map_err(Untouched::from)? {
            let why = "an interrupted update waits to be finished; run without --dry-run first";
            return Err(Untouched::refused(why.to_owned()).into());
        }
        return Ok(session);
    }
    // A read-only tree is refused in these words, and not by the lock that cannot be made.
    let before = Session::look(root)?;
    let shown = before.root.show(&TreePath::root());
    preflight::check_root_filesystem(before.host.as_ref(), &shown, allow_root_fs)?;
    let (session, finished) = Session::open(root, monitor)?;
    if let Some(applied) = finished {
        monitor
            .note(format!("the interrupted update was finished: {}", stands(&session, &applied)));
    }
    Ok(session)
}

/// What a finished transaction made of the tree.
fn stands(session: &Session, applied: &Applied) -> String {
    let place = session.root.shown().display();
    match &applied.state {
        Some(state) if !state.is_published() => {
            format!("{place} is image {} as rsync brought it", state.image)
        }
        Some(state) => format!("{place} is at generation {}", state.generation.short()),
        None => format!("{place} is as it was before anything was recorded of it"),
    }
}

/// What the image does not decide about, by these `excludes`.
fn filter_of(
    request: &UpdateRequest,
    session: &Session,
    excludes: &Excludes,
) -> Result<Filter, UpdateError> {
    let within = match &request.way {
        SyncMode::Sync(sync) => sync.directory.clone(),
        SyncMode::Diffs(_) => TreePath::root(),
    };
    filter(session, request.fstypes.as_deref(), within, excludes)
}

/// The same for the directory `within`, with only these kinds of mounted filesystem.
fn filter(
    session: &Session,
    fstypes: Option<&[String]>,
    within: TreePath,
    excludes: &Excludes,
) -> Result<Filter, UpdateError> {
    let named = |kind: &String| fstypes.is_none_or(|kinds| kinds.contains(kind));
    let unwanted =
        session.mounts.iter().filter(|mount| !named(&mount.kind)).map(|mount| mount.at.clone());
    let builder =
        Filter::builder().foreign_mounts(session.foreign().chain(unwanted)).within(within);
    let builder = builder.exclude_file(&excludes.name, &excludes.rules);
    Ok(builder.map_err(|e| UpdateError::Usage(e.to_string()))?.build())
}

/// The recorded state, if it is of this tree and of the wanted image.
fn known_state(
    request: &UpdateRequest,
    session: &Session,
    monitor: &dyn Monitor,
) -> Result<Option<State>, UpdateError> {
    match state::load(&session.root).map_err(Untouched::from)? {
        state::StoredState::Nothing => Ok(None),
        state::StoredState::SetAside(why) => {
            monitor.warn(format!("{why}; it is not used"));
            Ok(None)
        }
        state::StoredState::State(state) | state::StoredState::Copied(state)
            if state.image != request.image =>
        {
            monitor.note(format!(
                "this node followed image {} and is to follow {}",
                state.image, request.image
            ));
            Ok(None)
        }
        state::StoredState::State(state) => Ok(Some(*state)),
        state::StoredState::Copied(state) => {
            monitor.note("the recorded state came with a copy of another tree: all tracked paths are compared");
            Ok(Some(*state))
        }
    }
}
