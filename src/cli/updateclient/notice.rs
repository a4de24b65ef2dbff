//! Notices and warnings of the command line, and their wording.

use std::fmt;

use crate::root::RootError;
use crate::update::{Assigned, UpdateError};

/// Something that the administrator should know about a run.
#[derive(Debug)]
pub enum ClientNotice<'n> {
    /// Lines of `client.conf` without a meaning for this program.
    IgnoredSettings(&'n [String]),
    /// A rollback does without the configuration files, which are not valid.
    UnusedFiles(&'n UpdateError),
    /// The server's `cluster.txt` named the image.
    Assigned(&'n Assigned),
    /// The run starts after a delay.
    Splay { seconds: u32, most: u32 },
    /// The repository has its own URL, which the tunnel does not lead to.
    RepositoryOutsideTunnel { repo: &'n str },
    /// A tunnel is configured, but no server.
    TunnelWithoutServer,
    /// The tunnel is open.
    TunnelOpen { host: &'n str, user: &'n str },
    /// ssh ended during the run.
    TunnelEnded { reason: &'n str },
    /// rsync ran without the confinement that the kernel should give.
    RsyncUnconfined,
    /// There is no downloaded update to install.
    NothingDownloaded,
    /// Services that need a restart cannot be found.
    RestartUnknown(RootError),
}

impl fmt::Display for ClientNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientNotice::IgnoredSettings(settings) => {
                write!(f, "client.conf has settings that are ignored: {}", settings.join(", "))
            }
            ClientNotice::UnusedFiles(fault) => {
                write!(f, "rolling back without the configuration files of the tree: {fault}")
            }
            ClientNotice::Assigned(assigned) => {
                write!(
                    f,
                    "the server's cluster.txt assigns image {} to this host",
                    assigned.image
                )?;
                for name in &assigned.overrides {
                    write!(f, ", override {name}")?;
                }
                Ok(())
            }
            ClientNotice::Splay { seconds, most } => {
                write!(f, "starting in {seconds} s, the delay of this host within {most} s")
            }
            ClientNotice::RepositoryOutsideTunnel { repo } => {
                write!(f, "the repository {repo} has its own URL and is not reached through ssh")
            }
            ClientNotice::TunnelWithoutServer => {
                f.write_str("no ssh tunnel is opened: no server is configured")
            }
            ClientNotice::TunnelOpen { host, user } => {
                write!(f, "{host} is reached through ssh as {user}")
            }
            ClientNotice::TunnelEnded { reason } => {
                let reason = if reason.is_empty() { "it printed no reason" } else { reason };
                write!(f, "the ssh tunnel is closed: ssh ended during the run: {reason}")
            }
            ClientNotice::RsyncUnconfined => f.write_str(
                "rsync ran with the rights of this program: the kernel cannot confine it (Landlock \
                 of Linux 5.19)",
            ),
            ClientNotice::NothingDownloaded => {
                f.write_str("there is no downloaded update: nothing is installed")
            }
            ClientNotice::RestartUnknown(error) => {
                write!(f, "cannot find the services that need a restart: {error}")
            }
        }
    }
}
