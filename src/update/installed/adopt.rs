//! Recognising a tree: which published generation is it, and where does it differ?
//!
//! A node that was installed by other means has no recorded generation, and no real node equals one
//! exactly. Each file is read at most once, whatever the number of generations.

use std::collections::{BTreeMap, HashSet};

use crate::apply::Untouched;
use crate::apply::filesystem::limited;
use crate::apply::plan::difference::Difference;
use crate::apply::plan::live_tree::LiveTree;
use crate::catalog::Publish;
use crate::manifest::{Manifest, path_text};
use crate::root::RootError;
use crate::tree_path::TreePath;
use crate::update::installed::Installed;
use crate::update::source::overrides::{self, OverrideLayer};
use crate::update::source::published::PublishedImage;
use crate::update::{Run, UpdateError};

/// So many generations are compared, the newest first: each takes a manifest's transfer and memory.
const MOST: usize = 12;

impl Run<'_> {
    /// The published generation from which the tree deviates least; `None` where it deviates too much
    /// from all of them.
    pub(in crate::update) fn adopt(
        &self,
        published: &PublishedImage,
        layers: &[OverrideLayer],
    ) -> Result<Option<Installed>, UpdateError> {
        let catalog = &published.catalog;
        let why = if self.request.adopt_only { "" } else { "no usable generation is recorded: " };
        self.monitor.note(format!("{why}comparing the tree with the published manifests"));
        // Each with all that is to be laid over it, and without: whichever the tree resembles more.
        let mut candidates: Vec<(&Publish, Manifest, &[OverrideLayer])> = Vec::new();
        for publish in catalog.publishes.iter().rev() {
            let known = candidates.iter().any(|(known, ..)| known.generation == publish.generation);
            if candidates.len() < MOST && !known {
                let manifest = published.manifest(publish)?;
                if !layers.is_empty() {
                    candidates.push((publish, manifest.clone(), layers));
                }
                candidates.push((publish, manifest, &[]));
            }
        }
        let laid = candidates.iter().map(|(_, manifest, over)| {
            let over = over.iter().map(|laid| &laid.manifest);
            overrides::composed(manifest, over)
        });
        let mut whole: Vec<Manifest> = laid.collect::<Result<_, UpdateError>>()?;
        let filtered: Vec<Manifest> =
            whole.iter().map(|manifest| self.filtered(manifest)).collect();
        let mut tracked: Vec<&TreePath> =
            filtered.iter().flat_map(|m| m.entries()).map(|e| &e.path).collect();
        tracked.sort_unstable();
        tracked.dedup();
        let root = &self.session.root;
        let mut live = LiveTree::walk(root, &tracked, &self.filter, self.monitor)?;
        live.read_contents(root, filtered.iter().flat_map(|m| m.entries()), self.monitor)?;
        let mut best: Option<(usize, BTreeMap<TreePath, Difference>)> = None;
        for (index, manifest) in filtered.iter().enumerate() {
            let found = self.differences(manifest, &live).map_err(Untouched::from)?;
            if best.as_ref().is_none_or(|(_, fewest)| found.len() < fewest.len()) {
                best = Some((index, found));
            }
        }
        let Some((index, found)) = best else { return Ok(None) };
        let (publish, entries) = (candidates[index].0, filtered[index].len());
        let share = found.len() as f64 / entries.max(1) as f64;
        let told = format!(
            "{} of {entries} entries differ from generation {}",
            found.len(),
            publish.generation.short()
        );
        if share > self.request.adopt_share {
            self.monitor.note(format!("the tree resembles no published generation: {told}"));
            return Ok(None);
        }
        self.monitor.note(format!(
            "the tree is taken for generation {}: {told}",
            publish.generation.short()
        ));
        let (publish, manifest, over) = candidates.swap_remove(index);
        let composed = whole.swap_remove(index);
        let unheld = self.held(&composed).1;
        let found_words = found.iter().map(|(path, what)| (path_text(path), what.to_string()));
        Ok(Some(Installed {
            deviations: found_words
                .chain(unheld.iter().map(|(path, why)| (path_text(path), why.clone())))
                .collect(),
            overrides: over.iter().map(OverrideLayer::record).collect(),
            composed,
            manifest,
            deviating: found.into_keys().collect::<HashSet<_>>(),
            serial: publish.serial,
            published: true,
            settled: true,
            adopted: true,
            stored: false,
            former: None,
            kernel: None,
        }))
    }

    /// What is left of a manifest under the filter, but for what the filesystems here cannot hold.
    pub(in crate::update) fn filtered(&self, manifest: &Manifest) -> Manifest {
        self.held(manifest).0
    }

    /// The same, and what the filesystems here cannot hold, with the reason.
    pub(in crate::update) fn held(
        &self,
        manifest: &Manifest,
    ) -> (Manifest, BTreeMap<TreePath, String>) {
        let mut cursor = self.filter.cursor();
        let decided =
            manifest.filtered(|entry| cursor.excludes(&entry.path, entry.is_dir()).is_none());
        let unheld = limited::unsupported_entries(&decided, &self.session.mounts);
        if unheld.is_empty() {
            return (decided, unheld);
        }
        (decided.filtered(|entry| !unheld.contains_key(&entry.path)), unheld)
    }

    fn differences(
        &self,
        manifest: &Manifest,
        live: &LiveTree,
    ) -> Result<BTreeMap<TreePath, Difference>, RootError> {
        let root = &self.session.root;
        let mut found = BTreeMap::new();
        for entry in manifest.entries() {
            let stat = live.get(&entry.path);
            let mut difference = Difference::from_stat(entry, stat).with_details(root, entry)?;
            if self.session.filesystems.is_limited(&entry.path) {
                difference = limited::mask_unsupported(difference, entry, stat);
            }
            if let (false, Some((_, digest))) =
                (difference.missing || difference.kind || difference.content, entry.file())
            {
                difference.content = live.digest(root, &entry.path)? != Some(digest);
            }
            if difference.any() {
                found.insert(entry.path.clone(), difference);
            }
        }
        Ok(found)
    }
}
