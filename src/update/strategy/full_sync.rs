//! The way by a full sync, where no diff leads to the head.

use crate::apply::plan::{CheckLevel, UntrackedPolicy};
use crate::apply::stage::Stage;
use crate::apply::stage::fill;
use crate::apply::stage::live_source::LiveSource;
use crate::full_sync::{Comparison, FullSyncError, Module, Server};
use crate::host::Drift;
use crate::image::Layer;
use crate::plan::FullSyncReason;
use crate::tree_path::TreePath;
use crate::update::UpdateError;
use crate::update::strategy::diffs::{Stopped, named};
use crate::update::strategy::rsync_only::refused;
use crate::update::strategy::{Ended, Strategy};

impl Strategy<'_> {
    /// Makes the tree the head by comparing all of it, and fetching what differs by rsync.
    pub(in crate::update) fn run_full_sync(
        &self,
        why: &FullSyncReason,
    ) -> Result<Ended, UpdateError> {
        let (run, converge) = (self.converge.run, &self.converge);
        let request = run.request;
        run.monitor.note(format!("full sync: {why}"));
        if !request.fallback {
            return Err(UpdateError::NoFullSync(format!(
                "a full sync is needed and --no-fallback forbids it: {why}"
            )));
        }
        let head = self.published.manifest(self.published.catalog.head())?;
        let mut goal = converge.goal(head, format!("full sync: {why}"))?;
        if let Some(rules) = self.excludes_shipped_by_target(&goal)? {
            return Ok(Ended::OtherRules(rules));
        }
        goal.policy.check_level = CheckLevel::Content;
        goal.policy.drift = Drift::Repair;
        goal.received = true;
        if converge.base.is_none() {
            // Stale and untracked look alike: what the image does not have goes, under the budget.
            goal.policy.untracked = UntrackedPolicy::Remove;
        }
        let live = converge.look(&goal)?;
        let transaction = converge.prepare(&goal, &live)?;
        if request.dry_run {
            let mut report = converge.forecast(&goal, &transaction);
            if transaction.bytes() > 0 && request.rsync.is_none() {
                report.refusal.get_or_insert_with(no_server);
            }
            return Ok(Ended::Done(Box::new(report)));
        }
        let contents = LiveSource::from_live_tree(&run.session.root, &live);
        match converge.commit(&goal, &transaction, |stage| self.receive(stage, &contents)) {
            Ok(report) => Ok(Ended::Done(Box::new(report))),
            Err(Stopped::Failed(error)) => Err(error),
            Err(Stopped::Incomplete(why)) => Err(UpdateError::NoFullSync(format!(
                "the image tree on the server is not the published head any more, publish it and run again: {why}"
            ))),
        }
    }

    fn receive(&self, stage: &Stage, contents: &LiveSource) -> Result<(), Stopped> {
        fill::from_live(stage, contents)?;
        if stage.missing_contents().is_empty() {
            return Ok(());
        }
        let run = self.converge.run;
        let Some(server) = &run.request.rsync else {
            return Err(Stopped::Failed(no_server()));
        };
        let module = Module {
            server,
            layer: &Layer::Image(run.request.image.clone()),
            directory: &TreePath::root(),
            rules: &run.filter.rsync_rules(),
            comparison: Comparison::Checksum,
            deadline: run.deadline(),
        };
        let tree = module
            .receive(&run.session.root, &run.aside()?, run.monitor)
            .map_err(|error| Stopped::Failed(unavailable(error, server)))?;
        for digest in stage.missing_contents().into_keys() {
            for path in stage.paths_of(&digest) {
                if stage.move_content(&digest, &tree, &path)? {
                    break;
                }
            }
        }
        let over = |path: &TreePath| {
            self.converge.layers.iter().any(|laid| laid.manifest.get(path).is_some())
        };
        let mut edited: Vec<TreePath> =
            stage.missing_contents().keys().flat_map(|digest| stage.paths_of(digest)).collect();
        edited.retain(|path| !over(path));
        if !edited.is_empty() {
            edited.sort();
            let paths = named(&edited);
            run.monitor
                .warn(format!("the image tree on the server is not as it was published: {paths}"));
        }
        self.fill_from_repository(stage, contents)
    }
}

fn no_server() -> UpdateError {
    let why =
        "no rsync server is configured (--server), and a full sync over HTTP is not built yet";
    UpdateError::NoFullSync(why.to_owned())
}

/// Where rsync would be the last resort, that there is none is another thing than a server that fails.
fn unavailable(error: FullSyncError, server: &Server) -> UpdateError {
    match error {
        FullSyncError::Unavailable(_)
        | FullSyncError::NotInstalled
        | FullSyncError::NotFound(_) => UpdateError::NoFullSync(format!(
            "a full sync is needed and cannot be had from rsync ({error}), and a full sync over HTTP is not built yet"
        )),
        error => refused(error, server),
    }
}
