//! Which contents a repository holds, and by how many deltas.

use std::collections::HashMap;

use crate::diff_archive::DeltaGroup;
use crate::diff_archive::content_index::ContentIndex;
use crate::digest::Digest;

/// By how many deltas, one upon the other, each content of a repository is made; 0 where it is whole.
#[derive(Clone, Debug, Default)]
pub struct DeltaDepth(HashMap<Digest, u32>);

impl DeltaDepth {
    /// Follows the delta groups of all archives, from the contents that are there whole.
    pub fn of<'g>(index: &ContentIndex, groups: impl Iterator<Item = &'g DeltaGroup>) -> Self {
        let whole = index.iter().filter(|(_, record)| record.place.group.is_none());
        let mut depths: HashMap<Digest, u32> =
            whole.map(|(_, record)| (record.digest, 0)).collect();
        let groups: Vec<&DeltaGroup> = groups.collect();
        loop {
            let mut nearer = false;
            for group in &groups {
                let sources =
                    group.sources.iter().map(|source| depths.get(&source.digest).copied());
                let Some(deepest) =
                    sources.collect::<Option<Vec<u32>>>().and_then(|all| all.into_iter().max())
                else {
                    continue;
                };
                for target in &group.targets {
                    let depth = depths.entry(target.digest).or_insert(u32::MAX);
                    nearer |= deepest + 1 < *depth;
                    *depth = (*depth).min(deepest + 1);
                }
            }
            if !nearer {
                return DeltaDepth(depths);
            }
        }
    }

    /// By how many deltas a content is made; `None` where the repository does not have it.
    pub fn depth(&self, digest: &Digest) -> Option<u32> {
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
        let source = |n: &u8| GroupSource {
            digest: digest(*n),
            size: 1,
            path: TreePath::root(),
            plain: None,
        };
        let target = |n: &u8| GroupTarget { digest: digest(*n), size: 1, inside: None };
        DeltaGroup {
            number: 0,
            kind: Kind::Prefix,
            patch_length: 1,
            sources: sources.iter().map(source).collect(),
            targets: targets.iter().map(target).collect(),
        }
    }

    #[test]
    fn a_content_is_as_far_as_its_farthest_source_by_the_shortest_way() {
        let place = ContentLocation { frame_offset: 0, frame_length: 1, offset: 0, group: None };
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
        let reach = DeltaDepth::of(&index, groups.iter());
        let depths: Vec<Option<u32>> = (1..10).map(|n| reach.depth(&digest(n))).collect();
        assert_eq!(depths, [Some(0), Some(0), Some(1), Some(2), Some(1), None, None, None, None]);
        // A circle of deltas leads nowhere.
        let circle = [group(&[7], &[8]), group(&[8], &[7])];
        assert_eq!(DeltaDepth::of(&ContentIndex::default(), circle.iter()).depth(&digest(7)), None);
    }
}
