//! Runs programs of the tree, and reports their output to the monitor.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::printable::Quoted;
use crate::process::{ProcessError, ProcessOutput, Programs, Task};
use crate::report::Monitor;
use crate::tree_path::TreePath;

use super::error::LastOutput;
use super::{HostNotice, ToolError};

/// Number of the last lines that the error of a failed program quotes.
const MAX_QUOTED_LINES: usize = 5;
/// Number of lines that are reported: a program that prints without end must not fill the log.
const MAX_REPORTED_LINES: usize = 200;

/// Effect of a cancellation of the run on a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelPolicy {
    /// The program is killed.
    Honor,
    /// The program runs to its end: the change that it belongs to is already made.
    Ignore,
}

/// Runner for programs of a tree.
pub struct Tools<'a> {
    pub programs: Programs<'a>,
    /// Receives each line of output as a note.
    pub monitor: &'a dyn Monitor,
    /// Longest time of a program.
    pub timeout: Duration,
    pub cancellation: CancelPolicy,
}

/// Input of a program.
#[derive(Clone, Debug, Default)]
pub struct ToolInput<'a> {
    pub arguments: &'a [OsString],
    /// Additional environment variables.
    pub environment: &'a [(OsString, OsString)],
    pub stdin: &'a [u8],
}

impl Tools<'_> {
    /// Runs a program; any exit status except 0 is an error.
    pub fn run(&self, program: &TreePath, input: &ToolInput<'_>) -> Result<(), ToolError> {
        let task = Task {
            program,
            arguments: input.arguments,
            environment: input.environment,
            input: input.stdin,
            time_limit: self.timeout,
        };
        let mut last_lines: VecDeque<String> = VecDeque::new();
        let mut line_count = 0;

        let result = self.programs.run(&task, &mut |output| match output {
            ProcessOutput::Line(line) | ProcessOutput::ErrorLine(line) => {
                line_count += 1;
                let line = Quoted(line).to_string();
                self.report_line(program, &line, line_count);
                last_lines.push_back(line);
                last_lines.drain(..last_lines.len().saturating_sub(MAX_QUOTED_LINES));
                ControlFlow::Continue(())
            }
            ProcessOutput::Tick if self.is_cancelled() => ControlFlow::Break(()),
            ProcessOutput::Tick => ControlFlow::Continue(()),
        });

        let last_output = LastOutput(last_lines.into());
        match result {
            Ok(outcome) if outcome.status.success() => Ok(()),
            Ok(outcome) => {
                let program = program.clone();
                Err(ToolError::Failed { program, status: outcome.status, last_output })
            }
            Err(error) => Err(self.process_error(program, error, last_output)),
        }
    }

    fn report_line(&self, program: &TreePath, line: &str, number: usize) {
        if number <= MAX_REPORTED_LINES {
            self.monitor.note(HostNotice::ProgramOutput { program, line });
        } else if number == MAX_REPORTED_LINES + 1 {
            self.monitor.note(HostNotice::MoreOutput { program });
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancellation == CancelPolicy::Honor && self.monitor.is_cancelled()
    }

    fn process_error(
        &self,
        program: &TreePath,
        error: ProcessError,
        last_output: LastOutput,
    ) -> ToolError {
        let program = program.clone();
        match error {
            ProcessError::Cancelled => ToolError::Cancelled,
            ProcessError::NotFound if self.programs.is_running_system() => {
                ToolError::NotFound { program }
            }
            ProcessError::NotFound => ToolError::NoChroot { program },
            ProcessError::TimedOut => {
                ToolError::TimedOut { program, timeout: self.timeout, last_output }
            }
            ProcessError::Run(source) => ToolError::Run { program, source },
        }
    }
}
