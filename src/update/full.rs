//! The way by a full sync, where no diff leads to the head.

use crate::apply::Untouched;
use crate::apply::prepare::{Depth, Untracked};
use crate::apply::stage::Stage;
use crate::apply::supply::{self, LiveContents};
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::full_sync::{self, FullSyncError, Server};
use crate::host::Drift;
use crate::plan::Why;
use crate::tree_path::TreePath;

use super::chain::{Stopped, named};
use super::converge::Converge;
use super::{Report, UpdateError};

impl Converge<'_> {
    /// Makes the tree the head by comparing all of it, and fetching what differs by rsync.
    pub(super) fn by_full_sync(&self, why: &Why) -> Result<Report, UpdateError> {
        let request = self.run.request;
        self.run.monitor.note(format!("full sync: {why}"));
        if !request.fallback {
            return Err(UpdateError::NoFullSync(format!("a full sync is needed and --no-fallback forbids it: {why}")));
        }
        let head = self.run.manifest(self.catalog.head())?;
        let mut goal = self.goal(head, format!("full sync: {why}"));
        goal.policy.depth = Depth::Content;
        goal.policy.drift = Drift::Repair;
        goal.received = true;
        if self.base.is_none() {
            // Stale and untracked look alike: what the image does not have goes, under the budget.
            goal.policy.untracked = Untracked::Remove;
        }
        let live = self.look(&goal)?;
        let transaction = self.prepare(&goal, &live)?;
        if request.dry_run {
            let mut report = self.forecast(&goal, &transaction);
            if transaction.bytes() > 0 && request.rsync.is_none() {
                report.refusal.get_or_insert_with(no_server);
            }
            return Ok(report);
        }
        let contents = LiveContents::seen(&self.run.session.root, &live);
        let done = self.commit(&goal, &transaction, |stage| self.receive(stage, &contents));
        // It is material only; where it cannot be removed now, the next run does.
        let _ = full_sync::discard(&self.run.session.root);
        match done {
            Ok(report) => Ok(report),
            Err(Stopped::Failed(error)) => Err(error),
            Err(Stopped::Incomplete(why)) => Err(UpdateError::NoFullSync(format!(
                "the image tree on the server is not the published head any more, publish it and run again: {why}"
            ))),
        }
    }

    fn receive(&self, stage: &Stage, contents: &LiveContents) -> Result<(), Stopped> {
        supply::from_live(stage, contents)?;
        if stage.wanted().is_empty() {
            return Ok(());
        }
        let Some(server) = &self.run.request.rsync else {
            return Err(Stopped::Failed(no_server()));
        };
        let rules = self.run.filter.rsync_rules();
        let root = &self.run.session.root;
        let tree = full_sync::receive(root, server, &self.run.request.image, &rules, self.run.monitor)
            .map_err(|error| Stopped::Failed(refused(error, server)))?;
        for digest in stage.wanted().into_keys() {
            for path in stage.paths_of(&digest) {
                if stage.take_over(&digest, &tree, &path)? {
                    break;
                }
            }
        }
        // What else came is of no use; gone before the seal, it does not disturb the time of the top.
        full_sync::discard(root).map_err(Untouched::from)?;
        let mut edited: Vec<TreePath> = stage.wanted().keys().flat_map(|digest| stage.paths_of(digest)).collect();
        if !edited.is_empty() {
            edited.sort();
            let paths = named(&edited);
            self.run.monitor.warn(format!("the image tree on the server is not as it was published: {paths}"));
        }
        self.fill_from_repository(stage, contents)
    }
}

fn no_server() -> UpdateError {
    let why = "no rsync server is configured (--server), and a full sync over HTTP is not built yet";
    UpdateError::NoFullSync(why.to_owned())
}

fn refused(error: FullSyncError, server: &Server) -> UpdateError {
    let place = server.to_string();
    match error {
        FullSyncError::Root(error) => Untouched::from_root(error).into(),
        FullSyncError::Stopped => UpdateError::Stopped,
        FullSyncError::NoRoom(why) => Untouched::NoRoom(why).into(),
        FullSyncError::Node(why) => Untouched::Refused(why).into(),
        FullSyncError::Server(why) => FetchError::new(FetchErrorKind::Other, Side::Server, place, why).into(),
        FullSyncError::Unavailable(why) => UpdateError::NoFullSync(format!(
            "a full sync is needed and cannot be had from rsync ({why}), and a full sync over HTTP is not built yet"
        )),
    }
}
