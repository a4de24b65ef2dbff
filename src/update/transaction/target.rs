//! Target of a transaction: the tree that the run produces, and how the live tree is compared.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use crate::apply::filesystem::held_times::CoarseFilesystem;
use crate::apply::plan::{CheckLevel, ComparePolicy, UntrackedPolicy};
use crate::digest::Digest;
use crate::entry::{Entry, EntryKind};
use crate::host::{Check, releases_in};
use crate::manifest::Manifest;
use crate::state::KernelPaths;
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::installed::Installed;
use crate::update::installed::recorded::compress_manifest;
use crate::update::notice::Route;
use crate::update::report::Report;
use crate::update::run::{Run, SupportedPart};
use crate::update::source::overrides::{self, LayerSource, OverrideLayer};
use crate::update::transaction::image_keys::{ImageAge, ImageKeys};
use crate::update::transaction::kernel_paths::kept_kernel_paths;
use crate::update::transaction::mounts;
use crate::update::transaction::provisions::list_provisions;
use crate::update::transaction::selection::Selection;

/// The tree that a transaction produces.
pub(in crate::update) struct Target {
    /// Manifest of the image's generation, with excluded paths.
    pub image: Manifest,
    /// Image with overrides, without excluded and unsupported paths, with the times that the tree
    /// will show.
    pub tracked: Manifest,
    /// The same of the installed generation.
    pub installed: Option<Manifest>,
    /// Paths of the target that their filesystem cannot hold as they are, with the reason.
    pub unsupported: BTreeMap<TreePath, String>,
    /// Filesystems that round times of the target.
    pub coarse_filesystems: Vec<CoarseFilesystem>,
    /// Entries that only an overruled record names, in tree order. They are stale.
    pub overruled: Vec<Entry>,
    /// Releases of the kernels that the tree has, with excluded ones.
    pub kernels: Vec<String>,
    /// Excluded entries that the tree gets if it lacks them, in tree order.
    pub provisions: Vec<Entry>,
    /// Paths that earlier runs would have removed, in tree order.
    pub kernel_paths: Vec<TreePath>,
    /// Decisions about the public keys of the tree.
    pub keys: ImageKeys,
    /// Paths that are left out, with the reason.
    pub refused: BTreeMap<TreePath, String>,
    pub policy: ComparePolicy,
    /// Digests of live files that were read earlier in this run.
    pub known_digests: HashMap<TreePath, Digest>,
    pub delivery: Delivery,
    /// Number of removed paths whose content is reused elsewhere; not counted as deletions.
    pub renamed: usize,
    /// Part of the tree that a repair may change.
    pub selection: Option<Selection>,
    /// Strategy and reason.
    pub route: Route,
    /// Compressed manifest for the state directory, once somebody needed it.
    compressed: OnceLock<Vec<u8>>,
}

/// Way of new contents to their stages; decides which filesystem needs space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::update) enum Delivery {
    /// Download from archives and the repository, directly into the stages.
    Archives,
    /// The same for a full sync; rsync supplies only contents that the repository lacks.
    FullSync,
    /// Reception by rsync into the receive directory, on the filesystem of the root.
    ReceiveDir,
}

impl Target {
    /// Target with the check level and drift policy of the request.
    pub fn new(
        run: &Run<'_>,
        image: Manifest,
        overrides: &[OverrideLayer],
        installed: Option<&Installed>,
        route: Route,
    ) -> Result<Self, UpdateError> {
        let composed = overrides::compose(&image, overrides.iter().map(|layer| &layer.manifest))?;
        mounts::warn_of_foreign_mounts(run, &composed)?;

        let (target, installed_part) = rayon::join(
            || run.supported_part(&composed),
            || installed.map(|installed| run.supported_manifest(&installed.composed)),
        );
        let SupportedPart { manifest: tracked, mut unsupported } = target;
        for layer in overrides {
            match &layer.source {
                LayerSource::Received(received) => {
                    unsupported.extend(received.unheld_times.clone());
                }
                LayerSource::Stored { unheld_times } => unsupported.extend(unheld_times.clone()),
                LayerSource::Published(_) | LayerSource::Recorded => {}
            }
        }
        let kernel = installed.and_then(|installed| installed.kernel.as_ref());

        Ok(Target {
            tracked,
            installed: installed_part,
            unsupported,
            coarse_filesystems: run.times.coarse_filesystems(&composed),
            overruled: overruled_entries(run, installed, &composed),
            kernels: releases_in(&composed),
            kernel_paths: stale_paths(run, kernel, installed),
            provisions: list_provisions(run, &composed, installed)?,
            keys: ImageKeys::default(),
            refused: BTreeMap::new(),
            image,
            policy: compare_policy(run, installed),
            known_digests: HashMap::new(),
            delivery: Delivery::Archives,
            renamed: 0,
            selection: None,
            route,
            compressed: OnceLock::new(),
        })
    }

    /// Makes the key files of the tree those of the image, except those that are kept.
    pub fn with_image_keys(mut self, run: &Run<'_>, age: ImageAge) -> Result<Self, UpdateError> {
        let installed = self.installed.as_ref();
        let keys = ImageKeys::decide(run, &self.tracked, installed, age)?;
        if !keys.kept.is_empty() {
            self.tracked = self.tracked.filtered(|entry| !keys.kept.contains_key(&entry.path));
            self.unsupported.extend(keys.kept.clone());
        }
        Ok(Target { keys, ..self })
    }

    /// Restricts a target that is the recorded tree to the paths of a repair.
    pub fn with_selection(mut self, selection: Selection) -> Self {
        if selection.is_partial() {
            self.unsupported.retain(|path, _| selection.contains(path));
            self.provisions.retain(|entry| selection.contains(&entry.path));
            self.keys.tracked.retain(|path| selection.contains(path));
            self.keys.surplus.retain(|path| selection.contains(path));
            // They wait for the next boot or for an update.
            self.kernel_paths.clear();
        }
        Target { selection: Some(selection), ..self }
    }

    /// Whether only some paths may be changed.
    pub fn is_partial(&self) -> bool {
        self.selection.as_ref().is_some_and(Selection::is_partial)
    }

    /// Whether the run may change `path`.
    pub fn selects(&self, path: &TreePath) -> bool {
        self.selection.as_ref().is_none_or(|selection| selection.contains(path))
    }

    /// Removes deviations outside the selection, which the state still has.
    pub fn restrict_report(&self, report: &mut Report) {
        let Some(selection) = self.selection.as_ref().filter(|selection| selection.is_partial())
        else {
            return;
        };
        report.deviations.retain(|path, _| selection.contains_text(path));
        report.left_out.retain(|path| selection.contains_text(path));
        report.kernel_deviations = 0;
    }

    /// Returns the larger number of entries, as the base of a deletion budget in percent.
    pub fn count_tracked(&self) -> usize {
        self.installed.as_ref().map_or(0, |installed| installed.len()).max(self.tracked.len())
    }

    /// Returns the compressed manifest of the image.
    ///
    /// The first caller compresses it; others wait. It is called early in a thread of its own,
    /// since compression takes as long as staging a small update.
    pub fn compressed_manifest(&self) -> &[u8] {
        self.compressed.get_or_init(|| compress_manifest(&self.image))
    }
}

fn compare_policy(run: &Run<'_>, installed: Option<&Installed>) -> ComparePolicy {
    let request = run.request;
    let knows_deviations = installed.is_none_or(Installed::knows_all_deviations);
    let has_left_out = installed.is_some_and(|installed| !installed.left_out.is_empty());
    let check_level = match request.check {
        Check::Content => CheckLevel::Content,
        // A purge has to find the untracked paths, so it needs a walk.
        // A user may have changed anything in a directory that was left out.
        Check::Touched if knows_deviations && !has_left_out && !request.purge_untracked => {
            CheckLevel::Touched
        }
        Check::Touched | Check::Update | Check::Stat => CheckLevel::Stat,
    };
    let untracked =
        if request.purge_untracked { UntrackedPolicy::Remove } else { UntrackedPolicy::Keep };
    ComparePolicy { check_level, drift: request.drift, untracked }
}

/// Paths that earlier runs would have removed: kept for a kernel, or left out; in tree order.
fn stale_paths(
    run: &Run<'_>,
    kernel: Option<&KernelPaths>,
    installed: Option<&Installed>,
) -> Vec<TreePath> {
    let mut paths = kept_kernel_paths(&run.session.root, &run.filter, kernel);
    let mut cursor = run.filter.cursor();
    let left_out = installed.iter().flat_map(|installed| &installed.left_out);
    paths
        .extend(left_out.filter(|path| cursor.excludes(path, EntryKind::Other).is_none()).cloned());
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// Entries that an overruled record names, and neither the adopted generation nor the target.
fn overruled_entries(
    run: &Run<'_>,
    installed: Option<&Installed>,
    composed: &Manifest,
) -> Vec<Entry> {
    let Some(installed) = installed else { return Vec::new() };
    let Some(record) = installed.overruled_record() else { return Vec::new() };
    run.supported_manifest(record)
        .entries()
        .iter()
        .filter(|entry| {
            composed.get(&entry.path).is_none() && installed.composed.get(&entry.path).is_none()
        })
        .cloned()
        .collect()
}
