//! `si_updateclient`: from the command line to the job and its exit code.
//!
//! `args.rs` parses, `settings/` adds the configuration, `request.rs` makes the request of the
//! library, `job.rs` runs it, and `output/` prints the result.

#![allow(
    clippy::disallowed_methods,
    reason = "files of the command line belong to the running system, not to the target tree"
)]

mod args;
mod error;
mod exit;
mod job;
mod legacy_args;
mod notice;
mod output;
mod prompt;
mod request;
mod settings;
mod splay;
mod tunnel;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::console;
use super::json::Json;
use super::log::{Log, Logged, SOCKET};
use super::meter::DownloadMeter;
use super::signals;
use super::terminal::Terminal;
use crate::allocator;
use crate::process::{priority, randomness, surroundings};
use crate::report::Monitor;
use crate::root::freeze;
use crate::rsync::relay::{self, RELAY};
use crate::rsync::tunnel::{BECOME_SSH, become_ssh};
use crate::update::{self, UpdateError};

use args::OutputMode;
use job::ClientJob;
use notice::ClientNotice;

pub use args::{Arguments, command};
pub use exit::{Effect, Ended, Exit};

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    surroundings::normalize();
    surroundings::fix_umask();
    allocator::tune();
    if let Err(error) = randomness::check() {
        console::print_error_line(&format!("si_updateclient: {error}"));
        return Exit::Failed.into();
    }
    if let Some(code) = run_internal_process() {
        return code;
    }
    let arguments = match args::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return print_usage(&error).into(),
    };

    if arguments.download_only {
        // Before the first thread: each one inherits the priority.
        priority::lower();
    }
    signals::receive();
    let log = if arguments.is_read_only() { Log::disabled() } else { Log::open(Path::new(SOCKET)) };
    let ended = run(&arguments, &log).unwrap_or_else(|error| {
        let exit = Exit::from_error(&error);
        output::report_error(&error, exit, arguments.output_mode(), &log);
        Ended::unchanged(exit)
    });
    output::check_written(ended, &log).into()
}

/// Prints the help, the version, or the mistake in the command line.
fn print_usage(error: &clap::Error) -> Exit {
    let printed = error.print();
    if error.use_stderr() {
        return Exit::Usage;
    }

    if let Err(failure) = &printed {
        console::keep_failure(failure);
    }
    output::check_written(Ended::unchanged(Exit::Done), &Log::disabled())
}

/// Handles the first arguments with which this program starts itself as a child process.
fn run_internal_process() -> Option<ExitCode> {
    let first: OsString = std::env::args_os().nth(1)?;
    if first == freeze::WATCH {
        freeze::watch();
        return Some(Exit::Done.into());
    }
    if first == BECOME_SSH {
        let (error, code) = become_ssh(std::env::args_os().skip(2));
        console::print_error_line(&error.to_string());
        return Some(ExitCode::from(code));
    }
    if first == RELAY {
        let socket = PathBuf::from(std::env::args_os().nth(2)?);
        return Some(match relay::run(&socket) {
            Ok(()) => Exit::Done.into(),
            Err(error) => {
                console::print_error_line(&error.to_string());
                Exit::Failed.into()
            }
        });
    }
    None
}

/// Runs the job that the arguments name.
fn run(arguments: &Arguments, log: &Log) -> Result<Ended, UpdateError> {
    let mode = arguments.output_mode();
    if arguments.status {
        let status = update::status(&arguments.root)?;
        let proof = settings::resolve(arguments)
            .and_then(|settings| update::recorded_proof(&arguments.root, &settings.excludes));
        return output::print_status(&status, &proof, mode).map(Ended::unchanged);
    }
    if arguments.needs_restarting {
        return output::needs_restarting(&arguments.root, mode).map(Ended::unchanged);
    }

    let meter =
        DownloadMeter::new(Box::new(Logged::new(monitor(arguments), arguments.verbosity(), log)));
    let monitor: &dyn Monitor = &meter;
    if arguments.list_filesystems {
        let filesystems = if arguments.recover {
            update::pending_filesystems(&arguments.root)?
        } else {
            update::unmounted_filesystems(&arguments.root)?
        };
        output::print_unmounted_filesystems(&filesystems);
        return Ok(Ended::unchanged(Exit::Done));
    }
    if !arguments.is_read_only() {
        update::check_file_size_limit()?;
    }
    if arguments.recover {
        let left_out = update::recover(&arguments.root, monitor)?;
        let exit = if left_out.is_empty() { Exit::Done } else { Exit::LeftOut };
        return Ok(Ended { exit, effect: Effect::Changed });
    }

    request::check_combinations(arguments)?;
    let settings = settings::resolve(arguments)?;
    if arguments.show_config {
        output::print_settings(&settings.rows, mode);
        return Ok(Ended::unchanged(Exit::Done));
    }
    if let Some(path) = &arguments.why {
        let request = request::explain_request(arguments, &settings, path)?;
        output::print_provenance(&update::why(&request)?, mode);
        return Ok(Ended::unchanged(Exit::Done));
    }

    if !settings.syslog {
        log.close();
    }
    if !settings.ignored.is_empty() {
        monitor.note(ClientNotice::IgnoredSettings(&settings.ignored));
    }
    if let Some(fault) = &settings.unused_files {
        monitor.warn(ClientNotice::UnusedFiles(fault));
    }
    let job = ClientJob { arguments, settings: &settings, meter: &meter, log };
    if arguments.verify.is_some() {
        job.verify()
    } else if arguments.rollback {
        job.rollback()
    } else if arguments.autoinstall {
        job.autoinstall()
    } else {
        job.update()
    }
}

fn monitor(arguments: &Arguments) -> Box<dyn Monitor> {
    match arguments.output_mode() {
        OutputMode::Json => Box::new(Json::default()),
        OutputMode::Text => Box::new(Terminal::new(arguments.verbosity())),
    }
}
