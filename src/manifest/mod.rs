//! The manifest: the complete, sorted list of an image's entries, with metadata and digests.
//!
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

pub use compare::{ManifestChanges, compare, gone};
pub use line::{parse_path, write_path};
pub use read::parse_entries;

use rayon::prelude::*;

use crate::digest::Hasher;
use crate::entry::{Entry, Node};
use crate::generation::GenerationId;
use crate::tree_path::TreePath;

/// The largest canonical text that is read from outside: about five million entries.
pub const MAX_TEXT: u64 = 1 << 30;
/// The longest line: a path, its symlink target, its group's name and the names of its extended
/// attributes fully escaped, and their values in base64.
pub const MAX_LINE: usize = 4 << 20;
/// The names of one entry's extended attributes together, as the kernel limits their list.
pub const MAX_XATTR_NAMES: usize = 64 << 10;
/// The values of one entry's extended attributes together: sixteen of the largest that Linux has.
pub const MAX_XATTR_VALUES: usize = 1 << 20;
/// The window that a compressed manifest may ask a reader to hold, as a power of two: 8 MiB, which is
/// what zstd's level 19 uses.
const WINDOW_LOG: u32 = 23;

/// So many entries are written, or read, by one processor at a time.
const PIECE: usize = 1024;
/// So many pieces are in memory together.
const PIECES: usize = 8;

const HEAD: &[u8] = b"#mtree systemimager 1\n";

/// What a tree holds: sorted, unique and checked by every clause of the format.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Shared, since a filter that drops nothing leaves the same entries.
    entries: Arc<[Entry]>,
    id: OnceLock<GenerationId>,
}

/// Why something is not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It could not be read at all.
    #[error("cannot read the manifest: {0}")]
    Io(#[from] io::Error),
    /// A line is not canonical.
    #[error("the manifest is not valid: line {line}: {why}")]
    Line {
        /// Counted from one.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// An entry cannot be.
    #[error("the manifest is not valid: {path}: {why}")]
    Entry {
        /// Which.
        path: TreePath,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A diff was made for another base.
    #[error("the changes do not fit their base: {path}: {why}")]
    OtherBase {
        /// Where.
        path: TreePath,
        /// What is wrong there.
        why: &'static str,
    },
}

impl Manifest {
    /// Sorts and checks `entries`.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        check_each(&entries)?;
        Self::from_sorted(entries)
    }

    /// Checks the clauses that hold between entries; each by itself was checked before.
    fn from_sorted(entries: Vec<Entry>) -> Result<Self, ManifestError> {
        let (tree, groups) = rayon::join(|| checks::tree(&entries), || checks::groups(&entries));
        tree.and(groups)?;
        Ok(Manifest { entries: entries.into(), id: OnceLock::new() })
    }

    /// The id of the generation: the SHA-256 of the canonical text.
    pub fn id(&self) -> GenerationId {
        *self.id.get_or_init(|| {
            let mut hasher = Hasher::new();
            hasher.update(HEAD);
            // While the lines of some entries are hashed, those of the next are written.
            let mut texts: Vec<Vec<u8>> = Vec::new();
            for pieces in self.entries.chunks(PIECE * PIECES) {
                let hash = || texts.iter().for_each(|text| hasher.update(text));
                texts = rayon::join(hash, || pieces.par_chunks(PIECE).map(text_of).collect()).1;
            }
            texts.iter().for_each(|text| hasher.update(text));
            GenerationId(hasher.finish())
        })
    }

    /// All entries in order; the first one is the top.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry at `path`.
    pub fn get(&self, path: &TreePath) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok()?;
        Some(&self.entries[at])
    }

    /// The number of entries, which is never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The bytes of all distinct regular files: a hardlink group counts once.
    pub fn bytes(&self) -> u64 {
        let first = |entry: &&Entry| entry.group().is_none_or(|group| *group == entry.path);
        self.entries
            .iter()
            .filter(first)
            .filter_map(Entry::file)
            .fold(0, |sum, (size, _)| sum.saturating_add(size))
    }

    /// Writes the canonical text.
    pub fn write_to(&self, to: impl Write) -> io::Result<()> {
        write_entries(&self.entries, to)
    }

    /// Writes the canonical text compressed with zstd; `level` is held between 1 and 19.
    pub fn write_zstd(&self, to: impl Write, level: i32) -> io::Result<()> {
        let mut encoder = zstd::Encoder::new(to, level.clamp(1, 19))?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.include_checksum(true)?;
        self.write_to(&mut encoder)?;
        encoder.finish()?.flush()
    }

    /// The manifest that this one becomes when `removed` goes and `changed` comes.
    ///
    /// Every entry of `removed` must be in this manifest as it is, and none of them in `changed`.
    pub fn apply(&self, removed: &[Entry], changed: &[Entry]) -> Result<Self, ManifestError> {
        let other = |entry: &Entry, why| ManifestError::OtherBase { path: entry.path.clone(), why };
        for entry in removed {
            if self.get(&entry.path) != Some(entry) {
                return Err(other(
                    entry,
                    "it should go, but the base does not have it as it is listed",
                ));
            }
        }
        // What comes is before what goes where both are of one path.
        let coming = changed.iter().map(|entry| (&entry.path, false));
        let mut named: Vec<(&TreePath, bool)> =
            coming.chain(removed.iter().map(|e| (&e.path, true))).collect();
        named.sort_unstable();
        for pair in named.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let why = match (pair[0].1, pair[1].1) {
                (false, false) => "it comes twice",
                (true, true) => continue,
                _ => "it goes and comes",
            };
            return Err(ManifestError::OtherBase { path: pair[0].0.clone(), why });
        }
        // What stays was checked with this manifest.
        check_each(changed)?;
        let mut named = named.into_iter().map(|(path, _)| path).peekable();
        let stays = |entry: &&Entry| {
            while named.next_if(|path| **path < entry.path).is_some() {}
            named.peek().is_none_or(|path| **path != entry.path)
        };
        let mut entries: Vec<Entry> = Vec::with_capacity(self.entries.len() + changed.len());
        entries.extend(self.entries.iter().filter(stays).chain(changed).cloned());
        // Two runs in order, which a stable sort merges.
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Self::from_sorted(entries)
    }

    /// The manifest of what `keep` leaves: what is below a dropped directory goes as well, the top
    /// always stays, and a hardlink group is what survives of it.
    pub fn filtered(&self, mut keep: impl FnMut(&Entry) -> bool) -> Manifest {
        let mut dropped: Option<&TreePath> = None;
        let mut left_out = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if dropped.is_some_and(|top| entry.path.is_below(top)) {
                left_out.push(index);
            } else if !entry.path.is_root() && !keep(entry) {
                left_out.push(index);
                if entry.is_dir() {
                    dropped = Some(&entry.path);
                }
            }
        }
        if left_out.is_empty() {
            return self.clone();
        }
        let mut left_out = left_out.into_iter().peekable();
        let stays = |(index, _): &(usize, &Entry)| left_out.next_if_eq(index).is_none();
        let mut kept: Vec<Entry> =
            self.entries.iter().enumerate().filter(stays).map(|(_, e)| e.clone()).collect();
        regroup(&mut kept);
        Manifest { entries: kept.into(), id: OnceLock::new() }
    }
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Manifest {}

/// Writes a fragment: `entries`, which are sorted and unique, in the lines of a manifest.
pub fn write_entries(entries: &[Entry], mut to: impl Write) -> io::Result<()> {
    const PIECE: usize = 256 << 10;
    let mut text = Vec::with_capacity(PIECE + 4096);
    text.extend_from_slice(HEAD);
    for entry in entries {
        line::write(&mut text, entry);
        if text.len() >= PIECE {
            to.write_all(&text)?;
            text.clear();
        }
    }
    to.write_all(&text)
}

/// The lines of `entries`.
fn text_of(entries: &[Entry]) -> Vec<u8> {
    let mut text = Vec::new();
    entries.iter().for_each(|entry| line::write(&mut text, entry));
    text
}

fn check_each(entries: &[Entry]) -> Result<(), ManifestError> {
    entries.iter().try_for_each(|entry| checks::entry(entry).map_err(|why| checks::at(entry, why)))
}

/// `path` as manifests write it: `./` in front, unusual bytes as `\ooo`.
pub fn path_text(path: &TreePath) -> String {
    let mut text = Vec::new();
    line::write_path(&mut text, path);
    // Escaping leaves nothing but ASCII.
    String::from_utf8_lossy(&text).into_owned()
}

/// Names every hardlink group by the first of the members that `entries` still has.
fn regroup(entries: &mut [Entry]) {
    let mut members: HashMap<TreePath, (TreePath, usize)> = HashMap::new();
    for entry in &*entries {
        if let Some(group) = entry.group() {
            members.entry(group.clone()).or_insert_with(|| (entry.path.clone(), 0)).1 += 1;
        }
    }
    for entry in entries {
        let Some(group) = entry.group() else { continue };
        let left = members.get(group).filter(|(_, count)| *count > 1).map(|(first, _)| first);
        if left != Some(group)
            && let Node::Leaf(leaf) = &mut entry.node
        {
            leaf.group = left.cloned();
        }
    }
}

#[cfg(test)]
mod tests;
