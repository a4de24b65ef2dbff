//! Restart verdict: services that still use replaced files, and reasons for a reboot.
//!
//! The verdict is computed from `/proc` and from the tree, and never recorded. So it is right at
//! the moment of the question, also if another program replaced the files.

#![allow(
    clippy::disallowed_methods,
    reason = "/proc belongs to the kernel, and is no tree that others write to"
)]

mod kernels;
mod processes;
mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::Kernel;
use crate::root::{Root, RootError};

use processes::{Owner, Processes};

const PROC: &str = "/proc";

/// Services to restart, and reasons for a reboot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestartVerdict {
    /// Services by name, then processes without a service by pid.
    pub services: Vec<Service>,
    /// Empty if no reboot is needed.
    pub reboot: Vec<RestartReason>,
    /// Unit files, and directories of them, that changed since systemd has read them.
    pub daemon_reload: Vec<String>,
    /// Number of processes that this user may not inspect.
    pub unseen: usize,
}

/// A service, or a process without a service, that uses replaced files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// `NAME.service`, or `COMMAND (pid N)`.
    pub name: String,
    /// Its processes that use replaced files.
    pub pids: Vec<u32>,
    /// The replaced files, its program first.
    pub files: Vec<String>,
}

/// Reason for a reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartReason {
    /// The running kernel is no longer installed, although others are.
    KernelGone { running: String },
    /// The image of the running kernel was replaced.
    KernelChanged { file: String },
    /// A newer kernel is installed.
    KernelNewer { running: String, installed: String },
    /// A part of the system uses a C library that was replaced.
    Libc { user: String, file: String },
    /// Process 1 uses a replaced file.
    Init { command: String, file: String },
}

impl RestartVerdict {
    /// The verdict of the running system; `None` if the tree is not the running system.
    pub fn for_running_system(root: &Root) -> Result<Option<Self>, RootError> {
        if !root.is_running_system()? {
            return Ok(None);
        }
        let kernel = Kernel::running_on(root)?;
        let release = kernel.as_ref().map_or("", Kernel::release);
        RestartVerdict::inspect(Path::new(PROC), root, release).map(Some)
    }

    /// Inspects the processes in `proc` whose root directory is `root`; `release` is the running
    /// kernel's.
    pub fn inspect(proc: &Path, root: &Root, release: &str) -> Result<Self, RootError> {
        let processes = Processes::read(proc, root)?;
        let mut reboot = kernels::reasons(proc, root, release)?;
        let mut services = BTreeMap::<Owner, Service>::new();
        let mut libc = None;

        for process in processes.stale {
            if libc.is_none() && process.is_of_the_system() {
                libc = process.files.iter().find(|file| is_libc(file)).map(|file| {
                    let user = process.owner().to_string();
                    RestartReason::Libc { user, file: file.clone() }
                });
            }

            // Process 1 cannot be restarted like a service.
            if process.pid == 1 {
                let command = process.command;
                let file = process.files.into_iter().next();
                reboot.extend(file.map(|file| RestartReason::Init { command, file }));
                continue;
            }

            let owner = process.owner();
            let name = owner.to_string();
            let service = services.entry(owner).or_insert_with(|| Service {
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
            daemon_reload: units::changed(root)?,
            unseen: processes.unseen,
        })
    }

    /// Whether no replaced file is in use.
    pub fn is_clean(&self) -> bool {
        self.services.is_empty() && self.reboot.is_empty() && self.daemon_reload.is_empty()
    }

    /// Lines for people: one for each service, one about systemd, and a last one about the reboot.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.services.iter().map(Service::to_string).collect();
        if self.unseen > 0 {
            lines.push(format!("processes that this user may not inspect: {}", self.unseen));
        }

        if let Some(first) = self.daemon_reload.first() {
            let more = match self.daemon_reload.len() - 1 {
                0 => String::new(),
                count => format!(" ({count} more)"),
            };
            lines.push(format!("systemctl daemon-reload is needed: {first} changed{more}"));
        }

        if !self.reboot.is_empty() {
            let reasons: Vec<String> = self.reboot.iter().map(RestartReason::to_string).collect();
            lines.push(format!("reboot needed: {}", reasons.join("; ")));
        } else if self.is_clean() {
            lines.push("nothing needs restarting".to_owned());
        } else {
            lines.push("no reboot needed".to_owned());
        }
        lines
    }
}

/// Whether a file is a C library or its loader, by the names of glibc and musl.
fn is_libc(file: &str) -> bool {
    const PREFIXES: [&str; 8] = [
        "libc.so.",
        "libc-2.",
        "libc.musl-",
        "ld-linux",
        "ld-musl-",
        "ld-2.",
        "ld64.so.",
        "ld.so.",
    ];
    let name = file.rsplit('/').next().unwrap_or(file);
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.files.first().map_or("a file", String::as_str);
        write!(f, "{}: uses {file}, which was replaced", self.name)?;
        match self.files.len() {
            0 | 1 => Ok(()),
            count => write!(f, " ({} more)", count - 1),
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
