//! Brings a node to the head of its image: the whole of `si_updateclient --diff`.
//!
//! Read from [`run`] on: the session, the quick answer of the catalog, what the node is, the plan, and
//! then either the diffs of a chain or a full sync, both as one transaction.

mod adopt;
mod base;
mod chain;
mod cluster;
mod commit;
mod converge;
mod full;
mod outcome;
mod request;
mod rollback;
mod room;

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use crate::apply::roll_forward::Applied;
use crate::apply::session::{self, Session};
use crate::apply::undo::Undo;
use crate::apply::{Untouched, preflight};
use crate::catalog::{Catalog, RepoPath};
use crate::fetch::{CatalogAnswer, FetchErrorKind, Repository, Spool};
use crate::filter::Filter;
use crate::host;
use crate::image::Layer;
use crate::manifest::Manifest;
use crate::plan::{self, Plan, Why};
use crate::report::Monitor;
use crate::root::RootError;
use crate::state::{self, KernelPaths, SeenCatalog, State, held};
use crate::tree_path::TreePath;

pub use cluster::{Assigned, cluster, host_name};
use converge::Converge;
pub use outcome::{Outcome, Report, Status, Undoable, UpdateError};
pub use request::{Check, Excludes, Request, Sync, Way};
pub use rollback::{RollbackRequest, RolledBack, rollback};

/// What every step of a run needs.
struct Run<'a> {
    request: &'a Request,
    session: Session,
    filter: Filter,
    repository: Repository,
    monitor: &'a dyn Monitor,
}

/// Does what `request` says, and tells what was done.
pub fn run(request: &Request, monitor: &dyn Monitor) -> Result<Report, UpdateError> {
    let session = open_session(&request.root, request.dry_run, &request.allow_root_fs, monitor)?;
    let filter = filter_of(request, &session)?;
    let state = known_state(request, &session, monitor)?;
    let spool = spool_of(request, &session)?;
    let Way::Diffs(repo) = &request.way else {
        return Err(UpdateError::NoFullSync("not yet".to_owned()));
    };
    let repository = Repository::open(repo, &Layer::Image(request.image.clone()), &request.fetch, spool)?;
    let run = Run { request, session, filter, repository, monitor };
    let known = match &state {
        Some(state) if run.may_ask_quickly(state)? => Some(state),
        _ => None,
    };
    let etag = known.and_then(|state| state.catalog.as_ref()?.etag.as_deref());
    let (bytes, etag) = match run.repository.catalog(etag)? {
        CatalogAnswer::NotModified => {
            let state = known
                .ok_or_else(|| UpdateError::Trust("the server answers a question that was not asked".to_owned()))?;
            let done = Ok(Report::up_to_date(state));
            run.tidy_spool(&done);
            return done;
        }
        CatalogAnswer::Fetched { bytes, etag } => (bytes, etag),
    };
    let catalog = Catalog::parse(&bytes, &request.image).map_err(|e| UpdateError::Trust(e.to_string()))?;
    run.check_catalog(&catalog, state.as_ref())?;
    run.check_held(&catalog)?;
    let seen = SeenCatalog { repo: repo.to_string(), serial: catalog.serial, etag };
    let done = run.follow(&catalog, seen, state);
    run.tidy_spool(&done);
    done
}

/// What is recorded of the tree; changes nothing.
pub fn status(root: &Path) -> Result<Status, UpdateError> {
    let root = crate::root::Root::open(root).map_err(Untouched::from)?;
    let interrupted = session::is_interrupted(&root).map_err(Untouched::from)?;
    let found = state::load(&root).map_err(Untouched::from)?;
    let held = held::load(&root).map_err(Untouched::from)?;
    // What is interrupted has to be finished first.
    let undo = if interrupted { Ok(None) } else { Undo::find(&root) };
    let now = match &found {
        state::Found::State(state) | state::Found::Copied(state) => Some(state.generation),
        state::Found::Nothing | state::Found::SetAside(_) => None,
    };
    let undo = match undo.map_err(|error| Untouched::Refused(error.to_string()))? {
        Some(undo) if !undo.leads_from(now) => None,
        Some(undo) => Some(undoable(&undo).map_err(Untouched::from)?),
        None => None,
    };
    Ok(Status { interrupted, found, held, undo })
}

fn undoable(undo: &Undo) -> Result<Undoable, RootError> {
    let state = undo.record()?.state.and_then(|text| State::parse(&text, "the state in the undo set").ok());
    let (generation, serial) = state.map(|state| (state.generation, state.serial)).unzip();
    Ok(Undoable { generation, serial, bytes: undo.bytes()? })
}

/// Finishes an interrupted update, if there is one, and does nothing else.
pub fn recover(root: &Path, monitor: &dyn Monitor) -> Result<(), UpdateError> {
    let (session, finished) = Session::open(root, monitor)?;
    match finished {
        Some(applied) => monitor.note(stands(&session, &applied)),
        None => monitor.note(format!("no update of {} was interrupted", session.root.shown().display())),
    }
    Ok(())
}

impl Run<'_> {
    /// From a verified catalog on.
    fn follow(&self, catalog: &Catalog, seen: SeenCatalog, state: Option<State>) -> Result<Report, UpdateError> {
        let base = self.base(catalog, state)?;
        if self.request.adopt_only {
            return self.adopted(base, seen);
        }
        let mut broken: HashSet<RepoPath> = HashSet::new();
        loop {
            let installed = base.as_ref().filter(|base| base.published).map(|base| base.manifest.id());
            let plan = match (plan::choose(installed, catalog, &broken), &base) {
                (Plan::Full(Why::NotRecorded), Some(base)) => Plan::Full(Why::UnknownGeneration(base.manifest.id())),
                (plan, _) => plan,
            };
            let converge = Converge { run: self, catalog, seen: &seen, base: base.as_ref() };
            match plan {
                Plan::Nothing => return converge.to_what_it_is(),
                Plan::Diffs(chain) => match converge.by_diffs(&chain)? {
                    chain::Followed::Done(report) => return Ok(*report),
                    chain::Followed::Broken(file) => drop(broken.insert(file)),
                    chain::Followed::Incomplete(why) => return converge.by_full_sync(&why),
                },
                Plan::Full(why) => return converge.by_full_sync(&why),
            }
        }
    }

    /// Whether the catalog alone settles that nothing is to be done.
    fn may_ask_quickly(&self, state: &State) -> Result<bool, UpdateError> {
        let Way::Diffs(repo) = &self.request.way else { return Ok(false) };
        let seen = state.catalog.as_ref().is_some_and(|seen| seen.repo == repo.to_string());
        let looks = matches!(self.request.check, Check::Stat | Check::Content);
        let waits = self.has_rebooted(state.kernel.as_ref());
        let asks = looks || waits || self.request.adopt_only || self.request.purge_untracked;
        Ok(seen && !asks && self.is_settled(state)?)
    }

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

    /// Keeps what a further try would resume, and nothing else: not on a full disk.
    fn tidy_spool(&self, done: &Result<Report, UpdateError>) {
        let useless = match done {
            Ok(_) => true,
            Err(UpdateError::Node(error)) => matches!(error, Untouched::NoRoom(_)),
            Err(UpdateError::Fetch(error)) => error.kind == FetchErrorKind::NoRoom,
            Err(_) => false,
        };
        if useless && let Err(error) = self.repository.spool().tidy(&[]) {
            self.monitor.warn(format!("what was downloaded stays where it is: {error}"));
        }
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
        read.map_err(|source| Untouched::from(RootError { what: "read", path: root.show(&path), source }))?;
        Ok(host::mount_points(&content))
    }

    /// Says which paths of the image lie where something is mounted that this program does not write to.
    fn tell_foreign(&self, catalog_head: &Manifest) {
        const PSEUDO: [&str; 9] =
            ["proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "mqueue", "hugetlbfs", "cgroup2", "securityfs"];
        let mounts = self.session.mounts.iter();
        for mount in mounts.filter(|mount| !mount.takes_part() && !PSEUDO.contains(&mount.kind.as_str())) {
            let held = catalog_head.entries().iter().filter(|entry| entry.path.is_below(&mount.at)).count();
            if held > 0 {
                let (place, kind) = (self.session.root.show(&mount.at), &mount.kind);
                self.monitor.warn(format!("{place} is {kind}: {held} paths that the image has there are not updated"));
            }
        }
    }

    /// Refuses to go back by itself to what the administrator fled from.
    fn check_held(&self, catalog: &Catalog) -> Result<(), UpdateError> {
        let root = &self.session.root;
        let Some(held) = held::load(root).map_err(Untouched::from)? else { return Ok(()) };
        let head = catalog.head();
        if self.request.adopt_only || held.image != self.request.image || held.generation != head.generation {
            return Ok(());
        }
        if !self.request.unhold {
            return Err(UpdateError::Held(format!(
                "this node was rolled back from generation {} of {}, which is still the newest, and does not go back to it by itself: publish another, or give --unhold",
                head.generation.short(),
                held.image
            )));
        }
        if !self.request.dry_run {
            held::record(root, None).map_err(Untouched::from)?;
        }
        Ok(())
    }

    fn check_catalog(&self, catalog: &Catalog, state: Option<&State>) -> Result<(), UpdateError> {
        let newest = state.and_then(|state| state.catalog.as_ref()).map_or(0, |seen| seen.serial);
        if catalog.serial < newest && !self.request.allow_downgrade {
            let older = catalog.serial;
            return Err(UpdateError::Trust(format!(
                "the server offers serial {older} of {} and this node has seen {newest}; --allow-downgrade accepts the older one",
                catalog.image
            )));
        }
        let now = jiff::Timestamp::now();
        if let Some(expires) = catalog.expires.filter(|expires| *expires < now) {
            return Err(UpdateError::Trust(format!(
                "the catalog expired at {expires}; the server does not get new ones"
            )));
        }
        if now < catalog.published {
            self.monitor
                .warn(format!("this node's clock says {now}, before the catalog was written; expiry cannot be judged"));
        }
        self.monitor.note("the catalog is not signed: who controls the server or the network controls this node");
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
            return Err(Untouched::Refused(why.to_owned()).into());
        }
        return Ok(session);
    }
    // A read-only tree is refused in these words, and not by the lock that cannot be made.
    let before = Session::look(root)?;
    let shown = before.root.show(&TreePath::root());
    preflight::check_host(before.host.as_ref(), &shown, allow_root_fs)?;
    let (session, finished) = Session::open(root, monitor)?;
    if let Some(applied) = finished {
        monitor.note(format!("the interrupted update was finished: {}", stands(&session, &applied)));
    }
    Ok(session)
}

/// What a finished transaction made of the tree.
fn stands(session: &Session, applied: &Applied) -> String {
    let place = session.root.shown().display();
    match &applied.state {
        Some(state) => format!("{place} is at generation {}", state.generation.short()),
        None => format!("{place} is as it was before anything was recorded of it"),
    }
}

fn filter_of(request: &Request, session: &Session) -> Result<Filter, UpdateError> {
    let builder = Filter::builder().foreign_mounts(session.foreign());
    let excludes = &request.excludes;
    let builder =
        builder.exclude_file(&excludes.name, &excludes.rules).map_err(|e| UpdateError::Usage(e.to_string()))?;
    Ok(builder.build())
}

/// The recorded state, if it is of this tree and of the wanted image.
fn known_state(request: &Request, session: &Session, monitor: &dyn Monitor) -> Result<Option<State>, UpdateError> {
    match state::load(&session.root).map_err(Untouched::from)? {
        state::Found::Nothing => Ok(None),
        state::Found::SetAside(why) => {
            monitor.warn(format!("{why}; it is not used"));
            Ok(None)
        }
        state::Found::State(state) | state::Found::Copied(state) if state.image != request.image => {
            monitor.note(format!("this node followed image {} and is to follow {}", state.image, request.image));
            Ok(None)
        }
        state::Found::State(state) => Ok(Some(*state)),
        state::Found::Copied(state) => {
            monitor.note("the recorded state came with a copy of another tree: all tracked paths are compared");
            Ok(Some(*state))
        }
    }
}

fn spool_of(request: &Request, session: &Session) -> Result<Option<Spool>, UpdateError> {
    if request.dry_run {
        return Ok(None);
    }
    let place = state::place("spool");
    session.root.create_dirs(&place).map_err(Untouched::from_root)?;
    let directory = session.root.below(&place).and_then(|tree| tree.duplicate()).map_err(Untouched::from)?;
    Ok(Some(Spool::open(directory, request.spool_limit)?))
}
