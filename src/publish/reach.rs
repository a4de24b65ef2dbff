//! Which contents a repository holds, and by how many deltas.

use std::collections::HashMap;

use crate::diff_archive::Group;
use crate::diff_archive::content_index::ContentIndex;
use crate::digest::Digest;

/// By how many deltas, one upon the other, each content of a repository is made; 0 where it is whole.
#[derive(Clone, Debug, Default)]
pub struct Reach(HashMap<Digest, u32>);

impl Reach {
    /// Follows the delta groups of all archives, from the contents that are there whole.
    pub fn of<'g>(index: &ContentIndex, groups: impl Iterator<Item = &'g Group>) -> Self {
        let whole = index.iter().filter(|(_, record)| record.place.group.is_none());
        let mut depths: HashMap<Digest, u32> = whole.map(|(_, record)| (record.digest, 0)).collect();
        let groups: Vec<&Group> = groups.collect();
        loop {
            let mut nearer = false;
            for group in &groups {
                let sources = group.sources.iter().map(|source| depths.get(&source.digest).copied());
                let Some(deepest) = sources.collect::<Option<Vec<u32>>>().and_then(|all| all.into_iter().max()) else {
                    continue;
                };
                for target in &group.targets {
                    let depth = depths.entry(target.digest).or_insert(u32::MAX);
                    nearer |= deepest + 1 < *depth;
                    *depth = (*depth).min(deepest + 1);
                }
            }
            if !nearer {
                return Reach(depths);
            }
        }
    }

    /// By how many deltas a content is made; `None` where the repository does not have it.
    pub fn depth(&self, digest: &Digest) -> Option<u32> {
        self.0.get(digest).copied()
    }
}
