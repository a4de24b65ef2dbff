//! Progress, notices and warnings of the library.
//!
//! The library never prints. It reports to a [`Monitor`], so one code serves a terminal, plain
//! lines, JSON and tests. The JSON form of [`Event`] is a frozen format.

pub mod units;

use std::fmt;

use serde::Serialize;

/// Receiver of events: a terminal, plain lines, JSON, or a test.
pub trait Monitor: Sync {
    /// Receives an event; several threads may call this at once.
    fn event(&self, event: Event);

    /// Whether the run is cancelled; after the commit point this has no effect.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Progress, a stage of the transaction, or a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    Started {
        job: Job,
        /// In the job's unit; 0 if unknown.
        total: u64,
    },
    Advanced {
        job: Job,
        /// In the job's unit.
        by: u64,
    },
    Finished {
        job: Job,
    },
    /// The commit point: the journal is durable, and the transaction can only be completed.
    Sealed,
    /// The transaction is complete and recorded.
    Applied {
        /// Time from the first rename to the last, in milliseconds.
        mixed_ms: u64,
    },
    /// A notice: one sentence in lower case, without a full stop.
    Note {
        text: String,
    },
    /// A problem that does not end the run; the text is as that of a notice.
    Warning {
        text: String,
    },
}

/// A part of a run that is long enough for a progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Reading an image tree; counted in entries.
    Scan,
    /// Compressing archives; counted in bytes of content.
    Write,
    /// Reading back what was written; counted in bytes of content.
    Verify,
    /// Comparing a tree with a manifest; counted in entries.
    Walk,
    /// Counted in bytes.
    Download,
    /// Staging new content; counted in bytes.
    Stage,
    /// Renames that make it visible; counted in changes.
    Apply,
}

impl dyn Monitor + '_ {
    /// Reports a notice; each layer has an enum of its notices, whose `Display` is the wording.
    pub fn note(&self, notice: impl fmt::Display) {
        self.event(Event::Note { text: notice.to_string() });
    }

    /// Reports a warning; see `note`.
    pub fn warn(&self, warning: impl fmt::Display) {
        self.event(Event::Warning { text: warning.to_string() });
    }
}

/// Monitor that ignores all events.
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _: Event) {}
}
