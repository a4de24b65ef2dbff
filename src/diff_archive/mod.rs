//! Archives: the diff that turns one generation into another, and the full archive of a generation.
//!
//! The listing at the beginning of a diff determines everything after it. The writer derives each
//! member from the listing; the [`Reader`] derives the same bytes and compares them. So no member
//! is interpreted, and a hostile archive cannot name a path that its listing does not have.
//!
//! | file | step |
//! |---|---|
//! | `delta_plan/` | known contents and patches of a diff |
//! | `changes.rs`, `header.rs`, `source_lines.rs`, `listing.rs` | parts, counts and texts |
//! | `compression.rs`, `frame_table.rs`, `frames.rs`, `frame_head.rs` | frames, the only decoder |
//! | `member.rs`, `frame_writer.rs`, `write.rs` | members, the file |
//! | `tar_input.rs`, `read.rs`, `verify.rs` | reading and verification |
//! | `group.rs`, `group_contents.rs`, `old_files.rs`, `rebuild_reader.rs` | targets of a patch |
//! | `content_index.rs` | location of each content |
//!
#![doc = include_str!("format.md")]

mod changes;
mod compression;
pub mod content_index;
mod delta_plan;
mod error;
mod frame_head;
mod frame_table;
mod frame_writer;
mod frames;
mod group;
mod group_contents;
mod header;
mod limits;
mod listing;
mod member;
mod old_files;
mod read;
mod rebuild_reader;
mod similarity;
mod source_lines;
mod sources;
mod tar_input;
mod verify;
mod write;

pub use changes::{DeltaMode, KnownContent};
pub use compression::FrameCompression;
pub use delta_plan::Deltas;
pub use error::{
    ArchiveError, DecodeFault, FrameFault, GroupDefect, ListingDefect, MemberDefect, PatchFault,
    WriteError,
};
pub use frame_head::{FrameHead, FramedFile};
pub use frame_table::FrameTable;
pub use frames::{VerifiedFrames, decoded_frames};
pub use group::{DeltaGroup, Workspace};
pub use group_contents::{Container, GroupSource, GroupTarget, GzipParts, PlainForm, RebuiltParts};
pub use header::{Header, SpaceNeeded, needs_of};
pub use limits::{ArchiveLimits, FORMAT, MAX_FRAME_HEAD, MAX_RAW_FRAME};
pub use listing::Listing;
pub use read::{ArchiveMember, FullReader, Reader, read_listing};
pub use similarity::pair_by_content;
pub use sources::{BaseAndTarget, ContentProvider, Sources};
pub use tar_input::MemberContent;
pub use verify::{verify_diff, verify_full};
pub use write::{DiffInput, WriteOptions, WrittenArchiveInfo, write_diff, write_full};

#[cfg(test)]
pub(crate) mod tests;
