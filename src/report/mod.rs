//! How the library speaks: through a [`Monitor`], never to a terminal.

use std::fmt;

use serde::Serialize;

/// Hears what happens. Implemented by the terminal, by plain lines, by JSON, and by tests.
pub trait Monitor: Sync {
    /// Takes note of `event`; may be called from several threads.
    fn event(&self, event: Event);

    /// Whether the run was asked to stop; heeded until the seal.
    fn is_stopped(&self) -> bool {
        false
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A piece of work begins.
    Started {
        /// Which.
        job: Job,
        /// How much of it there is, in the job's unit; 0 where that is not known.
        total: u64,
    },
    /// A piece of work went on.
    Advanced {
        /// Which.
        job: Job,
        /// By how much, in the job's unit.
        by: u64,
    },
    /// A piece of work is done.
    Finished {
        /// Which.
        job: Job,
    },
    /// The journal is durable: from here only forward.
    Sealed,
    /// The transaction is complete and recorded.
    Applied {
        /// From the first rename to the last, in milliseconds.
        mixed_ms: u64,
    },
    /// Something that the administrator wants to know.
    Note {
        /// One sentence: lower case, no full stop.
        text: String,
    },
    /// Something that the administrator has to know, though the run goes on.
    Warning {
        /// One sentence: lower case, no full stop.
        text: String,
    },
}

/// A piece of work long enough to watch.
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
    /// Fetching; counted in bytes.
    Download,
    /// Writing new content beside the live tree; counted in bytes.
    Stage,
    /// The renames that make it visible; counted in changes.
    Apply,
}

impl dyn Monitor + '_ {
    /// Reports a notice; each layer has an enum of its notices, whose `Display` is the wording.
    pub fn note(&self, notice: impl fmt::Display) {
        self.event(Event::Note { text: notice.to_string() });
    }

    /// Reports a warning; see [`note`](Self::note).
    pub fn warn(&self, warning: impl fmt::Display) {
        self.event(Event::Warning { text: warning.to_string() });
    }
}

/// Hears nothing.
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _: Event) {}
}
