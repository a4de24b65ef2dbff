//! `.si-diff/header.toml`: what an archive is, and how much of everything it holds.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::group::DeltaGroup;
use super::listing::{Changed, KnownContent};
use super::member::link_target;
use crate::delta::REBUILD_RATE;
use crate::entry::Entry;
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::write_path;
use crate::tree_path::TreePath;

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;
/// What a file or a directory takes at least: a block of the usual filesystems.
const FS_BLOCK: u64 = 4096;

/// What an archive is, and how much of everything it holds (clause 5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: u32,
    /// Whose diff this is.
    pub image: ImageName,
    /// The generation that it applies to.
    pub base: GenerationId,
    /// The generation that it makes.
    pub target: GenerationId,
    /// Whether contents may be left out that the base holds, or travel as patches.
    pub deltas: bool,
    /// Entries that go.
    pub removed: u64,
    /// Entries that come or change.
    pub changed: u64,
    /// Contents that the base holds and the archive does not.
    pub known: u64,
    /// Delta groups.
    pub groups: u64,
    /// Contents that travel whole.
    pub whole: u64,
    /// Their bytes.
    pub whole_bytes: u64,
    /// The bytes of all patches.
    pub patch_bytes: u64,
    /// Compressed files that a node rebuilds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rebuilt: u64,
    /// The bytes of their plain form.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rebuilt_bytes: u64,
    /// About how many milliseconds of one processor that takes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rebuild_ms: u64,
    /// What the changed entries need, by the tree at the top that they are in, in order.
    #[serde(default)]
    pub room: Vec<SpaceNeeded>,
}

/// What the changed entries of one tree need while they stand beside the old ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceNeeded {
    /// The directory at the top of the image, escaped as in a manifest; `.` for what lies in no directory.
    pub tree: String,
    /// Entries, less those that are further links.
    pub entries: u64,
    /// Bytes, each entry rounded up to 4 KiB.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct HeaderFormat {
    format: i64,
}

impl Header {
    /// Counts what a listing says.
    pub(super) fn count(
        (image, base, target): (ImageName, GenerationId, GenerationId),
        deltas: bool,
        removed: &[Entry],
        changed: &Changed,
        known: &[KnownContent],
        groups: &[DeltaGroup],
    ) -> Self {
        let mut header = Header {
            format: FORMAT,
            image,
            base,
            target,
            deltas,
            removed: removed.len() as u64,
            changed: changed.entries.len() as u64,
            known: known.len() as u64,
            groups: groups.len() as u64,
            whole: 0,
            whole_bytes: 0,
            patch_bytes: groups.iter().fold(0, |sum, group| sum.saturating_add(group.patch_length)),
            rebuilt: 0,
            rebuilt_bytes: 0,
            rebuild_ms: 0,
            room: room(&changed.entries),
        };
        for inside in
            groups.iter().flat_map(|group| &group.targets).filter_map(|target| target.inside)
        {
            header.rebuilt += 1;
            header.rebuilt_bytes = header.rebuilt_bytes.saturating_add(inside.plain);
        }
        for content in changed.whole() {
            header.whole += 1;
            header.whole_bytes =
                header.whole_bytes.saturating_add(content.file().map_or(0, |(size, _)| size));
        }
        header
    }

    /// About how many seconds of one processor the rebuilding of compressed files takes.
    pub fn rebuild_seconds(&self) -> f64 {
        match self.rebuild_ms {
            // An archive of before this was counted.
            0 => self.rebuilt_bytes as f64 / REBUILD_RATE as f64,
            counted => counted as f64 / 1000.0,
        }
    }

    /// Reads `.si-diff/header.toml`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let invalid = |why: &dyn fmt::Display| ArchiveError::Listing(format!("header.toml: {why}"));
        let text = std::str::from_utf8(bytes).map_err(|e| invalid(&e))?;
        let HeaderFormat { format } = toml::from_str(text).map_err(|e| invalid(&e.message()))?;
        if format != i64::from(FORMAT) {
            return Err(ArchiveError::UnknownFormat(format));
        }
        toml::from_str(text).map_err(|e| invalid(&e.message()))
    }

    /// The text of `.si-diff/header.toml`.
    pub(super) fn to_toml(&self) -> Result<String, ArchiveError> {
        toml::to_string(self).map_err(|e| ArchiveError::Listing(format!("header.toml: {e}")))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn room(changed: &[Entry]) -> Vec<SpaceNeeded> {
    let mut trees: BTreeMap<TreePath, (u64, u64)> = BTreeMap::new();
    for entry in changed.iter().filter(|entry| link_target(entry).is_none()) {
        let (entries, bytes) = trees.entry(top(entry)).or_default();
        let size = entry.file().map_or(FS_BLOCK, |(size, _)| size.max(1));
        *entries += 1;
        *bytes = bytes.saturating_add(size.div_ceil(FS_BLOCK).saturating_mul(FS_BLOCK));
    }
    let named = |(tree, (entries, bytes)): (TreePath, (u64, u64))| {
        let mut text = Vec::new();
        write_path(&mut text, &tree);
        // The escape leaves nothing but ASCII.
        SpaceNeeded { tree: String::from_utf8_lossy(&text).into_owned(), entries, bytes }
    };
    trees.into_iter().map(named).collect()
}

/// The directory at the top of the image that `entry` lies in or is.
fn top(entry: &Entry) -> TreePath {
    let mut components = entry.path.components();
    match (components.next(), components.next()) {
        (Some(first), below) if below.is_some() || entry.is_dir() => {
            TreePath::root().join(first).unwrap_or_else(|_| TreePath::root())
        }
        _ => TreePath::root(),
    }
}
