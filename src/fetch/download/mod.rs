//! Parts of a download: partial files in the spool, their readers, and the retry policy.

pub(super) mod growing_file;
pub(super) mod partial_file;
pub(super) mod retry;
pub(super) mod spool;
