//! One boot into the installer, by whatever this node boots with; the boot after it is as ever.
//!
//! Where systemd-boot is installed, it gets an entry and is told to boot that once. It comes before grub, since
//! only a node that boots by it has it where its firmware looks. Grub gets an entry and is told likewise.
//! Where neither is there, the running kernel can become the installer's by kexec.

use std::ffi::OsString;
use std::io::Read;
use std::ops::ControlFlow;

use crate::apply::Untouched;
use crate::apply::session::Session;
use crate::autoinstall::boot_files::{INITRD, KERNEL};
use crate::autoinstall::rollback::StepLog;
use crate::autoinstall::{path, tool_failed};
use crate::host::boot_loader::{self, BootCommand, ENTRIES};
use crate::host::{MAX_FILE, Restart, ToolOutcome, Tools};
use crate::process::{ProcessOutput, Task, resolve_symlinks};
use crate::root::{FileKind, Root, RootError};
use crate::tree_path::TreePath;
use crate::update::{UpdateError, UsageError};

/// The title of the entry, and its name for boot loaders.
const TITLE: &str = "SystemImager autoinstall";
const ENTRY: &str = "systemimager-autoinstall";
/// The first line of what is written for grub.
const OURS: &str = "# written by si_updateclient --autoinstall";
/// A script of this name comes behind the distribution's own entries.
const SCRIPT: &str = "etc/grub.d/42_systemimager_autoinstall";

/// How one boot into the installer is brought about.
pub(super) struct OneShotBoot {
    place: TreePath,
    /// What leads to `place` for the boot loader: nothing, where it is a filesystem of its own.
    prefix: String,
    by: By,
}

enum By {
    Entry { bootctl: TreePath, entries: TreePath },
    Grub { directory: TreePath, reboot: TreePath, relative: Option<TreePath>, entry: GrubEntry },
    Kexec { kexec: TreePath },
}

/// Where grub finds the entry.
enum GrubEntry {
    /// In a file that its configuration reads at boot.
    Custom(TreePath),
    /// In its configuration, which this program makes anew of scripts.
    Script(BootCommand),
}

/// Finds the way for this node.
pub(super) fn choose(session: &Session, tools: &Tools<'_>) -> Result<OneShotBoot, UpdateError> {
    let root = &session.root;
    let failed = |error: RootError| UpdateError::from(Untouched::from(error));
    let equipment = boot_loader::equipment(root).map_err(failed)?;
    let prefix = |place: &TreePath| match session.mounts.iter().any(|mount| mount.at == *place) {
        true => String::new(),
        false => format!("/{}", String::from_utf8_lossy(place.as_bytes())),
    };
    if let (true, Some(bootctl)) = (equipment.systemd_boot, equipment.programs.get("bootctl"))
        && let Some(found) = ENTRIES.iter().find(|entries| equipment.places.contains(*entries))
    {
        let place = path(found.trim_end_matches("/loader/entries"));
        let by = By::Entry { bootctl: bootctl.clone(), entries: path(found) };
        // The firmware's filesystem is its own, and the only one that is read.
        return Ok(OneShotBoot { place, prefix: String::new(), by });
    }
    for (directory, family) in [("boot/grub", "grub"), ("boot/grub2", "grub2")] {
        let Some(reboot) = tools.programs.find(&format!("{family}-reboot")).map_err(failed)? else {
            continue;
        };
        if !equipment.places.contains(directory) {
            continue;
        }
        let Some(entry) = grub_entry(root, directory, &equipment)? else { continue };
        let relative = tools.programs.find(&format!("{family}-mkrelpath")).map_err(failed)?;
        let by = By::Grub { directory: path(directory), reboot, relative, entry };
        return Ok(OneShotBoot { place: path("boot"), prefix: prefix(&path("boot")), by });
    }
    if let Some(kexec) =
        tools.programs.find("kexec").map_err(failed)?.filter(|_| tools.programs.is_running_system())
    {
        return Ok(OneShotBoot {
            place: path("boot"),
            prefix: prefix(&path("boot")),
            by: By::Kexec { kexec },
        });
    }
    let why = "nothing is found that could boot the installer once: neither systemd-boot with bootctl, nor grub with \
               grub-reboot or grub2-reboot, nor kexec; install one of them";
    Err(Untouched::refused(why.to_owned()).into())
}

/// Where grub's entry goes: a file that its configuration reads is written without making that anew.
fn grub_entry(
    root: &Root,
    directory: &str,
    equipment: &boot_loader::Equipment,
) -> Result<Option<GrubEntry>, UpdateError> {
    let custom = path(&format!("{directory}/custom.cfg"));
    let free = root.stat(&custom).map_err(Untouched::from)?.is_none()
        || text(root, &custom)?.starts_with(OURS);
    if free && text(root, &path(&format!("{directory}/grub.cfg")))?.contains("custom.cfg") {
        return Ok(Some(GrubEntry::Custom(custom)));
    }
    let scripts = path(SCRIPT).parent().unwrap_or_else(TreePath::root);
    let takes_scripts = root
        .stat(&scripts)
        .map_err(Untouched::from)?
        .is_some_and(|stat| stat.kind == FileKind::Directory);
    Ok(boot_loader::grub(equipment).filter(|_| takes_scripts).map(GrubEntry::Script))
}

fn text(root: &Root, place: &TreePath) -> Result<String, UpdateError> {
    let Some(place) = resolve_symlinks(root, place).map_err(Untouched::from)? else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    let read = root
        .open_file(&place)
        .map_err(Untouched::from)?
        .take(MAX_FILE as u64)
        .read_to_end(&mut bytes);
    read.map_err(|source| {
        Untouched::Root(RootError { what: "read", path: root.show(&place), source })
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl OneShotBoot {
    /// The directory for kernel and initial ramdisk.
    pub(super) fn place(&self) -> &TreePath {
        &self.place
    }

    /// How the node is started anew so that it is this boot.
    pub(super) fn restart(&self) -> Restart {
        match self.by {
            By::Kexec { .. } => Restart::Kexec,
            By::Entry { .. } | By::Grub { .. } => Restart::Reboot,
        }
    }

    /// Arranges it; `append` is what the kernel is told.
    pub(super) fn arrange(
        &self,
        append: &str,
        tools: &Tools<'_>,
        ledger: &mut StepLog<'_>,
    ) -> Result<(), UpdateError> {
        let run = |program: &TreePath, words: &[String]| {
            let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
            tools
                .run(program, &ToolOutcome { arguments: &arguments, ..ToolOutcome::default() })
                .map_err(tool_failed)
        };
        match &self.by {
            By::Entry { bootctl, entries } => {
                let name = format!("{ENTRY}.conf");
                let place = entries
                    .join(name.as_bytes())
                    .map_err(|error| UsageError::Argument(error.to_string()))?;
                let (kernel, initrd) = (self.shown(KERNEL.1), self.shown(INITRD.1));
                let entry =
                    format!("title {TITLE}\nlinux {kernel}\ninitrd {initrd}\noptions {append}\n");
                ledger.write(&place, entry.as_bytes(), 0o644)?;
                run(bootctl, &["set-oneshot".to_owned(), name])
            }
            By::Grub { directory, reboot, relative, entry } => {
                let boot = relative.as_ref().and_then(|program| self.relative(program, tools));
                let entry_text = grub_menu(&boot.unwrap_or_else(|| self.prefix.clone()), append);
                match entry {
                    GrubEntry::Custom(place) => {
                        ledger.write(place, format!("{OURS}\n{entry_text}").as_bytes(), 0o644)?;
                    }
                    GrubEntry::Script(make) => {
                        let script = format!("#!/bin/sh\n{OURS}\ncat <<'END'\n{entry_text}END\n");
                        ledger.write(&path(SCRIPT), script.as_bytes(), 0o755)?;
                        ledger.keep(&path(&format!(
                            "{}/grub.cfg",
                            String::from_utf8_lossy(directory.as_bytes())
                        )))?;
                        let arguments = &make.arguments;
                        let told = ToolOutcome { arguments, ..ToolOutcome::default() };
                        tools.run(&make.program, &told).map_err(tool_failed)?;
                    }
                }
                run(reboot, &[ENTRY.to_owned()])
            }
            By::Kexec { kexec } => {
                let at = |name: &str| {
                    format!("/{}/{name}", String::from_utf8_lossy(self.place.as_bytes()))
                };
                let options =
                    [format!("--initrd={}", at(INITRD.1)), format!("--command-line={append}")];
                run(kexec, &[&["-l".to_owned(), at(KERNEL.1)][..], &options].concat())
            }
        }
    }

    fn shown(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// What leads to the place for grub, by its own program: on btrfs that begins with the subvolume.
    fn relative(&self, program: &TreePath, tools: &Tools<'_>) -> Option<String> {
        let arguments =
            [OsString::from(format!("/{}", String::from_utf8_lossy(self.place.as_bytes())))];
        let longest = tools.longest;
        let task = Task {
            program,
            arguments: &arguments,
            environment: &[],
            input: &[],
            time_limit: longest,
        };
        let mut said = None;
        let ended = tools.programs.run(&task, &mut |heard| {
            if let ProcessOutput::Line(line) = heard {
                said = std::str::from_utf8(line)
                    .ok()
                    .map(|line| line.trim_end_matches('/').to_owned());
            }
            ControlFlow::Continue(())
        });
        let good = |said: &String| {
            let harmless = |c: char| !c.is_control() && !c.is_whitespace() && !"'\\$\"".contains(c);
            (said.is_empty() || said.starts_with('/')) && said.chars().all(harmless)
        };
        said.filter(good).filter(|_| ended.is_ok_and(|outcome| outcome.status.success()))
    }
}

/// The entry in grub's language. It is looked for on every disk, since nothing tells how grub numbers them.
fn grub_menu(prefix: &str, append: &str) -> String {
    let words: Vec<String> = append.split_whitespace().map(|word| format!("'{word}'")).collect();
    let (kernel, initrd) = (format!("{prefix}/{}", KERNEL.1), format!("{prefix}/{}", INITRD.1));
    format!(
        "menuentry '{TITLE}' --id {ENTRY} {{\n    search --no-floppy --set=root --file '{kernel}'\n    \
         linux '{kernel}' {}\n    initrd '{initrd}'\n}}\n",
        words.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_reads_each_word_as_it_is() {
        assert_eq!(
            grub_menu("/@/boot", "root=/dev/ram a;b {x}"),
            "menuentry 'SystemImager autoinstall' --id systemimager-autoinstall {\n    \
             search --no-floppy --set=root --file '/@/boot/kernel.systemimager'\n    \
             linux '/@/boot/kernel.systemimager' 'root=/dev/ram' 'a;b' '{x}'\n    \
             initrd '/@/boot/initrd.img.systemimager'\n}\n"
        );
    }
}
