//! Repair of a tree, or of some of its paths, to the recorded generation.
//!
//! It needs the record and nothing else: the tree often has the content already. Only a content
//! that it lacks is fetched by digest from the repository, and then from the rsync daemon. So a
//! head that is not fresh, a newer generation and a missing network do not matter.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use crate::apply::Untouched;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::{ChangePlan, CheckLevel, UntrackedPolicy};
use crate::apply::stage::Stage;
use crate::apply::stage::fill;
use crate::apply::stage::live_source::LiveSource;
use crate::diff_archive::Sources;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::MAX_EXCLUDE_FILE;
use crate::host::Drift;
use crate::image::Layer;
use crate::state::seen::SeenHeads;
use crate::state::{OverrideRecord, State, pinned};
use crate::tree_path::TreePath;
use crate::update::error::{
    NoFullSync, Refusal, RepositoryFailure, TrustError, UpdateError, UsageError,
};
use crate::update::installed::{Installed, recorded};
use crate::update::notice::{Route, TransactionNotice, UpdateNotice};
use crate::update::report::{ByDigest, Report};
use crate::update::request::RepairScope;
use crate::update::run::Run;
use crate::update::source::excludes::{RecordedRules, find_hidden_edit};
use crate::update::source::head::{LayerAnswer, LayerRequest};
use crate::update::source::overrides::{LayerSource, OverrideLayer};
use crate::update::source::published::PublishedImage;
use crate::update::strategy::fetch_by_digest::{ContentForecast, fetch_wanted, list_missing};
use crate::update::strategy::full_sync::{self, lacking, paths_of};
use crate::update::strategy::head_update::StrategyOutcome;
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::image_keys::ImageAge;
use crate::update::transaction::selection::{Selection, refuse_untracked};
use crate::update::transaction::target::Target;
use crate::update::transaction::{PublishRef, UpdateTransaction};

/// A repair to the recorded generation.
pub(super) struct PathRepair<'a> {
    scope: &'a RepairScope,
    state: &'a State,
    /// Published layers, the overrides first; asked for when they are needed.
    published: OnceCell<Vec<PublishedImage>>,
}

impl<'a> PathRepair<'a> {
    pub fn new(scope: &'a RepairScope, state: &'a State) -> Self {
        PathRepair { scope, state, published: OnceCell::new() }
    }

    /// Repairs the tree under the exclude rules of `run`.
    pub fn run(&self, run: &Run<'_>) -> Result<StrategyOutcome, UpdateError> {
        let installed = self.installed(run)?;
        // The edit of the exclude file must not hide itself.
        let recorded =
            RecordedRules { filter: &self.state.filter, deviations: &self.state.deviations };
        let entry = run.excludes.path.as_ref().and_then(|path| installed.composed.get(path));
        match find_hidden_edit(run.excludes, &run.filter, entry, &recorded) {
            Some(path) => self.restore(&run.with_tracked_excludes(path.clone())?, installed),
            None => self.restore(run, installed),
        }
    }

    /// Restores the paths of the scope as `installed` has them.
    fn restore(
        &self,
        run: &Run<'_>,
        mut installed: Installed,
    ) -> Result<StrategyOutcome, UpdateError> {
        let overrides = self.overrides()?;
        let route = Route::RepairOfPaths;
        let target =
            Target::new(run, installed.manifest.clone(), &overrides, Some(&installed), route)?
                .with_image_keys(run, self.image_age(run)?)?;
        let (root, tops) = (&run.session.root, &self.scope.paths);
        let selection = Selection::new(root, &target.tracked, tops, self.state.clone())?;
        self.check_selection(run, &target)?;
        if let Some(rules) = self.find_other_excludes(run, &target, &selection)? {
            return Ok(StrategyOutcome::OtherExcludes(rules));
        }

        installed.deviating.retain(|path| selection.contains(path));
        installed.left_out.retain(|path| selection.contains(path));
        let mut target = target.with_selection(selection);
        target.policy.check_level = CheckLevel::Content;
        target.policy.untracked = UntrackedPolicy::Keep;
        if target.policy.drift == Drift::Report {
            target.policy.drift = Drift::Repair;
        }
        let transaction = UpdateTransaction {
            run,
            installed: Some(&installed),
            overrides: &overrides,
            published: None,
            publish: Some(PublishRef {
                serial: self.state.serial,
                seen: self.state.catalog.as_ref(),
            }),
        };
        self.execute(&transaction, &target).map(StrategyOutcome::done)
    }

    fn execute(
        &self,
        transaction: &UpdateTransaction<'_>,
        target: &Target,
    ) -> Result<Report, UpdateError> {
        let run = transaction.run;
        run.monitor.note(TransactionNotice::Strategy(&target.route));
        let mut live = transaction.read_live_tree(target)?;
        let mut plan = transaction.plan(target, &live)?;
        // A directory outside the selection keeps its time, although an entry of it is replaced.
        for entry in &mut plan.directories {
            if !target.selects(&entry.path)
                && let Some(stat) = run.session.root.stat(&entry.path).map_err(Untouched::from)?
            {
                entry.meta.mtime = stat.mtime;
            }
        }

        let mut report = if run.request.dry_run {
            self.forecast(transaction, target, &plan, &mut live)?
        } else {
            let contents = transaction.recorded_contents();
            transaction
                .execute(target, &plan, |stage| self.fill(run, stage, &contents, &mut live))
                .map_err(TransactionError::into_final)?
        };
        target.restrict_report(&mut report);
        Ok(report)
    }

    /// Reports a dry run, with the bytes to fetch or the error with which the run itself would end.
    fn forecast(
        &self,
        transaction: &UpdateTransaction<'_>,
        target: &Target,
        plan: &ChangePlan,
        live: &mut LiveTree,
    ) -> Result<Report, UpdateError> {
        let run = transaction.run;
        let mut report = transaction.forecast(target, plan);
        let recorded = transaction.recorded_contents();
        let mut wanted = plan.contents();
        wanted.retain(|digest, size| !recorded.has_verified(digest, *size));
        let root = &run.session.root;
        live.find_contents(root, wanted.clone(), &run.filter, run.monitor)?;
        let found = LiveSource::from_live_tree(root, live, run.monitor);
        wanted.retain(|digest, size| !found.has_verified(digest, *size));
        if wanted.is_empty() {
            return Ok(report);
        }

        let failure = match self.estimate(run, &recorded, wanted) {
            Err(UpdateError::Cancelled) => return Err(UpdateError::Cancelled),
            Ok(estimate) => {
                report.by_digest = estimate.by_digest;
                let paths = paths_of(plan, &estimate.missing);
                (!paths.is_empty()).then(|| NoFullSync::ContentNowhere { paths }.into())
            }
            Err(error) => Some(error),
        };
        // Nobody knows which contents the rsync daemon has.
        let may_receive =
            run.request.rsync.is_some() && failure.as_ref().is_some_and(is_of_repository);
        if !may_receive && report.refusal.is_none() {
            report.refusal = failure;
        }
        Ok(report)
    }

    /// Estimates the transfer of `wanted`, contents that the tree lacks.
    fn estimate(
        &self,
        run: &Run<'_>,
        live: &LiveSource<'_>,
        wanted: BTreeMap<Digest, u64>,
    ) -> Result<ContentForecast, UpdateError> {
        let (mut contents, mut bytes) = (0, 0);
        let mut wanted: Vec<(Digest, u64)> = wanted.into_iter().collect();
        for published in self.published(run)? {
            let estimate = published.estimate_contents(live, &wanted, &[])?;
            contents += wanted.len() - estimate.missing.len();
            bytes += estimate.bytes;
            wanted.retain(|(digest, _)| estimate.missing.contains(digest));
        }
        let by_digest = (contents > 0).then_some(ByDigest { contents, bytes });
        let missing = wanted.into_iter().map(|(digest, _)| digest).collect();
        Ok(ContentForecast { by_digest, missing })
    }

    /// Fills a stage from the tree, then from the repository by digest, then by rsync.
    ///
    /// `recorded` has the contents that the record expects. Other files are searched only if these
    /// are not enough: `live` gets those that have a needed content.
    fn fill(
        &self,
        run: &Run<'_>,
        stage: &Stage<'_>,
        recorded: &LiveSource<'_>,
        live: &mut LiveTree,
    ) -> Result<(), TransactionError> {
        fill::from_live(stage, recorded)?;
        let missing = stage.missing_contents();
        if missing.is_empty() {
            return Ok(());
        }
        let root = &run.session.root;
        live.find_contents(root, missing, &run.filter, run.monitor)?;
        let found = LiveSource::from_live_tree(root, live, run.monitor);
        fill::from_live(stage, &found)?;
        if stage.missing_contents().is_empty() {
            return Ok(());
        }

        let failure = match self.fetch_missing(run, stage, recorded) {
            Err(TransactionError::Failed(error)) if is_of_repository(&error) => {
                RepositoryFailure::Unusable(Box::new(error))
            }
            Err(error) => return Err(error),
            Ok(()) if stage.missing_contents().is_empty() => return Ok(()),
            Ok(()) => RepositoryFailure::Lacks(lacking(&list_missing(stage))),
        };
        let failure = match &run.request.rsync {
            Some(server) => full_sync::receive_missing(run, stage, server, failure)?,
            None => failure,
        };
        let paths = list_missing(stage);
        match failure {
            _ if paths.is_empty() => Ok(()),
            RepositoryFailure::Lacks(_) => {
                Err(UpdateError::from(NoFullSync::ContentNowhere { paths }).into())
            }
            RepositoryFailure::Unusable(error) => Err((*error).into()),
        }
    }

    /// Fetches the contents that the stage still needs from the repository.
    fn fetch_missing(
        &self,
        run: &Run<'_>,
        stage: &Stage<'_>,
        live: &LiveSource<'_>,
    ) -> Result<(), TransactionError> {
        for published in self.published(run)? {
            let wanted: Vec<(Digest, u64)> = stage.missing_contents().into_iter().collect();
            fetch_wanted(run, stage, live, published, &wanted)?;
        }
        Ok(())
    }

    /// The published layers of the record, the overrides first.
    fn published(&self, run: &Run<'_>) -> Result<&[PublishedImage], UpdateError> {
        if let Some(published) = self.published.get() {
            return Ok(published);
        }
        let repo = self.scope.repo.as_ref();
        let repo = repo.map_err(|reason| UsageError::Argument(reason.clone()))?;
        let overrides = self.state.overrides.iter().rev();
        let layers = overrides.map(|record| Layer::Override(record.name.clone()));

        let mut published = Vec::new();
        for layer in layers.chain([Layer::Image(self.state.image.clone())]) {
            let node = run.requester();
            let request = LayerRequest { node, repo, layer: &layer, known: None };
            match request.send()? {
                // Contents are taken by digest, so that the head need not be fresh.
                LayerAnswer::Published(layer) => published.push(*layer),
                LayerAnswer::NotPublished => {}
                LayerAnswer::Unchanged | LayerAnswer::Stale => {
                    return Err(TrustError::UnexpectedNotModified.into());
                }
            }
        }
        Ok(self.published.get_or_init(|| published))
    }

    /// The overrides as they are recorded.
    fn overrides(&self) -> Result<Vec<OverrideLayer>, UpdateError> {
        let layer = |record: &OverrideRecord| {
            let name = record.name.clone();
            let Some(manifest) = record.manifest() else {
                return Err(Refusal::OverrideLost { name }.into());
            };
            Ok(OverrideLayer { name, manifest, recorded: None, source: LayerSource::Recorded })
        };
        self.state.overrides.iter().map(layer).collect()
    }

    /// The recorded generation; its manifest comes from the repository if it is lost here.
    fn installed(&self, run: &Run<'_>) -> Result<Installed, UpdateError> {
        let state = self.state;
        if let Some(installed) = recorded::read_stored(run, state)? {
            return Ok(installed);
        }
        run.monitor.warn(UpdateNotice::ManifestLost);
        let layers = self.published(run)?;
        let image =
            layers.iter().find(|published| !matches!(published.catalog.layer, Layer::Override(_)));
        let refetched = match image {
            Some(published) => recorded::read_installed(run, published, state)?,
            None => None,
        };
        refetched.ok_or_else(|| Refusal::ManifestLost { generation: state.generation }.into())
    }

    /// Whether the recorded generation is the newest that this node knows, for its public keys.
    fn image_age(&self, run: &Run<'_>) -> Result<ImageAge, UpdateError> {
        let root = &run.session.root;
        let seen = SeenHeads::load(root).map_err(Untouched::from)?;
        let layer = Layer::Image(self.state.image.clone());
        let has_seen_newer = seen.of(&layer).any(|head| head.serial > self.state.serial);
        let is_pinned = pinned::load(root).map_err(Untouched::from)?.is_some();
        Ok(if has_seen_newer || is_pinned { ImageAge::Older } else { ImageAge::Newest })
    }

    /// Refuses a path of the request at and below which nothing is tracked.
    fn check_selection(&self, run: &Run<'_>, target: &Target) -> Result<(), UpdateError> {
        let is_tracked = |top: &TreePath| {
            let paths = target.tracked.entries().iter().map(|entry| &entry.path);
            paths.chain(target.unsupported.keys()).any(|path| path == top || path.is_below(top))
        };
        let (root, tops) = (&run.session.root, &self.scope.paths);
        refuse_untracked(root, &run.filter, tops, is_tracked)
    }

    /// Exclude rules of the record, if the repair restores another exclude file than is in effect.
    ///
    /// With rules that somebody has damaged, the repair would overwrite files of the node.
    fn find_other_excludes(
        &self,
        run: &Run<'_>,
        target: &Target,
        selection: &Selection,
    ) -> Result<Option<Vec<u8>>, UpdateError> {
        let path = run.excludes.path.as_ref().filter(|path| selection.contains(path));
        let Some(path) = path else { return Ok(None) };
        let Some((size, digest)) = target.tracked.get(path).and_then(Entry::file) else {
            return Ok(None);
        };
        if digest == Digest::of(&run.excludes.rules) {
            return Ok(None);
        }

        // A file above the limit is read up to the limit, and then refused by the filter.
        let size = size.min(MAX_EXCLUDE_FILE as u64 + 1);
        let (root, recorded) = (&run.session.root, Some(&target.tracked));
        let live = LiveSource::from_manifest(root, recorded, &run.times, run.monitor, |_| false);
        if let Ok(Some(rules)) = live.read(&digest, size, &TreePath::root())
            && Digest::of(&rules) == digest
        {
            return Ok(Some(rules));
        }
        for published in self.published(run)? {
            let rules = published.read_content(run, &live, (digest, size))?;
            if rules.is_some() {
                return Ok(rules);
            }
        }
        Err(NoFullSync::ContentNowhere { paths: vec![path.clone()] }.into())
    }
}

/// Whether another source may have a content that the repository did not supply.
fn is_of_repository(error: &UpdateError) -> bool {
    matches!(
        error,
        UpdateError::Fetch(_)
            | UpdateError::Usage(_)
            | UpdateError::UnknownImage { .. }
            | UpdateError::NoFullSync(_)
    )
}
