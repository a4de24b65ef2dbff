//! One boot of the installer; the boot after it is as before.
//!
//! systemd-boot and grub receive an entry and the order to boot it once. systemd-boot is tried
//! first: a node has its entries in the firmware's place only if it boots by it. Without either,
//! kexec can start the installer's kernel from the running one.

use std::ffi::OsString;
use std::io::Read;
use std::ops::ControlFlow;

use super::error::AutoinstallError;
use super::paths::{INITRD, KERNEL, SCRIPT, fixed_path};
use super::rollback::StepLog;
use crate::apply::Untouched;
use crate::apply::session::Session;
use crate::host::boot_loader::{self, BootCommand, BootTools, ENTRIES};
use crate::host::{MAX_FILE, RestartMethod, ToolInput, Tools};
use crate::process::{ProcessOutput, Task, resolve_symlinks};
use crate::root::{FileKind, Root, RootError};
use crate::tree_path::TreePath;
use crate::update::UpdateError;

/// Title of the boot loader's entry.
const TITLE: &str = "SystemImager autoinstall";
/// Identifier of the boot loader's entry.
const ENTRY: &str = "systemimager-autoinstall";
/// First line of the files for grub.
const MARK: &str = "# written by si_updateclient --autoinstall";

/// The boot method of this node.
pub(super) struct OneShotBoot {
    /// Directory for kernel and initial ramdisk.
    directory: TreePath,
    /// Path of the directory for the boot loader; empty if it is a filesystem of its own.
    prefix: String,
    method: BootMethod,
}

enum BootMethod {
    SystemdBoot { bootctl: TreePath, entries: TreePath },
    Grub(Grub),
    Kexec { kexec: TreePath },
}

struct Grub {
    directory: TreePath,
    /// `grub-reboot` or `grub2-reboot`.
    reboot: TreePath,
    /// `grub-mkrelpath` or `grub2-mkrelpath`, if installed.
    mkrelpath: Option<TreePath>,
    entry: GrubEntry,
}

/// Place of grub's entry.
enum GrubEntry {
    /// A file that grub's configuration reads at boot.
    Custom(TreePath),
    /// A script, from which this command makes grub's configuration.
    Script(BootCommand),
}

impl OneShotBoot {
    /// Chooses the boot method of this node.
    pub(super) fn choose(session: &Session, tools: &Tools<'_>) -> Result<Self, UpdateError> {
        let boot_tools = boot_loader::find_boot_tools(&session.root).map_err(tree_error)?;
        if let Some(boot) = Self::find_systemd_boot(&boot_tools) {
            return Ok(boot);
        }

        // For these, /boot may be a directory of the root's filesystem.
        let directory = fixed_path("boot");
        let is_mount = session.mounts.iter().any(|mount| mount.at == directory);
        let prefix = if is_mount { String::new() } else { absolute(&directory) };
        if let Some(grub) = Grub::find(&session.root, tools, &boot_tools)? {
            return Ok(OneShotBoot { directory, prefix, method: BootMethod::Grub(grub) });
        }
        if tools.programs.is_running_system()
            && let Some(kexec) = tools.programs.find("kexec").map_err(tree_error)?
        {
            return Ok(OneShotBoot { directory, prefix, method: BootMethod::Kexec { kexec } });
        }
        Err(AutoinstallError::NoBootMethod.into())
    }

    fn find_systemd_boot(boot_tools: &BootTools) -> Option<Self> {
        let bootctl = boot_tools.programs.get("bootctl").filter(|_| boot_tools.systemd_boot)?;
        let entries = ENTRIES.iter().find(|entries| boot_tools.places.contains(*entries))?;
        Some(OneShotBoot {
            directory: fixed_path(entries.trim_end_matches("/loader/entries")),
            // The boot loader reads only the firmware's filesystem.
            prefix: String::new(),
            method: BootMethod::SystemdBoot {
                bootctl: bootctl.clone(),
                entries: fixed_path(entries),
            },
        })
    }

    /// Directory for kernel and initial ramdisk.
    pub(super) fn directory(&self) -> &TreePath {
        &self.directory
    }

    /// The restart that leads into the installer.
    pub(super) fn restart(&self) -> RestartMethod {
        match self.method {
            BootMethod::Kexec { .. } => RestartMethod::Kexec,
            BootMethod::SystemdBoot { .. } | BootMethod::Grub { .. } => RestartMethod::Reboot,
        }
    }

    /// Arranges the boot with the kernel arguments `append`.
    pub(super) fn arrange(
        &self,
        append: &str,
        tools: &Tools<'_>,
        steps: &mut StepLog<'_>,
    ) -> Result<(), UpdateError> {
        match &self.method {
            BootMethod::SystemdBoot { bootctl, entries } => {
                let name = format!("{ENTRY}.conf");
                let path = entries.join(name.as_bytes()).map_err(AutoinstallError::from)?;
                steps.write_own(&path, self.systemd_boot_entry(append).as_bytes(), 0o644)?;
                run_tool(tools, bootctl, &["set-oneshot", &name])
            }
            BootMethod::Grub(grub) => {
                let prefix = grub.relative_path(&self.directory, tools);
                let entry = grub_entry(prefix.as_ref().unwrap_or(&self.prefix), append);
                grub.install_entry(&entry, tools, steps)?;
                run_tool(tools, &grub.reboot, &[ENTRY])
            }
            BootMethod::Kexec { kexec } => {
                let directory = absolute(&self.directory);
                let kernel = format!("{directory}/{}", KERNEL.local_name);
                let initrd = format!("--initrd={directory}/{}", INITRD.local_name);
                let append = format!("--command-line={append}");
                run_tool(tools, kexec, &["-l", &kernel, &initrd, &append])
            }
        }
    }

    fn systemd_boot_entry(&self, append: &str) -> String {
        let prefix = &self.prefix;
        let (kernel, initrd) = (KERNEL.local_name, INITRD.local_name);
        format!(
            "title {TITLE}\nlinux {prefix}/{kernel}\ninitrd {prefix}/{initrd}\noptions {append}\n"
        )
    }
}

impl Grub {
    /// Finds a grub that can boot an entry once.
    fn find(
        root: &Root,
        tools: &Tools<'_>,
        boot_tools: &BootTools,
    ) -> Result<Option<Self>, UpdateError> {
        for (directory, family) in [("boot/grub", "grub"), ("boot/grub2", "grub2")] {
            let reboot = tools.programs.find(&format!("{family}-reboot")).map_err(tree_error)?;
            let Some(reboot) = reboot.filter(|_| boot_tools.places.contains(directory)) else {
                continue;
            };
            let Some(entry) = GrubEntry::find(root, directory, boot_tools)? else { continue };

            let mkrelpath = format!("{family}-mkrelpath");
            let mkrelpath = tools.programs.find(&mkrelpath).map_err(tree_error)?;
            let directory = fixed_path(directory);
            return Ok(Some(Grub { directory, reboot, mkrelpath, entry }));
        }
        Ok(None)
    }

    /// Writes the entry; makes grub's configuration if it does not read the entry at boot.
    fn install_entry(
        &self,
        entry: &str,
        tools: &Tools<'_>,
        steps: &mut StepLog<'_>,
    ) -> Result<(), UpdateError> {
        match &self.entry {
            GrubEntry::Custom(path) => {
                steps.write_own(path, format!("{MARK}\n{entry}").as_bytes(), 0o644)
            }
            GrubEntry::Script(command) => {
                let script = format!("#!/bin/sh\n{MARK}\ncat <<'END'\n{entry}END\n");
                steps.write_own(&fixed_path(SCRIPT), script.as_bytes(), 0o755)?;

                let configuration =
                    self.directory.join(b"grub.cfg").map_err(AutoinstallError::from)?;
                steps.back_up(&configuration)?;
                let input = ToolInput { arguments: &command.arguments, ..ToolInput::default() };
                tools.run(&command.program, &input).map_err(AutoinstallError::from)?;
                Ok(())
            }
        }
    }

    /// Path of `directory` for grub, by its own program: on btrfs it begins with the subvolume.
    fn relative_path(&self, directory: &TreePath, tools: &Tools<'_>) -> Option<String> {
        let arguments = [OsString::from(absolute(directory))];
        let task = Task {
            program: self.mkrelpath.as_ref()?,
            arguments: &arguments,
            environment: &[],
            input: &[],
            time_limit: tools.timeout,
        };

        let mut path = None;
        let result = tools.programs.run(&task, &mut |output| {
            if let ProcessOutput::Line(line) = output {
                let line = std::str::from_utf8(line).ok();
                path = line.map(|line| line.trim_end_matches('/').to_owned());
            }
            ControlFlow::Continue(())
        });

        let is_success = result.is_ok_and(|outcome| outcome.status.success());
        path.filter(|path| is_success && is_grub_path(path))
    }
}

impl GrubEntry {
    /// Finds the place of the entry; a file that grub reads at boot is preferred.
    fn find(
        root: &Root,
        directory: &str,
        boot_tools: &BootTools,
    ) -> Result<Option<Self>, UpdateError> {
        let custom = fixed_path(&format!("{directory}/custom.cfg"));
        let is_free = root.stat(&custom).map_err(tree_error)?.is_none()
            || read_text(root, &custom)?.starts_with(MARK);
        let configuration = fixed_path(&format!("{directory}/grub.cfg"));
        if is_free && read_text(root, &configuration)?.contains("custom.cfg") {
            return Ok(Some(GrubEntry::Custom(custom)));
        }

        let scripts = fixed_path(SCRIPT).parent().unwrap_or_else(TreePath::root);
        let scripts = root.stat(&scripts).map_err(tree_error)?;
        let has_scripts = scripts.is_some_and(|stat| stat.kind == FileKind::Directory);
        let command = boot_loader::grub_command(boot_tools).filter(|_| has_scripts);
        Ok(command.map(GrubEntry::Script))
    }
}

/// The entry in grub's language.
///
/// The kernel is searched on every disk, since grub's numbers of the disks are unknown here.
fn grub_entry(prefix: &str, append: &str) -> String {
    let words: Vec<String> = append.split_whitespace().map(|word| format!("'{word}'")).collect();
    let kernel = format!("{prefix}/{}", KERNEL.local_name);
    let initrd = format!("{prefix}/{}", INITRD.local_name);
    format!(
        "menuentry '{TITLE}' --id {ENTRY} {{\n    \
         search --no-floppy --set=root --file '{kernel}'\n    \
         linux '{kernel}' {}\n    initrd '{initrd}'\n}}\n",
        words.join(" ")
    )
}

/// Whether a path can be quoted in grub's language.
fn is_grub_path(path: &str) -> bool {
    (path.is_empty() || path.starts_with('/'))
        && path
            .chars()
            .all(|c: char| !c.is_control() && !c.is_whitespace() && !"'\\$\"".contains(c))
}

fn run_tool(tools: &Tools<'_>, program: &TreePath, words: &[&str]) -> Result<(), UpdateError> {
    let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    let input = ToolInput { arguments: &arguments, ..ToolInput::default() };
    tools.run(program, &input).map_err(AutoinstallError::from)?;
    Ok(())
}

/// Beginning of a text file of the tree, also through symlinks within it; empty if it is missing.
fn read_text(root: &Root, path: &TreePath) -> Result<String, UpdateError> {
    let Some(path) = resolve_symlinks(root, path).map_err(tree_error)? else {
        return Ok(String::new());
    };

    let mut bytes = Vec::new();
    root.open_file(&path)
        .map_err(tree_error)?
        .take(MAX_FILE as u64)
        .read_to_end(&mut bytes)
        .map_err(|source| {
            tree_error(RootError { operation: "read", path: root.show(&path), source })
        })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tree_error(error: RootError) -> UpdateError {
    Untouched::from(error).into()
}

fn absolute(path: &TreePath) -> String {
    format!("/{}", String::from_utf8_lossy(path.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_entry_quotes_each_word() {
        assert_eq!(
            grub_entry("/@/boot", "root=/dev/ram a;b {x}"),
            "menuentry 'SystemImager autoinstall' --id systemimager-autoinstall {\n    \
             search --no-floppy --set=root --file '/@/boot/kernel.systemimager'\n    \
             linux '/@/boot/kernel.systemimager' 'root=/dev/ram' 'a;b' '{x}'\n    \
             initrd '/@/boot/initrd.img.systemimager'\n}\n"
        );
    }
}
