//! `.si-diff/header.toml`: names and counts of a diff (clause 7).
//!
//! A node decides by the counts if it has the space and the time for an archive. A reader computes
//! them from the rest of the listing and compares, so they cannot be wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::changes::{DeltaMode, ListingParts};
use super::error::{ArchiveError, ListingDefect};
use super::group::DeltaGroup;
use super::group_contents::RebuiltParts;
use super::limits::FORMAT;
use super::member::{AclRecords, has_acl, link_target};
use crate::delta::REBUILD_RATE;
use crate::entry::Entry;
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::write_path;
use crate::replay::file::Forms;
use crate::tree_path::TreePath;

/// Least space of a file or a directory: a block of the usual filesystems.
const FS_BLOCK: u64 = 4096;

/// Names and counts of a diff.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: u32,
    /// Name of the image.
    pub image: ImageName,
    /// The generation that it applies to.
    pub base: GenerationId,
    /// The generation that it yields.
    pub target: GenerationId,
    /// Whether contents of the base may be left out, and others may be patches.
    pub deltas: bool,
    /// Whether the headers of members have ACLs also as text, which `tar --acls` needs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub acls: bool,
    /// Number of removed entries.
    pub removed: u64,
    /// Number of new or changed entries.
    pub changed: u64,
    /// Number of contents that the base has and the archive lacks.
    pub known: u64,
    /// Number of delta groups.
    pub groups: u64,
    /// Number of contents that are in the archive as a whole.
    pub whole: u64,
    /// Bytes of these contents.
    pub whole_bytes: u64,
    /// Bytes of all patches.
    pub patch_bytes: u64,
    /// Abilities that a reader needs, in the order of [`REPLAY_NEEDS`](crate::replay::file::REPLAY_NEEDS).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Number of compressed files that a node rebuilds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rebuilt: u64,
    /// Bytes of their plain forms.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rebuilt_bytes: u64,
    /// Estimated rebuild time, in milliseconds of one processor.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rebuild_ms: u64,
    /// Space of the changed entries, by directory at the top of the image, in order.
    #[serde(default)]
    pub room: Vec<SpaceNeeded>,
}

/// Space that the changed entries of one directory take in addition to the old ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceNeeded {
    /// The directory at the top of the image, escaped as in a manifest; `.` for entries in none.
    pub tree: String,
    /// Number of entries; a hard-link group counts as one.
    pub entries: u64,
    /// Bytes; each entry is rounded up to 4 KiB.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct HeaderFormat {
    format: i64,
}

impl Header {
    /// Counts the parts of a listing; `whole` has the indices of the contents in the archive.
    pub(super) fn count(parts: &ListingParts, whole: &[u32]) -> Self {
        let groups = &parts.groups;
        let has_acls = parts.mode == DeltaMode::WithoutDeltas
            && parts.changed.iter().any(|entry| link_target(entry).is_none() && has_acl(entry));
        let mut header = Header {
            format: FORMAT,
            image: parts.image.clone(),
            base: parts.base,
            target: parts.target,
            deltas: parts.mode == DeltaMode::WithDeltas,
            acls: has_acls,
            removed: parts.removed.len() as u64,
            changed: parts.changed.len() as u64,
            known: parts.known.len() as u64,
            groups: groups.len() as u64,
            whole: 0,
            whole_bytes: 0,
            patch_bytes: groups.iter().fold(0, |sum, group| sum.saturating_add(group.patch_length)),
            needs: needs_of(groups),
            rebuilt: 0,
            rebuilt_bytes: 0,
            rebuild_ms: 0,
            room: space_needed(&parts.changed),
        };

        let targets = groups.iter().flat_map(|group| &group.targets);
        for rebuilt in targets.filter_map(|target| target.rebuilt) {
            let plain = match rebuilt {
                RebuiltParts::Gzip(gzip) => gzip.plain,
                RebuiltParts::Replayed(plain) => plain.length,
            };
            header.rebuilt += 1;
            header.rebuilt_bytes = header.rebuilt_bytes.saturating_add(plain);
        }
        for at in whole {
            let size = parts.changed[*at as usize].file().map_or(0, |(size, _)| size);
            header.whole += 1;
            header.whole_bytes = header.whole_bytes.saturating_add(size);
        }
        header
    }

    /// Whether the archive has deltas.
    pub(super) fn mode(&self) -> DeltaMode {
        if self.deltas { DeltaMode::WithDeltas } else { DeltaMode::WithoutDeltas }
    }

    /// Whether the headers of members have ACLs also as text.
    pub(super) fn acl_records(&self) -> AclRecords {
        if self.acls { AclRecords::Written } else { AclRecords::Omitted }
    }

    /// Estimated rebuild time of compressed files, in seconds of one processor.
    pub fn rebuild_seconds(&self) -> f64 {
        match self.rebuild_ms {
            // An old archive without this count.
            0 => self.rebuilt_bytes as f64 / REBUILD_RATE as f64,
            counted => counted as f64 / 1000.0,
        }
    }

    /// Reads `.si-diff/header.toml`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let text = std::str::from_utf8(bytes).map_err(ListingDefect::from)?;

        // The format is checked before all other keys, which a later format may change.
        let HeaderFormat { format } = toml::from_str(text).map_err(ListingDefect::from)?;
        if format != i64::from(FORMAT) {
            return Err(ArchiveError::UnknownFormat(format));
        }

        Ok(toml::from_str(text).map_err(ListingDefect::from)?)
    }

    /// The text of `.si-diff/header.toml`.
    pub(super) fn to_toml(&self) -> Result<String, ArchiveError> {
        Ok(toml::to_string(self).map_err(ListingDefect::from)?)
    }
}

/// Abilities that a reader of an archive with these groups needs.
pub fn needs_of(groups: &[DeltaGroup]) -> Vec<String> {
    let forms = groups.iter().map(DeltaGroup::replayed_forms).fold(Forms::default(), Forms::union);
    forms.needs().map(str::to_owned).collect()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn space_needed(changed: &[Entry]) -> Vec<SpaceNeeded> {
    let mut trees: BTreeMap<TreePath, (u64, u64)> = BTreeMap::new();
    for entry in changed.iter().filter(|entry| link_target(entry).is_none()) {
        let (entries, bytes) = trees.entry(top_directory(entry)).or_default();
        let size = entry.file().map_or(FS_BLOCK, |(size, _)| size.max(1));
        *entries += 1;
        *bytes = bytes.saturating_add(size.div_ceil(FS_BLOCK).saturating_mul(FS_BLOCK));
    }

    trees
        .into_iter()
        .map(|(tree, (entries, bytes))| {
            let mut text = Vec::new();
            write_path(&mut text, &tree);
            // An escaped path is ASCII.
            SpaceNeeded { tree: String::from_utf8_lossy(&text).into_owned(), entries, bytes }
        })
        .collect()
}

/// The directory at the top of the image that contains `entry` or is it.
fn top_directory(entry: &Entry) -> TreePath {
    let mut components = entry.path.components();
    match (components.next(), components.next()) {
        (Some(first), below) if below.is_some() || entry.is_dir() => {
            TreePath::root().join(first).unwrap_or_else(|_| TreePath::root())
        }
        _ => TreePath::root(),
    }
}
