//! Request of an autoinstall, and the chosen boot files.

use std::path::PathBuf;
use std::time::Duration;

use crate::full_sync::Server;
use crate::image::ImageName;
use crate::update::TrustSettings;

/// Request to install this node again.
#[derive(Clone, Debug)]
pub struct AutoinstallRequest {
    /// Top of the tree that boots.
    pub root: PathBuf,
    /// The rsync daemon with the module `boot`.
    pub server: Server,
    /// The image server as the installer will reach it, without the tunnel of this run.
    pub image_server: String,
    /// User for the installer's ssh connection.
    pub ssh_user: Option<String>,
    /// Requirements for signatures: nothing signs the boot files.
    pub trust: TrustSettings,
    /// Name of the boot files; `None` for the default.
    pub flavor: Option<String>,
    /// Additional arguments of the kernel.
    pub append: String,
    /// Network interface whose settings the installer is to use.
    pub configure_from: Option<String>,
    /// Time limit of the transfer.
    pub sync_timeout: Duration,
    /// Time limit of each program.
    pub program_timeout: Duration,
}

/// Boot files of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flavor {
    /// Architecture, as SystemImager names it.
    pub arch: String,
    /// Name; it follows the rules of image names.
    pub name: ImageName,
}
