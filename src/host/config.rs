//! `updateclient.toml`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::{BadFile, text};
use crate::image::ImageName;

/// What `updateclient.toml` says; `etc/updateclient.toml` explains each field.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The image server.
    pub server: Option<String>,
    /// The image; without it the server's `cluster.txt` decides.
    pub image: Option<ImageName>,
    /// The URL of the repository; without it `http://SERVER/`.
    pub repo: Option<String>,
    /// The port of the server's rsync daemon.
    pub rsync_port: Option<u16>,
    /// The exclude file, a path below the root.
    pub exclude_file: Option<String>,
    /// What is laid over the image, each over the ones before it.
    pub overrides: Vec<ImageName>,
    /// The kinds of mounted filesystem that are updated; without it all that can be.
    pub fstype: Option<Vec<String>>,
    /// The user that reaches the image server through ssh.
    pub ssh_user: Option<String>,
    /// A line for each path that changed, in the language of rsync's `--out-format`.
    pub log: Option<String>,
    /// What makes changed boot files known to the boot loader.
    pub bootloader: BootLoader,
    /// How far the node is compared.
    pub check: Check,
    /// What happens with drift.
    pub drift: Drift,
    /// The largest share of differing entries, 0 to 1, with which a tree is adopted.
    #[serde(deserialize_with = "share")]
    pub adopt_share: f64,
    /// The most that a run may delete.
    pub max_delete: MaxDelete,
    /// Whether what an update displaces is kept.
    pub keep_undo: KeepUndo,
    /// The largest share of a filesystem, 0 to 1, that an undo set may hold.
    #[serde(deserialize_with = "share")]
    pub undo_share: f64,
    /// Whether a full sync follows where no diff leads to the image.
    pub fallback: bool,
    /// Certificates that an https repository is checked against, a path below the root.
    pub ca_file: Option<String>,
    /// Types of root filesystem that are allowed though they are normally refused.
    pub allow_root_fs: Vec<String>,
    /// The most seconds that a run waits before it begins.
    pub splay: u32,
    /// Whether what a run says goes to the journal or syslog as well.
    pub syslog: bool,
    /// Seconds that a full sync by rsync may take; at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub full_sync_timeout: u32,
    /// Seconds that a hook or the boot loader's tool may take; at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub program_timeout: u32,
    /// Limits of a download.
    pub download: Download,
}

/// Limits of a download.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Download {
    /// Tries before a source counts as missing; at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub attempts: u32,
    /// Seconds without a byte after which a try has failed; at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub idle_timeout: u32,
    /// Bytes a second, on average over a minute, below which a try has failed.
    pub min_speed: u32,
    /// The most that the spool may hold, in MiB.
    pub spool_limit: u32,
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant,)* }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)*
                    other => Err(format!("{other:?} is none of {}", [$($word),*].join(", "))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $word,)* })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

words! {
    /// How far the node is compared with what it should be, apart from what an update touches.
    Check {
        /// Not at all.
        Touched = "touched",
        /// Tracked paths by their metadata, when there is an update.
        #[default]
        Update = "update",
        /// Tracked paths by their metadata, at every run.
        Stat = "stat",
        /// Metadata and content, at every run.
        Content = "content",
    }
}

words! {
    /// Whether what an update displaces is kept, so that it can be undone.
    KeepUndo {
        /// Not at all.
        Never = "never",
        /// Until the next update, unless it is larger than the share that is allowed, or its room is needed.
        #[default]
        Auto = "auto",
        /// Until the next update, whatever it takes.
        Always = "always",
    }
}

words! {
    /// What happens with paths that were changed on the node.
    Drift {
        /// They become the image's again.
        #[default]
        Repair = "repair",
        /// They are listed.
        Report = "report",
    }
}

/// The most that a run may delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxDelete {
    /// So many paths.
    Paths(u64),
    /// So many in a hundred of the tracked paths.
    Percent(u8),
}

impl MaxDelete {
    /// The number of paths that may go where `tracked` are tracked.
    pub fn paths(self, tracked: u64) -> u64 {
        match self {
            MaxDelete::Paths(paths) => paths,
            // without overflow: whole hundreds first
            MaxDelete::Percent(percent) => {
                let percent = u64::from(percent);
                tracked / 100 * percent + tracked % 100 * percent / 100
            }
        }
    }
}

impl FromStr for MaxDelete {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|&p| p <= 100).map(MaxDelete::Percent),
            None => text.parse().ok().map(MaxDelete::Paths),
        };
        parsed
            .ok_or_else(|| format!("{text:?} is neither a number of paths nor a share up to 100%"))
    }
}

impl fmt::Display for MaxDelete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaxDelete::Paths(paths) => write!(f, "{paths}"),
            MaxDelete::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl<'de> Deserialize<'de> for MaxDelete {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(paths) => Ok(MaxDelete::Paths(paths)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// What makes changed boot files known to the boot loader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BootLoader {
    /// The tool that the tree has for it.
    #[default]
    Auto,
    /// Nothing.
    Never,
    /// This program of the tree, an absolute path, with these arguments; no shell reads them.
    Command(Vec<String>),
}

impl fmt::Display for BootLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootLoader::Auto => f.write_str("auto"),
            BootLoader::Never => f.write_str("never"),
            BootLoader::Command(words) => f.write_str(&words.join(" ")),
        }
    }
}

impl<'de> Deserialize<'de> for BootLoader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Command(Vec<String>),
        }
        match Written::deserialize(deserializer)? {
            Written::Word(word) if word == "auto" => Ok(BootLoader::Auto),
            Written::Word(word) if word == "never" => Ok(BootLoader::Never),
            Written::Command(words)
                if words.first().is_some_and(|program| program.starts_with('/')) =>
            {
                Ok(BootLoader::Command(words))
            }
            _ => Err(serde::de::Error::custom(
                "bootloader is \"auto\", \"never\", or a list: an absolute path and its arguments",
            )),
        }
    }
}

impl Config {
    /// Reads `updateclient.toml`; `file` is its name for messages.
    pub fn parse(file: &str, content: &[u8]) -> Result<Self, BadFile> {
        toml::from_str(text(file, content)?)
            .map_err(|e| BadFile::new(file, e.to_string().trim_end()))
    }

    /// The names that a file sets, those of a table with its name and a dot in front.
    pub fn names(content: &[u8]) -> Vec<String> {
        let table =
            std::str::from_utf8(content).ok().and_then(|text| text.parse::<toml::Table>().ok());
        let mut names = Vec::new();
        for (name, value) in table.unwrap_or_default() {
            match value {
                toml::Value::Table(inner) => {
                    names.extend(inner.keys().map(|key| format!("{name}.{key}")))
                }
                _ => names.push(name),
            }
        }
        names
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            server: None,
            image: None,
            repo: None,
            rsync_port: None,
            exclude_file: None,
            overrides: Vec::new(),
            fstype: None,
            ssh_user: None,
            log: None,
            bootloader: BootLoader::default(),
            check: Check::default(),
            drift: Drift::default(),
            adopt_share: 0.25,
            max_delete: MaxDelete::Percent(25),
            keep_undo: KeepUndo::default(),
            undo_share: 0.25,
            fallback: true,
            ca_file: None,
            allow_root_fs: Vec::new(),
            splay: 0,
            syslog: true,
            full_sync_timeout: 6 * 3600,
            program_timeout: 600,
            download: Download::default(),
        }
    }
}

impl Default for Download {
    fn default() -> Self {
        Download { attempts: 5, idle_timeout: 60, min_speed: 1024, spool_limit: 16 << 10 }
    }
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&share) {
        return Ok(share);
    }
    Err(serde::de::Error::custom(format!("{share} is not a share from 0 to 1")))
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(serde::de::Error::custom("0 is not possible here")),
        number => Ok(number),
    }
}
