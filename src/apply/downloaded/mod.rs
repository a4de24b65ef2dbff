//! Downloaded update: contents and a record on this node, from which a later run can switch.
//!
//! A download fills a stage as an update does, but seals no journal: [`DownloadWriter`] moves the
//! contents into `.si-downloaded` and writes the record last. [`DownloadedUpdate`] is a valid record
//! with its contents, and a source of content for the stages of later runs.
//!
#![doc = include_str!("format.md")]

mod contents;
mod directories;
mod record;
mod update;
mod writer;

pub use contents::{ContentList, FileIdentity, StoredCopy};
pub use directories::{discard, exists};
pub use record::{DataFile, DownloadRecord, DownloadSummary, LayerRecord, RecordedCheck};
pub use update::{DownloadedUpdate, FoundDownload, OpenCopy};
pub use writer::DownloadWriter;
pub(in crate::apply) use writer::SyncMethod;

use crate::apply::on_disk::name;
use crate::digest::Digest;
use crate::tree_path::TreePath;

/// In the root's directory: the record.
const RECORD: &str = "record";
/// In the root's directory, with a digest: a file that the record names.
const DATA_PREFIX: &str = "data-";

/// The name of a copy of a content.
fn copy_name(digest: &Digest, number: u32) -> TreePath {
    name(&format!("{digest}.{number}"))
}

/// The name of a file that the record names.
fn data_name(digest: &Digest) -> TreePath {
    name(&format!("{DATA_PREFIX}{digest}"))
}
