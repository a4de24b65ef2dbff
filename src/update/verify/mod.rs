//! Verifies a tree: compares live tree, record and published generation; changes nothing.
//!
//! Every tracked path is read, as a run with the check level `content` reads it. The published
//! generation needs a network, and everything else does without. No lock is held meanwhile: a tree
//! that another run changed is reported, and no run has to wait.

mod compare;
mod proof;
mod published;
mod tree;

use std::path::PathBuf;

use crate::apply::difference::Difference;
use crate::apply::plan::ItemizedLine;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::fetch::{FetchOptions, RepoUrl};
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::Manifest;
use crate::report::Monitor;
use crate::tree_path::TreePath;
use crate::update::downloaded;
use crate::update::error::{Refusal, UpdateError, UsageError};
use crate::update::request::{Excludes, TrustSettings};
use crate::update::run::build_filter;

use compare::{Deviating, Subject, TreeComparison};
use proof::ProofInput;
use published::{Generations, PublishedTree};
use tree::{OpenTree, RecordedTree};

pub use proof::recorded_proof;

/// Everything that a verification needs to know.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// Top of the tree.
    pub root: PathBuf,
    /// Paths that are verified with everything below them; empty for the whole tree.
    pub paths: Vec<TreePath>,
    /// Published generation that the tree is compared with, instead of the recorded one.
    pub against: Option<String>,
    /// Image of a tree of which nothing is recorded.
    pub image: Option<ImageName>,
    /// Overrides of a tree of which nothing is recorded.
    pub overrides: Vec<ImageName>,
    /// Exclude rules.
    pub excludes: Excludes,
    /// Types of mounted filesystems that are updated; `None` for all that can be.
    pub fstypes: Option<Vec<String>>,
    /// The repository, or the reason that none can be asked.
    pub repo: Result<RepoUrl, String>,
    /// Options of downloads.
    pub fetch: FetchOptions,
    /// Requirements for signatures and times.
    pub trust: TrustSettings,
    /// Whether a catalog older than one seen before is accepted.
    pub allow_downgrade: bool,
}

/// Result of a verification.
#[derive(Debug)]
pub struct VerifiedTree {
    pub image: ImageName,
    pub overrides: Vec<ImageName>,
    /// The generation that the tree was compared with.
    pub reference: Publication,
    /// Whether a published generation was named for the comparison.
    pub is_against: bool,
    /// Number of tracked paths that were compared.
    pub compared: usize,
    /// Paths of the live tree that do not match, in tree order.
    pub deviations: Vec<VerifiedDeviation>,
    /// Number of tracked paths that a mount hides, so that they were not compared.
    pub hidden: usize,
    /// The published side, unless it is the reference itself.
    pub published: Option<PublishedSide>,
    /// Proof digest of the tree as it was read; `None` if only some paths were.
    pub proof: Option<Digest>,
}

/// A publish; both are `None` for an image that was never published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication {
    pub generation: Option<GenerationId>,
    pub serial: Option<u64>,
}

/// A path of the live tree that does not match the reference.
#[derive(Debug)]
pub struct VerifiedDeviation {
    /// The change that a repair would make.
    pub item: ItemizedLine,
    /// The difference in words.
    pub reason: String,
    /// The published entry; `None` if it was not compared.
    pub standing: Option<Standing>,
}

/// The published entry of a path whose live object differs from the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It equals the record: the path was edited here.
    AsRecorded,
    /// It equals the live object.
    AsLive,
    /// It differs from both.
    Other,
}

/// The newest published generation, compared with the record.
#[derive(Debug)]
pub enum PublishedSide {
    Compared {
        head: Publication,
        /// Paths that match the record, and of which another version is published.
        superseded: Vec<TreePath>,
    },
    NotCompared {
        reason: String,
    },
}

/// Compares the tree of the request.
pub fn verify(request: &VerifyRequest, monitor: &dyn Monitor) -> Result<VerifiedTree, UpdateError> {
    let tree = OpenTree::open(&request.root)?;
    let recorded = RecordedTree::load_or_warn(&tree.session, monitor)?;
    let (excludes, fstypes) = (&request.excludes, request.fstypes.as_deref());
    let mut filter = build_filter(&tree.session, fstypes, excludes, None)?;
    let hidden_edit =
        recorded.as_ref().and_then(|recorded| recorded.find_hidden_edit(excludes, &filter));
    if let Some(path) = hidden_edit {
        filter = build_filter(&tree.session, fstypes, excludes, Some(path.clone()))?;
    }
    let subject = Subject::new(request, &tree.session, &filter, monitor)?;

    let recorded = recorded.as_ref();
    let job = TreeVerification { request, subject: &subject, recorded, hidden_edit, monitor };
    let verification = match &request.against {
        Some(word) => job.compare_with_published(word)?,
        None => job.compare_three_ways()?,
    };
    tree.check_unchanged()?;
    downloaded::show(&tree.session.root, monitor);
    Ok(verification)
}

/// One verification of an open tree.
struct TreeVerification<'a> {
    request: &'a VerifyRequest,
    subject: &'a Subject<'a>,
    recorded: Option<&'a RecordedTree>,
    /// The exclude file, if its edited rules exclude it: it is compared all the same.
    hidden_edit: Option<&'a TreePath>,
    monitor: &'a dyn Monitor,
}

impl TreeVerification<'_> {
    /// Compares the live tree with the record, and the record with the published head.
    fn compare_three_ways(&self) -> Result<VerifiedTree, UpdateError> {
        let root = &self.subject.session.root;
        let Some(recorded) = self.recorded else {
            return Err(Refusal::NothingToVerify { root: root.show(&TreePath::root()) }.into());
        };
        let fetched;
        let composed = match &recorded.composed {
            Some(composed) => composed,
            None => {
                fetched = self.generations(recorded)?.recorded(recorded)?;
                &fetched
            }
        };

        // The head is requested while the tree is read.
        let (comparison, head) = std::thread::scope(|scope| {
            let head = scope.spawn(|| self.generations(recorded)?.head(Some(recorded)));
            let comparison = self.subject.compare(composed, &[]);
            (comparison, head.join())
        });
        let comparison = comparison?;
        let head = head.map_err(|_panic| Refusal::DownloadThread)?;
        let published = match head {
            Err(UpdateError::Cancelled) => return Err(UpdateError::Cancelled),
            head => head.map(|head| {
                let tracked = self.subject.tracked_part(&head.composed);
                (head, tracked)
            }),
        };

        let recorded_part = self.subject.tracked_part(composed);
        let state = &recorded.state;
        let is_published = state.is_published();
        let publication = Publication {
            generation: is_published.then_some(state.generation),
            serial: is_published.then_some(state.serial),
        };
        let layers = (&state.image, recorded.override_names());
        let mut verification =
            self.describe(layers, publication, (composed, comparison), |deviating| {
                let (_, tracked) = published.as_ref().ok()?;
                Some(standing(deviating, tracked.get(&deviating.path)))
            })?;
        verification.published = Some(match published {
            Ok((head, tracked)) => PublishedSide::Compared {
                head: head.publication,
                superseded: self.superseded(&verification, &recorded_part, &tracked),
            },
            Err(error) => PublishedSide::NotCompared { reason: without_consequence(&error) },
        });
        Ok(verification)
    }

    /// Compares the live tree with a published generation.
    fn compare_with_published(&self, word: &str) -> Result<VerifiedTree, UpdateError> {
        let root = &self.subject.session.root;
        let image = self.recorded.map(|recorded| &recorded.state.image);
        let Some(image) = image.or(self.request.image.as_ref()) else {
            return Err(Refusal::NothingToVerify { root: root.show(&TreePath::root()) }.into());
        };
        let names = match self.recorded {
            Some(recorded) => recorded.override_names(),
            None => self.request.overrides.clone(),
        };
        let layers = (image, names.clone());
        let generations = Generations::ask(self.request, root, layers, self.monitor)?;
        let PublishedTree { publication, composed } = generations.named(word, self.recorded)?;

        // Paths that only the record names are stale: an update to this generation removes them.
        let stale = match self.recorded.and_then(|recorded| recorded.composed.as_ref()) {
            Some(old) => self.subject.stale_entries(old, &composed),
            None => Vec::new(),
        };
        let comparison = self.subject.compare(&composed, &stale)?;
        self.describe((image, names), publication, (&composed, comparison), |_| None)
    }

    fn generations(&self, recorded: &RecordedTree) -> Result<Generations, UpdateError> {
        let root = &self.subject.session.root;
        let layers = (&recorded.state.image, recorded.override_names());
        Generations::ask(self.request, root, layers, self.monitor)
    }

    /// The result of a comparison with `composed`, without the published side.
    fn describe(
        &self,
        (image, overrides): (&ImageName, Vec<ImageName>),
        reference: Publication,
        (composed, comparison): (&Manifest, TreeComparison),
        standing: impl Fn(&Deviating) -> Option<Standing>,
    ) -> Result<VerifiedTree, UpdateError> {
        let (excludes, tracked) = (&self.request.excludes, self.hidden_edit);
        let input = ProofInput { composed, excludes, tracked };
        let session = self.subject.session;
        let hidden = input.hidden_paths(self.subject.filter, &session.mounts)?;
        let is_complete = self.request.paths.is_empty();
        let prove = || input.of_live_tree(&comparison.deviating, &hidden);
        let proof = is_complete.then(prove).transpose()?;

        let deviations = comparison.deviating.into_iter().map(|deviating| VerifiedDeviation {
            standing: standing(&deviating),
            item: deviating.item,
            reason: deviating.reason,
        });
        Ok(VerifiedTree {
            image: image.clone(),
            overrides,
            reference,
            is_against: self.request.against.is_some(),
            compared: comparison.compared,
            deviations: deviations.collect(),
            hidden: hidden.iter().filter(|path| self.request.selects(path)).count(),
            published: None,
            proof,
        })
    }

    /// Paths of the request that match the record, and whose published entry is another one.
    fn superseded(
        &self,
        verification: &VerifiedTree,
        recorded: &Manifest,
        published: &Manifest,
    ) -> Vec<TreePath> {
        let deviations = &verification.deviations;
        let deviates = |path: &TreePath| {
            deviations.binary_search_by(|deviation| deviation.item.path.cmp(path)).is_ok()
        };
        let differs = |entry: &&Entry| match published.get(&entry.path) {
            Some(other) => !is_same(entry, other),
            None => true,
        };
        let changed = recorded.entries().iter().filter(differs);
        let new = published.entries().iter().filter(|entry| recorded.get(&entry.path).is_none());

        let mut paths: Vec<TreePath> = changed.chain(new).map(|entry| entry.path.clone()).collect();
        paths.retain(|path| self.subject.selects(path) && !deviates(path));
        paths.sort_unstable();
        paths
    }
}

/// Compares the published entry of a deviating path with record and live object.
fn standing(deviating: &Deviating, published: Option<&Entry>) -> Standing {
    let equals = |entry: Option<&Entry>| match (entry, published) {
        (Some(entry), Some(published)) => is_same(entry, published),
        (None, None) => true,
        _ => false,
    };
    if equals(deviating.expected.as_ref()) {
        Standing::AsRecorded
    } else if equals(deviating.found.as_ref()) {
        Standing::AsLive
    } else {
        Standing::Other
    }
}

/// Whether two entries describe the same object; the mtime of a directory does not count.
fn is_same(a: &Entry, b: &Entry) -> bool {
    !Difference::between(a, b).any() && a.group() == b.group()
}

/// The message of an error of the published side: of a verification it is no failure.
fn without_consequence(error: &UpdateError) -> String {
    error.to_string().replace("; nothing was changed", "")
}

impl VerifyRequest {
    /// Whether `path` is verified.
    fn selects(&self, path: &TreePath) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|top| path == top || path.is_below(top))
    }

    /// The repository, for a run that cannot do without.
    fn require_repo(&self) -> Result<&RepoUrl, UpdateError> {
        self.repo.as_ref().map_err(|reason| UsageError::Argument(reason.clone()).into())
    }
}
