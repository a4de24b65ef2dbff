//! The way by the catalog: the quick answer, what the node is, the plan, and what follows from it.

pub(super) mod chain_archives;
pub(super) mod diffs;
pub(super) mod fetch_by_digest;
pub(super) mod full_sync;
pub(super) mod rsync_only;

use std::collections::HashSet;

use crate::apply::Untouched;
use crate::apply::plan::ChangePlan;
use crate::catalog::{Catalog, RepoPath};
use crate::fetch::{CatalogAnswer, FetchErrorKind, RepoUrl, Repository};
use crate::host::Drift;
use crate::image::Layer;
use crate::manifest::path_text;
use crate::plan::{self, FullSyncReason, UpdatePlan};
use crate::report::Monitor;
use crate::state::{SeenCatalog, State, made, pinned};
use crate::update::installed::Installed;
use crate::update::source::overrides::OverrideLayer;
use crate::update::source::published::PublishedImage;
use crate::update::transaction::{PublishRef, UpdateTransaction};
use crate::update::{Check, Excludes, Report, Run, UpdateError, filter_of, known_state};

use diffs::Stopped;

/// One way from what the node is to the head of a catalog.
pub(super) struct Strategy<'a> {
    pub converge: UpdateTransaction<'a>,
    pub published: &'a PublishedImage,
}

/// How a way ended.
pub(super) enum StrategyOutcome {
    /// At the head.
    Done(Box<Report>),
    /// This archive is missing or damaged on the server.
    Broken(RepoPath),
    /// Some content is nowhere to be had, though the chain is whole.
    Incomplete(FullSyncReason),
    /// What is to come brings other rules of what is excluded.
    OtherRules(Vec<u8>),
}

/// How following a catalog ended.
pub(super) enum Ended {
    /// At the head.
    Done(Box<Report>),
    /// See [`StrategyOutcome::OtherRules`].
    OtherRules(Vec<u8>),
}

impl Run<'_> {
    /// Brings the node to the head of the catalog in the repository at `repo`.
    pub(super) fn run_catalog(&self, repo: &RepoUrl) -> Result<Report, UpdateError> {
        let request = self.request;
        let state = known_state(request, self.session, self.monitor)?;
        let layer = Layer::Image(request.image.clone());
        let repository = Repository::open(repo, &layer, &request.fetch, self.spool()?)?;
        let known = match &state {
            Some(state) if self.may_ask_quickly(repo, state)? => Some(state),
            _ => None,
        };
        let unasked =
            || UpdateError::Trust("the server answers a question that was not asked".to_owned());
        let etag = known.and_then(|state| state.catalog.as_ref()?.etag.as_deref());
        let mut answer = repository.fetch_catalog(etag)?;
        if answer == CatalogAnswer::NotModified {
            let state = known.ok_or_else(unasked)?;
            if self.overrides_are_as_recorded(repo, state)? {
                let done = Ok(Report::up_to_date(state));
                tidy_spool(&repository, &done, self.monitor);
                return done;
            }
            answer = repository.fetch_catalog(None)?;
        }
        let CatalogAnswer::Fetched { bytes, etag } = answer else { return Err(unasked()) };
        let catalog = Catalog::parse(&bytes, &request.image)
            .map_err(|e| UpdateError::Trust(e.to_string()))?;
        self.check_catalog(&catalog, state.as_ref())?;
        let seen = SeenCatalog { repo: repo.to_string(), serial: catalog.serial, etag };
        let published = PublishedImage { repository, catalog, seen };
        let done = self.follow(repo, &published, state.as_ref());
        tidy_spool(&published.repository, &done, self.monitor);
        done
    }

    /// From a verified catalog on.
    fn follow(
        &self,
        repo: &RepoUrl,
        published: &PublishedImage,
        state: Option<&State>,
    ) -> Result<Report, UpdateError> {
        let rules = match self.follow_under_these_rules(repo, published, state)? {
            Ended::Done(report) => return Ok(*report),
            Ended::OtherRules(rules) => rules,
        };
        let name = self.excludes.place.as_ref().map(ToString::to_string).unwrap_or_default();
        self.monitor.note(format!("what is excluded follows the {name} that comes with the image"));
        // Without a place they are not asked for again.
        let excludes = Excludes { name, rules, place: None };
        let filter = filter_of(self.request, self.session, &excludes)?;
        match (Run { filter, excludes: &excludes, ..*self })
            .follow_under_these_rules(repo, published, state)?
        {
            Ended::Done(report) => Ok(*report),
            Ended::OtherRules(_) => {
                Err(UpdateError::Usage(format!("{} changes itself", excludes.name)))
            }
        }
    }

    fn follow_under_these_rules(
        &self,
        repo: &RepoUrl,
        published: &PublishedImage,
        state: Option<&State>,
    ) -> Result<Ended, UpdateError> {
        let layers = self.layers(repo, state)?;
        self.check_held(&published.catalog, &layers)?;
        let base = self.base(published, &layers, state)?;
        if self.request.adopt_only {
            return self.adopted(base, &published.seen).map(|report| Ended::Done(Box::new(report)));
        }
        let head =
            PublishRef { serial: published.catalog.head().serial, seen: Some(&published.seen) };
        let converge =
            UpdateTransaction { run: self, base: base.as_ref(), layers: &layers, head: Some(head) };
        let follow = Strategy { converge, published };
        let mut broken: HashSet<RepoPath> = HashSet::new();
        loop {
            let installed =
                base.as_ref().filter(|base| base.published).map(|base| base.manifest.id());
            let plan = match (plan::choose(installed, &published.catalog, &broken), &base) {
                (UpdatePlan::Full(FullSyncReason::NotRecorded), Some(base)) => {
                    UpdatePlan::Full(FullSyncReason::UnknownGeneration(base.manifest.id()))
                }
                (plan, _) => plan,
            };
            let followed = match plan {
                UpdatePlan::Nothing => follow.repair_in_place()?,
                UpdatePlan::Diffs(chain) => follow.run_diffs(&chain)?,
                UpdatePlan::Full(why) => return follow.run_full_sync(&why),
            };
            match followed {
                StrategyOutcome::Broken(file) => drop(broken.insert(file)),
                StrategyOutcome::OtherRules(rules) => return Ok(Ended::OtherRules(rules)),
                StrategyOutcome::Done(report) => return Ok(Ended::Done(report)),
                StrategyOutcome::Incomplete(why) => return follow.run_full_sync(&why),
            }
        }
    }

    /// Whether catalogs alone settle that nothing is to be done.
    fn may_ask_quickly(&self, repo: &RepoUrl, state: &State) -> Result<bool, UpdateError> {
        let seen = state.catalog.as_ref().is_some_and(|seen| seen.repo == repo.to_string());
        let looks = matches!(self.request.check, Check::Stat | Check::Content);
        let waits = self.has_rebooted(state.kernel.as_ref());
        let asks = looks || waits || self.request.adopt_only || self.request.purge_untracked;
        // What is not published can only be known by bringing it.
        let names = || state.overrides.iter().map(|laid| &laid.name);
        let published = names().eq(&self.request.overrides)
            && state.overrides.iter().all(|laid| {
                laid.catalog.as_ref().is_some_and(|seen| seen.repo == repo.to_string())
            });
        Ok(seen && published && !asks && self.is_settled(state)?)
    }

    /// Whether the catalogs of all overrides are those that are recorded.
    fn overrides_are_as_recorded(
        &self,
        repo: &RepoUrl,
        state: &State,
    ) -> Result<bool, UpdateError> {
        for laid in &state.overrides {
            let layer = Layer::Override(laid.name.clone());
            let repository = Repository::open(repo, &layer, &self.request.fetch, self.spool()?)?;
            let etag = laid.catalog.as_ref().and_then(|seen| seen.etag.as_deref());
            match repository.fetch_catalog(etag) {
                Ok(CatalogAnswer::NotModified) => {}
                Ok(CatalogAnswer::Fetched { .. }) => return Ok(false),
                Err(error) if error.kind == FetchErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Refuses to go back by itself to what the administrator fled from.
    fn check_held(&self, catalog: &Catalog, layers: &[OverrideLayer]) -> Result<(), UpdateError> {
        let root = &self.session.root;
        let Some(held) = pinned::load(root).map_err(Untouched::from)? else { return Ok(()) };
        let head = catalog.head();
        let wanted = made(head.generation, layers.iter().map(|laid| laid.manifest.id()));
        if self.request.adopt_only || held.image != self.request.image || held.made() != wanted {
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
            pinned::record(root, None).map_err(Untouched::from)?;
        }
        Ok(())
    }
}

impl Strategy<'_> {
    /// The node is at the head: only what deviates, if that is asked for, and overrides need work.
    fn repair_in_place(&self) -> Result<StrategyOutcome, UpdateError> {
        let Some(base) = self.converge.base else {
            return Err(UpdateError::Usage("there is nothing to compare with".to_owned()));
        };
        let run = self.converge.run;
        let request = run.request;
        let looks =
            matches!(request.check, Check::Stat | Check::Content) || request.purge_untracked;
        let differs = !base.deviating.is_empty() || base.former.is_some();
        let repairs = base.adopted && request.drift == Drift::Repair && differs;
        let laid_anew = base.made() != self.converge.made(&base.manifest);
        let way = match laid_anew {
            true => "the image is at the head of the catalog, and other overrides are laid over it"
                .to_owned(),
            false => "the node is at the head of the catalog".to_owned(),
        };
        let goal = self.converge.goal(base.manifest.clone(), way)?;
        if let Some(rules) = self.excludes_shipped_by_target(&goal)? {
            return Ok(StrategyOutcome::OtherRules(rules));
        }
        let done = |report| Ok(StrategyOutcome::Done(Box::new(report)));
        if !looks
            && !repairs
            && !laid_anew
            && base.settled
            && !run.has_rebooted(base.kernel.as_ref())
        {
            return done(self.converge.record_only(&goal, &as_known(base, goal.waiting.clone()))?);
        }
        if laid_anew {
            run.monitor.note(goal.way.clone());
        }
        let live = self.converge.look(&goal)?;
        let transaction = self.converge.prepare(&goal, &live)?;
        if request.dry_run {
            return done(self.converge.forecast(&goal, &transaction));
        }
        let deliveries = self.layer_deliveries()?;
        match self.converge.commit(&goal, &transaction, |stage| self.fill(stage, &deliveries)) {
            Ok(report) => done(report),
            Err(Stopped::Failed(error)) => Err(error),
            Err(Stopped::Incomplete(why)) => Ok(StrategyOutcome::Incomplete(why)),
        }
    }
}

/// A transaction that does nothing, with what is recorded of the tree.
fn as_known(base: &Installed, kernels: Vec<crate::tree_path::TreePath>) -> ChangePlan {
    let mut known = ChangePlan { kernel_paths: kernels, ..ChangePlan::default() };
    known.deviations.extend(base.deviating.iter().map(|path| {
        let what = base.deviations.get(&path_text(path)).cloned().unwrap_or_default();
        (path.clone(), what)
    }));
    known
}

/// Keeps what a further try would resume, and nothing else: not on a full disk.
fn tidy_spool(repository: &Repository, done: &Result<Report, UpdateError>, monitor: &dyn Monitor) {
    let useless = match done {
        Ok(_) => true,
        Err(UpdateError::Node(error)) => matches!(error, Untouched::NoRoom(_)),
        Err(UpdateError::Fetch(error)) => error.kind == FetchErrorKind::NoRoom,
        Err(_) => false,
    };
    if useless && let Err(error) = repository.spool().tidy(&[]) {
        monitor.warn(format!("what was downloaded stays where it is: {error}"));
    }
}
