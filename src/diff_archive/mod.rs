//! Archives: the diff that turns one generation into another, and the full archive of a generation.
//!
//! The listing at the beginning of a diff determines everything after it. The writer derives each
//! member from the listing; the [`Reader`] derives the same bytes and compares them. So no member is
//! interpreted, and a hostile archive cannot name a path that its listing does not have.
//!
//! | step | file |
//! |---|---|
//! | known contents and patches of a diff | `delta_plan/` |
//! | listing: parts, counts, texts, check | `changes.rs`, `header.rs`, `source_lines.rs`, `listing.rs` |
//! | members into frames, frames into a file | `member.rs`, `frames.rs`, `frame_writer.rs`, `write.rs` |
//! | reading and verification | `tar_input.rs`, `read.rs`, `verify.rs` |
//! | targets of a patch | `group.rs`, `rebuild_reader.rs` |
//! | location of each content | `content_index.rs` |
//!
#![doc = include_str!("format.md")]

mod changes;
pub mod content_index;
mod delta_plan;
mod error;
mod frame_writer;
mod frames;
mod group;
mod header;
mod limits;
mod listing;
mod member;
mod read;
mod rebuild_reader;
mod similarity;
mod source_lines;
mod sources;
mod tar_input;
mod verify;
mod write;

pub use changes::{DeltaMode, KnownContent};
pub use delta_plan::Deltas;
pub use error::{ArchiveError, GroupDefect, ListingDefect, MemberDefect, PatchFault, WriteError};
pub use frames::{FrameCompression, FrameDecoder};
pub use group::{DeltaGroup, GroupSource, GroupTarget, GzipParts, Workspace};
pub use header::{Header, SpaceNeeded};
pub use limits::{ArchiveLimits, FORMAT};
pub use listing::Listing;
pub use read::{ArchiveMember, FullReader, Reader, read_listing};
pub use similarity::pair_by_content;
pub use sources::{BaseAndTarget, ContentProvider, Sources};
pub use tar_input::MemberContent;
pub use verify::{verify_diff, verify_full};
pub use write::{DiffInput, WriteOptions, WrittenArchiveInfo, write_diff, write_full};

#[cfg(test)]
pub(crate) mod tests;
