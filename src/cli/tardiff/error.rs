//! Errors of the command line of `si_tardiff`, and their wording.

use std::io;
use std::path::PathBuf;

use crate::image::Layer;

/// Reason that a command is refused.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("cannot write to standard output: {0}; the command itself is complete")]
    OutputOfComplete(io::Error),
    /// clap refuses such a command line.
    #[error("neither an image nor an override is named")]
    NoLayer,
    #[error("cannot show a manifest: {} is a diff, which has none", path.display())]
    DiffWithoutManifest { path: PathBuf },
    #[error("{layer} has no generation {word:?}")]
    UnknownGeneration { layer: Layer, word: String },
    #[error("several generations of {layer} have an id that begins with {word:?}")]
    AmbiguousGeneration { layer: Layer, word: String },
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: {reason}", path.display())]
    BadConfig { path: PathBuf, line: usize, reason: String },
}
