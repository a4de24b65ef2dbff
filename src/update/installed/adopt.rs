//! Adopts a tree: finds the published generation from which it differs least.
//!
//! A node that was installed by other means has no recorded generation, and no real node equals a
//! generation exactly. Without adoption the first update would be a full sync. Each file is read
//! at most once, for all generations together.

use std::collections::{BTreeMap, HashSet};

use crate::apply::Untouched;
use crate::apply::difference::Difference;
use crate::apply::filesystem::limited;
use crate::apply::plan::UntrackedPolicy;
use crate::apply::plan::live_tree::LiveTree;
use crate::catalog::Publish;
use crate::entry::Entry;
use crate::manifest::{Manifest, path_text};
use crate::state::SeenCatalog;
use crate::tree_path::TreePath;
use crate::update::error::{Refusal, UpdateError};
use crate::update::installed::{Installed, Origin, recorded};
use crate::update::notice::{Route, Similarity, UpdateNotice};
use crate::update::report::{Report, UpdateOutcome};
use crate::update::run::Run;
use crate::update::source::overrides::{self, OverrideLayer};
use crate::update::source::published::PublishedImage;

/// Number of generations compared, newest first; each costs the download and memory of a manifest.
const MAX_GENERATIONS: usize = 12;

type Differences = BTreeMap<TreePath, Difference>;

/// A published generation that the tree may be.
struct Candidate<'a> {
    publish: &'a Publish,
    /// Manifest of the image's generation.
    manifest: Manifest,
    /// Overrides copied over it: all of the run, or none.
    overrides: &'a [OverrideLayer],
    /// Manifest with the overrides.
    composed: Manifest,
    /// Supported part of `composed`.
    tracked: Manifest,
}

/// Returns the published generation from which the tree differs least.
///
/// Returns `None` if the share of differing entries is above the limit for all of them.
pub(super) fn adopt(
    run: &Run<'_>,
    published: &PublishedImage,
    overrides: &[OverrideLayer],
) -> Result<Option<Installed>, UpdateError> {
    run.monitor.note(UpdateNotice::Comparing { adopt_only: run.request.adopt_only });

    let mut candidates = list_candidates(run, published, overrides)?;
    let live = read_live_tree(run, &candidates)?;

    let mut best: Option<(usize, Differences)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        let differences = compare(run, &candidate.tracked, &live)?;
        if best.as_ref().is_none_or(|(_, fewest)| differences.len() < fewest.len()) {
            best = Some((index, differences));
        }
    }
    let Some((index, differences)) = best else { return Ok(None) };

    let best = candidates.swap_remove(index);
    let similarity = Similarity {
        generation: best.publish.generation,
        differing: differences.len(),
        entries: best.tracked.len(),
    };
    if similarity.differing_share() > run.request.adopt_share {
        run.monitor.note(UpdateNotice::NotAdopted(similarity));
        return Ok(None);
    }
    run.monitor.note(UpdateNotice::Adopted(similarity));
    Ok(Some(into_installed(run, best, differences)))
}

/// Lists the newest generations, each with the overrides of the run and without.
///
/// The node may have been installed with or without its overrides.
fn list_candidates<'a>(
    run: &Run<'_>,
    published: &'a PublishedImage,
    overrides: &'a [OverrideLayer],
) -> Result<Vec<Candidate<'a>>, UpdateError> {
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for publish in published.catalog.publishes.iter().rev() {
        let is_listed =
            candidates.iter().any(|candidate| candidate.publish.generation == publish.generation);
        if candidates.len() >= MAX_GENERATIONS || is_listed {
            continue;
        }

        let manifest = published.manifest(publish)?;
        if !overrides.is_empty() {
            candidates.push(Candidate::new(run, publish, manifest.clone(), overrides)?);
        }
        candidates.push(Candidate::new(run, publish, manifest, &[])?);
    }
    Ok(candidates)
}

impl<'a> Candidate<'a> {
    fn new(
        run: &Run<'_>,
        publish: &'a Publish,
        manifest: Manifest,
        overrides: &'a [OverrideLayer],
    ) -> Result<Self, UpdateError> {
        let layers = overrides.iter().map(|layer| &layer.manifest);
        let composed = overrides::compose(&manifest, layers)?;
        let tracked = run.supported_manifest(&composed);
        Ok(Candidate { publish, manifest, overrides, composed, tracked })
    }
}

/// Walks the tree and hashes the files whose size and type fit at least one candidate.
fn read_live_tree(run: &Run<'_>, candidates: &[Candidate<'_>]) -> Result<LiveTree, UpdateError> {
    let root = &run.session.root;
    let entries = || candidates.iter().flat_map(|candidate| candidate.tracked.entries());
    let mut tracked: Vec<&TreePath> = entries().map(|entry| &entry.path).collect();
    tracked.sort_unstable();
    tracked.dedup();

    let mut live = LiveTree::walk(root, &tracked, &run.filter, UntrackedPolicy::Keep, run.monitor)?;
    live.read_contents(root, entries(), run.monitor)?;
    Ok(live)
}

fn compare(run: &Run<'_>, manifest: &Manifest, live: &LiveTree) -> Result<Differences, Untouched> {
    let mut differences = Differences::new();
    for entry in manifest.entries() {
        let difference = compare_entry(run, entry, live)?;
        if difference.any() {
            differences.insert(entry.path.clone(), difference);
        }
    }
    Ok(differences)
}

/// Compares one entry; its content only if nothing else shows that the file differs.
fn compare_entry(run: &Run<'_>, entry: &Entry, live: &LiveTree) -> Result<Difference, Untouched> {
    let root = &run.session.root;
    let stat = live.get(&entry.path);
    let mut difference = Difference::from_stat(entry, stat).with_details(root, entry)?;
    if run.session.filesystems.is_limited(&entry.path) {
        difference = limited::mask_unsupported(difference, entry, stat);
    }

    let is_settled = difference.missing || difference.kind || difference.content;
    if !is_settled && let Some((_, digest)) = entry.file() {
        difference.content = live.digest(root, &entry.path, run.monitor)? != Some(digest);
    }
    Ok(difference)
}

fn into_installed(run: &Run<'_>, candidate: Candidate<'_>, differences: Differences) -> Installed {
    let unsupported = run.supported_part(&candidate.composed).unsupported;
    let mut deviations: BTreeMap<String, String> = differences
        .iter()
        .map(|(path, difference)| (path_text(path), difference.to_string()))
        .collect();
    deviations.extend(unsupported.into_iter().map(|(path, why)| (path_text(&path), why)));

    Installed {
        manifest: candidate.manifest,
        overrides: candidate.overrides.iter().map(OverrideLayer::record).collect(),
        composed: candidate.composed,
        deviating: differences.into_keys().collect::<HashSet<_>>(),
        deviations,
        filter: None,
        left_out: HashSet::new(),
        serial: candidate.publish.serial,
        kernel: None,
        origin: Origin::Adopted,
    }
}

/// Ends a run with `--adopt`: records the adopted generation and reports it.
pub(in crate::update) fn finish_adopt_only(
    run: &Run<'_>,
    installed: Option<Installed>,
    seen: &SeenCatalog,
) -> Result<Report, UpdateError> {
    let Some(installed) = installed.filter(Installed::is_adopted) else {
        return Err(Refusal::NotAdoptable { percent: run.request.adopt_share * 100.0 }.into());
    };
    if !run.request.dry_run {
        // Without the etag, the next run compares the provisions of the image with the tree.
        recorded::record_adopted(run, &installed, &SeenCatalog { sha256: None, ..seen.clone() })?;
    }

    Ok(Report {
        generation: Some(installed.manifest.id()),
        serial: Some(installed.serial),
        deviations: installed.deviations,
        ..Report::new(UpdateOutcome::Adopted, Route::Adoption.to_string())
    })
}
