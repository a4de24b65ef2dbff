//! Starts the running system anew.

use std::ffi::OsString;

use super::tool::{ToolError, ToolOutcome, Tools};

/// How the system comes up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// By its firmware and boot loader.
    Reboot,
    /// By the kernel that kexec has loaded.
    Kexec,
}

impl Restart {
    /// Programs that do it, the best first: an init system ends services and unmounts before.
    fn programs(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Restart::Reboot => {
                &[("systemctl", &["reboot"]), ("shutdown", &["-r", "now"]), ("reboot", &[])]
            }
            Restart::Kexec => &[("systemctl", &["kexec"]), ("kexec", &["-e"])],
        }
    }
}

/// Runs the first program that there is for it.
pub fn start_anew(tools: &Tools<'_>, how: Restart) -> Result<(), ToolError> {
    for (name, arguments) in how.programs() {
        let found =
            tools.programs.find(name).map_err(|error| ToolError::Failed(error.to_string()))?;
        if let Some(program) = found {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            return tools
                .run(&program, &ToolOutcome { arguments: &arguments, ..ToolOutcome::default() });
        }
    }
    let names: Vec<&str> = how.programs().iter().map(|(name, _)| *name).collect();
    Err(ToolError::Failed(format!("none of the programs {} is installed", names.join(", "))))
}
