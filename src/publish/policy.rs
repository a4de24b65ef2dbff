//! Which archives a publish makes: decided without looking at a file.

use std::collections::HashSet;

use crate::catalog::{ArchiveKind, Catalog, FileRef};
use crate::diff_archive::Options;
use crate::generation::GenerationId;

/// How an image is published.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// From how many of the last generations a diff is made.
    pub diffs: usize,
    /// A full archive is written again when the diffs since the last one have grown past this share
    /// of it, in percent.
    pub full_share: u64,
    /// Whether diffs hold deltas; without them plain `tar` can unpack a diff.
    pub deltas: bool,
    /// How archives are compressed.
    pub options: Options,
    /// The level of zstd for deltas.
    pub delta_level: i32,
}

/// The generations that a diff to `target` is made from, the newest first.
pub(super) fn bases(catalog: &Catalog, target: GenerationId, policy: &Policy) -> Vec<GenerationId> {
    let mut seen = HashSet::from([target]);
    let newest_first = catalog.publishes.iter().rev().map(|publish| publish.generation);
    newest_first.filter(|generation| seen.insert(*generation)).take(policy.diffs).collect()
}

/// Whether `target`, to which `step` leads from the last head, is to be written in full as well.
///
/// The diffs since the last full archive are those between consecutive publishes.
pub(super) fn full_is_due(catalog: &Catalog, target: GenerationId, step: Option<&FileRef>, policy: &Policy) -> bool {
    let full = catalog.archives.iter().filter_map(|archive| match archive.kind {
        ArchiveKind::Full { target } => {
            let at = catalog.publishes.iter().rposition(|publish| publish.generation == target)?;
            Some((at, target, archive.file.size))
        }
        ArchiveKind::Diff { .. } => None,
    });
    let Some((at, whole, size)) = full.max_by_key(|(at, ..)| *at) else { return true };
    if whole == target {
        return false;
    }
    let size_of = |base, target| {
        let kind = ArchiveKind::Diff { base, target };
        catalog.archives.iter().find(|archive| archive.kind == kind).map_or(0, |archive| archive.file.size)
    };
    let steps = catalog.publishes[at..].windows(2).map(|pair| size_of(pair[0].generation, pair[1].generation));
    let since = steps.chain(step.map(|file| file.size)).fold(0u64, u64::saturating_add);
    since.saturating_mul(100) > size.saturating_mul(policy.full_share)
}
