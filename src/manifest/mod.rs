//! The manifest: complete, sorted list of the entries of a tree, with metadata and digests.
//!
//! The id of a generation is the digest of this text. So a node that checks the digest of a
//! manifest knows each digest in it, and needs to trust nothing else about the content of the
//! image.
#![doc = include_str!("format.md")]

mod checks;
mod compare;
mod export;
mod line;
mod overlay;
mod read;

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

pub use compare::{ManifestChanges, compare, removed_entries};
pub use line::{parse_path, write_path};
pub use read::parse_entries;

use rayon::prelude::*;

use crate::digest::{Digest, Hasher};
use crate::entry::{Entry, Mtime, Node};
use crate::generation::GenerationId;
use crate::tree_path::TreePath;

/// Largest canonical text that is read from outside, in bytes: about five million entries.
pub const MAX_TEXT: u64 = 1 << 30;
/// Number of entries that a published manifest may have, also if its catalog states fewer: they take
/// about 20 MB of memory.
const SMALL_MANIFEST: usize = 50_000;
/// Longest line in bytes.
///
/// It has room for path, link target, group and the names of extended attributes, all of them
/// escaped, and for the values of these attributes in base64.
pub const MAX_LINE: usize = 4 << 20;
/// Size of all names of an entry's extended attributes in bytes, a limit of the kernel.
pub const MAX_XATTR_NAMES: usize = 64 << 10;
/// Size of all values of an entry's extended attributes in bytes: sixteen of the largest in Linux.
pub const MAX_XATTR_VALUES: usize = 1 << 20;
/// Binary logarithm of the largest zstd window: 8 MiB, as level 19 uses.
///
/// A reader needs this much memory, so a larger window is refused.
const WINDOW_LOG: u32 = 23;

/// Number of entries that one thread formats or parses at a time.
const PIECE: usize = 1024;
/// Number of such pieces in memory at a time.
const PIECES: usize = 8;

const HEAD: &[u8] = b"#mtree systemimager 1\n";

/// All entries of a tree: in tree order, unique, and checked against each clause of the format.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Shared, since a filter that drops no entry returns the same list.
    entries: Arc<[Entry]>,
    id: OnceLock<GenerationId>,
}

/// Bytes or entries that are not a valid manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Reading failed.
    #[error("cannot read the manifest: {0}")]
    Io(#[from] io::Error),
    /// A line is not canonical.
    #[error("the manifest is not valid: line {line}: {why}")]
    Line {
        /// From 1.
        line: u64,
        why: &'static str,
    },
    /// An entry, or its place in the tree, is not valid.
    #[error("the manifest is not valid: {path}: {why}")]
    Entry { path: TreePath, why: &'static str },
    /// Changes of a diff do not fit the base.
    #[error("the changes do not fit their base: {path}: {why}")]
    OtherBase { path: TreePath, why: &'static str },
}

impl Manifest {
    /// Sorts and checks `entries`.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        check_each(&entries)?;
        Self::from_sorted(entries)
    }

    /// Checks the clauses about several entries; each entry by itself has been checked.
    fn from_sorted(entries: Vec<Entry>) -> Result<Self, ManifestError> {
        let (tree, groups) =
            rayon::join(|| checks::check_tree(&entries), || checks::check_groups(&entries));
        tree.and(groups)?;
        Ok(Manifest { entries: entries.into(), id: OnceLock::new() })
    }

    /// The id of this generation: SHA-256 of the canonical text.
    pub fn id(&self) -> GenerationId {
        *self.id.get_or_init(|| GenerationId(digest_of_entries(&self.entries)))
    }

    /// All entries in tree order; the first one is the root.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry at `path`.
    pub fn get(&self, path: &TreePath) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok()?;
        Some(&self.entries[at])
    }

    /// Number of entries; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Size of all regular files in bytes; a hard-link group counts once.
    pub fn bytes(&self) -> u64 {
        self.entries
            .iter()
            .filter(|entry| entry.group().is_none_or(|group| *group == entry.path))
            .filter_map(Entry::file)
            .fold(0, |sum, (size, _)| sum.saturating_add(size))
    }

    /// Writes the canonical text.
    pub fn write_to(&self, to: impl Write) -> io::Result<()> {
        write_entries(&self.entries, to)
    }

    /// Writes the canonical text, compressed with zstd; `level` is limited to 1 to 19.
    pub fn write_zstd(&self, to: impl Write, level: i32) -> io::Result<()> {
        let mut encoder = zstd::Encoder::new(to, level.clamp(1, 19))?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.include_checksum(true)?;
        self.write_to(&mut encoder)?;
        encoder.finish()?.flush()
    }

    /// The manifest without the entries `removed`, and with the entries `changed`.
    ///
    /// Each entry of `removed` must be in this manifest exactly as it is, and its path not in
    /// `changed`.
    pub fn apply(&self, removed: &[Entry], changed: &[Entry]) -> Result<Self, ManifestError> {
        let other_base =
            |path: &TreePath, why| ManifestError::OtherBase { path: path.clone(), why };

        let missing = removed.iter().find(|entry| self.get(&entry.path) != Some(entry));
        if let Some(entry) = missing {
            return Err(other_base(
                &entry.path,
                "it is to be removed, but the base has another entry",
            ));
        }

        let mut named: Vec<(&TreePath, NamedChange)> = changed
            .iter()
            .map(|entry| (&entry.path, NamedChange::Install))
            .chain(removed.iter().map(|entry| (&entry.path, NamedChange::Remove)))
            .collect();
        named.sort_unstable();
        for pair in named.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let why = match (pair[0].1, pair[1].1) {
                (NamedChange::Install, NamedChange::Install) => "it is changed twice",
                (NamedChange::Remove, NamedChange::Remove) => continue,
                _ => "it is both removed and changed",
            };
            return Err(other_base(pair[0].0, why));
        }

        // The entries that stay have been checked as part of this manifest.
        check_each(changed)?;
        let mut named = named.into_iter().map(|(path, _)| path).peekable();
        let mut entries: Vec<Entry> = Vec::with_capacity(self.entries.len() + changed.len());
        entries.extend(
            self.entries
                .iter()
                .filter(|entry: &&Entry| {
                    while named.next_if(|path| **path < entry.path).is_some() {}
                    named.peek().is_none_or(|path| **path != entry.path)
                })
                .chain(changed)
                .cloned(),
        );
        // Two sorted runs, which a stable sort merges.
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Self::from_sorted(entries)
    }

    /// The manifest of the entries that `keep` accepts.
    ///
    /// The content of a dropped directory is dropped as well; the root always stays. A hard-link
    /// group consists of its remaining members.
    pub fn filtered(&self, mut keep: impl FnMut(&Entry) -> bool) -> Manifest {
        let mut dropped_dir: Option<&TreePath> = None;
        let mut dropped = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if dropped_dir.is_some_and(|dir| entry.path.is_below(dir)) {
                dropped.push(index);
            } else if !entry.path.is_root() && !keep(entry) {
                dropped.push(index);
                if entry.is_dir() {
                    dropped_dir = Some(&entry.path);
                }
            }
        }
        if dropped.is_empty() {
            return self.clone();
        }

        let mut dropped = dropped.into_iter().peekable();
        let mut entries: Vec<Entry> = self
            .entries
            .iter()
            .enumerate()
            .filter(|(index, _): &(usize, &Entry)| dropped.next_if_eq(index).is_none())
            .map(|(_, e)| e.clone())
            .collect();
        regroup(&mut entries);
        Manifest { entries: entries.into(), id: OnceLock::new() }
    }

    /// The manifest without larger hard-link groups than `limit_of` a path allows.
    ///
    /// The members above the limit are groups of their own. The second result has the first member
    /// of each of them.
    pub fn with_group_limit(
        &self,
        limit_of: impl Fn(&TreePath) -> usize,
    ) -> (Manifest, Vec<TreePath>) {
        let mut sizes: HashMap<&TreePath, usize> = HashMap::new();
        for group in self.entries.iter().filter_map(|entry| entry.group()) {
            *sizes.entry(group).or_default() += 1;
        }
        if sizes.iter().all(|(group, size)| *size <= limit_of(group)) {
            return (self.clone(), Vec::new());
        }

        let mut entries: Vec<Entry> = self.entries.to_vec();
        let mut split = Vec::new();
        // For each group the name of its present part, and the number of members in it.
        let mut parts: HashMap<TreePath, (TreePath, usize)> = HashMap::new();
        for entry in &mut entries {
            let Some(group) = entry.group().cloned() else { continue };
            let (name, size) = parts.entry(group.clone()).or_insert_with(|| (group.clone(), 0));
            if *size == limit_of(&entry.path) {
                (*name, *size) = (entry.path.clone(), 0);
                split.push(entry.path.clone());
            }
            *size += 1;
            if *name != group
                && let Node::Leaf(leaf) = &mut entry.node
            {
                leaf.group = Some(name.clone());
            }
        }
        regroup(&mut entries);
        (Manifest { entries: entries.into(), id: OnceLock::new() }, split)
    }

    /// The manifest with another mtime for each entry.
    pub fn with_times(&self, time_of: impl Fn(&Entry) -> Mtime) -> Manifest {
        if self.entries.iter().all(|entry| time_of(entry) == entry.meta.mtime) {
            return self.clone();
        }
        let with_time = |entry: &Entry| {
            let mut entry = entry.clone();
            let mtime = time_of(&entry);
            if entry.meta.mtime != mtime {
                entry.meta.mtime = mtime;
            }
            entry
        };
        let entries: Vec<Entry> = self.entries.iter().map(with_time).collect();
        Manifest { entries: entries.into(), id: OnceLock::new() }
    }
}

/// Change of one path; the order decides nothing, it only brings equal paths together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum NamedChange {
    Install,
    Remove,
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Manifest {}

/// Writes a fragment: `entries`, which are in tree order and unique, in the form of a manifest.
pub fn write_entries(entries: &[Entry], mut to: impl Write) -> io::Result<()> {
    const BUFFER: usize = 256 << 10;
    let mut text = Vec::with_capacity(BUFFER + 4096);
    text.extend_from_slice(HEAD);
    for entry in entries {
        line::write(&mut text, entry);
        if text.len() >= BUFFER {
            to.write_all(&text)?;
            text.clear();
        }
    }
    to.write_all(&text)
}

/// SHA-256 of a fragment: of the text that [`write_entries`] writes.
pub fn digest_of_entries(entries: &[Entry]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(HEAD);

    // While the text of some pieces is hashed, other threads format the next ones.
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for pieces in entries.chunks(PIECE * PIECES) {
        texts = rayon::join(
            || texts.iter().for_each(|text| hasher.update(text)),
            || pieces.par_chunks(PIECE).map(text_of).collect(),
        )
        .1;
    }
    texts.iter().for_each(|text| hasher.update(text));
    hasher.finish()
}

/// The canonical lines of `entries`.
fn text_of(entries: &[Entry]) -> Vec<u8> {
    let mut text = Vec::new();
    entries.iter().for_each(|entry| line::write(&mut text, entry));
    text
}

fn check_each(entries: &[Entry]) -> Result<(), ManifestError> {
    entries.iter().try_for_each(|entry| {
        checks::check_entry(entry).map_err(|why| checks::fault_of(entry, why))
    })
}

/// The path as manifests write it: `./` first, unusual bytes as `\ooo`.
pub fn path_text(path: &TreePath) -> String {
    let mut text = Vec::new();
    line::write_path(&mut text, path);
    // Escaped text is ASCII.
    String::from_utf8_lossy(&text).into_owned()
}

/// Names each hard-link group by the first of its members in `entries`.
///
/// A group with a single member left is no group.
fn regroup(entries: &mut [Entry]) {
    let mut members: HashMap<TreePath, (TreePath, usize)> = HashMap::new();
    for entry in &*entries {
        if let Some(group) = entry.group() {
            members.entry(group.clone()).or_insert_with(|| (entry.path.clone(), 0)).1 += 1;
        }
    }

    for entry in entries {
        let Some(group) = entry.group() else { continue };
        let name = members.get(group).filter(|(_, count)| *count > 1).map(|(first, _)| first);
        if name != Some(group)
            && let Node::Leaf(leaf) = &mut entry.node
        {
            leaf.group = name.cloned();
        }
    }
}

#[cfg(test)]
mod tests;
