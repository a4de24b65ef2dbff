//! Transaction of an update: compare the live tree, plan, check, and execute.

mod commit;
pub(super) mod disk_space;
pub(super) mod download;
pub(super) mod error;
pub(super) mod execute;
pub(super) mod image_keys;
pub(super) mod kernel_paths;
pub(super) mod left_kernel;
mod mounts;
pub(super) mod provisions;
mod saved;
pub(super) mod selection;
pub(super) mod target;
mod user_mounts;
pub(super) mod user_refusals;

use std::collections::BTreeMap;

use crate::allocator;
use crate::apply::journal::CommitRecord;
use crate::apply::notice::ApplyNotice;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::{self, ChangePlan, CheckLevel, PlanInput, StagedItem};
use crate::apply::stage::Stage;
use crate::apply::stage::live_source::LiveSource;
use crate::apply::undo::RetentionLimits;
use crate::apply::{Untouched, preflight};
use crate::entry::{Entry, EntryKind};
use crate::filter::{Filter, MAX_EXCLUDE_FILE};
use crate::full_sync::ReceiveDir;
use crate::generation::GenerationId;
use crate::host::{Drift, KernelRetention};
use crate::manifest::{Manifest, path_text};
use crate::signature::MAX_KEY_FILE;
use crate::state::{self, KernelPaths, SeenCatalog, State, pinned};
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::hooks::default_entry::KernelChange;
use crate::update::hooks::payload::HookPlan;
use crate::update::hooks::{HookContext, Hooks};
use crate::update::installed::{Installed, recorded};
use crate::update::notice::Route;
use crate::update::report::{Report, UpdateOutcome, count_topmost};
use crate::update::request::{SignedFiles, UpdateStep};
use crate::update::run::Run;
use crate::update::source::excludes::{self, ContentSources, RecordedRules};
use crate::update::source::overrides::OverrideLayer;
use crate::update::source::published::PublishedImage;

use error::TransactionError;
use execute::{Transaction, execute};
use image_keys::ImageAge;
use target::{Delivery, Target};
use user_refusals::plan_without_user_refusals;

/// Reason of a deviation.
const EXCLUDES_ITSELF: &str = "content; its edited rules exclude the file itself";

/// State shared by all steps of one update transaction.
pub(super) struct UpdateTransaction<'a> {
    pub run: &'a Run<'a>,
    pub installed: Option<&'a Installed>,
    pub overrides: &'a [OverrideLayer],
    /// The published image; `None` if rsync delivers it.
    pub published: Option<&'a PublishedImage>,
    /// Publish that is recorded at the end; `None` if only part of the tree is updated.
    pub publish: Option<PublishRef<'a>>,
}

/// The publish that a transaction installs.
#[derive(Clone, Copy)]
pub(super) struct PublishRef<'a> {
    /// 0 for an image that rsync delivered and that is not published.
    pub serial: u64,
    pub seen: Option<&'a SeenCatalog>,
}

impl PublishRef<'_> {
    fn is_published(&self) -> bool {
        self.serial > 0
    }
}

impl<'a> UpdateTransaction<'a> {
    /// Creates the target of the transaction from the manifest of an image.
    pub fn target(&self, image: Manifest, route: Route) -> Result<Target, UpdateError> {
        let run = self.run;
        let age = match self.published {
            Some(published) => ImageAge::of(run, published, image.id())?,
            // Nothing says that an image of rsync is old.
            None => ImageAge::Newest,
        };
        Target::new(run, image, self.overrides, self.installed, route)?.with_image_keys(run, age)
    }

    /// Checks if the tree lacks an excluded entry that it should get.
    pub fn lacks_provisions(&self, target: &Target) -> Result<bool, UpdateError> {
        provisions::is_any_missing(self.run, &target.provisions)
    }

    /// Returns the id of `image` with the overrides of the run.
    pub fn composed_id(&self, image: &Manifest) -> GenerationId {
        state::composed_id(image.id(), self.overrides.iter().map(|layer| layer.manifest.id()))
    }

    /// Returns the contents that the tree should have according to its record.
    ///
    /// Excluded paths and known deviations count only if they look as recorded.
    pub fn recorded_contents(&self) -> LiveSource<'a> {
        let manifest = self.installed.map(|installed| &installed.composed);
        let mut cursor = self.run.filter.cursor();
        let run = self.run;
        LiveSource::from_manifest(&run.session.root, manifest, &run.times, run.monitor, |entry| {
            cursor.excludes(&entry.path, entry.kind()).is_some()
                || self.installed.is_some_and(|known| known.deviating.contains(&entry.path))
        })
    }

    /// Records the live tree as closely as the policy of the target asks.
    pub fn read_live_tree(&self, target: &Target) -> Result<LiveTree, UpdateError> {
        let run = self.run;
        let root = &run.session.root;
        let mut live = match (&target.installed, target.policy.check_level) {
            _ if target.is_partial() => {
                let tracked = target.tracked.entries().iter().map(|entry| &entry.path);
                let compared = tracked.chain(target.keys.compared());
                let mut paths: Vec<TreePath> =
                    compared.filter(|path| target.selects(path)).cloned().collect();
                paths.sort_unstable();
                paths.dedup();
                LiveTree::stat_paths(root, &paths).map_err(Untouched::from)?
            }
            (Some(installed), CheckLevel::Touched) => {
                let deviating = self
                    .installed
                    .map(|installed| &installed.deviating)
                    .cloned()
                    .unwrap_or_default();
                let mut paths = plan::touched_paths(installed, &target.tracked, &deviating);
                paths.extend(target.overruled.iter().map(|entry| entry.path.clone()));
                paths.extend(target.kernel_paths.iter().cloned());
                paths.extend(target.keys.compared().cloned());
                paths.sort_unstable();
                paths.dedup();
                LiveTree::stat_paths(root, &paths).map_err(Untouched::from)?
            }
            _ => {
                let installed = target.installed.iter().flat_map(|installed| installed.entries());
                let entries =
                    target.tracked.entries().iter().chain(installed).chain(&target.overruled);
                let mut tracked: Vec<&TreePath> =
                    entries.map(|entry| &entry.path).chain(&target.kernel_paths).collect();
                tracked.extend(&target.keys.surplus);
                tracked.sort_unstable();
                tracked.dedup();
                LiveTree::walk(root, &tracked, &run.filter, target.policy.untracked, run.monitor)?
            }
        };

        if target.policy.check_level == CheckLevel::Content {
            let known = target.known_digests.iter().map(|(path, digest)| (path.clone(), *digest));
            live.digests.extend(known);
            live.read_contents(root, target.tracked.entries().iter(), run.monitor)?;
        }
        Ok(live)
    }

    /// Computes the change plan; except in a dry run, also runs the preflight checks.
    pub fn plan(&self, target: &Target, live: &LiveTree) -> Result<ChangePlan, UpdateError> {
        let run = self.run;
        let session = run.session;
        let no_deviations = Default::default();
        let filesystems = session.filesystems.with_roots(live.filesystem_roots());
        let nothing = BTreeMap::new();
        let mut repaired = target.keys.tracked.clone();
        repaired.extend(self.installed.iter().flat_map(|installed| &installed.left_out).cloned());
        let input = PlanInput {
            root: &session.root,
            installed: target.installed.as_ref(),
            target: &target.tracked,
            formerly_tracked: &target.overruled,
            provisions: &target.provisions,
            old_kernel_paths: &target.kernel_paths,
            surplus_keys: &target.keys.surplus,
            kernel: session.kernel.as_ref(),
            kernel_retention: self.kernel_retention(target),
            known_deviations: self
                .installed
                .map_or(&no_deviations, |installed| &installed.deviating),
            refused: &nothing,
            repaired: &repaired,
            filter: &run.filter,
            filesystems: &filesystems,
            host: session.host.as_ref(),
            mounts: &session.mounts,
            bind_mounts: &session.twins,
            policy: target.policy,
            monitor: run.monitor,
        };

        let mut plan = plan_without_user_refusals(session, |refused| {
            let mut all = target.refused.clone();
            all.extend(refused.clone());
            Ok(plan::plan_changes(&PlanInput { refused: &all, ..input }, live)?)
        })?;
        plan.deviations.extend(target.unsupported.clone());
        for (path, reason) in user_mounts::paths_below(run, target, self.installed, self.overrides)?
        {
            plan.left_out.insert(path.clone());
            plan.deviations.insert(path, reason);
        }
        if let Some(path) = self.find_hidden_edit(target) {
            plan.deviations.insert(path.clone(), EXCLUDES_ITSELF.to_owned());
        }
        for warning in &plan.warnings {
            run.monitor.warn(warning);
        }
        if !run.request.dry_run {
            self.check(target, &plan)?;
        }
        Ok(plan)
    }

    /// Finds the exclude file, if its edited rules exclude it and those of the target do not.
    fn find_hidden_edit(&self, target: &Target) -> Option<&'a TreePath> {
        let run = self.run;
        let path = run.excludes.path.as_ref().filter(|path| target.selects(path))?;
        let mut layers = self.overrides.iter().rev().map(|layer| &layer.manifest);
        let entry = layers.find_map(|layer| layer.get(path)).or_else(|| target.image.get(path));
        let installed = self.installed?;
        let recorded =
            RecordedRules { filter: installed.filter.as_ref()?, deviations: &installed.deviations };
        excludes::find_hidden_edit(run.excludes, &run.filter, entry, &recorded)?;

        // Rules of the image may leave the file to the node. A switch asks no repository.
        let asks = !matches!(run.request.step, UpdateStep::FromDownloaded(_));
        let rules = match (self.published.filter(|_| asks), entry.and_then(Entry::file)) {
            (Some(published), Some((size, digest))) => {
                let (live, overrides) = (self.recorded_contents(), self.overrides);
                let sources = ContentSources { live, published, overrides };
                let size = size.min(MAX_EXCLUDE_FILE as u64 + 1);
                sources.read(run, digest, size).ok().flatten()
            }
            _ => None,
        };
        let filter =
            rules.and_then(|rules| Filter::builder().exclude_file(&run.excludes.name, &rules).ok());
        let is_left_to_node =
            filter.is_some_and(|filter| filter.build().excludes(path, EntryKind::Other).is_some());
        (!is_left_to_node).then_some(path)
    }

    /// Returns the files of the running kernel that the transaction itself keeps.
    ///
    /// Those that are not to stay are removed after it, as recorded in the state. If no state is
    /// recorded, nothing could remove them later.
    fn kernel_retention(&self, target: &Target) -> KernelRetention {
        match (self.publish, &self.run.session.kernel) {
            (None, Some(kernel)) => kernel.retention_for(&target.kernels),
            _ => KernelRetention::ModulesAndBootFiles,
        }
    }

    /// Refuses a plan that cannot be applied, before anything is changed.
    fn check(&self, target: &Target, plan: &ChangePlan) -> Result<(), UpdateError> {
        let session = self.run.session;
        let (root, mounts) = (&session.root, &session.mounts);
        let max_delete = self.run.request.max_delete;
        preflight::check_budget(plan, target.count_tracked(), target.renamed, max_delete)?;
        preflight::check_paths(root, plan, &plan.filesystems, mounts)?;
        preflight::check_agent_paths(root, plan, target.image.id())?;
        preflight::check_missing_mounts(root, plan, &mounts::read_fstab(root)?, mounts)?;
        disk_space::check_before_staging(self.run, target, plan)
    }

    /// Reports a dry run: its changes, and the refusal with which the run itself would end.
    pub fn forecast(&self, target: &Target, plan: &ChangePlan) -> Report {
        let mut report = self.report(target, plan, UpdateOutcome::WouldUpdate);
        if self.publish.is_some() {
            let running = self.run.session.kernel.as_ref();
            let later = left_kernel::list_boot_files(plan, running, &target.kernels);
            report
                .deviations
                .retain(|path, _| !later.iter().any(|item| path_text(&item.path) == *path));
            report.add_items(later);
        }
        let refusal = self.check(target, plan).err();
        report.refusal =
            refusal.or_else(|| self.check_keys(plan, |item| self.read_ahead(item)).err());
        report
    }

    /// Refuses a plan after which no key verifies the heads and catalogs of this run.
    fn check_keys(
        &self,
        plan: &ChangePlan,
        read: impl FnMut(&StagedItem) -> Result<Option<Vec<u8>>, UpdateError>,
    ) -> Result<(), UpdateError> {
        let overrides = self.overrides.iter().filter_map(OverrideLayer::published);
        let layers = self.published.into_iter().chain(overrides).map(|layer| &layer.signed);
        let cluster = self.run.request.assignment.signed_cluster();
        let accepted: Vec<&SignedFiles> = layers.chain(cluster).collect();
        image_keys::check_remaining(self.run, plan, &accepted, read)
    }

    /// Reads the content of a key for a dry run; `None` if the repository does not have it.
    fn read_ahead(&self, item: &StagedItem) -> Result<Option<Vec<u8>>, UpdateError> {
        let Some((published, (size, digest))) = self.published.zip(item.entry.file()) else {
            return Ok(None);
        };
        let live = self.recorded_contents();
        let sources = ContentSources { live, published, overrides: self.overrides };
        sources.read(self.run, digest, size.min(MAX_KEY_FILE as u64 + 1))
    }

    /// Executes the plan; `fill` supplies the contents. An empty plan only updates the record.
    pub fn execute(
        &self,
        target: &Target,
        plan: &ChangePlan,
        fill: impl FnOnce(&Stage) -> Result<(), TransactionError>,
    ) -> Result<Report, TransactionError> {
        if self.run.request.step == UpdateStep::DownloadOnly {
            return download::download(self, target, plan, fill);
        }
        if plan.is_empty() {
            return Ok(self.record_only(target, plan)?);
        }
        // The memory of the walk is free now, and staging needs little.
        allocator::trim();

        let run = self.run;
        for coarse in &target.coarse_filesystems {
            let place = run.session.root.show(&coarse.mount_root);
            run.monitor.note(ApplyNotice::TimesRounded { place, paths: coarse.paths });
        }
        let transaction = Transaction {
            session: run.session,
            plan,
            hooks: self.hooks(target, plan),
            limits: self.retention_limits(target),
            filter: &run.filter,
            is_tracked: &|path| target.tracked.get(path).is_some(),
            monitor: run.monitor,
        };
        let completed = execute(&transaction, || {
            self.record_adoption()?;
            let stage = transaction.create_stage()?;
            self.fill_stage(target, &stage, fill)?;
            self.check_keys(plan, |item| {
                let read = stage.read_item(item, MAX_KEY_FILE as u64 + 1);
                Ok(Some(read.map_err(UpdateError::from)?))
            })?;
            if run.request.drift == Drift::SaveAside {
                saved::save_drift(run, target, plan)?;
            }
            let record = self.commit_record(target, plan)?;
            Ok((stage, record))
        })?;

        let mut report = Report {
            switch_time: Some(completed.mixed),
            follow_up_failures: completed.follow_up_failures,
            ..self.report(target, plan, UpdateOutcome::Updated)
        };
        report.add_items(completed.removed);
        report.set_recorded(completed.state.as_ref());
        report.left_out = completed.left_out;
        Ok(report)
    }

    /// Records a generation that was adopted in this run.
    ///
    /// The record is true until the seal, and a rollback returns to it.
    fn record_adoption(&self) -> Result<(), UpdateError> {
        let adopted =
            self.installed.filter(|installed| installed.needs_record_before_transaction());
        let seen = self.publish.and_then(|publish| publish.seen);
        match adopted.zip(seen) {
            Some((installed, seen)) => recorded::record_adopted(self.run, installed, seen),
            None => Ok(()),
        }
    }

    /// Fills the stage while another thread compresses the manifest to be recorded.
    fn fill_stage(
        &self,
        target: &Target,
        stage: &Stage<'_>,
        fill: impl FnOnce(&Stage) -> Result<(), TransactionError>,
    ) -> Result<(), TransactionError> {
        std::thread::scope(|scope| {
            scope.spawn(|| self.manifest_to_record(target));
            if let Some(downloaded) = &self.run.downloaded {
                stage.take_downloaded(downloaded)?;
            }
            fill(stage)
        })?;

        // Removed before the seal, so that the mtime of the root is restored with the others.
        ReceiveDir::discard(&self.run.session.root).map_err(Untouched::from)?;
        Ok(())
    }

    /// Adds only the state to the record; nothing in the tree has to change.
    pub fn record_only(&self, target: &Target, plan: &ChangePlan) -> Result<Report, UpdateError> {
        let run = self.run;
        let root = &run.session.root;
        match self.publish {
            _ if run.request.dry_run || run.request.step == UpdateStep::DownloadOnly => {}
            Some(publish) => {
                let state = self.new_state(publish, target, plan)?;
                state::save(root, &state, self.manifest_to_record(target))?;
            }
            // Nothing changed, so the recorded state is as true as before.
            None => state::record_last_synced(root, &run.request.image).map_err(Untouched::from)?,
        }
        Ok(self.report(target, plan, UpdateOutcome::UpToDate))
    }

    /// Returns the compressed manifest to be recorded; `None` if it is recorded already.
    pub fn manifest_to_record<'t>(&self, target: &'t Target) -> Option<&'t [u8]> {
        let is_recorded = self.installed.is_some_and(|installed| {
            installed.is_manifest_stored() && installed.manifest.id() == target.image.id()
        });
        if is_recorded { None } else { Some(target.compressed_manifest()) }
    }

    /// Returns the record that the roll forward writes after the changes.
    fn commit_record(
        &self,
        target: &Target,
        plan: &ChangePlan,
    ) -> Result<CommitRecord, UpdateError> {
        let Some(publish) = self.publish else {
            let synced = Some(self.run.request.image.clone());
            return Ok(CommitRecord { manifest: None, state: None, pinned: None, synced });
        };
        Ok(CommitRecord {
            state: Some(self.new_state(publish, target, plan)?.to_toml()?),
            manifest: self.manifest_to_record(target).map(<[u8]>::to_vec),
            pinned: self.pinned_after(target)?,
            synced: None,
        })
    }

    /// Returns the text of the pinned generation after the transaction.
    ///
    /// A repair leaves it pinned; the installation of another generation ends that.
    fn pinned_after(&self, target: &Target) -> Result<Option<String>, UpdateError> {
        if !self.is_repair(target) {
            return Ok(None);
        }
        let pinned = pinned::load(&self.run.session.root).map_err(Untouched::from)?;
        Ok(pinned.map(|pinned| pinned.to_toml()).transpose()?)
    }

    /// Whether the target is the recorded generation, with the same overrides.
    fn is_repair(&self, target: &Target) -> bool {
        let composed_id = self.publish.map(|_| self.composed_id(&target.image));
        self.installed.is_some_and(|installed| {
            !installed.is_adopted() && Some(installed.composed_id()) == composed_id
        })
    }

    /// Returns the state of the node after the plan.
    fn new_state(
        &self,
        publish: PublishRef<'_>,
        target: &Target,
        plan: &ChangePlan,
    ) -> Result<State, UpdateError> {
        let run = self.run;
        let mut state = State::new(
            run.request.image.clone(),
            publish.serial,
            target.image.id(),
            run.filter.digest(),
            run.session.root.identity().map_err(Untouched::from)?,
        );

        state.untracked = plan.untracked_count;
        state.left_out = plan.left_out.iter().map(path_text).collect();
        state.catalog = publish.seen.cloned();
        state.overrides = self.overrides.iter().map(OverrideLayer::record).collect();
        state.kernel = run
            .session
            .kernel
            .as_ref()
            .and_then(|kernel| KernelPaths::new(kernel.release(), &plan.kernel_paths));
        for (path, reason) in &plan.deviations {
            state.record_deviation(path, reason.clone());
        }
        Ok(match &target.selection {
            Some(selection) => selection.state_after(state, plan),
            None => state,
        })
    }

    fn retention_limits(&self, target: &Target) -> RetentionLimits {
        let request = self.run.request;
        let composed_id = self.publish.map(|_| self.composed_id(&target.image));
        let (keep, share) = (request.keep_undo, request.undo_share);
        RetentionLimits { keep, share, repairs: self.is_repair(target), recorded_id: composed_id }
    }

    fn hooks<'t>(&'t self, target: &'t Target, plan: &'t ChangePlan) -> Hooks<'t> {
        let run = self.run;
        let published = self.publish.filter(PublishRef::is_published);
        let hook_plan = HookPlan {
            image: Some(&run.request.image),
            generation: published.map(|_| target.image.id()),
            base: self.installed.map(|installed| installed.manifest.id()),
            serial: published.map(|publish| publish.serial),
            strategy: self.strategy_name(target),
            description: target.route.to_string(),
            items: &plan.itemized,
        };
        let kernels = KernelChange::from_plan(plan, target.kernels.clone());
        Hooks { context: HookContext::from_run(run), plan: hook_plan, kernels }
    }

    /// Returns the name by which hooks know the strategy.
    fn strategy_name(&self, target: &Target) -> &'static str {
        let is_installed = self
            .installed
            .is_some_and(|installed| installed.composed_id() == self.composed_id(&target.image));
        match target.delivery {
            Delivery::FullSync | Delivery::ReceiveDir => "full-sync",
            Delivery::Archives if is_installed => "repair",
            Delivery::Archives => "diffs",
        }
    }

    fn report(&self, target: &Target, plan: &ChangePlan, outcome: UpdateOutcome) -> Report {
        let published = self.publish.filter(PublishRef::is_published);
        let deviations =
            plan.deviations.iter().map(|(path, reason)| (path_text(path), reason.clone()));

        Report {
            generation: published.map(|_| target.image.id()),
            serial: published.map(|publish| publish.serial),
            items: plan.itemized.clone(),
            bytes: plan.bytes(),
            repaired: plan.repaired.clone(),
            deviations: deviations.collect(),
            kernel_deviations: count_topmost(&plan.kernel_paths),
            left_out: plan.left_out.iter().map(path_text).collect(),
            displaced: plan.displaced.clone(),
            untracked: plan.untracked_count,
            ..Report::new(outcome, target.route.to_string())
        }
    }
}
