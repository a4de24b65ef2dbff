//! Programs that make changed boot files known to the boot loader of a tree.
//!
//! Some boot loaders read a configuration that a program generates (grub), or a list of blocks that
//! a program writes (zipl, lilo). Others read entries from a directory (systemd-boot, some builds
//! of grub). A tree can have several boot loaders: all of them are updated. The order matters,
//! since the result of one program can be input of another.

pub mod default_entry;
mod grub;
pub mod pending;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::host::Kernel;
use crate::host::kernel::release_beside_modules;
use crate::process::{Programs, resolve_symlinks};
use crate::root::{FileKind, Root, RootError};
use crate::tree_path::TreePath;

/// Change of a boot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFileChange {
    /// The file is new, or was replaced.
    Installed,
    Removed,
}

/// The boot files that an update changed.
pub type BootChanges = BTreeMap<TreePath, BootFileChange>;

/// Programs and files of a tree that concern boot loaders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootTools {
    /// Known programs that the tree has, by name.
    pub programs: BTreeMap<&'static str, TreePath>,
    /// Known directories and files that show the use of a boot loader.
    pub places: BTreeSet<&'static str>,
    /// Whether systemd-boot is installed on the EFI system partition.
    pub systemd_boot: bool,
    /// Release of the running kernel, if the tree has its modules.
    pub running: Option<String>,
}

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootCommand {
    pub program: TreePath,
    pub arguments: Vec<OsString>,
}

/// The work to do after boot files changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootLoaderPlan {
    /// Run these commands in this order.
    Run(Vec<BootCommand>),
    /// The boot loader finds the changes by itself.
    Nothing,
    /// No program is known for this tree.
    Unknown,
}

const PROGRAMS: [&str; 12] = [
    "zipl",
    "lilo",
    "bootctl",
    "kernel-install",
    "depmod",
    "update-grub",
    "grub2-mkconfig",
    "grub-mkconfig",
    "grub2-set-default",
    "grub-set-default",
    "grub2-editenv",
    "grub-editenv",
];
/// Directories of entries that boot loaders read at boot.
pub const ENTRIES: [&str; 3] =
    ["boot/loader/entries", "boot/efi/loader/entries", "efi/loader/entries"];
/// Directories and files that show the use of a boot loader.
const PLACES: [&str; 8] = [
    ENTRIES[0],
    ENTRIES[1],
    ENTRIES[2],
    "boot/grub",
    "boot/grub2",
    "boot/extlinux/extlinux.conf",
    "etc/zipl.conf",
    "etc/lilo.conf",
];
/// Directories on the EFI system partition that `bootctl` installs systemd-boot in.
const SYSTEMD_BOOT_DIRS: [&str; 3] =
    ["boot/EFI/systemd", "boot/efi/EFI/systemd", "efi/EFI/systemd"];
/// Directory of the binaries of the systemd-boot package.
const SYSTEMD_BOOT_PACKAGE: &str = "usr/lib/systemd/boot/efi";
/// Directories in which each file is a boot file.
const BOOT_DIRS: [&str; 6] =
    ["boot", "efi", "etc/grub.d", "etc/default/grub.d", "etc/kernel", SYSTEMD_BOOT_PACKAGE];
/// Other boot files.
const BOOT_FILES: [&str; 3] = ["etc/default/grub", "etc/zipl.conf", "etc/lilo.conf"];

/// Whether a path is a directory of boot files, or below one.
pub fn is_boot_path(path: &TreePath) -> bool {
    let bytes = path.as_bytes();
    BOOT_DIRS.iter().any(|dir| bytes == dir.as_bytes()) || is_boot_file(path)
}

/// Whether a change of this path may concern a boot loader.
pub fn is_boot_file(path: &TreePath) -> bool {
    let bytes = path.as_bytes();
    BOOT_DIRS
        .iter()
        .any(|dir| bytes.strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.starts_with(b"/")))
        || BOOT_FILES.iter().any(|file| bytes == file.as_bytes())
        || release_beside_modules(path).is_some()
}

/// Finds the programs and files of a tree that concern boot loaders.
pub fn find_boot_tools(root: &Root) -> Result<BootTools, RootError> {
    let programs = Programs::open(root)?;
    let mut tools = BootTools::default();

    for name in PROGRAMS {
        if let Some(path) = programs.find(name)? {
            tools.programs.insert(name, path);
        }
    }
    for place in PLACES {
        if resolve(root, place)?.is_some() {
            tools.places.insert(place);
        }
    }
    for dir in SYSTEMD_BOOT_DIRS {
        if let Some(dir) = resolve(root, dir)? {
            tools.systemd_boot |= has_systemd_boot(root, &dir)?;
        }
    }
    if let Some(kernel) = Kernel::running_on(root)? {
        for dir in ["lib/modules", "usr/lib/modules"] {
            if resolve(root, &format!("{dir}/{}", kernel.release()))?.is_some() {
                tools.running = Some(kernel.release().to_owned());
            }
        }
    }
    Ok(tools)
}

fn resolve(root: &Root, place: &str) -> Result<Option<TreePath>, RootError> {
    TreePath::new(place).map_or(Ok(None), |place| resolve_symlinks(root, &place))
}

fn has_systemd_boot(root: &Root, dir: &TreePath) -> Result<bool, RootError> {
    Ok(root.children(dir)?.iter().any(|(path, stat)| {
        stat.kind == FileKind::File && path.name().to_ascii_lowercase().starts_with(b"systemd-boot")
    }))
}

/// Decides which commands a tree needs after these changes.
pub fn plan_commands(changes: &BootChanges, tools: &BootTools) -> BootLoaderPlan {
    let has = |place: &str| tools.places.contains(place);
    let is_systemd_boot =
        |path: &TreePath| path.as_bytes().starts_with(SYSTEMD_BOOT_PACKAGE.as_bytes());
    let has_entries = ENTRIES.iter().any(|place| has(place));
    let has_other_changes = changes.keys().any(|path| !is_systemd_boot(path));
    let mut commands = Vec::new();

    // First kernel-install: it writes kernels and entries that the other programs read.
    if has_entries {
        for arguments in kernel_install_arguments(changes) {
            // Removing a kernel removes the lists of its modules. If it runs, then it has to load
            // modules until it stops.
            let is_running = arguments[0] == "remove"
                && tools.running.as_ref().is_some_and(|running| arguments[1] == **running);
            let depmod = is_running.then(|| tools.command("depmod", arguments[1..].to_vec()));
            commands.extend(tools.command("kernel-install", arguments));
            commands.extend(depmod.flatten());
        }
    }

    // The binary that the firmware starts is a copy on the EFI system partition, not the image's
    // file.
    if tools.systemd_boot && changes.keys().any(is_systemd_boot) {
        commands.extend(tools.command("bootctl", words(&["--graceful", "update"])));
    }

    // Last zipl and lilo: they record the blocks of all files that the others wrote.
    if has_other_changes {
        commands.extend(grub_command(tools));
        for (place, name) in [("etc/zipl.conf", "zipl"), ("etc/lilo.conf", "lilo")] {
            if has(place) {
                commands.extend(tools.command(name, Vec::new()));
            }
        }
    }

    if !commands.is_empty() {
        return BootLoaderPlan::Run(commands);
    }
    // Entries, and the configuration of extlinux, are read at boot. The binaries of systemd-boot
    // matter only if systemd-boot is installed.
    if !has_other_changes || has_entries || has("boot/extlinux/extlinux.conf") {
        BootLoaderPlan::Nothing
    } else {
        BootLoaderPlan::Unknown
    }
}

/// The command that generates grub's configuration, if the tree boots by grub.
///
/// Debian's `update-grub` is the first: it uses the settings of the distribution. One command is
/// enough, since a tree boots by one grub; its directory shows which one.
pub fn grub_command(tools: &BootTools) -> Option<BootCommand> {
    let candidates: [(&str, &str, &[&str]); 3] = [
        ("boot/grub", "update-grub", &[]),
        ("boot/grub2", "grub2-mkconfig", &["-o", "/boot/grub2/grub.cfg"]),
        ("boot/grub", "grub-mkconfig", &["-o", "/boot/grub/grub.cfg"]),
    ];
    candidates
        .into_iter()
        .filter(|(directory, _, _)| tools.places.contains(directory))
        .find_map(|(_, name, arguments)| tools.command(name, words(arguments)))
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

impl BootTools {
    fn command(&self, name: &str, arguments: Vec<OsString>) -> Option<BootCommand> {
        self.programs.get(name).map(|program| BootCommand { program: program.clone(), arguments })
    }
}

/// Arguments of kernel-install for each installed or removed kernel.
///
/// Kernels that the image itself has below `boot` or `efi` need no kernel-install.
fn kernel_install_arguments(changes: &BootChanges) -> Vec<Vec<OsString>> {
    let mut by_release = BTreeMap::new();
    for (path, change) in changes {
        let release =
            release_beside_modules(path).filter(|release| !has_boot_copy(changes, release));
        let Some(release) = release else { continue };
        let release = OsString::from(OsStr::from_bytes(release));

        match change {
            BootFileChange::Installed => {
                let mut image = OsString::from("/lib/modules/");
                image.push(&release);
                image.push("/vmlinuz");
                by_release.insert(release.clone(), vec!["add".into(), release, image]);
            }
            // If the update merges or splits /usr, the kernel is removed at one path and installed
            // at the other: then it stays installed.
            BootFileChange::Removed => {
                by_release.entry(release.clone()).or_insert_with(|| vec!["remove".into(), release]);
            }
        }
    }

    // All "add" before each "remove", so that the tree has a kernel at any moment.
    let mut arguments: Vec<Vec<OsString>> = by_release.into_values().collect();
    arguments.sort_by(|a, b| a[0].cmp(&b[0]));
    arguments
}

/// Whether the image has files of this kernel below `boot` or `efi`.
fn has_boot_copy(changes: &BootChanges, release: &[u8]) -> bool {
    changes.keys().any(|path| {
        let is_in_boot = matches!(path.components().next(), Some(b"boot" | b"efi"));
        let is_file_of_release =
            path.name().strip_suffix(release).is_some_and(|kind| kind.ends_with(b"-"));
        is_in_boot && (is_file_of_release || path.components().any(|name| name == release))
    })
}

#[cfg(test)]
mod tests;
