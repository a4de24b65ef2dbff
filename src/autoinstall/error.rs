//! Failures of an autoinstall, with their wording.

use crate::apply::Untouched;
use crate::host::ToolError;
use crate::tree_path::BadPath;
use crate::update::{UpdateError, UsageError};

/// Failure of an autoinstall on this node.
#[derive(Debug, thiserror::Error)]
pub(super) enum AutoinstallError {
    /// `--append` has characters that boot loaders interpret.
    #[error("--append: single quotes, backslashes, $, ` and control characters are not possible")]
    BadAppend,
    /// `--configure-from` is not the name of an interface.
    #[error("--configure-from: {device:?} is not the name of a network interface")]
    BadDevice { device: String },
    /// A path would exceed the longest path.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// The interface does not exist or has no IPv4 address.
    #[error("the network interface {device} has no IPv4 address")]
    NoAddress { device: String },
    /// The kernel does not list its interfaces.
    #[error("cannot read the addresses of the network interfaces: {source}")]
    Addresses { source: nix::Error },
    /// No supported boot loader and no kexec.
    #[error(
        "cannot arrange a boot of the installer: neither systemd-boot with bootctl, nor grub with \
         grub-reboot or grub2-reboot, nor kexec is installed; install one of them"
    )]
    NoBootMethod,
    /// A path to be written has another type.
    #[error("cannot write {path}: it exists and is not a regular file")]
    NotAFile { path: String },
    /// The backup of a file would have an invalid name.
    #[error("cannot back up {path}: {source}")]
    BackupName { path: String, source: BadPath },
    /// A program of the tree failed.
    #[error(transparent)]
    Tool(ToolError),
}

/// Failure to choose a flavor.
#[derive(Debug, thiserror::Error)]
pub(super) enum FlavorError {
    #[error("there are no boot files for this architecture; install them on the server")]
    NoBootFiles,
    #[error("there is no flavor {wanted:?}; the server has {}", available.join(", "))]
    Unknown { wanted: String, available: Vec<String> },
    #[error("there are the flavors {}; choose one by --flavor", available.join(", "))]
    Ambiguous { available: Vec<String> },
}

/// Fault of a received boot file.
#[derive(Debug, thiserror::Error)]
#[error("it is not a regular file, is empty, or has more than {limit} bytes")]
pub(super) struct BadBootFile {
    pub limit: u64,
}

impl From<AutoinstallError> for UpdateError {
    fn from(error: AutoinstallError) -> Self {
        match error {
            AutoinstallError::BadAppend
            | AutoinstallError::BadDevice { .. }
            | AutoinstallError::Path(_) => UsageError::Argument(error.to_string()).into(),
            AutoinstallError::Tool(ToolError::Cancelled) => UpdateError::Cancelled,
            error => Untouched::refused(error).into(),
        }
    }
}

impl From<ToolError> for AutoinstallError {
    fn from(error: ToolError) -> Self {
        AutoinstallError::Tool(error)
    }
}
