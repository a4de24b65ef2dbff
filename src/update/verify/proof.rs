//! The proof digest: one digest of everything that a node is, which an auditor can recompute.
//!
//! It is the SHA-256 of the canonical text of a manifest: image with overrides, without the paths
//! that the exclude file and the built-in rules exclude. `si_tardiff proof` computes the same from
//! a repository. A path of the live tree that deviates enters as it was read, and one that is
//! missing or hidden does not enter.
//!
//! A repository knows nothing of mounts. So a mount point enters as recorded, and so do paths below
//! the places where the kernel mounts its own filesystems.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::apply::session::Session;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::filter::Filter;
use crate::manifest::{Manifest, digest_of_entries};
use crate::root::mounts::{Mount, is_in_kernel_place};
use crate::tree_path::TreePath;
use crate::update::error::{UpdateError, UsageError};
use crate::update::request::Excludes;
use crate::update::verify::compare::Deviating;
use crate::update::verify::tree::RecordedTree;

/// Manifest and rules of a proof digest.
pub(super) struct ProofInput<'a> {
    /// Image with overrides, with excluded paths.
    pub composed: &'a Manifest,
    pub excludes: &'a Excludes,
    /// Path that enters although the rules exclude it.
    pub tracked: Option<&'a TreePath>,
}

/// Proof digest of the recorded tree, of which nothing is read; `None` without a record.
pub fn recorded_proof(root: &Path, excludes: &Excludes) -> Result<Option<Digest>, UpdateError> {
    let recorded = RecordedTree::load(&Session::look(root)?)?;
    let Some(composed) = recorded.and_then(|recorded| recorded.composed) else { return Ok(None) };
    let part = ProofInput { composed: &composed, excludes, tracked: None }.part()?;
    Ok(Some(part.id().0))
}

impl ProofInput<'_> {
    /// The manifest without excluded paths.
    fn part(&self) -> Result<Manifest, UpdateError> {
        let rules = Filter::builder()
            .including(self.tracked.cloned())
            .exclude_file(&self.excludes.name, &self.excludes.rules)
            .map_err(UsageError::Excludes)?
            .build();
        Ok(rules.included_part(self.composed))
    }

    /// Paths that mounts hide, except for mount points and the places of the kernel.
    pub fn hidden_paths(
        &self,
        filter: &Filter,
        mounts: &[Mount],
    ) -> Result<HashSet<TreePath>, UpdateError> {
        let part = self.part()?;
        let mut cursor = filter.cursor();
        let hidden = part.entries().iter().filter(|entry| {
            cursor.excludes(&entry.path, entry.kind()).is_some()
                && !is_in_kernel_place(&entry.path)
                && !mounts.iter().any(|mount| mount.at == entry.path)
        });
        Ok(hidden.map(|entry| entry.path.clone()).collect())
    }

    /// Proof digest of the live tree: `deviating` paths as they are, all others as they should be.
    pub fn of_live_tree(
        &self,
        deviating: &[Deviating],
        hidden: &HashSet<TreePath>,
    ) -> Result<Digest, UpdateError> {
        let part = self.part()?;
        if deviating.is_empty() && hidden.is_empty() {
            return Ok(part.id().0);
        }

        let found: HashMap<&TreePath, &Deviating> =
            deviating.iter().map(|deviating| (&deviating.path, deviating)).collect();
        let as_it_is = |entry: &Entry| match found.get(&entry.path) {
            Some(deviating) => deviating.found.as_ref().map(|found| with_dir_time(found, entry)),
            None if hidden.contains(&entry.path) => None,
            None => Some(entry.clone()),
        };
        let mut entries: Vec<Entry> = part.entries().iter().filter_map(as_it_is).collect();
        let stale = deviating.iter().filter(|deviating| deviating.expected.is_none());
        entries.extend(stale.filter_map(|deviating| deviating.found.clone()));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(digest_of_entries(&entries))
    }
}

/// The live entry; each untracked file changes the mtime of a directory, so that is not compared.
fn with_dir_time(found: &Entry, entry: &Entry) -> Entry {
    let mut found = found.clone();
    if found.is_dir() {
        found.meta.mtime = entry.meta.mtime;
    }
    found
}
