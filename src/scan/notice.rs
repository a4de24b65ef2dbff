//! Warnings of a scan, and their wording.

/// A path that a scan leaves out of the manifest.
#[derive(Debug, thiserror::Error)]
pub enum ScanNotice {
    #[error("{path} is a socket and is left out")]
    Socket { path: String },
    /// The mount point is part of the image, the mounted tree is not.
    #[error("something is mounted on {path}; its content is left out")]
    Mounted { path: String },
}
