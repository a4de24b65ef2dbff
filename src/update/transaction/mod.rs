//! The part that every way has in common: look, decide, check, stage, seal, go forward, record.

pub(super) mod commit;
pub(super) mod disk_space;

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use crate::apply::journal::CommitRecord;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::{self, ChangePlan, CheckLevel, ComparePolicy, PlanInput, UntrackedPolicy};
use crate::apply::stage::Stage;
use crate::apply::undo::RetentionLimits;
use crate::apply::{Untouched, preflight};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::generation::GenerationId;
use crate::manifest::{Manifest, path_text};
use crate::root::FileKind;
use crate::state::{self, KernelPaths, SeenCatalog, State};
use crate::tree_path::TreePath;
use crate::update::hooks::Hooks;
use crate::update::hooks::payload::HookPlan;
use crate::update::installed::Installed;
use crate::update::report::topmost;
use crate::update::source::overrides::{self, OverrideLayer};
use crate::update::{Check, Report, Run, UpdateError, UpdateOutcome};
use crate::{allocator, full_sync};

use commit::{Failure, commit};

/// Recorded manifests are compressed fast: they are written with every update and read with the next.
pub(super) const RECORDED_LEVEL: i32 = 1;

/// What every way from what the node is to what it is to be has in common.
pub(super) struct UpdateTransaction<'a> {
    pub run: &'a Run<'a>,
    pub base: Option<&'a Installed>,
    /// What is laid over the image.
    pub layers: &'a [OverrideLayer],
    /// What is recorded in the end; `None` where the tree is only in part what came.
    pub head: Option<PublishRef<'a>>,
}

/// The publish that a node comes to be at.
#[derive(Clone, Copy)]
pub(super) struct PublishRef<'a> {
    /// 0 where what came was never published.
    pub serial: u64,
    pub seen: Option<&'a SeenCatalog>,
}

/// What the tree is to become.
pub(super) struct Target {
    /// Everything that the generation of the image has.
    pub whole: Manifest,
    /// What of it the image decides about here.
    pub target: Manifest,
    /// Likewise of what is recorded.
    pub base: Option<Manifest>,
    /// What of the target the filesystems here cannot hold, and why.
    pub unheld: BTreeMap<TreePath, String>,
    /// What only a generation named that was recorded before the base was recognised, in tree order.
    pub former: Vec<Entry>,
    /// What stayed for a kernel that ran before, in tree order.
    pub waiting: Vec<TreePath>,
    /// How closely the tree is looked at.
    pub policy: ComparePolicy,
    /// What live files hold that were read in this run already.
    pub read: HashMap<TreePath, Digest>,
    /// Whether all content comes by way of the root's filesystem.
    pub received: bool,
    /// Paths that go and have a replacement elsewhere.
    pub renamed: usize,
    /// The manifest as it is stored, once that is asked for.
    stored: OnceLock<Vec<u8>>,
    /// For people: the way and why.
    pub way: String,
}

impl UpdateTransaction<'_> {
    /// A goal with the policy of the request.
    pub(super) fn goal(&self, whole: Manifest, way: String) -> Result<Target, UpdateError> {
        let composed = overrides::composed(&whole, self.layers.iter().map(|laid| &laid.manifest))?;
        self.run.tell_foreign(&composed);
        let request = self.run.request;
        let settled = self.base.is_none_or(|base| base.settled);
        let depth = match request.check {
            Check::Content => CheckLevel::Content,
            // What another filter covered, or came with a copy, is not known to match; what is to be
            // purged has to be found.
            Check::Touched if settled && !request.purge_untracked => CheckLevel::Touched,
            Check::Touched | Check::Update | Check::Stat => CheckLevel::Stat,
        };
        let untracked =
            if request.purge_untracked { UntrackedPolicy::Remove } else { UntrackedPolicy::Keep };
        let base = || self.base.map(|base| self.run.filtered(&base.composed));
        let ((target, unheld), base) = rayon::join(|| self.run.held(&composed), base);
        Ok(Target {
            target,
            unheld,
            base,
            former: self.former(&composed),
            waiting: self.waiting(),
            whole,
            policy: ComparePolicy { check_level: depth, drift: request.drift, untracked },
            read: HashMap::new(),
            received: false,
            renamed: 0,
            stored: OnceLock::new(),
            way,
        })
    }

    /// What a tree of the image `whole` is made here, as one name.
    pub(super) fn made(&self, whole: &Manifest) -> GenerationId {
        state::made(whole.id(), self.layers.iter().map(|laid| laid.manifest.id()))
    }

    fn former(&self, composed: &Manifest) -> Vec<Entry> {
        let Some((base, former)) = self.base.and_then(|base| Some((base, base.former.as_ref()?)))
        else {
            return Vec::new();
        };
        let named = |entry: &Entry| {
            composed.get(&entry.path).is_some() || base.composed.get(&entry.path).is_some()
        };
        self.run.filtered(former).entries().iter().filter(|entry| !named(entry)).cloned().collect()
    }

    /// What stayed for a kernel, as far as the image decides about it here.
    fn waiting(&self) -> Vec<TreePath> {
        let Some(kernel) = self.base.and_then(|base| base.kernel.as_ref()) else {
            return Vec::new();
        };
        let root = &self.run.session.root;
        let mut cursor = self.run.filter.cursor();
        let mut paths = kernel.paths();
        paths.retain(|path| {
            let stat = root.stat(path).ok().flatten();
            cursor
                .excludes(path, stat.is_some_and(|stat| stat.kind == FileKind::Directory))
                .is_none()
        });
        paths
    }

    /// Looks at the tree as closely as the goal asks for.
    pub(super) fn look(&self, goal: &Target) -> Result<LiveTree, UpdateError> {
        let root = &self.run.session.root;
        let mut live = match (&goal.base, goal.policy.check_level) {
            (Some(base), CheckLevel::Touched) => {
                let recorded = self.base.map(|base| &base.deviating).cloned().unwrap_or_default();
                let mut paths = plan::touched_paths(base, &goal.target, &recorded);
                paths.extend(goal.former.iter().map(|entry| entry.path.clone()));
                paths.extend(goal.waiting.iter().cloned());
                paths.sort_unstable();
                paths.dedup();
                LiveTree::stat_paths(root, &paths).map_err(Untouched::from)?
            }
            _ => {
                let old = goal.base.as_ref().map(|base| base.entries()).unwrap_or_default();
                let known = goal.target.entries().iter().chain(old).chain(&goal.former);
                let mut tracked: Vec<&TreePath> =
                    known.map(|entry| &entry.path).chain(&goal.waiting).collect();
                tracked.sort_unstable();
                tracked.dedup();
                LiveTree::walk(root, &tracked, &self.run.filter, self.run.monitor)?
            }
        };
        if goal.policy.check_level == CheckLevel::Content {
            live.digests.extend(goal.read.iter().map(|(path, digest)| (path.clone(), *digest)));
            live.read_contents(root, goal.target.entries().iter(), self.run.monitor)?;
        }
        Ok(live)
    }

    /// Decides what has to happen, and refuses what cannot end well.
    pub(super) fn prepare(
        &self,
        goal: &Target,
        live: &LiveTree,
    ) -> Result<ChangePlan, UpdateError> {
        let session = self.run.session;
        let none = Default::default();
        let filesystems = session.filesystems.with_roots(live.filesystem_roots());
        let wanted = PlanInput {
            root: &session.root,
            installed: goal.base.as_ref(),
            target: &goal.target,
            formerly_tracked: &goal.former,
            old_kernel_paths: &goal.waiting,
            kernel: session.kernel.as_ref(),
            known_deviations: self.base.map_or(&none, |base| &base.deviating),
            filter: &self.run.filter,
            filesystems: &filesystems,
            host: session.host.as_ref(),
            mounts: &session.mounts,
            bind_mounts: &session.twins,
            policy: goal.policy,
        };
        let mut transaction = plan::plan_changes(&wanted, live)?;
        transaction.deviations.extend(goal.unheld.clone());
        transaction.warnings.iter().for_each(|warning| self.run.monitor.warn(warning));
        if !self.run.request.dry_run {
            self.check(goal, &transaction)?;
        }
        Ok(transaction)
    }

    /// Refuses what cannot end well.
    fn check(&self, goal: &Target, transaction: &ChangePlan) -> Result<(), UpdateError> {
        let session = self.run.session;
        let tracked = goal.base.as_ref().map_or(0, |base| base.len()).max(goal.target.len());
        preflight::check_budget(transaction, tracked, goal.renamed, self.run.request.max_delete)?;
        let mounts = &session.mounts;
        preflight::check_paths(&session.root, transaction, &transaction.filesystems, mounts)?;
        preflight::check_agent_paths(&session.root, transaction, goal.whole.id())?;
        preflight::check_missing_mounts(&session.root, transaction, &self.run.fstab()?, mounts)?;
        self.check_room(goal, transaction)
    }

    /// What a dry run tells: the changes, and whether the run itself would stop before them.
    pub(super) fn forecast(&self, goal: &Target, transaction: &ChangePlan) -> Report {
        let mut report = self.report(goal, transaction, UpdateOutcome::WouldUpdate);
        report.refusal = self.check(goal, transaction).err();
        report
    }

    /// Makes the transaction: `fill` hands in the content.
    pub(super) fn commit<E: From<UpdateError>>(
        &self,
        goal: &Target,
        transaction: &ChangePlan,
        fill: impl FnOnce(&Stage) -> Result<(), E>,
    ) -> Result<Report, E> {
        if transaction.is_empty() {
            return Ok(self.record_only(goal, transaction)?);
        }
        // The look at the tree is over; from here on contents pass through.
        allocator::trim();
        let around = self.around(goal, transaction);
        let overdue = around.before()?;
        let made = self.make(goal, transaction, fill);
        let mut report = made.map_err(|failure| {
            if let Failure::Before(_) = failure {
                around.cancel_pending(&overdue);
            }
            failure.clean_up(self.run.session, transaction)
        })?;
        report.afterwards = around.after(&|path| goal.target.get(path).is_some());
        Ok(report)
    }

    fn around<'t>(&'t self, goal: &'t Target, transaction: &'t ChangePlan) -> Hooks<'t> {
        let run = self.run;
        let base = self.base.map(|base| base.manifest.id());
        let published = self.head.filter(|head| head.serial > 0);
        let plan = HookPlan {
            image: Some(&run.request.image),
            generation: published.map(|_| goal.whole.id()),
            base,
            serial: published.map(|head| head.serial),
            way: match goal.received {
                true => "full-sync",
                false if self.base.is_some_and(|base| base.made() == self.made(&goal.whole)) => {
                    "repair"
                }
                false => "diffs",
            },
            why: &goal.way,
            items: &transaction.itemized,
        };
        Hooks { scene: run.request.scene(&run.session.root, run.monitor), plan }
    }

    fn make<E: From<UpdateError>>(
        &self,
        goal: &Target,
        transaction: &ChangePlan,
        fill: impl FnOnce(&Stage) -> Result<(), E>,
    ) -> Result<Report, Failure<E>> {
        let before = |error: UpdateError| Failure::Before(E::from(error));
        let (session, monitor) = (self.run.session, self.run.monitor);
        let adopted = self.base.filter(|base| base.adopted && base.former.is_none());
        if let Some((base, seen)) = adopted.zip(self.head.and_then(|head| head.seen)) {
            // What was found out is true until the seal, and what a rollback comes back to.
            self.run.record(base, seen).map_err(before)?;
        }
        let stage = Stage::create(&session.root, &transaction.filesystems, transaction, monitor);
        let stage = stage.map_err(|error| before(error.into()))?;
        // Compressing the manifest takes as long as staging a small update: it happens meanwhile.
        std::thread::scope(|scope| {
            scope.spawn(|| self.manifest_to_record(goal));
            fill(&stage).map_err(Failure::Before)
        })?;
        // What else came is of no use; gone before the seal, it does not disturb the time of the top.
        full_sync::discard(&session.root).map_err(|error| before(Untouched::from(error).into()))?;
        let state = self
            .head
            .map(|head| self.state(head, goal, transaction)?.to_toml().map_err(UpdateError::from));
        let state = state.transpose().map_err(before)?;
        let synced = self.head.is_none().then(|| self.run.request.image.clone());
        let manifest =
            state.as_ref().and_then(|_| self.manifest_to_record(goal)).map(<[u8]>::to_vec);
        let record = CommitRecord { manifest, state, held: None, synced };
        let applied =
            commit(session, stage, &self.limits(goal), record, monitor).map_err(|failure| {
                match failure {
                    Failure::Before(error) => before(error),
                    Failure::After(error) => Failure::After(error),
                }
            })?;
        let mut report = self.report(goal, transaction, UpdateOutcome::Updated);
        report.mixed = Some(applied.mixed);
        report.deviations = applied.state.map(|state| state.deviations).unwrap_or_default();
        Ok(report)
    }

    fn limits(&self, goal: &Target) -> RetentionLimits {
        let request = self.run.request;
        let made = self.head.map(|_| self.made(&goal.whole));
        let repairs = self.base.is_some_and(|base| !base.adopted && Some(base.made()) == made);
        RetentionLimits { keep: request.keep_undo, share: request.undo_share, repairs, made }
    }

    /// The tree is as it should be: only what is known of it changes.
    pub(super) fn record_only(
        &self,
        goal: &Target,
        transaction: &ChangePlan,
    ) -> Result<Report, UpdateError> {
        let root = &self.run.session.root;
        match self.head {
            _ if self.run.request.dry_run => {}
            Some(head) => {
                let state = self.state(head, goal, transaction)?;
                state::save(root, &state, self.manifest_to_record(goal))?;
            }
            // Nothing changed: what was known of the tree is as true as before.
            None => state::note_synced(root, &self.run.request.image).map_err(Untouched::from)?,
        }
        Ok(self.report(goal, transaction, UpdateOutcome::UpToDate))
    }

    /// What a dry run, or a finished one, tells.
    pub(super) fn report(
        &self,
        goal: &Target,
        transaction: &ChangePlan,
        outcome: UpdateOutcome,
    ) -> Report {
        let deviations =
            transaction.deviations.iter().map(|(path, what)| (path_text(path), what.clone()));
        let published = self.head.filter(|head| head.serial > 0);
        Report {
            outcome,
            generation: published.map(|_| goal.whole.id()),
            serial: published.map(|head| head.serial),
            way: goal.way.clone(),
            items: transaction.itemized.clone(),
            bytes: transaction.bytes(),
            mixed: None,
            repaired: transaction.repaired.clone(),
            deviations: deviations.collect(),
            kernels: topmost(&transaction.kernel_paths),
            displaced: transaction.displaced.clone(),
            untracked: transaction.untracked_count,
            refusal: None,
            afterwards: Vec::new(),
        }
    }

    fn state(
        &self,
        head: PublishRef,
        goal: &Target,
        transaction: &ChangePlan,
    ) -> Result<State, UpdateError> {
        let run = self.run;
        let home = run.session.root.identity().map_err(Untouched::from)?;
        let filter = run.filter.digest();
        let mut state =
            State::new(run.request.image.clone(), head.serial, goal.whole.id(), filter, home);
        state.untracked = transaction.untracked_count;
        state.catalog = head.seen.cloned();
        state.overrides = self.layers.iter().map(OverrideLayer::record).collect();
        let release = run.session.kernel.as_ref().map(|kernel| kernel.release());
        state.kernel =
            release.and_then(|release| KernelPaths::new(release, &transaction.kernel_paths));
        for (path, what) in &transaction.deviations {
            state.deviate(path, what.clone());
        }
        Ok(state)
    }

    /// The manifest as it comes to be stored; `None` where that is done. Who asks first has it compressed, who
    /// asks meanwhile waits for that.
    pub(super) fn manifest_to_record<'g>(&self, goal: &'g Target) -> Option<&'g [u8]> {
        if self.base.is_some_and(|base| base.stored && base.manifest.id() == goal.whole.id()) {
            return None;
        }
        Some(goal.stored.get_or_init(|| {
            let mut bytes = Vec::new();
            // Writing to memory does not fail.
            let _ = goal.whole.write_zstd(&mut bytes, RECORDED_LEVEL);
            bytes.shrink_to_fit();
            bytes
        }))
    }
}
