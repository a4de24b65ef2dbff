//! Contents of a diff that only excluded paths have.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::Filter;
use crate::manifest::Manifest;

/// Contents of base and target of a diff that only excluded paths have; empty by default.
///
/// Nodes with these exclude rules neither have nor need them. If another content depended on one of
/// them, every such node would have to fetch that content a second time.
#[derive(Clone, Debug, Default)]
pub struct ExcludedContents {
    base: HashSet<Digest>,
    target: HashSet<Digest>,
}

impl ExcludedContents {
    /// Finds the contents that `filter` excludes at each of their paths.
    pub fn find(base: &Manifest, target: &Manifest, filter: &Filter) -> Self {
        let (base, target) =
            rayon::join(|| excluded_digests(base, filter), || excluded_digests(target, filter));
        ExcludedContents { base, target }
    }

    /// Whether nodes lack the content of `source`, an entry of the base.
    pub fn is_source_excluded(&self, source: &Entry) -> bool {
        source.digest().is_some_and(|digest| self.base.contains(digest))
    }

    /// Whether nodes do not need the content of `entry`, an entry of the target.
    pub fn is_target_excluded(&self, entry: &Entry) -> bool {
        entry.digest().is_some_and(|digest| self.target.contains(digest))
    }

    /// Whether a content of the base may be left out of a diff.
    ///
    /// It may not if nodes need it and lack it, because it moves from an excluded path to another.
    pub fn is_known(&self, digest: &Digest) -> bool {
        !self.base.contains(digest) || self.target.contains(digest)
    }
}

fn excluded_digests(manifest: &Manifest, filter: &Filter) -> HashSet<Digest> {
    let mut cursor = filter.cursor();
    let (mut excluded, mut included) = (HashSet::new(), HashSet::new());

    for entry in manifest.entries() {
        let Some(digest) = entry.digest() else { continue };
        let digests = match cursor.excludes(&entry.path, entry.kind()) {
            Some(_) => &mut excluded,
            None => &mut included,
        };
        digests.insert(*digest);
    }
    excluded.retain(|digest| !included.contains(digest));
    excluded
}
