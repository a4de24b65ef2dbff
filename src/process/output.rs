//! Output of a running program, as its caller receives it.

use std::ops::ControlFlow;

/// Event of a running program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessOutput<'a> {
    /// A line of standard output, without its newline or carriage return.
    Line(&'a [u8]),
    /// A line of standard error, without its newline or carriage return.
    ErrorLine(&'a [u8]),
    /// About 100 ms have passed; sent even if the program prints nothing.
    Tick,
}

/// Callback for each [`ProcessOutput`]; `Break` cancels the run.
pub type OutputSink<'a> = dyn FnMut(ProcessOutput<'_>) -> ControlFlow<()> + 'a;
