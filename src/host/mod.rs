//! The node itself: its configuration, its kernel, and its programs that an update runs.
//!
//! Configuration files, old and new, are only parsed here; the caller reads them below the root of
//! the updated tree. No shell ever reads a value of them. The programs are hooks, the boot loader's
//! tools, and those that restart the system.

pub mod boot_loader;
mod compat;
mod config;
mod error;
mod fstab;
mod hooks;
mod kernel;
pub mod named_file;
mod notice;
mod reboot;
pub mod restart;
mod tool;
mod trusted_keys;

pub use compat::client_conf::ClientConf;
pub use compat::cluster_txt::HostAssignment;
pub use compat::overrides_list::parse_overrides_list;
pub use config::{
    BootLoader, Check, Config, DEFAULT_MAX_HEAD_AGE, Download, Drift, KeepUndo, MaxDelete,
};
pub use error::{BadFile, KeysError, NoDefaultEntry, ToolError};
pub use fstab::{FstabEntry, mount_points};
pub use hooks::{HookPhase, list_hooks};
pub use kernel::{Kernel, KernelRetention, compare_releases, releases_in};
pub use notice::HostNotice;
pub use reboot::{RestartMethod, restart_system};
pub use tool::{CancelPolicy, ToolInput, Tools};
pub use trusted_keys::{KeyDir, KeyFile, collect_keys, read_key_files};

/// Exclude file of a node that has none of its own.
pub const DEFAULT_EXCLUDES: &str = include_str!("../../etc/updateclient.local.exclude");

/// Size of the largest configuration file in bytes: an exclude file of 10,000 rules takes 1 MB.
pub const MAX_FILE: usize = 16 << 20;

/// Checks the size and the encoding of a file.
fn text<'a>(file: &str, content: &'a [u8]) -> Result<&'a str, BadFile> {
    if content.len() > MAX_FILE {
        return Err(BadFile::new(file, "the file is larger than 16 MiB"));
    }
    std::str::from_utf8(content)
        .map_err(|e| BadFile::new(file, format!("byte {} is not UTF-8", e.valid_up_to())))
}

/// Lines with their number from 1, without white space at both ends.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()))
}

#[cfg(test)]
mod tests;
