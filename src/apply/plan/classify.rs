//! Decides for each entry of the target: keep the live object, set its time, or replace it.

use rayon::prelude::*;

use crate::apply::difference::Difference;
use crate::apply::error::Untouched;
use crate::apply::filesystem::limited;
use crate::apply::plan::hardlinks;
use crate::apply::plan::input::PlanInput;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::policy::CheckLevel;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::host::Drift;
use crate::manifest::Manifest;
use crate::root::{FileKind, Stat};
use crate::tree_path::TreePath;

/// Number of entries that one processor classifies at a time.
const CHUNK: usize = 1024;

/// Treatment of one entry of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The object stays. Of a directory, metadata may be set.
    Keep,
    /// The object stays and is a deviation.
    Report,
    /// Nothing is known about the object, which the kernel refuses to inspect; it stays.
    LeaveOut,
    /// Only the mtime is set, in place.
    SetTime,
    /// A new object is staged and installed.
    Replace,
}

/// Result of the comparison of one entry with the live tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Classified {
    pub decision: Decision,
    pub difference: Difference,
    /// Whether the installed manifest has the same entry, so that a difference is drift.
    pub is_unchanged: bool,
}

/// Classifies every entry of the target.
///
/// Each entry is compared by itself first. Then the decision may change because of its hard-link
/// group, of an entry below it, or of a directory above it.
pub(super) fn classify_all(
    input: &PlanInput,
    live: &LiveTree,
) -> Result<Vec<Classified>, Untouched> {
    let chunks: Vec<Vec<Classified>> = input
        .target
        .entries()
        .par_chunks(CHUNK)
        .map(|chunk| classify_chunk(input, live, chunk))
        .collect::<Result<_, Untouched>>()?;
    let mut classified = chunks.concat();

    let is_limited = |path: &TreePath| input.filesystems.is_limited(path);
    let is_ignored = |path: &TreePath| input.is_mount_point(path) || is_limited(path);
    for index in hardlinks::mismatches(input.target, live, is_ignored) {
        let mismatch = &mut classified[index];
        if mismatch.decision == Decision::LeaveOut {
            continue;
        }
        mismatch.difference.links = true;
        let is_reported = mismatch.is_unchanged && input.policy.drift == Drift::Report;
        mismatch.decision = if is_reported { Decision::Report } else { Decision::Replace };
    }

    for group in hardlinks::groups(input.target, is_limited) {
        settle_group_time(input.target, live, &group, &mut classified);
    }
    force_parents(input.target, &mut classified);
    force_children(input.target, &mut classified);
    Ok(classified)
}

/// Classifies neighbouring entries, each by itself.
fn classify_chunk(
    input: &PlanInput,
    live: &LiveTree,
    chunk: &[Entry],
) -> Result<Vec<Classified>, Untouched> {
    let installed = input.installed.map(Manifest::entries).unwrap_or_default();
    let start =
        chunk.first().map_or(0, |first| installed.partition_point(|old| old.path < first.path));
    let mut installed = installed[start..].iter().peekable();

    // Both lists are in tree order, so that one pass finds the old entry of each new one.
    chunk
        .iter()
        .map(|entry| {
            while installed.next_if(|old| old.path < entry.path).is_some() {}
            let old = installed.peek().filter(|old| old.path == entry.path).copied();
            classify_or_leave_out(input, live, entry, old)
        })
        .collect()
}

/// Compares one entry with the live tree, unless the kernel refuses to inspect the object.
fn classify_or_leave_out(
    input: &PlanInput,
    live: &LiveTree,
    entry: &Entry,
    old: Option<&Entry>,
) -> Result<Classified, Untouched> {
    let left_out = Classified {
        decision: Decision::LeaveOut,
        difference: Difference::default(),
        is_unchanged: old == Some(entry),
    };
    if input.left_out_reason(live, &entry.path).is_some() {
        return Ok(left_out);
    }
    match classify(input, live, entry, old) {
        // Its stat could be read, and its content or its attributes cannot.
        Err(Untouched::Root(error)) if input.root.is_unknown(&entry.path, &error) => Ok(left_out),
        answer => answer,
    }
}

/// Compares one entry with the live tree; `old` is its entry in the installed manifest.
fn classify(
    input: &PlanInput,
    live: &LiveTree,
    entry: &Entry,
    old: Option<&Entry>,
) -> Result<Classified, Untouched> {
    let is_unchanged = old == Some(entry) && !input.repaired.contains(&entry.path);
    let is_known_deviation = input.known_deviations.contains(&entry.path);
    let no_change =
        Classified { decision: Decision::Keep, difference: Difference::default(), is_unchanged };

    // A path that was not read has no known difference.
    if is_unchanged && !live.covers(&entry.path) && !is_known_deviation {
        return Ok(no_change);
    }

    let stat = live.get(&entry.path);
    let is_limited = input.filesystems.is_limited(&entry.path);
    let mask = |difference| {
        if is_limited { limited::mask_unsupported(difference, entry, stat) } else { difference }
    };
    let trusts_stat = !is_known_deviation && input.policy.check_level != CheckLevel::Content;
    let mut difference = mask(Difference::from_stat(entry, stat));
    if is_unchanged && trusts_stat {
        if !difference.any() {
            return Ok(no_change);
        }
    } else {
        difference = mask(difference.with_details(input.root, entry)?);
    }

    // The content is read only if the stat does not prove that it is the recorded one.
    if let (Some((_, digest)), Some(stat)) = (entry.file(), stat)
        && !difference.kind
        && !difference.content
        && !(trusts_stat && has_recorded_content(old, stat, digest))
    {
        let found = live.digest(input.root, &entry.path, input.monitor)?;
        difference.content = found != Some(digest);
    }

    let decision = decide(input, entry, stat, &Classified { difference, ..no_change });
    Ok(Classified { decision, difference, is_unchanged })
}

/// Decides about an entry by its difference alone.
fn decide(
    input: &PlanInput,
    entry: &Entry,
    stat: Option<&Stat>,
    classified: &Classified,
) -> Decision {
    let Classified { difference, is_unchanged, .. } = *classified;
    if !difference.any() {
        return Decision::Keep;
    }

    // A mount hides the file below it: that is a deviation and no drift. If the file has to change,
    // the preflight refuses.
    let is_hidden = !entry.is_dir() && input.is_mount_point(&entry.path);
    if is_unchanged && (is_hidden || input.policy.drift == Drift::Report) {
        return Decision::Report;
    }

    if entry.is_dir() && !difference.missing && !difference.kind {
        return Decision::Keep;
    }

    // Members of a hard-link group are decided together later.
    let may_change_in_place = stat.is_some_and(|stat| stat.links == 1) || entry.group().is_some();
    if difference.is_only_time() && may_change_in_place {
        return Decision::SetTime;
    }
    Decision::Replace
}

/// Whether a file with this stat has the content `digest`, because the installed manifest says so.
///
/// Size and mtime have to be those of the installed entry, as in rsync's quick check.
fn has_recorded_content(old: Option<&Entry>, stat: &Stat, digest: Digest) -> bool {
    old.is_some_and(|old| {
        old.file() == Some((stat.size, digest))
            && old.meta.mtime == stat.mtime
            && stat.kind == FileKind::File
    })
}

/// Sets the time of a hard-link group once, or replaces its members if that is not possible.
///
/// In place it is possible if only the time differs, and no other path is a link of the inode.
fn settle_group_time(
    target: &Manifest,
    live: &LiveTree,
    group: &[usize],
    classified: &mut [Classified],
) {
    let only_times = group.iter().all(|&index| classified[index].decision == Decision::SetTime);
    let owns_inode = live
        .get(&target.entries()[group[0]].path)
        .is_some_and(|stat| stat.links == group.len() as u64);

    for (position, &index) in group.iter().enumerate() {
        let decision = &mut classified[index].decision;
        if *decision != Decision::SetTime {
            continue;
        }
        *decision = if !(only_times && owns_inode) {
            Decision::Replace
        } else if position == 0 {
            Decision::SetTime
        } else {
            Decision::Keep
        };
    }
}

/// Replaces missing directories of installed entries, even if their drift is only reported.
fn force_parents(target: &Manifest, classified: &mut [Classified]) {
    let entries = target.entries();
    for index in (0..entries.len()).rev() {
        if classified[index].decision != Decision::Replace {
            continue;
        }
        let Some(parent) = entries[index].path.parent() else { continue };
        let Ok(above) = entries.binary_search_by(|entry| entry.path.cmp(&parent)) else { continue };

        let parent = &mut classified[above];
        let is_gone = parent.difference.missing || parent.difference.kind;
        if parent.decision == Decision::Report && is_gone {
            parent.decision = Decision::Replace;
        }
    }
}

/// Replaces everything in a directory that is replaced, except paths that are left out.
fn force_children(target: &Manifest, classified: &mut [Classified]) {
    let mut replaced: Option<&TreePath> = None;
    for (entry, classified) in target.entries().iter().zip(classified) {
        if replaced.is_some_and(|dir| entry.path.is_below(dir)) {
            if classified.decision == Decision::LeaveOut {
                continue;
            }
            classified.decision = Decision::Replace;
            classified.difference = Difference { missing: true, ..Difference::default() };
        } else if entry.is_dir() && classified.decision == Decision::Replace {
            replaced = Some(&entry.path);
        }
    }
}
