//! Context in which hooks and boot loader tools run.

use std::time::Duration;

use crate::host::{BootLoader, CancelPolicy, Tools};
use crate::process::Programs;
use crate::report::Monitor;
use crate::root::{Root, RootError};
use crate::update::run::Run;

/// Tree, settings and output of the programs around a transaction.
#[derive(Clone, Copy)]
pub(in crate::update) struct HookContext<'a> {
    pub root: &'a Root,
    pub bootloader: &'a BootLoader,
    /// Limit for the time of each program.
    pub timeout: Duration,
    pub monitor: &'a dyn Monitor,
}

impl<'a> HookContext<'a> {
    /// Context of an update.
    pub fn from_run(run: &Run<'a>) -> Self {
        HookContext {
            root: &run.session.root,
            bootloader: &run.request.bootloader,
            timeout: run.request.program_timeout,
            monitor: run.monitor,
        }
    }

    /// Returns the programs of the tree; `cancellation` says if a cancellation ends them.
    pub(super) fn tools(&self, cancellation: CancelPolicy) -> Result<Tools<'a>, RootError> {
        let programs = Programs::open(self.root)?;
        Ok(Tools { programs, monitor: self.monitor, timeout: self.timeout, cancellation })
    }
}
