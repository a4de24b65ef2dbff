//! The way by diffs.

use std::collections::HashSet;
use std::io::Read;

use crate::apply::Untouched;
use crate::apply::prepare::Transaction;
use crate::apply::room::Aside;
use crate::apply::stage::{FillError, Stage};
use crate::apply::supply::{self, ChainError, Delivery, LiveContents};
use crate::catalog::Archive;
use crate::diff_archive::content_index::ContentIndex;
use crate::diff_archive::{ArchiveError, Compression, Limits, Listing, Sources, read_listing};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::fetch::content::{ContentError, ContentStore};
use crate::fetch::{FetchError, FetchErrorKind, Repository, Side, Verified};
use crate::filter::MAX_EXCLUDE_FILE;
use crate::host::Drift;
use crate::manifest::{Manifest, gone};
use crate::plan::{self, Chain, Plan, Why};
use crate::root::Root;
use crate::tree_path::TreePath;

use super::UpdateError;
use super::converge::{Converge, Goal};
use super::follow::{Follow, Followed};
use super::layers::Source;
use super::published::Published;

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

    /// Fetches by digest what nothing else had: the content of paths that drifted, and of what is laid over
    /// the image.
    pub(super) fn fill_from_repository(&self, stage: &Stage, live: &LiveContents) -> Result<(), Stopped> {
        for laid in self.converge.layers {
            match &laid.source {
                Source::Received(received) => take_received(stage, &laid.manifest, &received.tree)?,
                Source::Published(published) => self.fill_by_digest(stage, live, published, Some(&laid.manifest))?,
            }
        }
        self.fill_by_digest(stage, live, self.published, None)?;
        if stage.wanted().is_empty() { Ok(()) } else { Err(Stopped::Incomplete(missing(stage))) }
    }

    /// Fetches what is wanted, as far as the repository has it; with `of` only what that names.
    fn fill_by_digest(
        &self,
        stage: &Stage,
        live: &LiveContents,
        published: &Published,
        of: Option<&Manifest>,
    ) -> Result<(), Stopped> {
        let mut wanted: Vec<(Digest, u64)> = stage.wanted().into_iter().collect();
        if let Some(of) = of {
            let named: HashSet<Digest> = of.entries().iter().filter_map(|entry| Some(entry.file()?.1)).collect();
            wanted.retain(|(digest, _)| named.contains(digest));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let run = self.converge.run;
        let Some(file) = &published.catalog.content else { return Ok(()) };
        run.monitor.note(format!("fetching {} contents whole, by their digests", wanted.len()));
        let index = match published.repository.file(file, run.monitor) {
            Ok(verified) => ContentIndex::read_zstd(std::io::BufReader::new(verified.into_file())),
            Err(error) if is_broken(&error) => return Ok(()),
            Err(error) => return Err(Stopped::Failed(error.into())),
        };
        let Ok(index) = index else { return Ok(()) };
        let store = ContentStore::new(&index, &published.catalog.archives, &published.repository, live);
        let mut failed = None;
        let fetched = store.fetch(&wanted, &mut |digest, content| match stage.fill(&digest, content) {
            Ok(()) => Ok(()),
            // Whether it was the right content is for the store to find out.
            Err(FillError::OtherContent(_)) => Ok(()),
            Err(FillError::Source(error)) => Err(error),
            Err(FillError::Untouched(error)) => {
                failed = Some(error);
                Err(std::io::Error::other("the stage is full"))
            }
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        match fetched {
            Err(ContentError::Fetch(error)) if !is_broken(&error) => Err(Stopped::Failed(error.into())),
            // What is missing is found out by who wants it.
            _ => Ok(()),
        }
    }

    /// The rules of the exclude file that comes with the image, where they are others than those in effect.
    pub(super) fn other_rules(&self, goal: &Goal) -> Result<Option<Vec<u8>>, UpdateError> {
        let (converge, run) = (&self.converge, self.converge.run);
        let Some(place) = &run.excludes.place else { return Ok(None) };
        // Where the node keeps its own file, or will, that is the one that counts.
        let Some((size, digest)) = goal.target.get(place).and_then(Entry::file) else { return Ok(None) };
        let same = converge.base.and_then(|base| base.composed.get(place)) == goal.target.get(place);
        if digest == Digest::of(&run.excludes.rules) || (same && run.request.drift == Drift::Report) {
            return Ok(None);
        }
        let rules = self.content(digest, size.min(MAX_EXCLUDE_FILE as u64 + 1))?;
        if rules.is_none() {
            run.monitor
                .warn(format!("{place} of the image could not be had yet: its rules count from the next run on"));
        }
        Ok(rules)
    }

    /// A small content, from wherever it is to be had.
    fn content(&self, digest: Digest, size: u64) -> Result<Option<Vec<u8>>, UpdateError> {
        let (converge, live) = (&self.converge, self.converge.live_contents());
        for laid in converge.layers {
            let Source::Received(received) = &laid.source else { continue };
            let at = laid.manifest.entries().iter().find(|entry| entry.file().is_some_and(|(_, d)| d == digest));
            let mut bytes = Vec::new();
            if let Some(entry) = at
                && let Ok(file) = received.tree.open_file(&entry.path)
                && file.take(size + 1).read_to_end(&mut bytes).is_ok()
                && Digest::of(&bytes) == digest
            {
                return Ok(Some(bytes));
            }
        }
        if let Ok(Some(bytes)) = live.read(&digest, size, &TreePath::root())
            && Digest::of(&bytes) == digest
        {
            return Ok(Some(bytes));
        }
        let over = converge.layers.iter().filter_map(|laid| match &laid.source {
            Source::Published(published) => Some(published.as_ref()),
            Source::Received(_) => None,
        });
        for published in over.chain([self.published]) {
            let Some(file) = &published.catalog.content else { continue };
            let index = match published.repository.file(file, converge.run.monitor) {
                Ok(verified) => ContentIndex::read_zstd(std::io::BufReader::new(verified.into_file())),
                Err(error) if is_broken(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            let Ok(index) = index else { continue };
            let store = ContentStore::new(&index, &published.catalog.archives, &published.repository, &live);
            let mut found = None;
            let fetched = store.fetch(&[(digest, size)], &mut |_, content| {
                let mut bytes = Vec::new();
                content.take(size + 1).read_to_end(&mut bytes)?;
                found = (Digest::of(&bytes) == digest).then_some(bytes).or(found.take());
                Ok(())
            });
            match fetched {
                Err(ContentError::Fetch(error)) if !is_broken(&error) => return Err(error.into()),
                _ if found.is_some() => return Ok(found),
                _ => {}
            }
        }
        Ok(None)
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
    fn live_contents(&self) -> LiveContents<'_> {
        LiveContents::new(&self.run.session.root, self.base.map(|base| &base.composed))
    }
}

/// Takes what rsync brought of an override.
pub(super) fn take_received(stage: &Stage, manifest: &Manifest, tree: &Root) -> Result<(), Untouched> {
    let wanted = stage.wanted();
    for entry in manifest.entries() {
        if let Some((_, digest)) = entry.file().filter(|(_, digest)| wanted.contains_key(digest) && stage.wants(digest))
        {
            stage.take_over(&digest, tree, &entry.path)?;
        }
    }
    Ok(())
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
fn is_broken(error: &FetchError) -> bool {
    matches!(error.kind, FetchErrorKind::NotFound | FetchErrorKind::Corrupt)
}

fn missing(stage: &Stage) -> Why {
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

/// Paths that go and whose content, or its successor, comes elsewhere: renames do not count as
/// deletions, nor do the directories that only held what was renamed.
fn renamed(base: &Manifest, target: &Manifest, links: &[Link<'_>]) -> usize {
    let reused = links.iter().flat_map(|link| {
        let sources = link.listing.groups().iter().flat_map(|group| &group.sources);
        sources.chain(link.listing.known()).map(|known| known.digest)
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
