//! `si_updateclient` as a program.

#![allow(
    clippy::disallowed_methods,
    reason = "files named on the command line are the running system's, not the tree's"
)]

mod arguments;
mod meaning;
mod show;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use super::json::Json;
use super::signals;
use super::terminal::Terminal;
use crate::host::Drift;
use crate::report::Monitor;
use crate::root::freeze;
use crate::update::{self, Report, Request, UpdateError};

pub use arguments::{Arguments, command};

/// How the program ends. Numbers are never given another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The node is at the head of its image, or what was asked for was done.
    Done = 0,
    /// A failure of the program itself; nothing was changed.
    Failed = 1,
    /// The command line or the configuration makes no sense; nothing was changed.
    Usage = 2,
    /// What the server offers is not to be trusted; nothing was changed.
    Trust = 3,
    /// The server or the network failed; nothing was changed.
    Fetch = 4,
    /// This node does not take the change; nothing was changed.
    Node = 5,
    /// The tree is between two generations; the next run finishes.
    Interrupted = 6,
    /// Another run works on the tree.
    Locked = 7,
    /// Only a full sync would help, and there is none, or it is forbidden; nothing was changed.
    NoFullSync = 8,
    /// More would be deleted than is allowed; nothing was changed.
    Budget = 9,
    /// The node deviates, and deviations are only reported.
    Deviates = 10,
    /// The run was asked to stop, and did so before anything was changed.
    Stopped = 11,
    /// The head is the generation that a rollback fled from; nothing was changed.
    Held = 12,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == freeze::WATCH) {
        freeze::watch();
        return Exit::Done.into();
    }
    let arguments = match arguments::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    signals::receive();
    let json = arguments.json;
    match run(&arguments) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = exit_of(&error);
            show::error(&error, exit, json);
            exit.into()
        }
    }
}

fn run(arguments: &Arguments) -> Result<Exit, UpdateError> {
    if arguments.status {
        return show::status(&update::status(&arguments.root)?, arguments.json);
    }
    let monitor: Box<dyn Monitor> =
        if arguments.json { Box::new(Json::default()) } else { Box::new(Terminal::new(arguments.quiet)) };
    if arguments.recover {
        update::recover(&arguments.root, monitor.as_ref())?;
        return Ok(Exit::Done);
    }
    if arguments.rollback {
        let request = meaning::rollback(arguments)?;
        confirm(arguments, request.dry_run, &format!("bring {} back to what it was", request.root.display()))?;
        show::rolled_back(&update::rollback(&request, monitor.as_ref())?, arguments);
        return Ok(Exit::Done);
    }
    let request = meaning::request(arguments, monitor.as_ref())?;
    let question = format!("update {} to image {} from {}", request.root.display(), request.image, request.repo);
    confirm(arguments, request.dry_run || request.adopt_only, &question)?;
    let report = update::run(&request, monitor.as_ref())?;
    show::report(&report, &request, arguments)?;
    if let Some(refusal) = report.refusal {
        return Err(refusal);
    }
    Ok(exit_of_report(&report, &request))
}

/// A drift that is only reported is what the administrator has to hear of; what waits for a boot is none.
fn exit_of_report(report: &Report, request: &Request) -> Exit {
    let looked = report.outcome == update::Outcome::UpToDate || report.outcome == update::Outcome::Updated;
    let reported = request.drift == Drift::Report && report.deviations.len() > report.kernels;
    if looked && reported { Exit::Deviates } else { Exit::Done }
}

/// Asks a person, where there is one and `--yes` was not given; what is `harmless` needs no answer.
fn confirm(arguments: &Arguments, harmless: bool, question: &str) -> Result<(), UpdateError> {
    let nobody = !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal();
    if arguments.yes || harmless || nobody {
        return Ok(());
    }
    let mut err = std::io::stderr();
    let _ = write!(err, "{question}? [y/N] ");
    let _ = err.flush();
    let mut answer = String::new();
    if signals::is_input_ready() {
        let _ = std::io::stdin().read_line(&mut answer);
    }
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(UpdateError::Stopped) }
}

fn exit_of(error: &UpdateError) -> Exit {
    match error {
        UpdateError::Usage(_) => Exit::Usage,
        UpdateError::Trust(_) => Exit::Trust,
        UpdateError::Fetch(error) if error.side == crate::fetch::Side::Node => Exit::Node,
        UpdateError::Fetch(_) => Exit::Fetch,
        UpdateError::Locked(_) => Exit::Locked,
        UpdateError::Node(_) => Exit::Node,
        UpdateError::Budget(_) => Exit::Budget,
        UpdateError::Stopped => Exit::Stopped,
        UpdateError::NothingToUndo(_) => Exit::Node,
        UpdateError::Held(_) => Exit::Held,
        UpdateError::NoFullSync(_) => Exit::NoFullSync,
        UpdateError::Unfinished(_) | UpdateError::Interrupted(_) => Exit::Interrupted,
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
