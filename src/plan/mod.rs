//! Decides between diffs and a full sync.
//!
//! The decision is a pure function: it reads no file and asks no server, and its result has the
//! reason. So the decision can be tested without a repository, and printed before anything is
//! changed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;

use crate::catalog::{Archive, ArchiveKind, Catalog, RepoPath};
use crate::generation::GenerationId;

/// Way from the installed generation to the head of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdatePlan {
    /// The head is installed.
    Nothing,
    /// Apply these diffs as one transaction.
    Diffs(Chain),
    Full(FullSyncReason),
}

/// Reason for a full sync instead of diffs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FullSyncReason {
    /// No state is recorded, and the tree resembles no published generation.
    NotRecorded,
    /// The catalog does not list the recorded generation, and the tree resembles none that it
    /// lists.
    UnknownGeneration(GenerationId),
    /// No chain leads from the installed generation to the head.
    NoChain(GenerationId),
    /// The smallest chain has more bytes than the estimate for a full sync.
    ChainTooLarge {
        /// Bytes of the chain.
        chain: u64,
        /// Estimated bytes of a full sync.
        full: u64,
    },
    /// Archives are missing or damaged, and no chain avoids them.
    BrokenChain(Vec<RepoPath>),
    /// The repository does not have content that no diff supplies; the text names it.
    ContentMissing(String),
}

/// Diffs joined end to end: never empty, and without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain(Vec<Archive>);

impl Chain {
    /// Joins `diffs`; `None` if they are no chain.
    pub fn new(diffs: Vec<Archive>) -> Option<Self> {
        let mut end: Option<GenerationId> = None;
        for diff in &diffs {
            let ArchiveKind::Diff { base, target } = diff.kind else { return None };
            if end.is_some_and(|end| end != base) {
                return None;
            }
            end = Some(target);
        }
        end.map(|_| Chain(diffs))
    }

    /// The diffs, first to last.
    pub fn diffs(&self) -> &[Archive] {
        &self.0
    }

    /// Size of all archives in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|a| a.file.size).fold(0, u64::saturating_add)
    }
}

/// Chooses the way from `installed` to the head of the catalog, without the archives in `broken`.
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

    let full = estimated_full_sync(catalog);
    if chain.bytes() > full {
        UpdatePlan::Full(FullSyncReason::ChainTooLarge { chain: chain.bytes(), full })
    } else {
        UpdatePlan::Diffs(chain)
    }
}

/// Estimates the bytes of a full sync of an empty tree: a full archive, and the content index.
///
/// A tree that has some of the contents needs less.
fn estimated_full_sync(catalog: &Catalog) -> u64 {
    /// A full sync reads the whole tree, and asks for many ranges: fewer bytes are not worth that.
    const MIN_GAIN: u64 = 64 << 10;

    let head = catalog.head();
    let is_full = |archive: &&Archive| match archive.kind {
        ArchiveKind::Full { target } => target == head.generation,
        ArchiveKind::Diff { .. } => false,
    };
    let full = catalog.archives.iter().find(is_full);

    // Without a full archive of the head, the size of its files is the limit.
    let contents = full.map_or(head.bytes, |full| full.file.size);
    let index = catalog.content.as_ref().map_or(0, |index| index.file.size);
    contents.saturating_add(index).saturating_add(MIN_GAIN)
}

/// Finds the chain with the fewest bytes, and among these with the fewest diffs (Dijkstra's
/// algorithm).
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

    // By generation: bytes and number of diffs of the best chain to it, and the last diff of that
    // chain.
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

    // From the end back to the start.
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
                    "the chain of diffs is broken: {} {} missing or damaged on the server",
                    files.join(", "),
                    if files.len() == 1 { "is" } else { "are" }
                )
            }
            FullSyncReason::ContentMissing(content) => {
                write!(f, "the repository does not have the content: {content}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
