//! Removes old generations, so that the rest is still a complete repository.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::catalog::{Archive, ArchiveKind, Catalog, RepoPath};
use crate::diff_archive::content_index::ContentIndex;
use crate::generation::GenerationId;
use crate::image::Layer;
use crate::publish::{
    Accepted, DeltaDepth, LockedStore, PublishError, Published, find_unreachable, write_index,
};
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

/// Default of the time for which files remain after the last head that names them.
pub const PRUNE_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Keeps the newest `keep` generations, at least one.
///
/// Older ones are kept too, as long as only their archives have a content of the head. Files that a
/// head named within `grace` remain, since a node may have fetched that head: the next prune
/// removes them. Of a cluster, which has no generations, only such files are removed.
pub fn prune(
    locked: &LockedStore,
    mut accepted: Accepted,
    keep: usize,
    grace: Duration,
    monitor: &dyn Monitor,
) -> Result<Pruned, PublishError> {
    let store = locked.store();
    let published = accepted.published();
    if *store.layer() == Layer::Cluster {
        let files = remove_unnamed(locked, published, grace)?;
        return Ok(Pruned { generations: Vec::new(), files });
    }
    let old_catalog = published.catalog.clone();
    let generations = newest_first(&old_catalog);
    let keep = keep.max(1);
    let KeptPart { count, archives, index } =
        choose_kept_part(locked, &old_catalog, &generations, keep)?;
    if count > keep && generations.len() > keep {
        monitor.note(TardiffNotice::MoreGenerationsKept { count: count - keep });
    }

    let mut pruned = Pruned { generations: generations[count..].to_vec(), files: Vec::new() };
    if !pruned.generations.is_empty() {
        let is_kept = |archive: &Archive| needs_only(archive, &generations[..count]);
        let (new_index, content) = write_index(locked, &index)?;
        let mut catalog = Catalog {
            revision: old_catalog.next_revision(),
            issued: Timestamp::now(),
            previous: Some(published.head.catalog),
            content: Some(content),
            archives,
            ..old_catalog
        };
        catalog.publishes.retain(|publish| generations[..count].contains(&publish.generation));
        catalog.unreadable.retain(is_kept);

        locked.rename_into_place([&new_index])?;
        accepted = locked.commit(catalog, Some(published))?;
    }

    pruned.files = remove_unnamed(locked, accepted.published(), grace)?;
    Ok(pruned)
}

/// Removes files that no head has named within `grace`.
fn remove_unnamed(
    locked: &LockedStore,
    published: &Published,
    grace: Duration,
) -> Result<Vec<RepoPath>, PublishError> {
    let store = locked.store();
    let since = Timestamp::now().checked_sub(grace).unwrap_or(Timestamp::MIN);
    let mut named: HashSet<RepoPath> = listed_files(published).collect();
    named.extend(store.files_named_since(published, since));

    let mut removed = Vec::new();
    for file in store.files()? {
        if is_written_by_publish(&file) && !named.contains(&file) {
            locked.remove(&file)?;
            removed.push(file);
        }
    }
    Ok(removed)
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
        let newest = &generations[..count];
        let archives: Vec<Archive> = catalog
            .archives
            .iter()
            .filter(|archive| needs_only(archive, newest))
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
fn needs_only(archive: &Archive, kept: &[GenerationId]) -> bool {
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

/// All files that a head and its catalog name.
pub(super) fn listed_files(published: &Published) -> impl Iterator<Item = RepoPath> {
    let catalog = published.head.catalog_file().into_iter();
    catalog.chain(published.catalog.files()).map(|file| file.file)
}

/// Whether a publish writes files of this name; others belong to the administrator.
pub(super) fn is_written_by_publish(file: &RepoPath) -> bool {
    let name = file.as_str();
    let archive = name.ends_with(".tar.zst") || name.ends_with(".tar.gz");
    name.starts_with("catalogs/") && name.ends_with(".toml")
        || name.starts_with("manifests/") && name.ends_with(".mtree.zst")
        || (name.starts_with("full/") || name.starts_with("diffs/")) && archive
        || name.starts_with("content/") && name.ends_with(".idx.zst")
        || name.starts_with("files/") && name.ends_with(".txt")
        || name.starts_with("torrents/") && name.ends_with(".torrent")
}
