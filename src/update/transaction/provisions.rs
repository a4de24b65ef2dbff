//! Provisions: excluded directories and seed files of the image that a run creates once.
//!
//! Services need their directories below `/var/log` and similar places, whose content is excluded.
//! A provision is created if the node lacks it. From then on the path belongs to the node like any
//! other excluded path: it is neither compared, nor changed, nor recorded.

use crate::apply::Untouched;
use crate::entry::{Entry, Leaf, LeafKind, Node};
use crate::filter::ExcludeReason;
use crate::host::Drift;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::installed::Installed;
use crate::update::run::Run;
use crate::update::transaction::mounts;

/// Directory whose subdirectories are named by machine ids.
const JOURNAL: &[u8] = b"var/log/journal";
/// Length of a machine id.
const MACHINE_ID: usize = 32;

/// Lists the excluded entries of `composed` that the node gets if it lacks them, in tree order.
///
/// If drift is only reported, a path that the node has lost stays lost. So only entries that the
/// installed generation does not have are listed.
pub(in crate::update) fn list_provisions(
    run: &Run<'_>,
    composed: &Manifest,
    installed: Option<&Installed>,
) -> Result<Vec<Entry>, UpdateError> {
    let request = run.request;
    let seeds: Vec<&TreePath> =
        request.seed_files.iter().filter(|seed| composed.get(seed).is_some_and(is_seed)).collect();
    if request.create_directories.is_empty() && seeds.is_empty() {
        return Ok(Vec::new());
    }

    let known = installed.filter(|_| request.drift == Drift::Report);
    let unmounted = unmounted_points(run)?;
    let built_in = run.built_in_filter()?;
    let (mut cursor, mut own) = (run.filter.cursor(), built_in.cursor());
    let provisions = composed.entries().iter().filter(|entry| {
        let (path, kind) = (&entry.path, entry.kind());
        let is_named = if entry.is_dir() {
            is_created(run, path) || seeds.iter().any(|seed| seed.is_below(path))
        } else {
            seeds.contains(&path)
        };
        is_named
            && cursor.excludes(path, kind).is_some_and(|reason| covers(&reason, entry))
            && own.excludes(path, kind).is_none()
            && known.is_none_or(|installed| installed.composed.get(path).is_none())
            && !unmounted.iter().any(|point| path.is_below(point))
    });
    Ok(provisions.map(without_group).collect())
}

/// Checks if the tree lacks any of `provisions`.
pub(super) fn is_any_missing(run: &Run<'_>, provisions: &[Entry]) -> Result<bool, UpdateError> {
    let paths: Vec<&TreePath> = provisions.iter().map(|entry| &entry.path).collect();
    let stats = run.session.root.stat_each(&paths).map_err(Untouched::from)?;
    Ok(stats.iter().any(Option::is_none))
}

/// Checks if a directory at `path` is created, by the configuration and by its name.
///
/// The journal of another machine has its id as its name.
fn is_created(run: &Run<'_>, path: &TreePath) -> bool {
    let is_configured = run
        .request
        .create_directories
        .iter()
        .any(|directory| path == directory || path.is_below(directory));

    let is_in_journal = path.parent().is_some_and(|parent| parent.as_bytes() == JOURNAL);
    is_configured && !(is_in_journal && begins_with_machine_id(path.name()))
}

/// Checks if a name is a machine id, or a machine id with the name of a journal namespace.
fn begins_with_machine_id(name: &[u8]) -> bool {
    name.split_at_checked(MACHINE_ID).is_some_and(|(id, rest)| {
        id.iter().all(u8::is_ascii_hexdigit) && (rest.is_empty() || rest.starts_with(b"."))
    })
}

/// Checks if an entry may be a seed file: it has content, or is a symbolic link.
fn is_seed(entry: &Entry) -> bool {
    let kind = entry.leaf().map(|leaf| &leaf.kind);
    matches!(kind, Some(LeafKind::File { .. } | LeafKind::Symlink { .. }))
}

/// Checks if a rule allows a provision: it is in an exclude file, and describes a place.
///
/// A rule that is only a name, such as `__pycache__/`, describes files of a program that creates
/// the directory itself.
fn covers(reason: &ExcludeReason<'_>, entry: &Entry) -> bool {
    reason.is_configured() && (!entry.is_dir() || !reason.is_bare_name())
}

/// Returns the entry without its hard-link group, of which the other members are not created.
fn without_group(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    if let Node::Leaf(Leaf { group, .. }) = &mut entry.node {
        *group = None;
    }
    entry
}

/// Returns the mount points of the tree's fstab at which nothing is mounted.
///
/// A directory below one would be hidden when the filesystem is mounted.
fn unmounted_points(run: &Run<'_>) -> Result<Vec<TreePath>, UpdateError> {
    let mut points = mounts::read_fstab(&run.session.root)?;
    points.retain(|point| !run.session.mounts.iter().any(|mount| mount.at == *point));
    Ok(points)
}
