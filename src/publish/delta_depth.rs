//! The number of deltas that produce each content of a repository.

use std::collections::HashMap;

use crate::diff_archive::DeltaGroup;
use crate::diff_archive::content_index::ContentIndex;
use crate::digest::Digest;

/// The length of the shortest chain of deltas to each content; 0 if an archive has it whole.
#[derive(Clone, Debug, Default)]
pub struct DeltaDepth(HashMap<Digest, u32>);

impl DeltaDepth {
    /// Computes the depths from the whole contents and the delta groups of all archives.
    ///
    /// Relaxation in the manner of Bellman and Ford: the loop ends once no group shortens a chain.
    pub fn new<'g>(index: &ContentIndex, groups: impl Iterator<Item = &'g DeltaGroup>) -> Self {
        let whole = index.iter().filter(|(_, record)| record.place.group.is_none());
        let mut depths: HashMap<Digest, u32> =
            whole.map(|(_, record)| (record.digest, 0)).collect();
        let groups: Vec<&DeltaGroup> = groups.collect();

        loop {
            let mut shortened = false;
            for group in &groups {
                // A group is as deep as its deepest source, and unusable while one is unknown.
                let sources: Option<Vec<u32>> =
                    group.sources.iter().map(|s| depths.get(&s.digest).copied()).collect();
                let Some(deepest) = sources.and_then(|depths| depths.into_iter().max()) else {
                    continue;
                };

                for target in &group.targets {
                    let depth = depths.entry(target.digest).or_insert(u32::MAX);
                    shortened |= deepest + 1 < *depth;
                    *depth = (*depth).min(deepest + 1);
                }
            }

            if !shortened {
                return DeltaDepth(depths);
            }
        }
    }

    /// The depth of a content; `None` if the repository cannot produce it.
    pub fn get(&self, digest: &Digest) -> Option<u32> {
        self.0.get(digest).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::RepoPath;
    use crate::delta::Kind;
    use crate::diff_archive::content_index::{ContentLocation, IndexRecord};
    use crate::diff_archive::{GroupSource, GroupTarget};
    use crate::tree_path::TreePath;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn group(sources: &[u8], targets: &[u8]) -> DeltaGroup {
        DeltaGroup {
            number: 0,
            kind: Kind::Prefix,
            patch_length: 1,
            decisions: 0,
            sources: sources
                .iter()
                .map(|n: &u8| GroupSource {
                    digest: digest(*n),
                    size: 1,
                    path: TreePath::root(),
                    plain: None,
                })
                .collect(),
            targets: targets
                .iter()
                .map(|n: &u8| GroupTarget { digest: digest(*n), size: 1, rebuilt: None })
                .collect(),
        }
    }

    #[test]
    fn delta_depth_is_shortest_chain_of_deepest_source() {
        let place = ContentLocation { frame: 0, offset: 0, group: None };
        let whole = |n| IndexRecord { digest: digest(n), size: 1, place };
        let index = ContentIndex::new([(
            RepoPath::new("full/a.tar.zst").expect("good"),
            vec![whole(1), whole(2)],
        )]);
        let groups = [
            group(&[4], &[5]),
            group(&[3, 2], &[4]),
            group(&[1], &[3]),
            group(&[9], &[8]),
            group(&[1], &[5, 1]),
        ];

        let depths = DeltaDepth::new(&index, groups.iter());

        let found: Vec<Option<u32>> = (1..10).map(|n| depths.get(&digest(n))).collect();
        assert_eq!(found, [Some(0), Some(0), Some(1), Some(2), Some(1), None, None, None, None]);
    }

    #[test]
    fn circle_of_deltas_produces_nothing() {
        let circle = [group(&[7], &[8]), group(&[8], &[7])];

        let depths = DeltaDepth::new(&ContentIndex::default(), circle.iter());

        assert_eq!(depths.get(&digest(7)), None);
    }
}
