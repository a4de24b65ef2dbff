//! `--needs-restarting`, and the same verdict after what changed the running system.

use std::path::Path;

use crate::apply::Untouched;
use crate::cli::updateclient::Exit;
use crate::cli::updateclient::output::text;
use crate::cli::updateclient::settings::usage;
use crate::host::restart::RestartVerdict;
use crate::report::Monitor;
use crate::root::{Root, RootError};
use crate::update::UpdateError;

/// Prints what uses replaced files; only the running system uses anything.
pub fn needs_restarting(root: &Path, as_json: bool) -> Result<Exit, UpdateError> {
    let other = || {
        let why = "--needs-restarting is about the running system";
        usage(format!("{why}, and {} is another one: leave --root out", root.display()))
    };
    let verdict = verdict(root).map_err(Untouched::from)?.ok_or_else(other)?;
    text::restart(&verdict, as_json);
    Ok(Exit::Done)
}

/// The verdict after a run that changed the tree; nothing for a tree that does not run. What is done is done:
/// where it cannot be found out, that is a warning.
pub fn after(root: &Path, monitor: &dyn Monitor) -> Option<RestartVerdict> {
    verdict(root).unwrap_or_else(|error| {
        monitor.warn(format!("what has to be restarted is not known: {error}"));
        None
    })
}

fn verdict(root: &Path) -> Result<Option<RestartVerdict>, RootError> {
    RestartVerdict::of_running(&Root::open(root)?)
}
