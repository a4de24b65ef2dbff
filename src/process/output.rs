//! Output of a running program, as its caller receives it.

use std::ops::ControlFlow;

/// Event of a running program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// A line of standard output, without its newline or carriage return.
    Line(&'a [u8]),
    /// A line of standard error, likewise.
    ErrorLine(&'a [u8]),
    /// About 100 ms have passed; sent even if the program prints nothing.
    Tick,
}

/// Callback for each [`Output`]; `Break` cancels the run.
pub type OutputSink<'a> = dyn FnMut(Output<'_>) -> ControlFlow<()> + 'a;
