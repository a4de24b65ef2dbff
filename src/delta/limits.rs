//! Limits of the format, with the reason of each.
//!
//! A node holds source and output of a group in memory. These limits bound that memory, also for a
//! hostile archive: a decoder checks them before it allocates.

/// Largest content that is built in memory; a larger one is built as a stream.
pub const MAX_CONTENT: u64 = 48 << 20;
/// Largest source, and largest output, of a group: the plain form of a kernel fills a group.
pub const MAX_GROUP: u64 = 56 << 20;
/// Largest patch, because a larger one saves too little for the memory that it takes.
pub const MAX_PATCH: u64 = 24 << 20;

/// Usual size of a group's source, in bytes.
///
/// Small files share one prefix, and the tables of the match finder still cover all of it.
pub const GROUP_SOURCE: u64 = 2 << 20;
/// Usual size of a group's output, in bytes, also if one source serves many targets.
pub const GROUP_OUTPUT: u64 = 8 << 20;

/// Largest number of deltas, one upon the other, that build a content; readers follow no more.
pub const MAX_DEPTH: u32 = 4;
