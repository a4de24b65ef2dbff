//! `--needs-restarting`, and the same check after a change of the running system.

use std::io::Write;
use std::path::Path;

use super::json::OutputLine;
use super::text;
use crate::apply::Untouched;
use crate::cli::console::Output;
use crate::cli::json;
use crate::cli::updateclient::args::OutputMode;
use crate::cli::updateclient::error::ArgumentError;
use crate::cli::updateclient::exit::Exit;
use crate::cli::updateclient::notice::ClientNotice;
use crate::host::restart::RestartVerdict;
use crate::report::Monitor;
use crate::root::{Root, RootError};
use crate::update::UpdateError;

/// Prints the services that use replaced files. Only the running system has services.
pub fn needs_restarting(root: &Path, mode: OutputMode) -> Result<Exit, UpdateError> {
    let verdict = check(root)
        .map_err(Untouched::from)?
        .ok_or_else(|| ArgumentError::NotRunning { root: root.to_owned() })?;

    match mode {
        OutputMode::Json => json::line(&OutputLine::Restart { restart: &verdict }),
        OutputMode::Text => {
            let mut out = Output::open();
            text::print_lines(verdict.lines(), &mut out);
            let _ = out.flush();
        }
    }
    Ok(Exit::Done)
}

/// Checks the services after a change of the tree; `None` if the tree is not the running system.
///
/// The change is complete, so a failure of the check is only a warning.
pub fn after_change(root: &Path, monitor: &dyn Monitor) -> Option<RestartVerdict> {
    check(root).unwrap_or_else(|error| {
        monitor.warn(ClientNotice::RestartUnknown(error));
        None
    })
}

fn check(root: &Path) -> Result<Option<RestartVerdict>, RootError> {
    RestartVerdict::for_running_system(&Root::open(root)?)
}
