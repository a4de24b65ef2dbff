//! The transaction engine: brings a live tree to a manifest, completely or not at all.
//!
//! It is a redo-log transaction. All new content is first staged beside the live tree. Then a redo
//! journal lists every change that is left, and its durable rename is the commit point. From then
//! on any run carries out the journal until it succeeds; every action is idempotent. A failure
//! before the commit point is [`Untouched`], a failure after it is [`Interrupted`], so that the
//! type of an error decides whether another strategy may be tried.
//!
//! Each step consumes the result of the step before, and no other function makes that type:
//!
//! | step | module | result |
//! |---|---|---|
//! | lock the tree, complete an interrupted transaction | [`session`] | `Session` |
//! | read the live tree | [`plan::live_tree`] | `LiveTree` |
//! | compute all changes | [`plan`] | `ChangePlan` |
//! | refuse a change that would fail after the commit point | [`preflight`] | |
//! | stage new content, back up replaced files | [`stage`] | `Staged` |
//! | write the journal: the commit point | [`journal`] | `Sealed` |
//! | carry out the journal, record the state | [`roll_forward`] | `Applied` |
//! | keep or remove the backups; plan a rollback | [`undo`] | `UndoSet` |
//! | keep staged contents for a later run | [`downloaded`] | `DownloadedUpdate` |
//!
//! Names on disk and their states are in [`on_disk`]; errors and notices with their wording in
//! [`error`] and [`notice`]; mount topology, stages and undo sets in [`filesystem`]; the comparison
//! of an entry with an object of the tree in [`difference`].

pub mod difference;
pub mod downloaded;
pub mod error;
pub mod filesystem;
pub mod journal;
mod missing_filesystems;
pub mod notice;
pub mod on_disk;
pub mod plan;
pub mod preflight;
pub mod roll_forward;
pub mod session;
pub mod stage;
pub mod undo;

pub use error::{
    Interrupted, RefusalKind, Reversed, SessionError, Unapplied, UndoLogError, Untouched,
};
