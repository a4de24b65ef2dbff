//! Changes of a diff: the parts of a listing, and their check (clauses 8 to 11).

use std::collections::{HashMap, HashSet};

use crate::delta::Kind;
use crate::diff_archive::error::ListingDefect;
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::member::{OWN, link_target};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::tree_path::TreePath;

/// Whether a diff may rely on the contents of its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaMode {
    /// Plain `tar` can unpack the archive over the base (clause 10).
    WithoutDeltas,
    /// Contents of the base are left out, others are patches (clause 11).
    WithDeltas,
}

/// A content that the base has and the archive therefore lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownContent {
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Path of a file of the base with it; a hint, the digest decides.
    pub path: TreePath,
}

/// Parts of a listing, not checked yet.
pub(super) struct ListingParts {
    pub image: ImageName,
    pub base: GenerationId,
    pub target: GenerationId,
    pub mode: DeltaMode,
    pub removed: Vec<Entry>,
    pub changed: Vec<Entry>,
    pub known: Vec<KnownContent>,
    pub groups: Vec<DeltaGroup>,
}

impl ListingParts {
    /// Checks the parts against each other.
    ///
    /// Returns the indices of the changed entries whose content is in the archive as a whole, in
    /// order.
    pub fn check(&self) -> Result<Vec<u32>, ListingDefect> {
        self.check_paths()?;
        let sizes = self.content_sizes()?;
        if u32::try_from(self.changed.len()).is_err() {
            return Err(ListingDefect::TooManyEntries);
        }

        let absent = self.absent_contents(&sizes)?;
        if self.mode == DeltaMode::WithoutDeltas && !self.groups.is_empty() {
            return Err(ListingDefect::UnexpectedGroups);
        }

        let mut whole = Vec::new();
        let mut carried = HashSet::new();
        for (at, entry) in (0u32..).zip(&self.changed) {
            let Some((_, digest)) = entry.file() else { continue };
            let is_whole = match self.mode {
                DeltaMode::WithDeltas => !absent.contains(&digest) && !carried.contains(&digest),
                DeltaMode::WithoutDeltas => link_target(entry).is_none(),
            };
            if is_whole {
                carried.insert(digest);
                whole.push(at);
            }
        }

        if self.mode == DeltaMode::WithoutDeltas
            && sizes.keys().any(|digest| absent.contains(digest) == carried.contains(digest))
        {
            return Err(ListingDefect::KnownAndWhole);
        }
        Ok(whole)
    }

    /// Clauses 6 and 8: no reserved path, and no path both removed and changed.
    fn check_paths(&self) -> Result<(), ListingDefect> {
        let reserved = self
            .removed
            .iter()
            .chain(&self.changed)
            .find(|entry| entry.path.components().next() == Some(OWN.as_bytes()));
        if let Some(entry) = reserved {
            return Err(ListingDefect::ReservedPath(entry.path.clone()));
        }

        let removed: HashSet<&TreePath> = self.removed.iter().map(|entry| &entry.path).collect();
        match self.changed.iter().find(|entry| removed.contains(&entry.path)) {
            Some(entry) => Err(ListingDefect::RemovedAndChanged(entry.path.clone())),
            None => Ok(()),
        }
    }

    /// Sizes of the changed files by digest (clause 8).
    fn content_sizes(&self) -> Result<HashMap<Digest, u64>, ListingDefect> {
        let mut sizes: HashMap<Digest, u64> = HashMap::new();
        for entry in &self.changed {
            let Some((size, digest)) = entry.file() else { continue };
            if *sizes.entry(digest).or_insert(size) != size {
                return Err(ListingDefect::OtherSize(entry.path.clone()));
            }
        }
        Ok(sizes)
    }

    /// Contents that are known or built by a patch (clause 9): each is that of a changed file,
    /// once.
    fn absent_contents(
        &self,
        sizes: &HashMap<Digest, u64>,
    ) -> Result<HashSet<Digest>, ListingDefect> {
        if !self.known.is_sorted_by(|a, b| a.digest < b.digest) {
            return Err(ListingDefect::KnownOrder);
        }
        for (number, group) in (0u64..).zip(&self.groups) {
            if group.number != number {
                return Err(ListingDefect::GroupOrder(group.number));
            }
            if let Some(defect) = group.defect() {
                return Err(ListingDefect::Group { number, defect });
            }
        }
        if !self.groups.is_sorted_by_key(|group| group.kind == Kind::Copies) {
            return Err(ListingDefect::CopiesOrder);
        }

        let known = self.known.iter().map(|known| (known.digest, known.size));
        let targets = self
            .groups
            .iter()
            .flat_map(|group| &group.targets)
            .map(|target| (target.digest, target.size));
        let mut absent = HashSet::new();
        for (digest, size) in known.chain(targets) {
            if sizes.get(&digest) != Some(&size) {
                return Err(ListingDefect::UnusedContent { digest, size });
            }
            if !absent.insert(digest) {
                return Err(ListingDefect::DuplicateContent(digest));
            }
        }
        Ok(absent)
    }
}
