//! Paths below filesystems that users have mounted, which the run can neither compare nor change.
//!
//! A mount of the administrator excludes the paths below it, and is reported. A user must not be
//! able to keep old files in that way unnoticed. So paths below his mounts that the target changes
//! are left out, and so are those that an earlier run left out.

use std::collections::BTreeMap;

use crate::filter::Filter;
use crate::manifest::{Manifest, path_text, removed_entries};
use crate::tree_path::TreePath;
use crate::update::error::{UpdateError, UsageError};
use crate::update::installed::Installed;
use crate::update::run::Run;
use crate::update::source::overrides::{self, OverrideLayer};
use crate::update::transaction::target::Target;

/// Reason of a deviation.
const MOUNTED_OVER: &str = "left out: a user has mounted a filesystem over it";

/// Lists the paths below mounts of users that wait for a change, with the reason.
pub(super) fn paths_below(
    run: &Run<'_>,
    target: &Target,
    installed: Option<&Installed>,
    layers: &[OverrideLayer],
) -> Result<BTreeMap<TreePath, String>, UpdateError> {
    let (root, mut paths) = (&run.session.root, BTreeMap::new());
    let Some(installed) = installed else { return Ok(paths) };
    let mounts: Vec<TreePath> = run
        .session
        .foreign()
        .filter(|at| root.is_writable_by_others(at).unwrap_or(false))
        .collect();
    if mounts.is_empty() {
        return Ok(paths);
    }
    let is_below = |path: &TreePath| mounts.iter().any(|at| path == at || path.is_below(at));

    let earlier = installed.left_out.iter().filter(|path| is_below(path));
    for path in earlier {
        let reason = installed.deviations.get(&path_text(path));
        let reason = reason.cloned().unwrap_or_else(|| MOUNTED_OVER.to_owned());
        paths.insert(path.clone(), reason);
    }

    let rules = Filter::builder()
        .exclude_file(&run.excludes.name, &run.excludes.rules)
        .map_err(UsageError::Excludes)?
        .build();
    let composed = overrides::compose(&target.image, layers.iter().map(|layer| &layer.manifest))?;
    for path in changed_paths(&installed.composed, &composed) {
        if is_below(path) && !is_excluded(&rules, &composed, path) {
            paths.entry(path.clone()).or_insert_with(|| MOUNTED_OVER.to_owned());
        }
    }
    Ok(paths)
}

/// Paths whose entries differ, or that only one of the manifests has.
fn changed_paths<'a>(
    old: &'a Manifest,
    new: &'a Manifest,
) -> impl Iterator<Item = &'a TreePath> + use<'a> {
    let changed = new.entries().iter().filter(|entry| old.get(&entry.path) != Some(*entry));
    changed.chain(removed_entries(old, new)).map(|entry| &entry.path)
}

fn is_excluded(rules: &Filter, composed: &Manifest, path: &TreePath) -> bool {
    let kind = composed.get(path).map_or(crate::entry::EntryKind::Other, |entry| entry.kind());
    rules.excludes(path, kind).is_some()
}
