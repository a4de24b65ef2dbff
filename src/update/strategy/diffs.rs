//! The way by diffs.

use std::collections::HashSet;
use std::thread::{self, ScopedJoinHandle};

use crate::apply::Untouched;
use crate::apply::preflight::disk_space::ExtraSpace;
use crate::apply::stage::live_source::LiveSource;
use crate::apply::stage::{Stage, StageError, fill};
use crate::catalog::Archive;
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::host::{Moment, hooks};
use crate::plan::{self, Chain, FullSyncReason, UpdatePlan};
use crate::tree_path::TreePath;
use crate::update::source::overrides::LayerSource;
use crate::update::strategy::chain_archives::{
    ChainArchive, OpenArchiveError, Unfetched, fetch, is_broken, link, renamed, tell_rebuilding,
    unwanted,
};
use crate::update::strategy::{Strategy, StrategyOutcome};
use crate::update::transaction::UpdateTransaction;
use crate::update::{Report, UpdateError};

/// Why a stage could not be filled.
pub(in crate::update) enum Stopped {
    /// For good.
    Failed(UpdateError),
    /// A full sync may help.
    Incomplete(FullSyncReason),
}

impl From<UpdateError> for Stopped {
    fn from(error: UpdateError) -> Self {
        Stopped::Failed(error)
    }
}

impl From<Untouched> for Stopped {
    fn from(error: Untouched) -> Self {
        Stopped::Failed(error.into())
    }
}

/// Why a stage could not be filled from a chain.
enum Unfilled {
    Stopped(Stopped),
    /// An archive has the digest that the catalog names, and does not hold what it lists.
    Archive {
        name: String,
        why: String,
    },
}

impl From<UpdateError> for Unfilled {
    fn from(error: UpdateError) -> Self {
        Unfilled::Stopped(error.into())
    }
}

impl From<Stopped> for Unfilled {
    fn from(stopped: Stopped) -> Self {
        Unfilled::Stopped(stopped)
    }
}

impl From<StageError> for Stopped {
    fn from(error: StageError) -> Self {
        Stopped::Failed(error.into())
    }
}

impl From<StageError> for Unfilled {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Archive { name, source } => {
                Unfilled::Archive { name, why: source.to_string() }
            }
            error => Unfilled::Stopped(error.into()),
        }
    }
}

/// The fetching of a chain, and then of what leads the overrides on: as it ended.
type FetchingManifest<'s, 'l> = ScopedJoinHandle<'s, Fetched<'l>>;
type Fetched<'l> = Result<Result<Vec<ChainArchive<'l>>, UpdateError>, Unfetched<'l>>;

impl Strategy<'_> {
    /// Follows `chain` as one transaction.
    pub(in crate::update) fn run_diffs(
        &self,
        chain: &Chain,
    ) -> Result<StrategyOutcome, UpdateError> {
        let (run, converge) = (self.converge.run, &self.converge);
        let Some(base) = converge.base else {
            return Err(UpdateError::Usage("a diff needs a recorded generation".to_owned()));
        };
        let way = describe(chain);
        run.monitor.note(way.clone());
        let (links, manifest) =
            match link(&self.published.repository, chain.diffs().iter(), &base.manifest) {
                Ok(linked) => linked,
                Err(OpenArchiveError::Broken(archive, why)) => {
                    return Ok(self.broken(archive, &why));
                }
                Err(OpenArchiveError::Failed(error)) => return Err(error),
            };
        tell_rebuilding(&links, run.monitor);
        let mut goal = converge.goal(manifest, way)?;
        if let Some(rules) = self.excludes_shipped_by_target(&goal)? {
            return Ok(StrategyOutcome::OtherRules(rules));
        }
        goal.renamed = goal.base.as_ref().map_or(0, |base| renamed(base, &goal.target, &links));
        let left = chain
            .diffs()
            .iter()
            .map(|archive| self.published.repository.missing_bytes(&archive.file));
        let manifest = self.published.catalog.head().manifest.size;
        let aside = ExtraSpace { download: left.sum(), manifest };
        let fits = converge.check_room_early(
            goal.base.as_ref().unwrap_or(&goal.target),
            &goal.target,
            &aside,
        );
        if run.request.dry_run {
            let live = converge.look(&goal)?;
            let transaction = converge.prepare(&goal, &live)?;
            let mut report = converge.forecast(&goal, &transaction);
            report.refusal = fits.err().or(report.refusal);
            return Ok(StrategyOutcome::Done(Box::new(report)));
        }
        fits?;
        let done = thread::scope(|scope| {
            scope.spawn(|| converge.manifest_to_record(&goal));
            let fetching = scope.spawn(|| {
                fetch(&links, run.monitor)?;
                Ok(self.layer_deliveries())
            });
            // Nothing below waits for more than it needs, and who fails does not wait at all.
            let _unwanted = CancelOnDrop(&links);
            let live = converge.look(&goal)?;
            let transaction = converge.prepare(&goal, &live)?;
            drop(live);
            if self.unpacks_what_comes()? {
                return converge.commit(&goal, &transaction, |stage| {
                    self.fill_from_what_comes(stage, &links, fetching)
                });
            }
            let layers = fetched(fetching)?;
            converge.commit(&goal, &transaction, |stage| {
                self.fill_from_chain(stage, links.iter().chain(&layers))
            })
        });
        self.followed(done)
    }

    /// Whether a stage is filled while the chain still comes: not where hooks run before an update, since then
    /// everything is here, nor where overrides have chains of their own, which are unpacked together with it.
    fn unpacks_what_comes(&self) -> Result<bool, UpdateError> {
        let hooks =
            hooks(&self.converge.run.session.root, Moment::Before).map_err(Untouched::from)?;
        Ok(hooks.is_empty() && self.converge.layers.is_empty())
    }

    fn followed(&self, done: Result<Report, Unfilled>) -> Result<StrategyOutcome, UpdateError> {
        match done {
            Ok(report) => Ok(StrategyOutcome::Done(Box::new(report))),
            Err(Unfilled::Archive { name, why }) => {
                let lying = self
                    .published
                    .catalog
                    .archives
                    .iter()
                    .find(|archive| archive.file.file.as_str() == name);
                let fault =
                    || FetchError::new(FetchErrorKind::Corrupt, Side::Server, &name, &why).into();
                lying.map(|archive| self.broken(archive, &why)).ok_or_else(fault)
            }
            Err(Unfilled::Stopped(Stopped::Incomplete(why))) => {
                Ok(StrategyOutcome::Incomplete(why))
            }
            Err(Unfilled::Stopped(Stopped::Failed(error))) => Err(error),
        }
    }

    /// Fills a stage with what is being fetched; what was wrong at first is read once more when it is here.
    fn fill_from_what_comes(
        &self,
        stage: &Stage,
        links: &[ChainArchive],
        fetching: FetchingManifest,
    ) -> Result<(), Unfilled> {
        let live = self.take_from_live(stage)?;
        let deliveries: Vec<_> = links.iter().map(ChainArchive::delivery).collect();
        let unpacked = fill::from_chain(stage, &live, &deliveries);
        if unpacked.as_ref().is_err_and(|error| !error.is_of_source()) {
            return Ok(unpacked?);
        }
        // Where the fetching failed, that is why the unpacking did.
        fetched(fetching)?;
        unpacked.or_else(|_| fill::from_chain(stage, &live, &deliveries))?;
        Ok(self.fill_from_repository(stage, &live)?)
    }

    fn fill_from_chain<'k, 'l: 'k>(
        &self,
        stage: &Stage,
        links: impl Iterator<Item = &'k ChainArchive<'l>>,
    ) -> Result<(), Unfilled> {
        let live = self.take_from_live(stage)?;
        fill::from_chain(stage, &live, &links.map(ChainArchive::delivery).collect::<Vec<_>>())?;
        Ok(self.fill_from_repository(stage, &live)?)
    }

    fn take_from_live(&self, stage: &Stage) -> Result<LiveSource<'_>, Stopped> {
        let live = self.converge.live_contents();
        fill::from_live(stage, &live)?;
        Ok(live)
    }

    /// The archives that lead from what is recorded of overrides to what is published of them. What cannot be
    /// had comes by digest.
    pub(in crate::update) fn layer_deliveries(&self) -> Result<Vec<ChainArchive<'_>>, UpdateError> {
        let mut arrived = Vec::new();
        for laid in self.converge.layers {
            let (LayerSource::Published(published), Some(base)) = (&laid.source, &laid.base) else {
                continue;
            };
            let UpdatePlan::Diffs(chain) =
                plan::choose(Some(base.id()), &published.catalog, &HashSet::new())
            else {
                continue;
            };
            let chain: Option<Vec<&Archive>> = chain
                .diffs()
                .iter()
                .map(|diff| {
                    published.catalog.archives.iter().find(|archive| archive.file == diff.file)
                })
                .collect();
            let Some(chain) = chain else { continue };
            let links = match link(&published.repository, chain.into_iter(), base) {
                Ok((links, _)) => links,
                Err(OpenArchiveError::Broken(archive, why)) => {
                    drop(self.broken(archive, &why));
                    continue;
                }
                Err(OpenArchiveError::Failed(error)) => return Err(error),
            };
            match fetch(&links, self.converge.run.monitor) {
                Ok(()) => arrived.extend(links),
                Err((archive, error)) => drop(self.broken(archive, &error.to_string())),
            }
        }
        Ok(arrived)
    }

    /// Fills a stage from the tree, from what `arrived`, then by digest.
    pub(in crate::update) fn fill(
        &self,
        stage: &Stage,
        arrived: &[ChainArchive],
    ) -> Result<(), Stopped> {
        match self.fill_from_chain(stage, arrived.iter()) {
            Err(Unfilled::Archive { name, why }) => {
                let why = FetchError::new(FetchErrorKind::Corrupt, Side::Server, &name, &why);
                Err(Stopped::Failed(why.into()))
            }
            Err(Unfilled::Stopped(stopped)) => Err(stopped),
            Ok(()) => Ok(()),
        }
    }

    fn broken(&self, archive: &Archive, why: &str) -> StrategyOutcome {
        self.converge.run.monitor.warn(format!("{} cannot be used: {why}", archive.file.file));
        StrategyOutcome::Broken(archive.file.file.clone())
    }
}

impl UpdateTransaction<'_> {
    /// What the tree should hold by what is recorded of it.
    pub(in crate::update) fn live_contents(&self) -> LiveSource<'_> {
        LiveSource::from_manifest(&self.run.session.root, self.base.map(|base| &base.composed))
    }
}

/// Waits until everything is here.
fn fetched<'l>(fetching: FetchingManifest<'_, 'l>) -> Result<Vec<ChainArchive<'l>>, Unfilled> {
    let fault = |_| Untouched::refused("the download ended in a fault of this program".to_owned());
    match fetching.join().map_err(|panic| Stopped::from(fault(panic)))? {
        Ok(layers) => Ok(layers?),
        Err((archive, error)) if is_broken(&error) => {
            Err(Unfilled::Archive { name: archive.file.file.to_string(), why: error.to_string() })
        }
        Err((_, error)) => Err(UpdateError::from(error).into()),
    }
}

/// Ends the fetching of what is not here when this goes.
struct CancelOnDrop<'u, 'l>(&'u [ChainArchive<'l>]);

impl Drop for CancelOnDrop<'_, '_> {
    fn drop(&mut self) {
        unwanted(self.0);
    }
}

pub(in crate::update) fn missing(stage: &Stage) -> FullSyncReason {
    let mut paths: Vec<TreePath> =
        stage.missing_contents().keys().flat_map(|digest| stage.paths_of(digest)).collect();
    paths.sort_unstable();
    FullSyncReason::ContentMissing(named(&paths))
}

/// The first of many paths, for a message.
pub(in crate::update) fn named(paths: &[TreePath]) -> String {
    const MOST: usize = 10;
    let first: Vec<String> = paths.iter().take(MOST).map(TreePath::to_string).collect();
    match paths.len().saturating_sub(MOST) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn describe(chain: &Chain) -> String {
    let (count, bytes) = (chain.diffs().len(), chain.bytes());
    match count {
        1 => format!("following one diff of {bytes} bytes to the head"),
        _ => format!(
            "following {count} diffs of {bytes} bytes together to the head, as one transaction"
        ),
    }
}
