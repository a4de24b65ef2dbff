//! Parser of `updateclient.toml`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::{BadFile, text};
use crate::image::ImageName;
use crate::tree_path::TreePath;

/// Default of `create_directories`: services need their directories here.
const DEFAULT_CREATE_DIRECTORIES: [&str; 4] = ["var/log", "var/spool", "var/cache", "var/lib"];

/// The settings of `updateclient.toml`; the sample `etc/updateclient.toml` explains each of them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Host name of the image server.
    pub server: Option<String>,
    /// `None`: the server's `cluster.txt` decides.
    pub image: Option<ImageName>,
    /// URL of the repository; `None`: `http://SERVER/`.
    pub repo: Option<String>,
    /// Port of the server's rsync daemon.
    pub rsync_port: Option<u16>,
    /// A path below the root.
    pub exclude_file: Option<String>,
    /// Excluded directories below these are created if the node lacks them.
    #[serde(deserialize_with = "absolute_paths")]
    pub create_directories: Vec<TreePath>,
    /// Excluded files that are brought if the node lacks them.
    #[serde(deserialize_with = "absolute_paths")]
    pub seed_files: Vec<TreePath>,
    /// Each is copied over those before it.
    pub overrides: Vec<ImageName>,
    /// Types of mounted filesystems to update; `None`: all that are supported.
    pub fstype: Option<Vec<String>>,
    /// User name for ssh on the image server.
    pub ssh_user: Option<String>,
    /// Format of a line for each changed path, as rsync's `--out-format`.
    pub log: Option<String>,
    pub bootloader: BootLoader,
    pub check: Check,
    pub drift: Drift,
    /// Largest share of differing entries, 0 to 1, for adopting a tree.
    #[serde(deserialize_with = "share")]
    pub adopt_share: f64,
    /// The deletion budget.
    pub max_delete: MaxDelete,
    pub keep_undo: KeepUndo,
    /// Largest share of a filesystem, 0 to 1, for an undo set.
    #[serde(deserialize_with = "share")]
    pub undo_share: f64,
    /// Whether a full sync is permitted if no diffs lead to the image.
    pub fallback: bool,
    /// File with certificates for an https repository, a path below the root.
    pub ca_file: Option<String>,
    /// Keys of https servers, each as `sha256//BASE64`.
    pub tls_pins: Vec<String>,
    /// File with the certificate of this node, a path below the root.
    pub tls_client_cert: Option<String>,
    /// File with its private key, a path below the root.
    pub tls_client_key: Option<String>,
    /// Whether connections without TLS or ssh are refused.
    pub require_tls: bool,
    /// Whether unsigned data is refused even without a key.
    pub require_signature: bool,
    /// Longest validity of a head, in seconds.
    pub max_head_age: u32,
    /// Longest time between a download and its installation, in seconds.
    pub staged_max_age: u32,
    /// Compressed files that are rebuilt at a time; 0: a quarter of the processors.
    pub rebuild_jobs: u32,
    /// Types of root filesystem that are refused by default, but permitted here.
    pub allow_root_fs: Vec<String>,
    /// Longest delay before a run, in seconds.
    pub splay: u32,
    /// Whether messages are also logged to the journal or syslog.
    pub syslog: bool,
    /// Longest time of a full sync by rsync, in seconds; at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub full_sync_timeout: u32,
    /// Longest time of a hook or the boot loader's tool, in seconds; at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub program_timeout: u32,
    pub download: Download,
}

/// Limits of a download.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Download {
    /// Number of attempts before a file counts as missing; at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub attempts: u32,
    /// Seconds without a byte after which an attempt fails; at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub idle_timeout: u32,
    /// Bytes per second, averaged over a minute, below which an attempt fails.
    pub min_speed: u32,
    /// Size limit of the spool, in MiB.
    pub spool_limit: u32,
}

/// Defines an enum with one word of the configuration for each variant.
macro_rules! word_enum {
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

/// Seconds for which a head may be valid, unless the node is configured otherwise: 30 days.
pub const DEFAULT_MAX_HEAD_AGE: u32 = 30 * 24 * 60 * 60;

/// Seconds for which a downloaded update may be installed, unless configured otherwise: 30 days.
const DEFAULT_STAGED_MAX_AGE: u32 = 30 * 24 * 60 * 60;

word_enum! {
    /// The check level: how closely a run compares the node with the target.
    Check {
        /// Only the paths that the update changes.
        Touched = "touched",
        /// Also the metadata of all tracked paths, if there is an update.
        #[default]
        Update = "update",
        /// The metadata of all tracked paths in each run.
        Stat = "stat",
        /// Metadata and content of all tracked paths in each run.
        Content = "content",
    }
}

word_enum! {
    /// Whether the backups of an update are kept as undo set.
    KeepUndo {
        Never = "never",
        /// Until the next update, unless they exceed `undo_share`, or their space is needed.
        #[default]
        Auto = "auto",
        /// Until the next update; an update that needs their space stops.
        Always = "always",
    }
}

word_enum! {
    /// Treatment of tracked paths that changed on the node.
    Drift {
        #[default]
        Repair = "repair",
        Report = "report",
        /// As `repair`, after a copy of each edited file.
        SaveAside = "save-aside",
    }
}

/// The deletion budget: the largest number of paths that a run may delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxDelete {
    Paths(u64),
    /// Of the tracked paths.
    Percent(u8),
}

impl MaxDelete {
    /// The number of paths for a tree with this number of tracked paths.
    pub fn paths(self, tracked: u64) -> u64 {
        match self {
            MaxDelete::Paths(paths) => paths,
            // Whole hundreds first, against overflow.
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
        let budget = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|&p| p <= 100).map(MaxDelete::Percent),
            None => text.parse().ok().map(MaxDelete::Paths),
        };
        budget
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

/// The program that makes changed boot files known to the boot loader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BootLoader {
    /// The tools that the tree has for its boot loader.
    #[default]
    Auto,
    Never,
    /// An absolute path in the tree, and arguments; no shell reads them.
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
    /// Parses `updateclient.toml`; `file` is its name for messages.
    pub fn parse(file: &str, content: &[u8]) -> Result<Self, BadFile> {
        toml::from_str(text(file, content)?)
            .map_err(|e| BadFile::new(file, e.to_string().trim_end()))
    }

    /// Names of the settings in a file; those of a table begin with its name and a dot.
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
            create_directories: DEFAULT_CREATE_DIRECTORIES.map(default_path).into(),
            seed_files: Vec::new(),
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
            tls_pins: Vec::new(),
            tls_client_cert: None,
            tls_client_key: None,
            require_tls: false,
            require_signature: false,
            max_head_age: DEFAULT_MAX_HEAD_AGE,
            staged_max_age: DEFAULT_STAGED_MAX_AGE,
            rebuild_jobs: 0,
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

/// Absolute paths below the root; the root itself is none of them.
fn absolute_paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TreePath>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts
        .iter()
        .map(|text| {
            let path = text.strip_prefix('/').and_then(|rest| TreePath::new(rest).ok());
            path.filter(|path| !path.is_root()).ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "{text:?} is not an absolute path of a directory entry, without `.`, `..` and \
                     further slashes"
                ))
            })
        })
        .collect()
}

/// A path of a default; it is always valid.
fn default_path(text: &str) -> TreePath {
    TreePath::new(text).unwrap_or_else(|_| TreePath::root())
}
