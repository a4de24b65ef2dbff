//! Compressed files as plain form and decisions.
//!
//! A file is a row of parts: bytes as they are, xz streams and zstd frames. [`PartReader`] takes it
//! apart, [`DecisionWriter`] records the decisions of one or several files, and [`DecisionReader`]
//! makes the same files again.

mod decision_stream;
mod error;
mod file_coder;
mod forms;
mod new_text;
mod old_file;
mod plain_reader;
mod reader;
mod step_models;

pub use decision_stream::{DecisionReader, DecisionWriter, RebuiltFile};
pub use error::{FileOpenError, FileRefusal, RecordError, ReplayError};
pub use forms::{Forms, REPLAY_NEEDS, UnknownForms};
pub use new_text::{NewText, ReadText};
pub use old_file::OldFile;
pub use plain_reader::PlainReader;
pub use reader::{FileStep, OpenLimits, PartReader};

#[cfg(test)]
pub(crate) mod tests;
