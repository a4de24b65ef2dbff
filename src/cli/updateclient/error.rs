//! Errors of the command line and the configuration, and their wording.
//!
//! The words of the old client are kept if it had a message for the same mistake.

use std::path::PathBuf;
use std::{fmt, io};

use crate::cli::updateclient::exit::Effect;
use crate::fetch::{BadRepoUrl, BadTlsPin};
use crate::host::BadFile;
use crate::image::BadImageName;
use crate::tree_path::BadPath;
use crate::update::{UpdateError, UsageError};

/// Reason that an argument or a setting is refused. The run ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    #[error("{first} and {second} are not compatible options")]
    Incompatible { first: &'static str, second: &'static str },
    #[error("{option} can be used only with {needed}")]
    Needs { option: &'static str, needed: &'static str },
    #[error("{option} cannot be used with {other}: {reason}")]
    Conflict { option: &'static str, other: &'static str, reason: &'static str },
    #[error("You must specify --server.")]
    NoServer,
    #[error("no repository is configured; pass --server or --repo")]
    NoRepository,
    #[error(transparent)]
    RepoUrl(#[from] BadRepoUrl),
    #[error("tls_pins: {0}")]
    TlsPin(#[from] BadTlsPin),
    #[error("tls_client_cert and tls_client_key belong together, and only one of them is set")]
    HalfClientCertificate,
    #[error(
        "cannot use {address}: the connection is not encrypted, and require_tls is set; use https \
         or --ssh-user"
    )]
    NotEncrypted { address: String },
    #[error("{option} {}: {reason}", path.display())]
    Path { option: &'static str, path: PathBuf, reason: PathFault },
    #[error("{name} (specified with {option}) can't start with a hyphen: {value:?}")]
    LeadingHyphen { name: &'static str, option: &'static str, value: String },
    #[error("{option}: {source}")]
    Name { option: &'static str, source: BadImageName },
    #[error("{server:?} is neither a host name nor an address")]
    Server { server: String },
    #[error("{server:?} has no valid port: a port is a number from 1 to 65535")]
    ServerPort { server: String },
    #[error(
        "{server:?} is not an IPv6 address; an address with a port is written as [ADDRESS]:PORT"
    )]
    ServerAddress { server: String },
    #[error("{user:?} (the user for ssh) is not a valid user name; omit it to go without ssh")]
    User { user: String },
    #[error(transparent)]
    Config(#[from] BadFile),
    #[error("{0}")]
    ConfigPath(#[from] BadPath),
    #[error("cannot read {path}: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("cannot read the exclude file {path}: {source}")]
    Excludes { path: String, source: io::Error },
    #[error("the exclude file {path} does not exist below {}", root.display())]
    NoExcludes { path: String, root: PathBuf },
    #[error("cannot read {path}: it is a symlink, and configuration is not read through one")]
    Symlink { path: String },
    #[error(
        "--needs-restarting is about the running system, and {} is another one; omit --root",
        root.display()
    )]
    NotRunning { root: PathBuf },
    #[error(
        "refusing to {question} without confirmation: standard input or standard error is not a \
         terminal; pass --yes"
    )]
    NoTerminal { question: String },
}

/// Failure of standard output.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {error}{}", self.consequence())]
pub struct OutputError {
    pub error: io::Error,
    /// Effect of the run whose result could not be written.
    pub effect: Effect,
}

impl OutputError {
    fn consequence(&self) -> &'static str {
        match self.effect {
            Effect::Changed => "; the run itself is complete, and its change was made",
            Effect::Downloaded => {
                "; the run itself is complete: the update is downloaded, and no path was changed"
            }
            Effect::Unchanged => "",
        }
    }
}

/// Reason that a path argument is refused.
#[derive(Debug)]
pub enum PathFault {
    Relative,
    Bad(BadPath),
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathFault::Relative => f.write_str("the path has to be absolute"),
            PathFault::Bad(error) => error.fmt(f),
        }
    }
}

impl From<ArgumentError> for UpdateError {
    fn from(error: ArgumentError) -> Self {
        UsageError::Argument(error.to_string()).into()
    }
}
