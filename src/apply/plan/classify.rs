//! Judges each entry of the target against what stands on the tree: keep, set its time, replace.

use rayon::prelude::*;

use crate::apply::Untouched;
use crate::apply::filesystem::limited;
use crate::apply::plan::difference::Difference;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::{CheckLevel, PlanInput, hardlinks};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::host::Drift;
use crate::manifest::Manifest;
use crate::root::{FileKind, RootError, Stat};
use crate::tree_path::TreePath;

/// So many entries are judged by one processor at a time.
const PIECE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Keep,
    Report,
    SetTime,
    Replace,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Classified {
    pub decision: Decision,
    pub difference: Difference,
    /// Whether base and target agree here, so that a difference is drift.
    pub unchanged: bool,
}

/// Judges every entry of the target, first by itself, then by its hardlink group and its directory.
pub(super) fn classify_all(
    wanted: &PlanInput,
    live: &LiveTree,
) -> Result<Vec<Classified>, Untouched> {
    let pieces: Vec<Vec<Classified>> = wanted
        .target
        .entries()
        .par_chunks(PIECE)
        .map(|piece| classify_chunk(wanted, live, piece))
        .collect::<Result<_, RootError>>()?;
    let mut judged = pieces.concat();
    let plain = |path: &TreePath| wanted.filesystems.is_limited(path);
    for index in hardlinks::mismatches(wanted.target, live, |path| {
        is_mounted_on(wanted, path) || plain(path)
    }) {
        let fault = &mut judged[index];
        fault.difference.links = true;
        let left = fault.unchanged && wanted.policy.drift == Drift::Report;
        fault.decision = if left { Decision::Report } else { Decision::Replace };
    }
    for group in hardlinks::groups(wanted.target, plain) {
        settle_times(wanted.target, live, &group, &mut judged);
    }
    force_parents(wanted, &mut judged);
    force_children(wanted, &mut judged);
    Ok(judged)
}

/// Judges neighbours in the tree by themselves.
fn classify_chunk(
    wanted: &PlanInput,
    live: &LiveTree,
    piece: &[Entry],
) -> Result<Vec<Classified>, RootError> {
    let base = wanted.installed.map(|m| m.entries()).unwrap_or_default();
    let before = piece.first().map_or(0, |first| base.partition_point(|b| b.path < first.path));
    let mut base = base[before..].iter().peekable();
    let judge_next = |entry: &Entry| {
        while base.next_if(|b| b.path < entry.path).is_some() {}
        let old = base.peek().filter(|b| b.path == entry.path).copied();
        classify(wanted, live, entry, old)
    };
    piece.iter().map(judge_next).collect()
}

fn classify(
    wanted: &PlanInput,
    live: &LiveTree,
    entry: &Entry,
    old: Option<&Entry>,
) -> Result<Classified, RootError> {
    let unchanged = old == Some(entry);
    let keep =
        Classified { decision: Decision::Keep, difference: Difference::default(), unchanged };
    let stat = live.get(&entry.path);
    let recorded = wanted.known_deviations.contains(&entry.path);
    if unchanged && !live.covers(&entry.path) && !recorded {
        return Ok(keep);
    }
    let deep = !unchanged || recorded || wanted.policy.check_level == CheckLevel::Content;
    let plain = wanted.filesystems.is_limited(&entry.path);
    let held = |difference| {
        if plain { limited::mask_unsupported(difference, entry, stat) } else { difference }
    };
    let mut difference = held(Difference::from_stat(entry, stat));
    if !deep && !difference.any() {
        return Ok(keep);
    }
    if deep {
        difference = held(difference.with_details(wanted.root, entry)?);
    }
    if let (Some((_, digest)), Some(stat)) = (entry.file(), stat)
        && !difference.kind
        && !difference.content
        && !is_settled(wanted, stat, old, digest, recorded)
    {
        difference.content = live.digest(wanted.root, &entry.path)? != Some(digest);
    }
    // What is mounted on a file hides it: a deviation, not drift; having to change it is refused later.
    let hidden = !entry.is_dir() && unchanged && is_mounted_on(wanted, &entry.path);
    let in_place = difference.is_only_time() && stat.is_some_and(|stat| stat.links == 1);
    let verdict = match () {
        () if !difference.any() => Decision::Keep,
        () if hidden || (unchanged && wanted.policy.drift == Drift::Report) => Decision::Report,
        () if entry.is_dir() && !difference.missing && !difference.kind => Decision::Keep,
        () if in_place || (difference.is_only_time() && entry.group().is_some()) => {
            Decision::SetTime
        }
        () => Decision::Replace,
    };
    Ok(Classified { decision: verdict, difference, unchanged })
}

fn is_mounted_on(wanted: &PlanInput, path: &TreePath) -> bool {
    wanted.mounts.iter().any(|mount| mount.at == *path)
}

/// Whether the stat settles that a live file of the right size has the content `digest`: the base
/// recorded that content, and size and time are those of the base.
fn is_settled(
    wanted: &PlanInput,
    stat: &Stat,
    old: Option<&Entry>,
    digest: Digest,
    recorded: bool,
) -> bool {
    let recorded_so = old.is_some_and(|old| {
        old.file() == Some((stat.size, digest))
            && old.meta.mtime == stat.mtime
            && stat.kind == FileKind::File
    });
    recorded_so && !recorded && wanted.policy.check_level != CheckLevel::Content
}

/// A group whose time alone differs is set in place, once, where nothing else links the inode.
fn settle_times(target: &Manifest, live: &LiveTree, group: &[usize], judged: &mut [Classified]) {
    let all_times = group.iter().all(|&at| judged[at].decision == Decision::SetTime);
    let own_inode = live
        .get(&target.entries()[group[0]].path)
        .is_some_and(|stat| stat.links == group.len() as u64);
    let in_place = all_times && own_inode;
    for (nth, &at) in group.iter().enumerate() {
        if judged[at].decision == Decision::SetTime {
            judged[at].decision = match (in_place, nth) {
                (true, 0) => Decision::SetTime,
                (true, _) => Decision::Keep,
                (false, _) => Decision::Replace,
            };
        }
    }
}

/// What is installed needs its directory, also where that deviates and would only be reported.
fn force_parents(wanted: &PlanInput, judged: &mut [Classified]) {
    let entries = wanted.target.entries();
    for index in (0..entries.len()).rev() {
        if judged[index].decision != Decision::Replace {
            continue;
        }
        let Some(parent) = entries[index].path.parent() else { continue };
        let Ok(above) = entries.binary_search_by(|e| e.path.cmp(&parent)) else { continue };
        let gone = judged[above].difference.missing || judged[above].difference.kind;
        if judged[above].decision == Decision::Report && gone {
            judged[above].decision = Decision::Replace;
        }
    }
}

/// Where a directory has to be made, everything that the image has below it comes with it.
fn force_children(wanted: &PlanInput, judged: &mut [Classified]) {
    let mut made: Option<&TreePath> = None;
    for (entry, judged) in wanted.target.entries().iter().zip(judged) {
        if made.is_some_and(|top| entry.path.is_below(top)) {
            judged.decision = Decision::Replace;
            judged.difference = Difference { missing: true, ..Difference::default() };
        } else if entry.is_dir() && judged.decision == Decision::Replace {
            made = Some(&entry.path);
        }
    }
}
