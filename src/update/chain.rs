//! The way by diffs.

use std::collections::HashSet;

use crate::apply::Untouched;
use crate::apply::prepare::Transaction;
use crate::apply::room::Aside;
use crate::apply::stage::Stage;
use crate::apply::supply::{self, ChainError, Delivery, LiveContents};
use crate::catalog::Archive;
use crate::diff_archive::{ArchiveError, Compression, Header, Limits, Listing, read_listing};
use crate::digest::Digest;
use crate::fetch::{FetchError, FetchErrorKind, Repository, Side, Verified};
use crate::manifest::{Manifest, gone};
use crate::plan::{self, Chain, Plan, Why};
use crate::report::Monitor;
use crate::tree_path::TreePath;

use super::UpdateError;
use super::converge::{Converge, Goal};
use super::follow::{Follow, Followed};
use super::layers::Source;

/// Why a stage could not be filled.
pub(super) enum Stopped {
    /// For good.
    Failed(UpdateError),
    /// A full sync may help.
    Incomplete(Why),
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

impl From<ChainError> for Unfilled {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Untouched(error) => Unfilled::Stopped(error.into()),
            ChainError::Archive { name, source } => Unfilled::Archive { name, why: source.to_string() },
        }
    }
}

/// An archive of a chain, with what is known of it.
struct Link<'a> {
    archive: &'a Archive,
    repository: &'a Repository,
    compression: Compression,
    listing: Listing,
}

/// An archive that was fetched.
pub(super) struct Arrived<'a> {
    link: Link<'a>,
    file: Verified,
}

impl Follow<'_> {
    /// Follows `chain` as one transaction.
    pub(super) fn by_diffs(&self, chain: &Chain) -> Result<Followed, UpdateError> {
        let (run, converge) = (self.converge.run, &self.converge);
        let Some(base) = converge.base else {
            return Err(UpdateError::Usage("a diff needs a recorded generation".to_owned()));
        };
        let way = describe(chain);
        run.monitor.note(way.clone());
        let (links, manifest) = match link_all(&self.published.repository, chain, &base.manifest) {
            Ok(linked) => linked,
            Err(Unlinked::Broken(archive, why)) => return Ok(self.broken(archive, &why)),
            Err(Unlinked::Failed(error)) => return Err(error),
        };
        tell_rebuilding(&links, run.monitor);
        let mut goal = converge.goal(manifest, way)?;
        if let Some(rules) = self.other_rules(&goal)? {
            return Ok(Followed::OtherRules(rules));
        }
        goal.renamed = goal.base.as_ref().map_or(0, |base| renamed(base, &goal.target, &links));
        let left = chain.diffs().iter().map(|archive| self.published.repository.left(&archive.file));
        let manifest = self.published.catalog.head().manifest.size;
        let aside = Aside { download: left.sum(), manifest };
        let fits = converge.check_room_early(goal.base.as_ref().unwrap_or(&goal.target), &goal.target, &aside);
        if run.request.dry_run {
            let live = converge.look(&goal)?;
            let transaction = converge.prepare(&goal, &live)?;
            let mut report = converge.forecast(&goal, &transaction);
            report.refusal = fits.err().or(report.refusal);
            return Ok(Followed::Done(Box::new(report)));
        }
        fits?;
        let (downloaded, prepared) = std::thread::scope(|scope| {
            scope.spawn(|| converge.manifest_to_record(&goal));
            let download = scope.spawn(|| (self.download(links), self.layer_deliveries()));
            let prepared = converge.look(&goal).and_then(|live| converge.prepare(&goal, &live));
            (download.join(), prepared)
        });
        let transaction = prepared?;
        let (downloaded, over) = downloaded.map_err(|_| {
            let why = Untouched::Refused("the download ended in a fault of this program".to_owned());
            UpdateError::Node(why)
        })?;
        match downloaded {
            Ok(arrived) => self.apply(&goal, &transaction, arrived.into_iter().chain(over?).collect()),
            Err((archive, error)) if is_broken(&error) => Ok(self.broken(archive, &error.to_string())),
            Err((_, error)) => Err(error.into()),
        }
    }

    fn apply(&self, goal: &Goal, transaction: &Transaction, arrived: Vec<Arrived>) -> Result<Followed, UpdateError> {
        let done = self.converge.commit(goal, transaction, |stage| self.fill_from_chain(stage, &arrived));
        match done {
            Ok(report) => Ok(Followed::Done(Box::new(report))),
            Err(Unfilled::Archive { name, why }) => {
                let lying = self.published.catalog.archives.iter().find(|archive| archive.file.file.as_str() == name);
                let fault = || FetchError::new(FetchErrorKind::Corrupt, Side::Server, &name, &why).into();
                lying.map(|archive| self.broken(archive, &why)).ok_or_else(fault)
            }
            Err(Unfilled::Stopped(Stopped::Incomplete(why))) => Ok(Followed::Incomplete(why)),
            Err(Unfilled::Stopped(Stopped::Failed(error))) => Err(error),
        }
    }

    fn fill_from_chain(&self, stage: &Stage, arrived: &[Arrived]) -> Result<(), Unfilled> {
        let deliveries: Vec<Delivery> = arrived
            .iter()
            .map(|Arrived { link, file }| Delivery {
                listing: &link.listing,
                file: file.file(),
                first_frame: link.archive.first_frame.length,
                compression: link.compression,
                name: link.archive.file.file.as_str(),
            })
            .collect();
        let live = self.converge.live_contents();
        supply::from_live(stage, &live).map_err(Stopped::from)?;
        supply::from_chain(stage, &live, &deliveries)?;
        Ok(self.fill_from_repository(stage, &live)?)
    }

    /// The archives that lead from what is recorded of overrides to what is published of them. What cannot be
    /// had comes by digest.
    pub(super) fn layer_deliveries(&self) -> Result<Vec<Arrived<'_>>, UpdateError> {
        let mut arrived = Vec::new();
        for laid in self.converge.layers {
            let (Source::Published(published), Some(base)) = (&laid.source, &laid.base) else { continue };
            let Plan::Diffs(chain) = plan::choose(Some(base.id()), &published.catalog, &HashSet::new()) else {
                continue;
            };
            let chain: Option<Vec<&Archive>> = chain
                .diffs()
                .iter()
                .map(|diff| published.catalog.archives.iter().find(|archive| archive.file == diff.file))
                .collect();
            let Some(chain) = chain else { continue };
            let linked = link_each(&published.repository, &chain, base);
            let downloaded = match linked {
                Ok((links, _)) => self.download(links).map_err(|(archive, error)| (archive, error.to_string())),
                Err(Unlinked::Broken(archive, why)) => Err((archive, why)),
                Err(Unlinked::Failed(error)) => return Err(error),
            };
            match downloaded {
                Ok(files) => arrived.extend(files),
                Err((archive, why)) => drop(self.broken(archive, &why)),
            }
        }
        Ok(arrived)
    }

    /// Fills a stage from the tree, from what `arrived`, then by digest.
    pub(super) fn fill(&self, stage: &Stage, arrived: &[Arrived]) -> Result<(), Stopped> {
        match self.fill_from_chain(stage, arrived) {
            Err(Unfilled::Archive { name, why }) => {
                let why = FetchError::new(FetchErrorKind::Corrupt, Side::Server, &name, &why);
                Err(Stopped::Failed(why.into()))
            }
            Err(Unfilled::Stopped(stopped)) => Err(stopped),
            Ok(()) => Ok(()),
        }
    }

    fn download<'l>(&self, links: Vec<Link<'l>>) -> Result<Vec<Arrived<'l>>, (&'l Archive, FetchError)> {
        let fetch = |link: Link<'l>| {
            let file = link.repository.file(&link.archive.file, self.converge.run.monitor);
            file.map_err(|error| (link.archive, error)).map(|file| Arrived { link, file })
        };
        links.into_iter().map(fetch).collect()
    }

    fn broken(&self, archive: &Archive, why: &str) -> Followed {
        self.converge.run.monitor.warn(format!("{} cannot be used: {why}", archive.file.file));
        Followed::Broken(archive.file.file.clone())
    }
}

impl Converge<'_> {
    /// What the tree should hold by what is recorded of it.
    pub(super) fn live_contents(&self) -> LiveContents<'_> {
        LiveContents::new(&self.run.session.root, self.base.map(|base| &base.composed))
    }
}

enum Unlinked<'l> {
    Broken(&'l Archive, String),
    Failed(UpdateError),
}

/// Fetches the listings of a chain and finds out what it makes of `base`.
fn link_all<'l>(
    repository: &'l Repository,
    chain: &'l Chain,
    base: &Manifest,
) -> Result<(Vec<Link<'l>>, Manifest), Unlinked<'l>> {
    link_each(repository, &chain.diffs().iter().collect::<Vec<_>>(), base)
}

fn link_each<'l>(
    repository: &'l Repository,
    chain: &[&'l Archive],
    base: &Manifest,
) -> Result<(Vec<Link<'l>>, Manifest), Unlinked<'l>> {
    let (mut links, mut manifest) = (Vec::new(), base.clone());
    for archive in chain {
        let (link, next) = link(repository, archive, &manifest)?;
        links.push(link);
        manifest = next;
    }
    Ok((links, manifest))
}

/// Fetches the listing of an archive and finds out what it makes of `base`.
fn link<'l>(
    repository: &'l Repository,
    archive: &'l Archive,
    base: &Manifest,
) -> Result<(Link<'l>, Manifest), Unlinked<'l>> {
    let broken = |why: String| Unlinked::Broken(archive, why);
    let Some(compression) = Compression::of_name(archive.file.file.as_str()) else {
        return Err(broken("its name tells no compression that this program knows".to_owned()));
    };
    let frame = match repository.frame(&archive.file, &archive.first_frame) {
        Err(error) if is_broken(&error) => return Err(broken(error.to_string())),
        answer => answer.map_err(|e| Unlinked::Failed(e.into()))?,
    };
    let fault = |error: ArchiveError| broken(error.to_string());
    let listing = read_listing(&frame, compression, &Limits::default()).map_err(fault)?;
    let target = listing.target_of(base).map_err(fault)?;
    if target.id() != archive.kind.target() {
        return Err(broken("it leads to another generation than the catalog says".to_owned()));
    }
    Ok((Link { archive, repository, compression, listing }, target))
}

/// Whether the server lacks the file or holds another one, so that another way may lead there.
pub(super) fn is_broken(error: &FetchError) -> bool {
    matches!(error.kind, FetchErrorKind::NotFound | FetchErrorKind::Corrupt)
}

pub(super) fn missing(stage: &Stage) -> Why {
    let mut paths: Vec<TreePath> = stage.wanted().keys().flat_map(|digest| stage.paths_of(digest)).collect();
    paths.sort_unstable();
    Why::ContentMissing(named(&paths))
}

/// The first of many paths, for a message.
pub(super) fn named(paths: &[TreePath]) -> String {
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
        _ => format!("following {count} diffs of {bytes} bytes together to the head, as one transaction"),
    }
}

/// Says what compressed files cost that come as what is inside them.
fn tell_rebuilding(links: &[Link<'_>], monitor: &dyn Monitor) {
    let headers = || links.iter().map(|link| link.listing.header());
    let files: u64 = headers().map(|header| header.rebuilt).sum();
    let bytes = headers().fold(0u64, |sum, header| sum.saturating_add(header.rebuilt_bytes));
    if files > 0 {
        let seconds = headers().map(Header::rebuild_seconds).sum::<f64>();
        monitor.note(format!(
            "{files} compressed files are made again of {bytes} bytes of what is inside them: about {seconds:.1} s of one processor"
        ));
    }
}

/// Paths that go and whose content, or its successor, comes elsewhere: renames do not count as
/// deletions, nor do the directories that only held what was renamed.
fn renamed(base: &Manifest, target: &Manifest, links: &[Link<'_>]) -> usize {
    let reused = links.iter().flat_map(|link| {
        let sources = link.listing.groups().iter().flat_map(|group| &group.sources).map(|source| source.digest);
        sources.chain(link.listing.known().iter().map(|known| known.digest))
    });
    let reused: HashSet<Digest> = reused.collect();
    let mut paths: HashSet<TreePath> = HashSet::new();
    for entry in gone(base, target) {
        if !entry.file().is_some_and(|(_, digest)| reused.contains(&digest)) {
            continue;
        }
        let mut at = Some(entry.path.clone());
        while let Some(path) = at.filter(|path| target.get(path).is_none()) {
            at = path.parent();
            if !paths.insert(path) {
                break;
            }
        }
    }
    paths.len()
}
