//! How a node is to be updated: its configuration files, old and new, and the kernel that runs on it; and the
//! programs of its own that an update calls: hooks, and what tells the boot loader.
//!
//! Configuration is parsed only: the caller reads the files, below the root of the tree that is updated. Nothing in
//! them is ever run by a shell. A file larger than [`MAX_FILE`] is refused.

pub mod boot_loader;
mod compat;
mod config;
mod fstab;
mod hooks;
mod kernel;
mod reboot;
pub mod restart;
mod tool;

use crate::image::ImageName;

pub use compat::client_conf::ClientConf;
pub use compat::cluster_txt::Cluster;
pub use config::{BootLoader, Check, Config, Download, Drift, KeepUndo, MaxDelete};
pub use fstab::mount_points;
pub use hooks::{Moment, hooks};
pub use kernel::Kernel;
pub use reboot::{Restart, start_anew};
pub use tool::{Stops, ToolError, ToolOutcome, Tools};

/// The exclude file of a node that has none.
pub const DEFAULT_EXCLUDES: &str = include_str!("../../etc/updateclient.local.exclude");

/// A configuration file larger than this is refused: an exclude file of 10,000 rules takes 1 MB.
pub const MAX_FILE: usize = 16 << 20;

/// A configuration file that cannot be read as one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}: {why}")]
pub struct BadFile {
    file: String,
    why: String,
}

impl BadFile {
    fn new(file: &str, why: impl std::fmt::Display) -> Self {
        BadFile { file: file.to_owned(), why: why.to_string() }
    }

    fn at(file: &str, line: usize, why: impl std::fmt::Display) -> Self {
        BadFile { file: format!("{file}:{line}"), why: why.to_string() }
    }
}

/// The names in the old client's file of overrides, one a line; empty lines and comments count for nothing.
pub fn overrides(file: &str, content: &[u8]) -> Result<Vec<ImageName>, BadFile> {
    let named =
        lines(text(file, content)?).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    named.map(|(number, line)| line.parse().map_err(|e| BadFile::at(file, number, e))).collect()
}

/// The text of a file, if it is text and not too long.
fn text<'a>(file: &str, content: &'a [u8]) -> Result<&'a str, BadFile> {
    if content.len() > MAX_FILE {
        return Err(BadFile::new(file, "the file is larger than 16 MiB"));
    }
    std::str::from_utf8(content)
        .map_err(|e| BadFile::new(file, format!("byte {} is not UTF-8", e.valid_up_to())))
}

/// Numbered lines without leading and trailing white space.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()))
}

#[cfg(test)]
mod tests;
