//! Removes old generations so that what stays is a repository as before.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::catalog::{Archive, ArchiveKind, Catalog, RepoPath};
use crate::diff_archive::content_index::ContentIndex;
use crate::generation::GenerationId;
use crate::publish::{
    DeltaDepth, LockedStore, PublishError, find_unreachable, groups_of, write_index,
};
use crate::report::Monitor;

/// What was removed.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Generations that are no longer listed.
    pub generations: Vec<GenerationId>,
    /// Files that are gone.
    pub files: Vec<RepoPath>,
}

/// Keeps the newest `keep` generations, at least one, and older ones only as far as the head's content
/// is nowhere else. The catalog is written first, so a reader never finds a file listed and gone.
pub fn prune(
    locked: &LockedStore,
    keep: usize,
    monitor: &dyn Monitor,
) -> Result<Pruned, PublishError> {
    let store = locked.store();
    let before =
        store.catalog()?.ok_or_else(|| PublishError::NothingPublished(store.layer().clone()))?;
    let index = store.index(&before)?;
    let head = store.manifest(before.head())?;
    let order = newest_first(&before);
    let mut count = keep.max(1).min(order.len());
    let (archives, index) = loop {
        let kept: HashSet<GenerationId> = order[..count].iter().copied().collect();
        let archives: Vec<Archive> =
            before.archives.iter().filter(|a| is_among(a, &kept)).cloned().collect();
        let index = only(&index, &archives);
        let groups = groups_of(store, &archives)?;
        if find_unreachable(&head, &DeltaDepth::new(&index, groups.iter())).is_none()
            || count == order.len()
        {
            break (archives, index);
        }
        count += 1;
    };
    if count > keep.max(1) && order.len() > keep {
        let more = count - keep.max(1);
        monitor.note(format!(
            "{more} more generations are kept, since the head's content is in their archives"
        ));
    }
    let mut pruned = Pruned { generations: order[count..].to_vec(), files: Vec::new() };
    let mut catalog = Catalog { published: Timestamp::now(), archives, ..before.clone() };
    if !pruned.generations.is_empty() {
        catalog.publishes.retain(|publish| order[..count].contains(&publish.generation));
        let mut new = Vec::new();
        catalog.content = Some(write_index(locked, catalog.serial, &index, &mut new)?);
        locked.rename_into_place(&new)?;
        locked.commit(&catalog)?;
    }
    // A reader that has the catalog from before may still ask for its index.
    let recent = before.content.map(|content| content.file);
    let named: HashSet<RepoPath> = files_of(&catalog).chain(recent).collect();
    for file in store.files()?.into_iter().filter(|file| is_ours(file) && !named.contains(file)) {
        locked.remove(&file)?;
        pruned.files.push(file);
    }
    Ok(pruned)
}

/// Each generation once, by its newest publish.
fn newest_first(catalog: &Catalog) -> Vec<GenerationId> {
    let mut seen = HashSet::new();
    let generations = catalog.publishes.iter().rev().map(|publish| publish.generation);
    generations.filter(|generation| seen.insert(*generation)).collect()
}

fn is_among(archive: &Archive, kept: &HashSet<GenerationId>) -> bool {
    match archive.kind {
        ArchiveKind::Full { target } => kept.contains(&target),
        ArchiveKind::Diff { base, target } => kept.contains(&base) && kept.contains(&target),
    }
}

/// What `index` says of `archives`.
fn only(index: &ContentIndex, archives: &[Archive]) -> ContentIndex {
    let all = index.clone().into_archives().into_iter();
    ContentIndex::new(
        all.filter(|(file, _)| archives.iter().any(|archive| archive.file.file == *file)),
    )
}

/// Every file that `catalog` names.
pub(super) fn files_of(catalog: &Catalog) -> impl Iterator<Item = RepoPath> {
    let manifests = catalog.publishes.iter().map(|publish| publish.manifest.file.clone());
    let archives = catalog.archives.iter().map(|archive| archive.file.file.clone());
    manifests.chain(archives).chain(catalog.content.iter().map(|content| content.file.clone()))
}

/// Whether a publish makes files of this name: others are the administrator's.
pub(super) fn is_ours(file: &RepoPath) -> bool {
    let name = file.as_str();
    let archive = name.ends_with(".tar.zst") || name.ends_with(".tar.gz");
    name.starts_with("manifests/") && name.ends_with(".mtree.zst")
        || (name.starts_with("full/") || name.starts_with("diffs/")) && archive
        || name.starts_with("content-") && name.ends_with(".idx.zst")
}
