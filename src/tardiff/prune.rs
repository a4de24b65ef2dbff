//! Removes old generations, so that the rest is still a complete repository.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::catalog::{Archive, ArchiveKind, Catalog, RepoPath};
use crate::diff_archive::content_index::ContentIndex;
use crate::generation::GenerationId;
use crate::publish::{DeltaDepth, LockedStore, PublishError, find_unreachable, write_index};
use crate::report::Monitor;
use crate::tardiff::notice::TardiffNotice;

/// Result of a prune.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Generations that the catalog no longer lists.
    pub generations: Vec<GenerationId>,
    /// Removed files.
    pub files: Vec<RepoPath>,
}

/// Part of a repository that a prune keeps.
struct KeptPart {
    /// Number of generations, from the newest.
    count: usize,
    archives: Vec<Archive>,
    index: ContentIndex,
}

/// Keeps the newest `keep` generations, at least one.
///
/// Older ones are kept too, as long as only their archives have a content of the head. The catalog
/// is written before files are removed, so no reader finds a file listed and missing.
pub fn prune(
    locked: &LockedStore,
    keep: usize,
    monitor: &dyn Monitor,
) -> Result<Pruned, PublishError> {
    let store = locked.store();
    let old_catalog =
        store.catalog()?.ok_or_else(|| PublishError::NothingPublished(store.layer().clone()))?;
    let generations = newest_first(&old_catalog);
    let keep = keep.max(1);
    let KeptPart { count, archives, index } =
        choose_kept_part(locked, &old_catalog, &generations, keep)?;
    if count > keep && generations.len() > keep {
        monitor.note(TardiffNotice::MoreGenerationsKept { count: count - keep });
    }

    let mut pruned = Pruned { generations: generations[count..].to_vec(), files: Vec::new() };
    let mut catalog = Catalog { published: Timestamp::now(), archives, ..old_catalog.clone() };
    if !pruned.generations.is_empty() {
        catalog.publishes.retain(|publish| generations[..count].contains(&publish.generation));
        let mut new_files = Vec::new();
        catalog.content = Some(write_index(locked, catalog.serial, &index, &mut new_files)?);
        locked.rename_into_place(&new_files)?;
        locked.commit(&catalog)?;
    }

    // A reader that still has the old catalog may ask for its index.
    let old_index = old_catalog.content.map(|content| content.file);
    let listed: HashSet<RepoPath> = listed_files(&catalog).chain(old_index).collect();
    for file in store.files()? {
        if is_written_by_publish(&file) && !listed.contains(&file) {
            locked.remove(&file)?;
            pruned.files.push(file);
        }
    }
    Ok(pruned)
}

/// Finds the smallest part with `keep` generations that supplies each content of the head.
fn choose_kept_part(
    locked: &LockedStore,
    catalog: &Catalog,
    generations: &[GenerationId],
    keep: usize,
) -> Result<KeptPart, PublishError> {
    let store = locked.store();
    let full_index = store.index(catalog)?;
    let head = store.manifest(catalog.head())?;

    let mut count = keep.min(generations.len());
    loop {
        let newest: HashSet<GenerationId> = generations[..count].iter().copied().collect();
        let archives: Vec<Archive> = catalog
            .archives
            .iter()
            .filter(|archive| needs_only(archive, &newest))
            .cloned()
            .collect();
        let index = restrict(&full_index, &archives);
        let groups = store.delta_groups(&archives)?;
        let is_complete =
            find_unreachable(&head, &DeltaDepth::new(&index, groups.iter())).is_none();
        if is_complete || count == generations.len() {
            return Ok(KeptPart { count, archives, index });
        }
        count += 1;
    }
}

/// Each generation once, in the order of its newest publish.
fn newest_first(catalog: &Catalog) -> Vec<GenerationId> {
    let mut seen = HashSet::new();
    let generations = catalog.publishes.iter().rev().map(|publish| publish.generation);
    generations.filter(|generation| seen.insert(*generation)).collect()
}

/// Whether base and target of an archive are kept.
fn needs_only(archive: &Archive, kept: &HashSet<GenerationId>) -> bool {
    match archive.kind {
        ArchiveKind::Full { target } => kept.contains(&target),
        ArchiveKind::Diff { base, target } => kept.contains(&base) && kept.contains(&target),
    }
}

/// The entries of `index` for `archives`.
fn restrict(index: &ContentIndex, archives: &[Archive]) -> ContentIndex {
    let all = index.clone().into_archives().into_iter();
    ContentIndex::new(
        all.filter(|(file, _)| archives.iter().any(|archive| archive.file.file == *file)),
    )
}

/// All files that `catalog` lists.
pub(super) fn listed_files(catalog: &Catalog) -> impl Iterator<Item = RepoPath> {
    let manifests = catalog.publishes.iter().map(|publish| publish.manifest.file.clone());
    let archives = catalog.archives.iter().map(|archive| archive.file.file.clone());
    manifests.chain(archives).chain(catalog.content.iter().map(|content| content.file.clone()))
}

/// Whether a publish writes files of this name; others belong to the administrator.
pub(super) fn is_written_by_publish(file: &RepoPath) -> bool {
    let name = file.as_str();
    let archive = name.ends_with(".tar.zst") || name.ends_with(".tar.gz");
    name.starts_with("manifests/") && name.ends_with(".mtree.zst")
        || (name.starts_with("full/") || name.starts_with("diffs/")) && archive
        || name.starts_with("content-") && name.ends_with(".idx.zst")
}
