//! What of the running system still uses files that were replaced: which services to restart, and whether
//! only a reboot helps.
//!
//! Nothing is recorded for this: it is read from the processes themselves and from the tree, whoever replaced
//! the files, and is true at the moment at which it is asked for.

#![allow(
    clippy::disallowed_methods,
    reason = "/proc is the kernel's, no tree that others write to"
)]

mod kernels;
mod processes;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::Kernel;
use crate::root::{Root, RootError};

use processes::{Owner, Processes};

/// Where the kernel shows its processes.
const PROC: &str = "/proc";

/// What has to be started anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestartVerdict {
    /// Services by name, then processes of no service by their ids.
    pub services: Vec<Service>,
    /// Why a reboot is needed; empty where none is.
    pub reboot: Vec<RestartReason>,
    /// Processes that we may not look into.
    pub unseen: usize,
}

/// Something that runs and uses replaced files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// `NAME.service`, or `COMMAND (pid N)`.
    pub name: String,
    /// Its processes that do.
    pub pids: Vec<u32>,
    /// The files, its program first.
    pub files: Vec<String>,
}

/// Why a reboot is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartReason {
    /// The running kernel is no longer installed, though others are.
    KernelGone {
        /// Its release.
        running: String,
    },
    /// The file that the running kernel was started from is another one since.
    KernelChanged {
        /// The file.
        file: String,
    },
    /// There is a newer kernel.
    KernelNewer {
        /// The release of the one that runs.
        running: String,
        /// Of the newer one.
        installed: String,
    },
    /// A part of the system uses a C library that was replaced.
    Libc {
        /// Which part.
        user: String,
        /// The library.
        file: String,
    },
    /// Process 1 uses something that was replaced.
    Init {
        /// What it calls itself.
        command: String,
        /// What it uses.
        file: String,
    },
}

impl RestartVerdict {
    /// What the running system needs, if the tree is that; of any other tree nothing runs.
    pub fn of_running(root: &Root) -> Result<Option<Self>, RootError> {
        let kernel = Kernel::running_on(root)?;
        match root.is_running_system()? {
            true => RestartVerdict::of(
                Path::new(PROC),
                root,
                kernel.as_ref().map_or("", Kernel::release),
            )
            .map(Some),
            false => Ok(None),
        }
    }

    /// Looks at the processes that `proc` shows and whose root is the tree `root`; those of containers have
    /// another one. `release` is the running kernel's.
    pub fn of(proc: &Path, root: &Root, release: &str) -> Result<Self, RootError> {
        let processes = Processes::read(proc, root)?;
        let mut reboot = kernels::reasons(proc, root, release)?;
        let mut services = BTreeMap::<Owner, Service>::new();
        let mut libc = None;
        for process in processes.stale {
            let is_init = process.pid == 1;
            if is_init && let Some(file) = process.files.first() {
                reboot.push(RestartReason::Init {
                    command: process.command.clone(),
                    file: file.clone(),
                });
            }
            if libc.is_none() && process.is_of_the_system() {
                libc = process.files.iter().find(|file| is_libc(file)).map(|file| {
                    let user = process.owner().to_string();
                    RestartReason::Libc { user, file: file.clone() }
                });
            }
            if is_init {
                continue;
            }
            let owner = process.owner();
            let name = owner.to_string();
            let service = services.entry(owner).or_insert(Service {
                name,
                pids: Vec::new(),
                files: Vec::new(),
            });
            service.pids.push(process.pid);
            for file in process.files {
                if !service.files.contains(&file) {
                    service.files.push(file);
                }
            }
        }
        reboot.extend(libc);
        Ok(RestartVerdict {
            services: services.into_values().collect(),
            reboot,
            unseen: processes.unseen,
        })
    }

    /// Whether everything that runs is what is installed.
    pub fn is_clean(&self) -> bool {
        self.services.is_empty() && self.reboot.is_empty()
    }

    /// For people: a line for each service, and in the end one about the reboot, or that there is nothing.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.services.iter().map(Service::to_string).collect();
        if self.unseen > 0 {
            lines.push(format!("processes that this user may not look into: {}", self.unseen));
        }
        if !self.reboot.is_empty() {
            let reasons: Vec<String> = self.reboot.iter().map(RestartReason::to_string).collect();
            lines.push(format!("reboot needed: {}", reasons.join("; ")));
        } else if self.services.is_empty() {
            lines.push("nothing needs restarting".to_owned());
        } else {
            lines.push("no reboot needed".to_owned());
        }
        lines
    }
}

/// Whether a file is a C library or its loader, by the names of glibc and musl.
fn is_libc(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let beginnings = [
        "libc.so.",
        "libc-2.",
        "libc.musl-",
        "ld-linux",
        "ld-musl-",
        "ld-2.",
        "ld64.so.",
        "ld.so.",
    ];
    beginnings.iter().any(|beginning| name.starts_with(beginning))
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: uses {}, which was replaced",
            self.name,
            self.files.first().map_or("a file", String::as_str)
        )?;
        match self.files.len() {
            0 | 1 => Ok(()),
            more => write!(f, " ({} more)", more - 1),
        }
    }
}

impl fmt::Display for RestartReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestartReason::KernelGone { running } => {
                write!(f, "the running kernel {running} is no longer installed")
            }
            RestartReason::KernelChanged { file } => {
                write!(f, "the running kernel's {file} was changed after it was started")
            }
            RestartReason::KernelNewer { running, installed } => {
                write!(f, "kernel {installed} is installed and {running} runs")
            }
            RestartReason::Libc { user, file } => {
                write!(f, "{user} and perhaps others use the C library {file}, which was replaced")
            }
            RestartReason::Init { command, file } => {
                write!(f, "process 1 ({command}) uses {file}, which was replaced")
            }
        }
    }
}

impl Serialize for RestartReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
