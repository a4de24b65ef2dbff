//! Decides which archives a publish writes, from the catalog alone.

use std::collections::HashSet;

use crate::catalog::{ArchiveKind, Catalog, FileRef};
use crate::delta::{Effort, RebuildLimit};
use crate::diff_archive::WriteOptions;
use crate::generation::GenerationId;

/// The settings of a publish.
#[derive(Clone, Copy, Debug)]
pub struct PublishPolicy {
    /// The number of latest generations from which a diff is written.
    pub diffs: usize,
    /// Share of the last full archive, in percent. If the diffs since then are larger, the publish
    /// writes a full archive again.
    pub full_share: u64,
    /// Whether diffs hold deltas. Without them plain `tar` can unpack a diff.
    pub deltas: bool,
    /// The compression of archives.
    pub options: WriteOptions,
    /// The amount of work spent on deltas.
    pub effort: Effort,
    /// The rule for decomposing compressed files.
    pub rebuild_limit: RebuildLimit,
}

/// The generations from which a diff to `target` is written, newest first.
pub(super) fn bases(
    catalog: &Catalog,
    target: GenerationId,
    policy: &PublishPolicy,
) -> Vec<GenerationId> {
    let mut listed = HashSet::from([target]);
    let newest_first = catalog.publishes.iter().rev().map(|publish| publish.generation);
    newest_first.filter(|generation| listed.insert(*generation)).take(policy.diffs).collect()
}

/// Whether a full archive of `target` is due. `step` is the diff from the previous head.
///
/// The diffs since the last full archive are those between consecutive publishes; diffs that skip
/// generations do not count.
pub(super) fn full_is_due(
    catalog: &Catalog,
    target: GenerationId,
    step: Option<&FileRef>,
    policy: &PublishPolicy,
) -> bool {
    // The newest publish that has a full archive: position, generation, size.
    let full = catalog.archives.iter().filter_map(|archive| match archive.kind {
        ArchiveKind::Full { target } => {
            let at = catalog.publishes.iter().rposition(|publish| publish.generation == target)?;
            Some((at, target, archive.file.size))
        }
        ArchiveKind::Diff { .. } => None,
    });
    let Some((at, generation, size)) = full.max_by_key(|(at, ..)| *at) else { return true };
    if generation == target {
        return false;
    }

    let size_of = |base, target| {
        let kind = ArchiveKind::Diff { base, target };
        let mut archives = catalog.archives.iter();
        archives.find(|archive| archive.kind == kind).map_or(0, |archive| archive.file.size)
    };
    let steps = catalog.publishes[at..]
        .windows(2)
        .map(|pair| size_of(pair[0].generation, pair[1].generation));
    let total = steps.chain(step.map(|file| file.size)).fold(0u64, u64::saturating_add);

    total.saturating_mul(100) > size.saturating_mul(policy.full_share)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::catalog::{Archive, FirstFrame, Publish, RepoPath};
    use crate::diff_archive::FrameCompression;
    use crate::digest::Digest;
    use crate::image::Layer;

    fn id(n: u8) -> GenerationId {
        GenerationId(Digest([n; 32]))
    }

    fn file(size: u64) -> FileRef {
        FileRef { file: RepoPath::new("x").expect("good"), size, sha256: Digest([0; 32]) }
    }

    /// A catalog with one publish of each generation, and archives as (base, target, size).
    fn catalog(generations: &[u8], archives: &[(Option<u8>, u8, u64)]) -> Catalog {
        Catalog {
            layer: Layer::Image("node".parse().expect("good")),
            serial: generations.len() as u64,
            revision: 0,
            issued: Timestamp::UNIX_EPOCH,
            previous: None,
            unreadable: Vec::new(),
            cluster_file: None,
            content: None,
            publishes: (1..)
                .zip(generations)
                .map(|(serial, generation): (u64, &u8)| Publish {
                    serial,
                    generation: id(*generation),
                    label: None,
                    time: Timestamp::UNIX_EPOCH,
                    entries: 1,
                    bytes: 1,
                    manifest: file(1),
                })
                .collect(),
            archives: archives
                .iter()
                .map(|&(base, target, size): &(Option<u8>, u8, u64)| Archive {
                    kind: match base {
                        None => ArchiveKind::Full { target: id(target) },
                        Some(base) => ArchiveKind::Diff { base: id(base), target: id(target) },
                    },
                    file: file(size),
                    first_frame: FirstFrame { length: 1, sha256: Digest([0; 32]) },
                    needs: Vec::new(),
                    torrent: None,
                })
                .collect(),
        }
    }

    fn policy() -> PublishPolicy {
        let options = WriteOptions::new(FrameCompression::Zstd, Effort::Fast, None);
        PublishPolicy {
            diffs: 2,
            full_share: 50,
            deltas: true,
            options,
            effort: Effort::Fast,
            rebuild_limit: Effort::Fast.rebuild_limit(),
        }
    }

    #[test]
    fn bases_are_the_latest_distinct_generations() {
        let bases_of =
            |generations: &[u8], target| bases(&catalog(generations, &[]), id(target), &policy());
        assert_eq!(bases_of(&[1, 2, 3], 4), [id(3), id(2)]);
        assert_eq!(bases_of(&[1, 2, 1, 2], 3), [id(2), id(1)]);
        assert_eq!(bases_of(&[1, 2], 1), [id(2)]);
    }

    #[test]
    fn full_archive_is_due_above_step_share() {
        let due = |archives: &[_], step| {
            full_is_due(&catalog(&[1, 2, 3], archives), id(4), Some(&file(step)), &policy())
        };

        assert!(due(&[], 1));
        assert!(!due(&[(None, 1, 1000), (Some(1), 2, 200), (Some(2), 3, 200)], 100));
        assert!(due(&[(None, 1, 1000), (Some(1), 2, 200), (Some(2), 3, 200)], 101));
        // A diff that skips a generation does not count.
        assert!(!due(
            &[(None, 1, 1000), (Some(1), 2, 200), (Some(2), 3, 200), (Some(1), 3, 400)],
            100
        ));
        assert!(!due(&[(None, 1, 1000), (Some(1), 2, 400), (None, 3, 1000)], 500));
        assert!(due(&[(None, 1, 10)], u64::MAX));
    }
}
