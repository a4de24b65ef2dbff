//! The way by rsync alone, as the old client went: the image's module with the overrides laid over it,
//! whatever is published.
//!
//! All of it is received beside the tree, composed, judged, and made so by one transaction. What came is
//! recorded, but as no generation, since nobody published it.

use crate::apply::plan::{ChangePlan, CheckLevel, ItemizedLine, UntrackedPolicy};
use crate::apply::stage::Stage;
use crate::apply::stage::fill;
use crate::apply::stage::live_source::LiveSource;
use crate::apply::{Untouched, preflight};
use crate::fetch::{FetchError, FetchErrorKind, FetchOptions, Repository, Side};
use crate::filter::MAX_EXCLUDE_FILE;
use crate::full_sync::{
    Comparison, Deletions, FullSyncError, Module, ReceiveDir, Received, Server, above,
};
use crate::host::Drift;
use crate::image::Layer;
use crate::manifest::Manifest;
use crate::state::{SeenCatalog, State};
use crate::tree_path::TreePath;
use crate::update::request::Sync;
use crate::update::source::overrides::{self, LayerSource, OverrideLayer};
use crate::update::strategy::diffs::named;
use crate::update::strategy::fetch_by_digest::take_received;
use crate::update::transaction::{PublishRef, UpdateTransaction};
use crate::update::{Check, Excludes, Report, Run, UpdateError, filter_of, known_state};

impl Run<'_> {
    /// Makes the tree what the server's image and its overrides are now.
    pub(in crate::update) fn run_rsync(&self, sync: &Sync) -> Result<Report, UpdateError> {
        let Some(server) = &self.request.rsync else {
            return Err(UpdateError::Usage("You must specify --server.".to_owned()));
        };
        match self.rules_of_the_image(server)? {
            None => self.by_rsync_under_these_rules(sync, server),
            Some(excludes) => {
                self.monitor.note(format!(
                    "what is excluded follows the {} that comes with the image",
                    excludes.name
                ));
                let filter = filter_of(self.request, self.session, &excludes)?;
                Run { filter, excludes: &excludes, ..*self }
                    .by_rsync_under_these_rules(sync, server)
            }
        }
    }

    fn by_rsync_under_these_rules(
        &self,
        sync: &Sync,
        server: &Server,
    ) -> Result<Report, UpdateError> {
        if self.request.dry_run {
            return self.forecast_by_rsync(sync, server);
        }
        let aside = self.aside()?;
        let layers = self.received_overrides(sync, &aside)?;
        let layer = Layer::Image(self.request.image.clone());
        let over = over(&layers)?;
        let rules = self.filter.rsync_rules_without(hidden(&over));
        let module = self.module(sync, server, &layer, &rules);
        let received = module.receive_whole(&self.session.root, &aside, self.monitor);
        let received = received.map_err(|error| refused(error, server))?;
        let known = known_state(self.request, self.session, self.monitor)?;
        let seen = known.as_ref().and_then(|state| state.catalog.clone());
        // An older catalog is refused as before, and the newest is asked for whole.
        let seen = seen.map(|seen| SeenCatalog { etag: None, ..seen });
        let whole = sync.delete && sync.directory.is_root();
        let head = whole.then_some(PublishRef { serial: 0, seen: seen.as_ref() });
        let mut converge = UpdateTransaction { run: self, base: None, layers: &layers, head };
        let mut goal = converge.goal(received.manifest.clone(), format!("rsync from {server}"))?;
        goal.policy.check_level = CheckLevel::Content;
        goal.policy.drift = Drift::Repair;
        goal.policy.untracked =
            if sync.delete { UntrackedPolicy::Remove } else { UntrackedPolicy::Keep };
        goal.received = true;
        goal.read = received.local.clone();
        let live = converge.look(&goal)?;
        let transaction = converge.prepare(&goal, &live)?;
        if let Some(path) = transaction.displaced.first().filter(|_| !sync.delete) {
            let why = format!(
                "{path} is the node's own and would go, since what is above it is no directory in the image; --no-delete keeps it"
            );
            return Err(Untouched::refused(why).into());
        }
        if transaction.is_empty()
            && known.is_some_and(|state| state.is_published() && self.lays(&state))
        {
            // Nothing changed: what is recorded is as true as before, and better than nothing.
            converge.head = None;
        }
        if transaction.is_empty() {
            self.settle_directories(&transaction)?;
        }
        let contents = LiveSource::from_live_tree(&self.session.root, &live);
        converge.commit(&goal, &transaction, |stage| fill(stage, &contents, &received, &layers))
    }

    /// What rsync says that it would do; nothing of the image is received.
    fn forecast_by_rsync(&self, sync: &Sync, server: &Server) -> Result<Report, UpdateError> {
        let aside = self.aside()?;
        let layers = self.received_overrides(sync, &aside)?;
        let layer = Layer::Image(self.request.image.clone());
        let over = over(&layers)?;
        let rules = self.filter.rsync_rules_without(hidden(&over));
        let deletions = if sync.delete { Deletions::Told } else { Deletions::None };
        let module = self.module(sync, server, &layer, &rules);
        let forecast = module.forecast(&self.session.root, &aside, deletions, self.monitor);
        let mut forecast = forecast.map_err(|error| refused(error, server))?;
        // What an override has decides, also about the metadata of a directory that the image has, too.
        forecast
            .items
            .retain(|item| !layers.iter().any(|laid| laid.manifest.get(&item.path).is_some()));
        forecast.items.extend(self.forecast_layers(&layers)?);
        forecast.items.sort_by(|a, b| a.path.cmp(&b.path));
        let tracked = forecast.listed + over.map_or(0, |over| over.len());
        let refusal = preflight::check_forecast(&forecast.items, tracked, self.request.max_delete);
        let refusal =
            refusal.err().or(forecast.stops.map(Untouched::refused)).map(UpdateError::from);
        Ok(Report { refusal, ..Report::forecast(forecast.items, format!("rsync from {server}")) })
    }

    /// Sets the times of directories in which nothing else changes: no drift to a diff, but rsync sets them.
    fn settle_directories(&self, transaction: &ChangePlan) -> Result<(), UpdateError> {
        let root = &self.session.root;
        // What lies beside the tree goes first: it changes the time of the top.
        self.discard_received().map_err(Untouched::from)?;
        for entry in &transaction.directories {
            let late = root
                .stat(&entry.path)
                .map_err(Untouched::from)?
                .is_some_and(|stat| stat.mtime != entry.meta.mtime);
            if late {
                root.set_times(&entry.path, entry.meta.mtime).map_err(Untouched::from)?;
            }
        }
        Ok(())
    }

    /// Whether `state` has the overrides of this run.
    fn lays(&self, state: &State) -> bool {
        state.overrides.iter().map(|laid| &laid.name).eq(&self.request.overrides)
    }

    fn received_overrides(
        &self,
        sync: &Sync,
        aside: &ReceiveDir,
    ) -> Result<Vec<OverrideLayer>, UpdateError> {
        let Some(server) = &self.request.rsync else { return Ok(Vec::new()) };
        let above = above(&self.session.root, &sync.directory).map_err(|e| refused(e, server))?;
        let names = self.request.overrides.iter();
        let laid = names.map(|name| {
            let mut laid = self.received_override(name, aside, None)?;
            if let Some(above) = &above {
                // What is above the directory that is asked for stays as it is.
                laid.manifest = overrides::composed(&laid.manifest, [above])?;
            }
            Ok(laid)
        });
        laid.collect()
    }

    fn module<'m>(
        &'m self,
        sync: &'m Sync,
        server: &'m Server,
        layer: &'m Layer,
        rules: &'m [u8],
    ) -> Module<'m> {
        let quick = self.request.check == Check::Touched;
        Module {
            server,
            layer,
            directory: &sync.directory,
            rules,
            comparison: if quick { Comparison::Quick } else { Comparison::Checksum },
            deadline: self.deadline(),
        }
    }

    /// What overrides alone would change.
    fn forecast_layers(&self, layers: &[OverrideLayer]) -> Result<Vec<ItemizedLine>, UpdateError> {
        let Some((first, rest)) = layers.split_first() else { return Ok(Vec::new()) };
        let converge = UpdateTransaction { run: self, base: None, layers: rest, head: None };
        let mut goal = converge.goal(first.manifest.clone(), String::new())?;
        goal.policy.check_level = CheckLevel::Content;
        let live = converge.look(&goal)?;
        Ok(converge.prepare(&goal, &live)?.itemized)
    }

    /// The exclude file that the image or an override brings, where it is another than the one in effect.
    fn rules_of_the_image(&self, server: &Server) -> Result<Option<Excludes>, UpdateError> {
        let Some(place) = self
            .excludes
            .place
            .as_ref()
            .filter(|place| self.filter.excludes(place, false).is_none())
        else {
            return Ok(None);
        };
        let over = self.request.overrides.iter().rev().cloned().map(Layer::Override);
        for layer in over.chain([Layer::Image(self.request.image.clone())]) {
            let Ok(file) = std::str::from_utf8(place.as_bytes()) else { return Ok(None) };
            let inside = format!("{}/", layer.place());
            let (address, shown) = (server.address(&inside), server.shown(&inside));
            let options =
                FetchOptions { deadline: Some(self.deadline()), ..self.request.fetch.clone() };
            let module = Repository::open_module(address, shown, &options)?;
            match module.fetch_unverified(file, MAX_EXCLUDE_FILE as u64) {
                Err(error) if error.kind == FetchErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
                Ok(rules) if rules == self.excludes.rules => return Ok(None),
                Ok(rules) => {
                    return Ok(Some(Excludes { name: place.to_string(), rules, place: None }));
                }
            }
        }
        Ok(None)
    }
}

/// All overrides together: what of the image they hide does not come.
fn over(layers: &[OverrideLayer]) -> Result<Option<Manifest>, UpdateError> {
    let Some((first, rest)) = layers.split_first() else { return Ok(None) };
    overrides::composed(&first.manifest, rest.iter().map(|laid| &laid.manifest)).map(Some)
}

/// The paths at which something is laid over the image, and whether it is a directory.
fn hidden(over: &Option<Manifest>) -> impl Iterator<Item = (&TreePath, bool)> {
    let entries = over.iter().flat_map(|over| over.entries()).filter(|entry| !entry.path.is_root());
    entries.map(|entry| (&entry.path, entry.is_dir()))
}

fn fill(
    stage: &Stage,
    contents: &LiveSource,
    received: &Received,
    layers: &[OverrideLayer],
) -> Result<(), UpdateError> {
    fill::from_live(stage, contents)?;
    for laid in layers {
        if let LayerSource::Received(received) = &laid.source {
            take_received(stage, &laid.manifest, &received.tree)?;
        }
    }
    take_received(stage, &received.manifest, &received.tree)?;
    let mut missing: Vec<TreePath> =
        stage.missing_contents().keys().flat_map(|digest| stage.paths_of(digest)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_unstable();
    let why =
        format!("this tree changed while the image was received: {}; run again", named(&missing));
    Err(Untouched::refused(why).into())
}

/// What a failed reception means for the run.
pub(in crate::update) fn refused(error: FullSyncError, server: &Server) -> UpdateError {
    match error {
        FullSyncError::Root(error) => Untouched::from_root(error).into(),
        FullSyncError::Stopped => UpdateError::Stopped,
        FullSyncError::NoRoom(why) => Untouched::no_room(why).into(),
        FullSyncError::Node(why) => Untouched::refused(why).into(),
        FullSyncError::Server(why) | FullSyncError::Partial(why) => {
            FetchError::new(FetchErrorKind::Other, Side::Server, server.to_string(), why).into()
        }
        FullSyncError::NotFound(why) => {
            FetchError::new(FetchErrorKind::NotFound, Side::Server, server.to_string(), why).into()
        }
        FullSyncError::NotInstalled => Untouched::refused(error.to_string()).into(),
        FullSyncError::Unavailable(why) => {
            FetchError::new(FetchErrorKind::Unreachable, Side::Server, server.to_string(), why)
                .into()
        }
    }
}
