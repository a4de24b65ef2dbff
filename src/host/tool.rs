//! Runs a program of the tree for its effect: what it prints goes to the monitor, and what went wrong is
//! one sentence.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::process::{ProcessError, ProcessOutput, Programs, Task};
use crate::report::Monitor;
use crate::tree_path::{Quoted, TreePath};

/// So many of the last lines are told of a program that failed.
const LAST: usize = 5;
/// So many lines are told while it runs: one that prints without end drowns nothing else.
const MOST: usize = 200;

/// What a run that is asked to stop means to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stops {
    /// It is broken off.
    Heeded,
    /// It goes on to its end: what it follows is done already.
    Ignored,
}

/// The programs of a tree, and who hears them.
pub struct Tools<'a> {
    /// Of the tree.
    pub programs: Programs<'a>,
    /// Hears each line, as a note.
    pub monitor: &'a dyn Monitor,
    /// The most time that each may take.
    pub longest: Duration,
    /// What a request to stop means.
    pub stops: Stops,
}

/// What a program is told.
#[derive(Clone, Debug, Default)]
pub struct ToolOutcome<'a> {
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// What its environment has besides.
    pub environment: &'a [(OsString, OsString)],
    /// Its standard input.
    pub input: &'a [u8],
}

/// Why a program did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The run was asked to stop.
    #[error("stopped on request")]
    Stopped,
    /// It failed; a sentence that names it, with what it said last.
    #[error("{0}")]
    Failed(String),
}

impl Tools<'_> {
    /// Runs `program`, which has to succeed.
    pub fn run(&self, program: &TreePath, told: &ToolOutcome<'_>) -> Result<(), ToolError> {
        let task = Task {
            program,
            arguments: told.arguments,
            environment: told.environment,
            input: told.input,
            time_limit: self.longest,
        };
        let mut last: VecDeque<String> = VecDeque::new();
        let mut told_lines = 0;
        let ended = self.programs.run(&task, &mut |heard| match heard {
            ProcessOutput::Line(line) | ProcessOutput::ErrorLine(line) => {
                let line = Quoted(line).to_string();
                told_lines += 1;
                match told_lines {
                    ..=MOST => self.monitor.note(format!("{program}: {line}")),
                    _ if told_lines == MOST + 1 => {
                        self.monitor.note(format!("{program} says more than is told here"))
                    }
                    _ => {}
                }
                last.push_back(line);
                last.drain(..last.len().saturating_sub(LAST));
                ControlFlow::Continue(())
            }
            ProcessOutput::Tick if self.stops == Stops::Heeded && self.monitor.is_stopped() => {
                ControlFlow::Break(())
            }
            ProcessOutput::Tick => ControlFlow::Continue(()),
        });
        let last = Vec::from(last).join("; ");
        let words =
            if last.is_empty() { String::new() } else { format!(", and said last: {last}") };
        match ended {
            Ok(outcome) if outcome.status.success() => Ok(()),
            Ok(outcome) => {
                Err(ToolError::Failed(format!("{program} failed ({}){words}", outcome.status)))
            }
            Err(ProcessError::Stopped) => Err(ToolError::Stopped),
            Err(ProcessError::NotFound) if !self.programs.is_running_system() => {
                let why = "the system's chroot, which runs it in the tree, is not installed";
                Err(ToolError::Failed(format!("{program} cannot be run: {why}")))
            }
            // The kernel says the same of a script whose interpreter is missing.
            Err(ProcessError::NotFound) => Err(ToolError::Failed(format!(
                "{program} cannot be run: it, or its interpreter, is not there"
            ))),
            Err(ProcessError::TimedOut) => {
                let seconds = self.longest.as_secs();
                Err(ToolError::Failed(format!(
                    "{program} took longer than {seconds} s (program_timeout){words}"
                )))
            }
            Err(ProcessError::Run(error)) => {
                Err(ToolError::Failed(format!("{program} cannot be run: {error}")))
            }
        }
    }
}
