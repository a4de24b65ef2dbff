//! Notices and warnings of an autoinstall, with their wording.

use std::fmt;

use crate::root::RootError;
use crate::tree_path::TreePath;
use crate::update::UpdateError;

/// Event of an autoinstall that the administrator should know.
pub(super) enum AutoinstallNotice<'a> {
    /// Network settings were written; each of them follows as a note.
    LocalCfg { path: &'a str },
    /// Arguments of the installer's kernel.
    KernelArguments { append: &'a str },
    /// The installer will read an existing file.
    WillMount { path: &'a str, device: &'a str },
    /// The installer cannot read an existing file.
    UnknownDevice { path: &'a str },
    /// The image server's address is unknown on this node.
    UnknownServer { server: &'a str },
    /// A backup of a replaced file could not be removed.
    BackupNotRemoved { error: RootError },
    /// A step could not be undone.
    NotUndone { error: RootError },
    /// Files of an installation that did not take place were removed.
    LeftoversRemoved { paths: &'a [TreePath] },
    /// Such files could not be removed.
    LeftoversKept { error: UpdateError },
}

impl fmt::Display for AutoinstallNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AutoinstallNotice::LocalCfg { path } => {
                write!(f, "network settings for the installer, in {path}:")
            }
            AutoinstallNotice::KernelArguments { append } => {
                write!(f, "arguments of the installer's kernel: {append}")
            }
            AutoinstallNotice::WillMount { path, device } => write!(
                f,
                "{path} exists: the installer will mount {device} to read it, which needs the \
                 drivers in its initial ramdisk"
            ),
            AutoinstallNotice::UnknownDevice { path } => write!(
                f,
                "the installer cannot read {path}: its device is unknown; \
                 pass LAST_ROOT=DEVICE with --append"
            ),
            AutoinstallNotice::UnknownServer { server } => write!(
                f,
                "/etc/hosts does not have the address of {server}: the installer receives the \
                 name, and needs a name service"
            ),
            AutoinstallNotice::BackupNotRemoved { error } => {
                write!(f, "a backup of a replaced file remains: {error}")
            }
            AutoinstallNotice::NotUndone { error } => {
                write!(f, "cannot undo a step of the autoinstall: {error}")
            }
            AutoinstallNotice::LeftoversRemoved { paths } => {
                let paths: Vec<String> = paths.iter().map(TreePath::to_string).collect();
                write!(
                    f,
                    "removed files of an arranged installation that did not take place: {}",
                    paths.join(", ")
                )
            }
            AutoinstallNotice::LeftoversKept { error } => write!(
                f,
                "cannot remove files of an arranged installation that did not take place: \
                 {error}; the next run will retry"
            ),
        }
    }
}
