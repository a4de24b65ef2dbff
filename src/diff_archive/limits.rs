//! Version of the format, and the limits of a reader.

/// The format of all archives except those of `FORMAT_WITH_ACLS`.
pub const FORMAT: u32 = 1;
/// The format of diffs without deltas that have ACLs: `tar --acls` needs them as text.
pub const FORMAT_WITH_ACLS: u32 = 2;

/// Sizes that a reader accepts; all other sizes are checked against the listing.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveLimits {
    /// `header.toml`, in bytes: 100 for each of the dozens of directories at the top of an image.
    pub header: u64,
    /// Each other text of the listing, in bytes: as a manifest, about five million entries.
    pub text: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        ArchiveLimits { header: 1 << 20, text: crate::manifest::MAX_TEXT }
    }
}
