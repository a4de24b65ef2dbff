//! Failures to run a program.

use std::io;

/// Failure to run a program to its end. An exit status other than 0 is none.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program, or the interpreter of a script, does not exist.
    #[error("the program is not installed")]
    NotFound,
    /// A system call failed while the program was started or watched.
    #[error("cannot run the program: {0}")]
    Run(#[from] io::Error),
    /// The deadline passed; the program was killed.
    #[error("the program exceeded its time limit and was killed")]
    TimedOut,
    /// The caller cancelled the run; the program was killed.
    #[error("the program was cancelled")]
    Cancelled,
}
