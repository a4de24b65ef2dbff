//! Which archives a publish makes: decided without looking at a file.

use std::collections::HashSet;

use crate::catalog::{ArchiveKind, Catalog, FileRef};
use crate::delta::{Effort, Opening};
use crate::diff_archive::WriteOptions;
use crate::generation::GenerationId;

/// How an image is published.
#[derive(Clone, Copy, Debug)]
pub struct PublishPolicy {
    /// From how many of the last generations a diff is made.
    pub diffs: usize,
    /// A full archive is written again when the diffs since the last one have grown past this share
    /// of it, in percent.
    pub full_share: u64,
    /// Whether diffs hold deltas; without them plain `tar` can unpack a diff.
    pub deltas: bool,
    /// How archives are compressed.
    pub options: WriteOptions,
    /// How much work goes into deltas.
    pub effort: Effort,
    /// When compressed files are taken apart.
    pub opening: Opening,
}

/// The generations that a diff to `target` is made from, the newest first.
pub(super) fn bases(
    catalog: &Catalog,
    target: GenerationId,
    policy: &PublishPolicy,
) -> Vec<GenerationId> {
    let mut seen = HashSet::from([target]);
    let newest_first = catalog.publishes.iter().rev().map(|publish| publish.generation);
    newest_first.filter(|generation| seen.insert(*generation)).take(policy.diffs).collect()
}

/// Whether `target`, to which `step` leads from the last head, is to be written in full as well.
///
/// The diffs since the last full archive are those between consecutive publishes.
pub(super) fn full_is_due(
    catalog: &Catalog,
    target: GenerationId,
    step: Option<&FileRef>,
    policy: &PublishPolicy,
) -> bool {
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
        catalog
            .archives
            .iter()
            .find(|archive| archive.kind == kind)
            .map_or(0, |archive| archive.file.size)
    };
    let steps = catalog.publishes[at..]
        .windows(2)
        .map(|pair| size_of(pair[0].generation, pair[1].generation));
    let since = steps.chain(step.map(|file| file.size)).fold(0u64, u64::saturating_add);
    since.saturating_mul(100) > size.saturating_mul(policy.full_share)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::catalog::{Archive, FirstFrame, Publish, RepoPath};
    use crate::diff_archive::FrameCompression;
    use crate::digest::Digest;

    fn id(n: u8) -> GenerationId {
        GenerationId(Digest([n; 32]))
    }

    fn file(size: u64) -> FileRef {
        FileRef { file: RepoPath::new("x").expect("good"), size, sha256: Digest([0; 32]) }
    }

    /// A catalog of these generations, one publish each, with these archives.
    fn catalog(generations: &[u8], archives: &[(Option<u8>, u8, u64)]) -> Catalog {
        let publish = |(serial, generation): (u64, &u8)| Publish {
            serial,
            generation: id(*generation),
            label: None,
            time: Timestamp::UNIX_EPOCH,
            entries: 1,
            bytes: 1,
            manifest: file(1),
        };
        let archive = |&(base, target, size): &(Option<u8>, u8, u64)| Archive {
            kind: match base {
                None => ArchiveKind::Full { target: id(target) },
                Some(base) => ArchiveKind::Diff { base: id(base), target: id(target) },
            },
            file: file(size),
            first_frame: FirstFrame { length: 1, sha256: Digest([0; 32]) },
        };
        Catalog {
            image: "node".parse().expect("good"),
            serial: generations.len() as u64,
            published: Timestamp::UNIX_EPOCH,
            expires: None,
            content: None,
            publishes: (1..).zip(generations).map(publish).collect(),
            archives: archives.iter().map(archive).collect(),
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
            opening: Effort::Fast.opening(),
        }
    }

    #[test]
    fn diffs_are_made_from_the_last_distinct_generations() {
        let bases_of =
            |generations: &[u8], target| bases(&catalog(generations, &[]), id(target), &policy());
        assert_eq!(bases_of(&[1, 2, 3], 4), [id(3), id(2)]);
        assert_eq!(bases_of(&[1, 2, 1, 2], 3), [id(2), id(1)]);
        assert_eq!(bases_of(&[1, 2], 1), [id(2)]);
    }

    #[test]
    fn a_full_archive_is_due_when_the_steps_since_the_last_have_grown() {
        let due = |archives: &[_], step| {
            full_is_due(&catalog(&[1, 2, 3], archives), id(4), Some(&file(step)), &policy())
        };
        assert!(due(&[], 1));
        assert!(!due(&[(None, 1, 1000), (Some(1), 2, 200), (Some(2), 3, 200)], 100));
        assert!(due(&[(None, 1, 1000), (Some(1), 2, 200), (Some(2), 3, 200)], 101));
        // Diffs that skip a generation are other ways to the same place.
        assert!(!due(
            &[(None, 1, 1000), (Some(1), 2, 200), (Some(2), 3, 200), (Some(1), 3, 400)],
            100
        ));
        assert!(!due(&[(None, 1, 1000), (Some(1), 2, 400), (None, 3, 1000)], 500));
        assert!(due(&[(None, 1, 10)], u64::MAX));
    }
}
