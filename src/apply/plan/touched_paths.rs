//! The paths that a run at the lowest check level reads.

use std::collections::HashSet;

use crate::apply::plan::hardlinks;
use crate::manifest::{self, Manifest};
use crate::tree_path::TreePath;

/// Lists the paths that [`CheckLevel::Touched`](super::CheckLevel::Touched) reads: sorted, unique.
///
/// These are the paths that change, the known deviations, all paths that are or will be hard links
/// of them, and the directories above all of these.
pub fn touched_paths(
    installed: &Manifest,
    target: &Manifest,
    known_deviations: &HashSet<TreePath>,
) -> Vec<TreePath> {
    let changes = manifest::compare(installed, target);
    let mut touched: HashSet<&TreePath> =
        changes.changed.iter().chain(&changes.removed).map(|entry| &entry.path).collect();
    touched.extend(known_deviations);

    for manifest in [installed, target] {
        for group in hardlinks::groups(manifest, |_| false) {
            let members = || group.iter().map(|&index| &manifest.entries()[index].path);
            if members().any(|path| touched.contains(path)) {
                touched.extend(members());
            }
        }
    }

    let mut paths: HashSet<TreePath> = HashSet::new();
    for path in touched {
        // A path that is listed already was listed together with its parents.
        let mut next = Some(path.clone());
        while let Some(path) = next {
            next = path.parent();
            if !paths.insert(path) {
                break;
            }
        }
    }

    let mut paths: Vec<TreePath> = paths.into_iter().collect();
    paths.sort_unstable();
    paths
}
