//! Names of compressed forms.

use std::fmt;
use std::str::FromStr;

/// Compressed forms that occur in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// Streams of xz.
    pub xz: bool,
    /// Frames of zstd.
    pub zstd: bool,
}

/// A word that names no forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownForms;

/// Abilities that a reader of decision streams needs, by form: see the format of repositories.
pub const REPLAY_NEEDS: [&str; 2] = ["xz-replay-1", "zstd-replay-1"];

impl Forms {
    /// Whether no form occurs.
    pub fn is_empty(self) -> bool {
        self == Forms::default()
    }

    /// The forms that occur in either file.
    pub fn union(self, other: Self) -> Self {
        Forms { xz: self.xz || other.xz, zstd: self.zstd || other.zstd }
    }

    /// The abilities of [`REPLAY_NEEDS`] that these forms need.
    pub fn needs(self) -> impl Iterator<Item = &'static str> {
        let [xz, zstd] = REPLAY_NEEDS;
        [(self.xz, xz), (self.zstd, zstd)].into_iter().filter(|(has, _)| *has).map(|(_, need)| need)
    }
}

impl fmt::Display for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Forms { xz: true, zstd: false } => "xz",
            Forms { xz: false, zstd: true } => "zstd",
            Forms { xz: true, zstd: true } => "xz+zstd",
            Forms { xz: false, zstd: false } => "none",
        })
    }
}

impl FromStr for Forms {
    type Err = UnknownForms;

    fn from_str(word: &str) -> Result<Self, UnknownForms> {
        match word {
            "xz" => Ok(Forms { xz: true, zstd: false }),
            "zstd" => Ok(Forms { xz: false, zstd: true }),
            "xz+zstd" => Ok(Forms { xz: true, zstd: true }),
            _ => Err(UnknownForms),
        }
    }
}
