//! Results of `si_updateclient`: logged, and printed as text or JSON.

mod json;
mod out_format;
mod restart;
mod status;
mod text;
mod unmounted_filesystems;
mod verification;

use std::time::Duration;

use crate::autoinstall::{Arranged, Flavor};
use crate::cli::console;
use crate::cli::log::{Channel, Level, Log};
use crate::cli::updateclient::args::{Arguments, OutputMode};
use crate::cli::updateclient::error::OutputError;
use crate::cli::updateclient::exit::{Effect, Ended, Exit};
use crate::cli::updateclient::settings::Row;
use crate::host::restart::RestartVerdict;
use crate::update::{Provenance, Report, RolledBack, UpdateError, UpdateOutcome, UpdateRequest};

pub use restart::{after_change, needs_restarting};
pub use status::print_status;
pub use unmounted_filesystems::print_unmounted_filesystems;
pub use verification::print_verification;

/// A completed update, with all that its output shows.
pub struct UpdateResult<'a> {
    pub report: &'a Report,
    pub request: &'a UpdateRequest,
    /// Only after a change of the running system.
    pub restart: Option<&'a RestartVerdict>,
    /// Format of a line per path, of `--log`.
    pub format: Option<&'a str>,
    pub exit: Exit,
    /// Downloaded bytes.
    pub fetched: u64,
    /// Time that the update took.
    pub duration: Duration,
}

impl UpdateResult<'_> {
    /// Whether the state of the node was changed.
    pub fn is_change(&self) -> bool {
        let outcome = self.report.outcome;
        !self.request.dry_run
            && matches!(
                outcome,
                UpdateOutcome::Updated | UpdateOutcome::Adopted | UpdateOutcome::Downloaded
            )
    }
}

/// A completed rollback, with all that its output shows.
pub struct RollbackResult<'a> {
    pub outcome: &'a RolledBack,
    /// Only after a change of the running system.
    pub restart: Option<&'a RestartVerdict>,
    /// Time that the rollback took.
    pub duration: Duration,
}

/// Logs and prints the result of an update.
pub fn report_update(result: &UpdateResult<'_>, arguments: &Arguments, log: &Log) {
    let is_change = result.is_change();
    let is_printed = !arguments.quiet || is_change || result.exit != Exit::Done;

    let summary = text::update_summary(result);
    let level = if is_change { Level::Notice } else { Level::Info };
    log.write(level, &summary, if is_printed { Channel::LogAndPrint } else { Channel::LogOnly });
    log_restart(result.restart, arguments, log);

    match arguments.output_mode() {
        OutputMode::Json => json::print_update(result),
        OutputMode::Text => {
            let printed = (is_printed && !(arguments.quiet && result.request.dry_run))
                .then_some(summary.as_str());
            text::print_update(result, printed, arguments.verbosity());
        }
    }
}

/// Logs and prints the result of a rollback.
pub fn report_rollback(result: &RollbackResult<'_>, arguments: &Arguments, log: &Log) {
    let summary = text::rollback_summary(result);
    log.write(Level::Notice, &summary, Channel::LogAndPrint);
    log_restart(result.restart, arguments, log);

    match arguments.output_mode() {
        OutputMode::Json => json::print_rollback(result),
        OutputMode::Text => text::print_rollback(result, &summary, arguments.verbosity()),
    }
}

/// Logs and prints that the node will be reinstalled.
pub fn report_autoinstall(flavor: &Flavor, arranged: Arranged, arguments: &Arguments, log: &Log) {
    let summary = text::autoinstall_summary(flavor, arranged);
    log.write(Level::Notice, &summary, Channel::LogAndPrint);

    match arguments.output_mode() {
        OutputMode::Json => json::print_autoinstall(flavor, arranged),
        OutputMode::Text => console::print_line(&summary),
    }
}

/// Prints every setting with its source.
pub fn print_settings(rows: &[Row], mode: OutputMode) {
    match mode {
        OutputMode::Json => rows.iter().for_each(crate::cli::json::line),
        OutputMode::Text => text::print_settings(rows),
    }
}

/// Prints the source of a path.
pub fn print_provenance(provenance: &Provenance, mode: OutputMode) {
    match mode {
        OutputMode::Json => crate::cli::json::line(provenance),
        OutputMode::Text => console::print_line(&provenance.to_string()),
    }
}

/// Logs and prints the error that ended a run.
pub fn report_error(error: &UpdateError, exit: Exit, mode: OutputMode, log: &Log) {
    if mode == OutputMode::Json {
        json::print_error(error, exit);
    }
    console::print_error_line(&format!("si_updateclient: {error}"));
    log.write(Level::Error, &error.to_string(), Channel::LogAndPrint);
}

/// Reports a failure of standard output, and returns the exit code of the program.
///
/// The exit code of an error, or of a change that was made, is not replaced: exit code 1 means that
/// nothing was changed. A code that only describes the tree is replaced.
pub fn check_written(ended: Ended, log: &Log) -> Exit {
    let Some(error) = console::take_failure() else { return ended.exit };

    let error = OutputError { error, effect: ended.effect };
    console::print_error_line(&format!("si_updateclient: {error}"));
    log.write(Level::Error, &error.to_string(), Channel::LogAndPrint);
    match ended {
        Ended { exit: Exit::Done | Exit::Deviates | Exit::LeftOut, effect: Effect::Unchanged } => {
            Exit::Failed
        }
        Ended { exit, .. } => exit,
    }
}

/// Logs the services that need a restart, even if they are not printed.
fn log_restart(restart: Option<&RestartVerdict>, arguments: &Arguments, log: &Log) {
    let channel = if arguments.quiet { Channel::LogOnly } else { Channel::LogAndPrint };
    for line in
        restart.iter().filter(|verdict| !verdict.is_clean()).flat_map(|verdict| verdict.lines())
    {
        log.write(Level::Notice, &line, channel);
    }
}
