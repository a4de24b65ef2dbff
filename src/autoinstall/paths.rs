//! Files that an autoinstall writes.

use crate::tree_path::TreePath;

/// The network settings for the installer.
pub(super) const LOCAL_CFG: &str = "local.cfg";

/// Directory in which rsync writes, beside the final place.
pub(super) const RECEIVE_DIR: &str = ".si-autoinstall";
/// Script for grub's configuration. Its number places it after the distribution's entries.
pub(super) const SCRIPT: &str = "etc/grub.d/42_systemimager_autoinstall";

/// A boot file of the server.
pub(super) struct BootFile {
    /// Name on the server.
    pub remote_name: &'static str,
    /// Name on this node.
    pub local_name: &'static str,
    /// Limit of the size in bytes.
    pub max_size: u64,
}

pub(super) const KERNEL: BootFile =
    BootFile { remote_name: "kernel", local_name: "kernel.systemimager", max_size: 512 << 20 };
pub(super) const INITRD: BootFile = BootFile {
    remote_name: "initrd.img",
    local_name: "initrd.img.systemimager",
    max_size: 2 << 30,
};

/// A fixed name as a path; it is always valid.
pub(super) fn fixed_path(text: &str) -> TreePath {
    TreePath::new(text).unwrap_or_else(|_| TreePath::root())
}
