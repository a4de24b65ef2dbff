//! Judges each entry of the target against what stands on the tree: keep, set its time, replace.

use rayon::prelude::*;

use crate::apply::Untouched;
use crate::apply::filesystem::limited;
use crate::apply::plan::difference::Difference;
use crate::apply::plan::live_tree::Live;
use crate::apply::plan::{Depth, Wanted, hardlinks};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::host::Drift;
use crate::manifest::Manifest;
use crate::root::{FileKind, RootError, Stat};
use crate::tree_path::TreePath;

/// So many entries are judged by one processor at a time.
const PIECE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Report,
    Times,
    Replace,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    pub verdict: Verdict,
    pub difference: Difference,
    /// Whether base and target agree here, so that a difference is drift.
    pub unchanged: bool,
}

/// Judges every entry of the target, first by itself, then by its hardlink group and its directory.
pub(super) fn judge_all(wanted: &Wanted, live: &Live) -> Result<Vec<Judged>, Untouched> {
    let pieces: Vec<Vec<Judged>> = wanted
        .target
        .entries()
        .par_chunks(PIECE)
        .map(|piece| judge_piece(wanted, live, piece))
        .collect::<Result<_, RootError>>()?;
    let mut judged = pieces.concat();
    let plain = |path: &TreePath| wanted.filesystems.is_plain(path);
    for index in
        hardlinks::faults(wanted.target, live, |path| is_mounted_on(wanted, path) || plain(path))
    {
        let fault = &mut judged[index];
        fault.difference.links = true;
        let left = fault.unchanged && wanted.policy.drift == Drift::Report;
        fault.verdict = if left { Verdict::Report } else { Verdict::Replace };
    }
    for group in hardlinks::groups(wanted.target, plain) {
        settle_times(wanted.target, live, &group, &mut judged);
    }
    raise_parents(wanted, &mut judged);
    raise_children(wanted, &mut judged);
    Ok(judged)
}

/// Judges neighbours in the tree by themselves.
fn judge_piece(wanted: &Wanted, live: &Live, piece: &[Entry]) -> Result<Vec<Judged>, RootError> {
    let base = wanted.base.map(|m| m.entries()).unwrap_or_default();
    let before = piece.first().map_or(0, |first| base.partition_point(|b| b.path < first.path));
    let mut base = base[before..].iter().peekable();
    let judge_next = |entry: &Entry| {
        while base.next_if(|b| b.path < entry.path).is_some() {}
        let old = base.peek().filter(|b| b.path == entry.path).copied();
        judge(wanted, live, entry, old)
    };
    piece.iter().map(judge_next).collect()
}

fn judge(
    wanted: &Wanted,
    live: &Live,
    entry: &Entry,
    old: Option<&Entry>,
) -> Result<Judged, RootError> {
    let unchanged = old == Some(entry);
    let keep = Judged { verdict: Verdict::Keep, difference: Difference::default(), unchanged };
    let stat = live.get(&entry.path);
    let recorded = wanted.recorded.contains(&entry.path);
    if unchanged && !live.knows(&entry.path) && !recorded {
        return Ok(keep);
    }
    let deep = !unchanged || recorded || wanted.policy.depth == Depth::Content;
    let plain = wanted.filesystems.is_plain(&entry.path);
    let held = |difference| if plain { limited::mask(difference, entry, stat) } else { difference };
    let mut difference = held(Difference::quick(entry, stat));
    if !deep && !difference.any() {
        return Ok(keep);
    }
    if deep {
        difference = held(difference.and_read(wanted.root, entry)?);
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
    let in_place = difference.only_time() && stat.is_some_and(|stat| stat.links == 1);
    let verdict = match () {
        () if !difference.any() => Verdict::Keep,
        () if hidden || (unchanged && wanted.policy.drift == Drift::Report) => Verdict::Report,
        () if entry.is_dir() && !difference.missing && !difference.kind => Verdict::Keep,
        () if in_place || (difference.only_time() && entry.group().is_some()) => Verdict::Times,
        () => Verdict::Replace,
    };
    Ok(Judged { verdict, difference, unchanged })
}

fn is_mounted_on(wanted: &Wanted, path: &TreePath) -> bool {
    wanted.mounts.iter().any(|mount| mount.at == *path)
}

/// Whether the stat settles that a live file of the right size has the content `digest`: the base
/// recorded that content, and size and time are those of the base.
fn is_settled(
    wanted: &Wanted,
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
    recorded_so && !recorded && wanted.policy.depth != Depth::Content
}

/// A group whose time alone differs is set in place, once, where nothing else links the inode.
fn settle_times(target: &Manifest, live: &Live, group: &[usize], judged: &mut [Judged]) {
    let all_times = group.iter().all(|&at| judged[at].verdict == Verdict::Times);
    let own_inode = live
        .get(&target.entries()[group[0]].path)
        .is_some_and(|stat| stat.links == group.len() as u64);
    let in_place = all_times && own_inode;
    for (nth, &at) in group.iter().enumerate() {
        if judged[at].verdict == Verdict::Times {
            judged[at].verdict = match (in_place, nth) {
                (true, 0) => Verdict::Times,
                (true, _) => Verdict::Keep,
                (false, _) => Verdict::Replace,
            };
        }
    }
}

/// What is installed needs its directory, also where that deviates and would only be reported.
fn raise_parents(wanted: &Wanted, judged: &mut [Judged]) {
    let entries = wanted.target.entries();
    for index in (0..entries.len()).rev() {
        if judged[index].verdict != Verdict::Replace {
            continue;
        }
        let Some(parent) = entries[index].path.parent() else { continue };
        let Ok(above) = entries.binary_search_by(|e| e.path.cmp(&parent)) else { continue };
        let gone = judged[above].difference.missing || judged[above].difference.kind;
        if judged[above].verdict == Verdict::Report && gone {
            judged[above].verdict = Verdict::Replace;
        }
    }
}

/// Where a directory has to be made, everything that the image has below it comes with it.
fn raise_children(wanted: &Wanted, judged: &mut [Judged]) {
    let mut made: Option<&TreePath> = None;
    for (entry, judged) in wanted.target.entries().iter().zip(judged) {
        if made.is_some_and(|top| entry.path.is_below(top)) {
            judged.verdict = Verdict::Replace;
            judged.difference = Difference { missing: true, ..Difference::default() };
        } else if entry.is_dir() && judged.verdict == Verdict::Replace {
            made = Some(&entry.path);
        }
    }
}
