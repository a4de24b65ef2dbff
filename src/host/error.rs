//! Errors of configuration files and of programs, and their wording.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use crate::root::RootError;
use crate::signature::KeyFileError;
use crate::tree_path::TreePath;

/// A configuration file that is not valid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {why}")]
pub struct BadFile {
    /// Name of the file, with the line if it is known.
    place: String,
    why: String,
}

impl BadFile {
    pub(super) fn new(file: &str, why: impl fmt::Display) -> Self {
        BadFile { place: file.to_owned(), why: why.to_string() }
    }

    pub(super) fn in_line(file: &str, line: usize, why: impl fmt::Display) -> Self {
        BadFile { place: format!("{file}:{line}"), why: why.to_string() }
    }
}

/// Reason that the public keys of a tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Key(KeyFileError),
    #[error("cannot read the key {path}: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("cannot read the keys in {path}: it is no directory")]
    NotDirectory { path: String },
    #[error("cannot read the keys in {path}: there are more than {limit}")]
    TooMany { path: String, limit: usize },
}

/// Reason that a default entry of the boot loader cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum NoDefaultEntry {
    #[error("no default entry can be set for the boot loader of this tree")]
    UnknownLoader,
    #[error("grub has no saved default entry (GRUB_DEFAULT=saved)")]
    NotSaved,
    #[error("the boot loader has no entry of that kernel")]
    NoEntry,
    #[error("the tree has no {0}")]
    NoProgram(&'static str),
    #[error("{program} succeeded, but the default entry is not {entry}")]
    NotKept { program: TreePath, entry: String },
    #[error(transparent)]
    Record(#[from] BadFile),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// Reason for which a program of the tree did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The run was cancelled, and the program was killed.
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("{program} failed ({status}){last_output}")]
    Failed { program: TreePath, status: ExitStatus, last_output: LastOutput },
    #[error("{program} took longer than {} s (program_timeout){last_output}", timeout.as_secs())]
    TimedOut { program: TreePath, timeout: Duration, last_output: LastOutput },
    /// For a script whose interpreter is missing the kernel returns the same error.
    #[error("cannot run {program}: it, or its interpreter, does not exist")]
    NotFound { program: TreePath },
    /// Programs of an offline tree are run by the running system's chroot(8).
    #[error(
        "cannot run {program}: the system's chroot, which runs it in the tree, is not installed"
    )]
    NoChroot { program: TreePath },
    #[error("cannot run {program}: {source}")]
    Run { program: TreePath, source: io::Error },
    #[error("none of the programs {} is installed", names.join(", "))]
    NotInstalled { names: Vec<&'static str> },
}

/// The last lines that a program printed.
#[derive(Clone, Debug)]
pub struct LastOutput(pub Vec<String>);

impl fmt::Display for LastOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "; last output: {}", self.0.join("; "))
    }
}
