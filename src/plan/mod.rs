//! Decides how a node gets from what it has to what it should have. Pure: no file is read, no server
//! asked, and the answer carries its reason.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;

use crate::catalog::{Archive, ArchiveKind, Catalog, RepoPath};
use crate::generation::GenerationId;

/// How a node gets to the head of its catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdatePlan {
    /// It is there.
    Nothing,
    /// By these diffs, as one transaction.
    Diffs(Chain),
    /// By a full sync.
    Full(FullSyncReason),
}

/// The reason for a full sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FullSyncReason {
    /// Nothing is recorded of this node, and it resembles no published generation.
    NotRecorded,
    /// The recorded generation is not in the catalog, and the node resembles none that is.
    UnknownGeneration(GenerationId),
    /// No diffs lead from the recorded generation to the head.
    NoChain(GenerationId),
    /// The diffs cost more than a full sync.
    ChainTooLarge {
        /// Bytes of the smallest chain.
        chain: u64,
        /// Bytes that a full sync is estimated to take.
        full: u64,
    },
    /// Archives that the chain needs are missing or damaged, and there is no way around them.
    BrokenChain(Vec<RepoPath>),
    /// Content that has to come whole is nowhere in the repository.
    ContentMissing(String),
}

/// Diffs joined end to end; never empty, without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain(Vec<Archive>);

impl Chain {
    /// Joins `diffs`; `None` where they are not a chain.
    pub fn new(diffs: Vec<Archive>) -> Option<Self> {
        let mut at: Option<GenerationId> = None;
        for diff in &diffs {
            let ArchiveKind::Diff { base, target } = diff.kind else { return None };
            if at.is_some_and(|at| at != base) {
                return None;
            }
            at = Some(target);
        }
        at.map(|_| Chain(diffs))
    }

    /// The diffs, first to last.
    pub fn diffs(&self) -> &[Archive] {
        &self.0
    }

    /// Bytes of all archives.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|a| a.file.size).fold(0, u64::saturating_add)
    }
}

/// Chooses the way from `installed` to the head of `catalog`; archives in `broken` do not count.
pub fn choose(
    installed: Option<GenerationId>,
    catalog: &Catalog,
    broken: &HashSet<RepoPath>,
) -> UpdatePlan {
    let head = catalog.head().generation;
    let Some(installed) = installed else { return UpdatePlan::Full(FullSyncReason::NotRecorded) };
    if installed == head {
        return UpdatePlan::Nothing;
    }
    if catalog.publish_of(installed).is_none() {
        return UpdatePlan::Full(FullSyncReason::UnknownGeneration(installed));
    }
    let Some(chain) = smallest_chain(installed, head, catalog, broken) else {
        let mut broken: Vec<RepoPath> = broken.iter().cloned().collect();
        broken.sort();
        return UpdatePlan::Full(if broken.is_empty() {
            FullSyncReason::NoChain(installed)
        } else {
            FullSyncReason::BrokenChain(broken)
        });
    };
    let full = catalog.archives.iter().find(|a| a.kind == ArchiveKind::Full { target: head });
    // Without a full archive of the head its bytes are the bound: rsync sends no more.
    let size = full.map_or(catalog.head().bytes, |full| full.file.size);
    let full = estimated_full_sync(size, catalog.head().entries);
    match chain.bytes() {
        bytes if bytes > full => {
            UpdatePlan::Full(FullSyncReason::ChainTooLarge { chain: bytes, full })
        }
        _ => UpdatePlan::Diffs(chain),
    }
}

/// What a full sync costs in bytes: the image, as its compressed archive has it, and rsync's file list,
/// which took 28 bytes an entry on a Debian image of 46,000, with the handshake.
fn estimated_full_sync(archive: u64, entries: u64) -> u64 {
    archive.saturating_add(entries.saturating_mul(28)).saturating_add(64 << 10)
}

/// The chain of the fewest bytes, and among those of the fewest diffs (Dijkstra).
fn smallest_chain(
    from: GenerationId,
    to: GenerationId,
    catalog: &Catalog,
    broken: &HashSet<RepoPath>,
) -> Option<Chain> {
    let mut edges: HashMap<GenerationId, Vec<(GenerationId, &Archive)>> = HashMap::new();
    for archive in catalog.archives.iter().filter(|a| !broken.contains(&a.file.file)) {
        if let ArchiveKind::Diff { base, target } = archive.kind {
            edges.entry(base).or_default().push((target, archive));
        }
    }
    let mut reached: HashMap<GenerationId, (u64, u32, Option<&Archive>)> =
        HashMap::from([(from, (0, 0, None))]);
    let mut open = BinaryHeap::from([Reverse((0_u64, 0_u32, from))]);
    while let Some(Reverse((bytes, length, at))) = open.pop() {
        if at == to {
            break;
        }
        for &(next, archive) in edges.get(&at).into_iter().flatten() {
            let cost = (bytes.saturating_add(archive.file.size), length + 1);
            if reached.get(&next).is_none_or(|&(b, l, _)| cost < (b, l)) {
                reached.insert(next, (cost.0, cost.1, Some(archive)));
                open.push(Reverse((cost.0, cost.1, next)));
            }
        }
    }
    let mut diffs = Vec::new();
    let mut at = to;
    while at != from {
        let (_, _, Some(archive)) = reached.get(&at)? else { return None };
        diffs.push((*archive).clone());
        let ArchiveKind::Diff { base, .. } = archive.kind else { return None };
        at = base;
    }
    diffs.reverse();
    Chain::new(diffs)
}

impl fmt::Display for FullSyncReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FullSyncReason::NotRecorded => f.write_str(
                "no generation is recorded and the tree resembles none that is published",
            ),
            FullSyncReason::UnknownGeneration(id) => {
                write!(
                    f,
                    "the recorded generation {} is not published and the tree resembles none that is",
                    id.short()
                )
            }
            FullSyncReason::NoChain(id) => {
                write!(f, "no chain of diffs leads from generation {} to the head", id.short())
            }
            FullSyncReason::ChainTooLarge { chain, full } => {
                write!(f, "the diffs have {chain} bytes, a full sync takes about {full}")
            }
            FullSyncReason::BrokenChain(files) => {
                let files: Vec<&str> = files.iter().map(|file| file.as_str()).collect();
                write!(
                    f,
                    "the chain of diffs is broken: {} missing or damaged on the server",
                    files.join(", ")
                )
            }
            FullSyncReason::ContentMissing(what) => {
                write!(f, "content is not to be had from the repository: {what}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
