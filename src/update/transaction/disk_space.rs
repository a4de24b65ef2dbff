//! Makes sure that an update fits. An undo set that is in the way goes first, if that helps and is allowed.

use crate::apply::plan::ChangePlan;
use crate::apply::preflight::disk_space::{ExtraSpace, SpaceRequirement};
use crate::apply::{Untouched, preflight, undo};
use crate::host::KeepUndo;
use crate::manifest::Manifest;
use crate::update::UpdateError;
use crate::update::transaction::{Target, UpdateTransaction};

impl UpdateTransaction<'_> {
    /// Refuses what does not fit by the manifests alone, before archives are fetched.
    pub(in crate::update) fn check_room_early(
        &self,
        base: &Manifest,
        target: &Manifest,
        aside: &ExtraSpace,
    ) -> Result<(), UpdateError> {
        let session = self.run.session;
        let mut demand = SpaceRequirement::new(
            &session.root,
            &session.filesystems,
            session.host.as_ref(),
            &session.mounts,
        );
        demand.add_manifests(base, target, aside).map_err(Untouched::from)?;
        self.settle(&demand)
    }

    /// Refuses what does not fit, once it is known what has to be staged.
    pub(in crate::update) fn check_room(
        &self,
        goal: &Target,
        transaction: &ChangePlan,
    ) -> Result<(), UpdateError> {
        let session = self.run.session;
        let mut demand = SpaceRequirement::new(
            &session.root,
            &transaction.filesystems,
            session.host.as_ref(),
            &session.mounts,
        );
        demand.add_transaction(transaction, goal.received).map_err(Untouched::from)?;
        let displaced =
            preflight::check_limited_space(&session.root, transaction, &transaction.filesystems)?;
        demand.add_bytes(displaced).map_err(Untouched::from)?;
        self.settle(&demand)
    }

    fn settle(&self, demand: &SpaceRequirement) -> Result<(), UpdateError> {
        let (run, missing) = (self.run, demand.shortages());
        if missing.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let named = named.join("; ");
        let freed = demand.freed_by_undo(&missing).map_err(Untouched::from)?;
        let Some(bytes) = freed else { return Err(Untouched::no_room(named).into()) };
        if run.request.keep_undo == KeepUndo::Always {
            let why =
                format!("{named}; the undo set is in the way, and keep_undo = \"always\" keeps it");
            return Err(Untouched::no_room(why).into());
        }
        if run.request.dry_run {
            run.monitor.warn(format!(
                "{named}: the undo set, {bytes} bytes, is in the way and would go first"
            ));
            return Ok(());
        }
        run.monitor.warn(format!(
            "{named}: the undo set, {bytes} bytes, is in the way and goes: what it held cannot be undone any more"
        ));
        let session = run.session;
        Ok(undo::remove_undo_set(&session.root, &session.filesystems).map_err(Untouched::from)?)
    }
}
