//! Version of the format, and the limits of a reader.

/// The format of archives.
pub const FORMAT: u32 = 3;

/// Most raw bytes of a frame: enough to compress well, and little enough to hold in memory.
pub const MAX_RAW_FRAME: usize = 1 << 20;
/// Longest frame in a file, in bytes: one that no compressor could shorten, and room for its form.
pub const MAX_STORED_FRAME: u32 = (1 << 20) + (64 << 10);
/// Longest head of a file, in bytes: it is read into memory.
pub const MAX_FRAME_HEAD: u64 = 64 << 20;

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
