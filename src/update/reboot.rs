//! What `--reboot` does when all the rest has succeeded.

use std::path::Path;
use std::time::Duration;

use crate::apply::Untouched;
use crate::host::{Restart, Stops, Tools, start_anew};
use crate::process::Programs;
use crate::report::Monitor;
use crate::root::Root;

use super::UpdateError;

/// Starts the system at `root`, which has to be the running one, anew.
pub fn reboot(
    root: &Path,
    how: Restart,
    longest: Duration,
    monitor: &dyn Monitor,
) -> Result<(), UpdateError> {
    let root = Root::open(root).map_err(Untouched::from)?;
    let programs = Programs::open(&root).map_err(Untouched::from)?;
    if !programs.is_running_system() {
        let why = "--reboot cannot be used with --root: the running system is another one";
        return Err(UpdateError::Usage(why.to_owned()));
    }
    monitor.note("rebooting");
    let tools = Tools { programs, monitor, longest, stops: Stops::Ignored };
    start_anew(&tools, how).map_err(|error| {
        UpdateError::Afterwards(format!("this node could not be rebooted: {error}"))
    })
}
