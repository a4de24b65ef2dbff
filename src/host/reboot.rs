//! Restart of the running system.

use std::ffi::OsString;

use super::{ToolError, ToolInput, Tools};

/// Way of restarting the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartMethod {
    /// Through firmware and boot loader.
    Reboot,
    /// Directly into the kernel that kexec has loaded.
    Kexec,
}

impl RestartMethod {
    /// Programs with their arguments, best first: an init system stops services and unmounts.
    fn commands(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            RestartMethod::Reboot => {
                &[("systemctl", &["reboot"]), ("shutdown", &["-r", "now"]), ("reboot", &[])]
            }
            RestartMethod::Kexec => &[("systemctl", &["kexec"]), ("kexec", &["-e"])],
        }
    }
}

/// Restarts the system by the first program that is installed.
pub fn restart_system(tools: &Tools<'_>, method: RestartMethod) -> Result<(), ToolError> {
    for (name, arguments) in method.commands() {
        let Some(program) = tools.programs.find(name)? else { continue };
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let input = ToolInput { arguments: &arguments, ..ToolInput::default() };
        return tools.run(&program, &input);
    }

    let names = method.commands().iter().map(|(name, _)| *name).collect();
    Err(ToolError::NotInstalled { names })
}
