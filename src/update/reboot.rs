//! Reboots the node after a successful run, if `--reboot` asks for it.

use std::path::Path;
use std::time::Duration;

use crate::apply::Untouched;
use crate::host::{CancelPolicy, RestartMethod, Tools, restart_system};
use crate::process::Programs;
use crate::report::Monitor;
use crate::root::Root;
use crate::update::error::{FollowUpError, UpdateError, UsageError};
use crate::update::notice::TransactionNotice;

/// Reboots the system whose tree is at `root`; it has to be the running one.
pub fn reboot(
    root: &Path,
    how: RestartMethod,
    timeout: Duration,
    monitor: &dyn Monitor,
) -> Result<(), UpdateError> {
    let root = Root::open(root).map_err(Untouched::from)?;
    let programs = Programs::open(&root).map_err(Untouched::from)?;
    if !programs.is_running_system() {
        return Err(UsageError::RebootOfOtherRoot.into());
    }

    monitor.note(TransactionNotice::Rebooting);
    let tools = Tools { programs, monitor, timeout, cancellation: CancelPolicy::Ignore };
    restart_system(&tools, how)
        .map_err(|error| UpdateError::Afterwards(vec![FollowUpError::Reboot(error)]))
}
