//! Runs other programs: never through a shell, with a complete environment, and within a deadline.
//!
//! The child leads a process group of its own. [`run`] kills the group before it reaps the leader,
//! whether the run succeeds, fails or times out. The kernel cannot reuse the group's number before
//! the leader is reaped; after it, the signal could reach processes of somebody else.
//!
//! A program that handles data from the network may be confined to one directory by a
//! [`WriteAccess`]. [`Programs`] finds the programs of a tree and runs them in that tree. [`surroundings`] is about
//! this process itself: the attributes that it has from its own parent.

pub mod confinement;
pub mod environment;
mod error;
mod output;
mod pipes;
pub mod priority;
mod programs;
pub mod randomness;
mod run;
pub mod surroundings;

pub use confinement::WriteAccess;
pub use environment::PATH;
pub use error::ProcessError;
pub use output::{OutputSink, ProcessOutput};
pub use programs::{Programs, Task, resolve_symlinks};
pub use run::{ProcessCall, ProcessOutcome, run};

#[cfg(test)]
mod tests;
