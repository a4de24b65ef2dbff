//! Rsync-only sync: the server's image with its overrides, published or not, as the old client did.
//!
//! Nothing is signed here, so that a node that requires signatures uses `signed_sync.rs` instead.
//! Everything is received beside the tree, composed, compared, and applied by one transaction. The
//! result is recorded, but as no generation, since nobody published it.

use crate::apply::plan::{ChangePlan, CheckLevel, ItemizedLine, UntrackedPolicy};
use crate::apply::stage::Stage;
use crate::apply::stage::fill;
use crate::apply::stage::live_source::LiveSource;
use crate::apply::{Untouched, preflight};
use crate::entry::Entry;
use crate::full_sync::{
    self, Comparison, Deletions, Module, ReceiveDir, Received, Selected, Server,
    manifest_of_parents, receive_selected, receive_unpublished,
};
use crate::host::{Check, Drift};
use crate::image::Layer;
use crate::manifest::Manifest;
use crate::state::{SeenCatalog, State};
use crate::update::error::{Refusal, UpdateError, UsageError};
use crate::update::installed::recorded;
use crate::update::notice::{Route, UpdateNotice};
use crate::update::report::Report;
use crate::update::request::{RsyncScope, UpdateRequest};
use crate::update::run::Run;
use crate::update::source::excludes;
use crate::update::source::overrides::{self, LayerSource, OverrideLayer, receive_override};
use crate::update::strategy::fetch_by_digest::{list_missing, take_received};
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::provisions::list_provisions;
use crate::update::transaction::target::{Delivery, Target};
use crate::update::transaction::{PublishRef, UpdateTransaction};

/// Image and overrides of one sync, received below the tree's filter.
struct RsyncOnly<'a> {
    run: &'a Run<'a>,
    scope: &'a RsyncScope,
    server: &'a Server,
    receive_dir: &'a ReceiveDir,
    overrides: &'a [OverrideLayer],
}

/// Updates the tree, or one directory of it, to the server's image and overrides.
pub(super) fn run_rsync(run: &Run<'_>, scope: &RsyncScope) -> Result<Report, UpdateError> {
    let server = run.request.rsync.as_ref().ok_or(UsageError::NoServer)?;
    match excludes::find_in_modules(run, server)? {
        None => sync(run, scope, server),
        Some(excludes) => {
            run.monitor.note(UpdateNotice::ExcludesOfImage { name: &excludes.name });
            sync(&run.with_excludes(&excludes)?, scope, server)
        }
    }
}

fn sync(run: &Run<'_>, scope: &RsyncScope, server: &Server) -> Result<Report, UpdateError> {
    let receive_dir = run.create_receive_dir()?;
    let overrides = receive_overrides(run, scope, server, &receive_dir)?;
    let sync = RsyncOnly { run, scope, server, receive_dir: &receive_dir, overrides: &overrides };
    if run.request.dry_run { sync.forecast() } else { sync.receive_and_execute() }
}

impl RsyncOnly<'_> {
    fn receive_and_execute(&self) -> Result<Report, UpdateError> {
        let run = self.run;
        let received = self.receive_image()?;
        let selected = self.receive_provisions()?;

        // The etag is not recorded, so that the next update by diffs compares the tree. The
        // serial is, so that an older catalog is still refused.
        let state = recorded::load_state(run)?;
        let seen = state.as_ref().and_then(|state| state.catalog.clone());
        let seen = seen.map(|seen| SeenCatalog { sha256: None, ..seen });
        let is_whole_tree = self.scope.delete && self.scope.directory.is_root();
        let mut transaction = UpdateTransaction {
            run,
            installed: None,
            overrides: self.overrides,
            published: None,
            publish: is_whole_tree.then_some(PublishRef { serial: 0, seen: seen.as_ref() }),
        };
        let mut target = self.target(&transaction, &received)?;
        target.provisions = self.list_provisions(&selected)?;
        let live = transaction.read_live_tree(&target)?;
        let plan = transaction.plan(&target, &live)?;
        refuse_displacement(&plan, self.scope)?;

        if plan.is_empty() {
            if state.is_some_and(|state| state.is_published() && self.has_same_overrides(&state)) {
                // Nothing changed, so the recorded generation is as true as before.
                transaction.publish = None;
            }
            set_directory_times(run, &plan)?;
        }

        let contents = LiveSource::from_live_tree(&run.session.root, &live, run.monitor);
        transaction
            .execute(&target, &plan, |stage| self.fill(stage, &contents, (&received, &selected)))
            .map_err(TransactionError::into_final)
    }

    /// Target of the sync: every tracked path as received, by content.
    fn target(
        &self,
        transaction: &UpdateTransaction<'_>,
        received: &Received,
    ) -> Result<Target, UpdateError> {
        let route = Route::Rsync(self.server.clone());
        let mut target = transaction.target(received.manifest.clone(), route)?;
        target.policy.check_level = CheckLevel::Content;
        target.policy.drift = Drift::Repair;
        target.policy.untracked =
            if self.scope.delete { UntrackedPolicy::Remove } else { UntrackedPolicy::Keep };
        target.delivery = Delivery::ReceiveDir;
        target.known_digests = received.local.clone();
        target.unsupported.extend(received.unheld_times.clone());
        Ok(target)
    }

    fn receive_image(&self) -> Result<Received, UpdateError> {
        let run = self.run;
        let layer = Layer::Image(run.request.image.clone());
        let rules = self.image_rules()?;
        let module = self.module(&layer, &rules);
        receive_unpublished(&module, &run.session.root, self.receive_dir, run.monitor)
            .map_err(|error| UpdateError::from_full_sync(error, self.server))
    }

    /// Reports a dry run by rsync's own dry run; nothing of the image is received.
    fn forecast(&self) -> Result<Report, UpdateError> {
        let run = self.run;
        let layer = Layer::Image(run.request.image.clone());
        let rules = self.image_rules()?;
        let deletions = if self.scope.delete { Deletions::Included } else { Deletions::Omitted };
        let module = self.module(&layer, &rules);
        let root = &run.session.root;
        let mut forecast =
            full_sync::forecast(&module, root, self.receive_dir, deletions, run.monitor)
                .map_err(|error| UpdateError::from_full_sync(error, self.server))?;

        // Paths of overrides, including directories that the image has too, are decided there.
        forecast.items.retain(|item| {
            !self.overrides.iter().any(|layer| layer.manifest.get(&item.path).is_some())
        });
        forecast.items.extend(self.forecast_overrides()?);
        forecast.items.extend(self.forecast_provisions()?);
        forecast.items.sort_by(|a, b| a.path.cmp(&b.path));

        let in_overrides = compose_overrides(self.overrides)?.map_or(0, |composed| composed.len());
        let tracked = forecast.listed + in_overrides;
        let budget = preflight::check_forecast(&forecast.items, tracked, run.request.max_delete);
        let refusal = match (budget, forecast.failure) {
            (Err(error), _) => Some(error.into()),
            (Ok(()), Some(error)) => Some(Refusal::Rsync(error).into()),
            (Ok(()), None) => None,
        };
        let description = Route::Rsync(self.server.clone()).to_string();
        Ok(Report { refusal, ..Report::from_forecast(forecast.items, description) })
    }

    /// Lists the changes that overrides make by themselves.
    fn forecast_overrides(&self) -> Result<Vec<ItemizedLine>, UpdateError> {
        let Some((first, rest)) = self.overrides.split_first() else { return Ok(Vec::new()) };
        let transaction = UpdateTransaction {
            run: self.run,
            installed: None,
            overrides: rest,
            published: None,
            publish: None,
        };
        let route = Route::Rsync(self.server.clone());
        let mut target = transaction.target(first.manifest.clone(), route)?;
        target.policy.check_level = CheckLevel::Content;
        let live = transaction.read_live_tree(&target)?;
        Ok(transaction.plan(&target, &live)?.itemized)
    }

    /// Receives the excluded entries that the node may have to get, of the image and of each
    /// override; nothing if only one directory is updated.
    fn receive_provisions(&self) -> Result<Vec<Selected>, UpdateError> {
        let run = self.run;
        let UpdateRequest { create_directories, seed_files, overrides, .. } = run.request;
        let is_configured = !create_directories.is_empty() || !seed_files.is_empty();
        if !is_configured || !self.scope.directory.is_root() {
            return Ok(Vec::new());
        }

        let filter = run.built_in_filter()?;
        let rules = filter.rsync_rules_selecting(create_directories, seed_files);
        let image = Layer::Image(run.request.image.clone());
        let overrides = overrides.iter().cloned().map(Layer::Override);
        std::iter::once(image)
            .chain(overrides)
            .map(|layer| {
                receive_selected(&self.module(&layer, &rules), self.receive_dir, run.monitor)
                    .map_err(|error| UpdateError::from_full_sync(error, self.server))
            })
            .collect()
    }

    /// Lists the received entries that the node gets if it lacks them.
    fn list_provisions(&self, selected: &[Selected]) -> Result<Vec<Entry>, UpdateError> {
        match compose_selected(selected)? {
            Some(composed) => list_provisions(self.run, &composed, None),
            None => Ok(Vec::new()),
        }
    }

    /// Lists the excluded entries that the run itself would create.
    fn forecast_provisions(&self) -> Result<Vec<ItemizedLine>, UpdateError> {
        let selected = self.receive_provisions()?;
        let Some(composed) = compose_selected(&selected)? else { return Ok(Vec::new()) };

        // The target has the directories above them, which rsync's forecast lists itself.
        let transaction = UpdateTransaction {
            run: self.run,
            installed: None,
            overrides: &[],
            published: None,
            publish: None,
        };
        let mut target = transaction.target(composed, Route::Rsync(self.server.clone()))?;
        target.policy.check_level = CheckLevel::Content;
        target.policy.untracked = UntrackedPolicy::Keep;
        let live = transaction.read_live_tree(&target)?;
        let mut items = transaction.plan(&target, &live)?.itemized;
        items.retain(|item| target.provisions.iter().any(|entry| entry.path == item.path));
        Ok(items)
    }

    /// Returns the filter rules of the image's module, which leave out paths of overrides.
    fn image_rules(&self) -> Result<Vec<u8>, UpdateError> {
        let composed = compose_overrides(self.overrides)?;
        let hidden = composed
            .iter()
            .flat_map(|composed| composed.entries())
            .filter(|entry| !entry.path.is_root())
            .map(|entry| (&entry.path, entry.kind()));
        Ok(self.run.filter.rsync_rules_without(hidden))
    }

    fn module<'m>(&'m self, layer: &'m Layer, rules: &'m [u8]) -> Module<'m> {
        let is_quick = self.run.request.check == Check::Touched;
        Module {
            server: self.server,
            layer,
            directory: &self.scope.directory,
            rules,
            comparison: if is_quick { Comparison::Quick } else { Comparison::Checksum },
            times: &self.run.times,
            deadline: self.run.rsync_deadline(),
        }
    }

    fn has_same_overrides(&self, state: &State) -> bool {
        let recorded = state.overrides.iter().map(|record| &record.name);
        recorded.eq(&self.run.request.overrides)
    }

    /// Fills a stage from the tree, then from the receive directory.
    fn fill(
        &self,
        stage: &Stage<'_>,
        contents: &LiveSource<'_>,
        (image, selected): (&Received, &[Selected]),
    ) -> Result<(), TransactionError> {
        fill::from_live(stage, contents)?;
        for layer in self.overrides {
            if let LayerSource::Received(received) = &layer.source {
                take_received(stage, &layer.manifest, &received.tree)?;
            }
        }
        take_received(stage, &image.manifest, &image.tree)?;
        for selected in selected {
            take_received(stage, &selected.manifest, &selected.tree)?;
        }

        // Rsync did not send files that the tree had. Someone changed them since.
        let paths = list_missing(stage);
        if paths.is_empty() { Ok(()) } else { Err(Refusal::ChangedWhileReceiving { paths }.into()) }
    }
}

/// Receives all overrides of the run.
fn receive_overrides(
    run: &Run<'_>,
    scope: &RsyncScope,
    server: &Server,
    receive_dir: &ReceiveDir,
) -> Result<Vec<OverrideLayer>, UpdateError> {
    let parents = manifest_of_parents(&run.session.root, &scope.directory)
        .map_err(|error| UpdateError::from_full_sync(error, server))?;
    let mut layers = Vec::new();
    for name in &run.request.overrides {
        let mut layer = receive_override(run, name, receive_dir, None)?;
        if let Some(parents) = &parents {
            // Directories above the requested one keep their metadata.
            layer.manifest = overrides::compose(&layer.manifest, [parents])?;
        }
        layers.push(layer);
    }
    Ok(layers)
}

/// Composes the selected paths of all layers; `None` if nothing was received.
fn compose_selected(selected: &[Selected]) -> Result<Option<Manifest>, UpdateError> {
    let Some((image, rest)) = selected.split_first() else { return Ok(None) };
    overrides::compose(&image.manifest, rest.iter().map(|layer| &layer.manifest)).map(Some)
}

/// Composes all overrides; `None` if there are none.
fn compose_overrides(layers: &[OverrideLayer]) -> Result<Option<Manifest>, UpdateError> {
    let Some((first, rest)) = layers.split_first() else { return Ok(None) };
    overrides::compose(&first.manifest, rest.iter().map(|layer| &layer.manifest)).map(Some)
}

/// Refuses to displace a path of the node if nothing may be removed.
pub(super) fn refuse_displacement(
    plan: &ChangePlan,
    scope: &RsyncScope,
) -> Result<(), UpdateError> {
    match plan.displaced.first() {
        Some(path) if !scope.delete => Err(Refusal::WouldDisplace { path: path.clone() }.into()),
        _ => Ok(()),
    }
}

/// Sets the mtimes of directories in which nothing else changes.
///
/// A diff does not count them as drift, but the old client set them.
pub(super) fn set_directory_times(run: &Run<'_>, plan: &ChangePlan) -> Result<(), UpdateError> {
    let root = &run.session.root;
    // Removing the receive directory changes the mtime of the root, so that is first.
    run.discard_received().map_err(Untouched::from)?;
    for entry in &plan.directories {
        let Some(directory) = root.hold_dir(&entry.path).map_err(Untouched::from)? else {
            continue;
        };
        if directory.stat().mtime != entry.meta.mtime {
            directory.set_mtime(entry.meta.mtime).map_err(Untouched::from)?;
        }
    }
    Ok(())
}
