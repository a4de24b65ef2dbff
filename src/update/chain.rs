//! The way by diffs.

use std::collections::HashSet;

use crate::apply::Untouched;
use crate::apply::prepare::Transaction;
use crate::apply::stage::{FillError, Stage};
use crate::apply::supply::{self, ChainError, Delivery, LiveContents};
use crate::catalog::{Archive, RepoPath};
use crate::diff_archive::content_index::ContentIndex;
use crate::diff_archive::{ArchiveError, Compression, Limits, Listing, read_listing};
use crate::digest::Digest;
use crate::fetch::content::{ContentError, ContentStore};
use crate::fetch::{FetchError, FetchErrorKind, Side, Verified};
use crate::manifest::{Manifest, gone};
use crate::plan::{Chain, Why};
use crate::tree_path::TreePath;

use super::converge::{Converge, Goal};
use super::{Report, UpdateError};

/// How following a chain ended.
pub(super) enum Followed {
    /// At the head.
    Done(Box<Report>),
    /// This archive is missing or damaged on the server.
    Broken(RepoPath),
    /// Some content is nowhere to be had, though the chain is whole.
    Incomplete(Why),
}

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

/// An archive of the chain, with what is known of it.
struct Link<'a> {
    archive: &'a Archive,
    compression: Compression,
    listing: Listing,
}

impl Converge<'_> {
    /// Follows `chain` as one transaction.
    pub(super) fn by_diffs(&self, chain: &Chain) -> Result<Followed, UpdateError> {
        let Some(base) = self.base else {
            return Err(UpdateError::Usage("a diff needs a recorded generation".to_owned()));
        };
        let way = describe(chain);
        self.run.monitor.note(way.clone());
        let mut links = Vec::new();
        let mut manifest = base.manifest.clone();
        for archive in chain.diffs() {
            let (link, next) = match self.link(archive, &manifest) {
                Ok(linked) => linked,
                Err(Unlinked::Broken(why)) => return Ok(self.broken(archive, &why)),
                Err(Unlinked::Failed(error)) => return Err(error),
            };
            links.push(link);
            manifest = next;
        }
        let mut goal = self.goal(manifest, way);
        goal.renamed = goal.base.as_ref().map_or(0, |base| renamed(base, &goal.target, &links));
        let left = chain.diffs().iter().map(|archive| self.run.repository.left(&archive.file));
        let fits = self.check_room_early(goal.base.as_ref().unwrap_or(&goal.target), &goal.target, left.sum());
        if self.run.request.dry_run {
            let live = self.look(&goal)?;
            let transaction = self.prepare(&goal, &live)?;
            let mut report = self.forecast(&goal, &transaction);
            report.refusal = fits.err().or(report.refusal);
            return Ok(Followed::Done(Box::new(report)));
        }
        fits?;
        let (downloaded, prepared) = std::thread::scope(|scope| {
            let download = scope.spawn(|| self.download(&links));
            let prepared = self.look(&goal).and_then(|live| self.prepare(&goal, &live));
            (download.join(), prepared)
        });
        let transaction = prepared?;
        let downloaded = downloaded.map_err(|_| {
            let why = Untouched::Refused("the download ended in a fault of this program".to_owned());
            UpdateError::Node(why)
        })?;
        match downloaded {
            Ok(files) => self.apply(&goal, &transaction, &links, &files),
            Err((archive, error)) if is_broken(&error) => Ok(self.broken(archive, &error.to_string())),
            Err((_, error)) => Err(error.into()),
        }
    }

    fn apply(
        &self,
        goal: &Goal,
        transaction: &Transaction,
        links: &[Link],
        files: &[Verified],
    ) -> Result<Followed, UpdateError> {
        let deliveries: Vec<Delivery> = links
            .iter()
            .zip(files)
            .map(|(link, file)| Delivery {
                listing: &link.listing,
                file: file.file(),
                compression: link.compression,
                name: link.archive.file.file.as_str(),
            })
            .collect();
        let done = self.commit(goal, transaction, |stage| {
            let live = self.live_contents();
            supply::from_live(stage, &live).map_err(Stopped::from)?;
            supply::from_chain(stage, &live, &deliveries)?;
            Ok(self.fill_from_repository(stage, &live)?)
        });
        match done {
            Ok(report) => Ok(Followed::Done(Box::new(report))),
            Err(Unfilled::Archive { name, why }) => {
                let lying = links.iter().find(|link| link.archive.file.file.as_str() == name);
                let fault = || FetchError::new(FetchErrorKind::Corrupt, Side::Server, &name, &why).into();
                lying.map(|link| self.broken(link.archive, &why)).ok_or_else(fault)
            }
            Err(Unfilled::Stopped(Stopped::Incomplete(why))) => Ok(Followed::Incomplete(why)),
            Err(Unfilled::Stopped(Stopped::Failed(error))) => Err(error),
        }
    }

    /// Fills a stage without any archive: from the tree, then by digest.
    pub(super) fn fill_from_anywhere(&self, stage: &Stage) -> Result<(), Stopped> {
        let live = self.live_contents();
        supply::from_live(stage, &live)?;
        self.fill_from_repository(stage, &live)
    }

    /// Fetches by digest what nothing else had: the content of paths that drifted.
    pub(super) fn fill_from_repository(&self, stage: &Stage, live: &LiveContents) -> Result<(), Stopped> {
        let wanted: Vec<(Digest, u64)> = stage.wanted().into_iter().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let run = self.run;
        let Some(file) = &self.catalog.content else { return Err(Stopped::Incomplete(missing(stage))) };
        run.monitor.note(format!("fetching {} contents whole, by their digests", wanted.len()));
        let index = match run.repository.file(file, run.monitor) {
            Ok(verified) => ContentIndex::read_zstd(std::io::BufReader::new(verified.into_file())),
            Err(error) if is_broken(&error) => return Err(Stopped::Incomplete(missing(stage))),
            Err(error) => return Err(Stopped::Failed(error.into())),
        };
        let Ok(index) = index else { return Err(Stopped::Incomplete(missing(stage))) };
        let store = ContentStore::new(&index, &self.catalog.archives, &run.repository, live);
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
            Ok(_) if stage.wanted().is_empty() => Ok(()),
            Ok(_) => Err(Stopped::Incomplete(missing(stage))),
            Err(ContentError::Fetch(error)) if !is_broken(&error) => Err(Stopped::Failed(error.into())),
            Err(_) => Err(Stopped::Incomplete(missing(stage))),
        }
    }

    pub(super) fn live_contents(&self) -> LiveContents<'_> {
        LiveContents::new(&self.run.session.root, self.base.map(|base| &base.manifest))
    }

    /// Fetches the listing of an archive and finds out what it makes of `base`.
    fn link<'l>(&self, archive: &'l Archive, base: &Manifest) -> Result<(Link<'l>, Manifest), Unlinked> {
        let broken = |error: ArchiveError| Unlinked::Broken(error.to_string());
        let name = archive.file.file.as_str();
        let Some(compression) = Compression::of_name(name) else {
            return Err(Unlinked::Broken("its name tells no compression that this program knows".to_owned()));
        };
        let frame = match self.run.repository.frame(&archive.file, &archive.first_frame) {
            Err(error) if is_broken(&error) => return Err(Unlinked::Broken(error.to_string())),
            answer => answer.map_err(|e| Unlinked::Failed(e.into()))?,
        };
        let listing = read_listing(&frame, compression, &Limits::default()).map_err(broken)?;
        let target = listing.target_of(base).map_err(broken)?;
        if target.id() != archive.kind.target() {
            return Err(Unlinked::Broken("it leads to another generation than the catalog says".to_owned()));
        }
        Ok((Link { archive, compression, listing }, target))
    }

    fn download<'l>(&self, links: &[Link<'l>]) -> Result<Vec<Verified>, (&'l Archive, FetchError)> {
        let fetch = |link: &Link<'l>| {
            self.run.repository.file(&link.archive.file, self.run.monitor).map_err(|error| (link.archive, error))
        };
        links.iter().map(fetch).collect()
    }

    fn broken(&self, archive: &Archive, why: &str) -> Followed {
        self.run.monitor.warn(format!("{} cannot be used: {why}", archive.file.file));
        Followed::Broken(archive.file.file.clone())
    }
}

enum Unlinked {
    Broken(String),
    Failed(UpdateError),
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
fn renamed(base: &Manifest, target: &Manifest, links: &[Link]) -> usize {
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
