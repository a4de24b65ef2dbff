//! Which programs make changed boot files known to the boot loader of a tree.
//!
//! A boot loader either reads what it boots from configuration that a program generates (grub) or from a
//! list of blocks that a program writes (zipl, lilo), or it reads entries from a directory (systemd-boot, and
//! grub where it is built so). Several can stand on one tree, and are then all served; the order is that in
//! which one's result is another's input.

pub mod pending;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::process::{Programs, resolve_symlinks};
use crate::root::{FileKind, Root, RootError};
use crate::tree_path::TreePath;

/// What is wanted of a boot loader's program where none is found.
pub const UNKNOWN: &str = "boot files changed, and this tree has no program that is known to tell its boot loader of \
    them: name one as bootloader in /etc/systemimager/updateclient.toml, or set bootloader = \"never\" where none is \
    needed";

/// What happened to a boot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is new, or another one.
    Came,
    /// It is gone.
    Went,
}

/// The boot files that an update changed.
pub type BootChanges = BTreeMap<TreePath, Fate>;

/// What a tree has to do with boot loaders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Equipment {
    /// The programs that are known here and that it has, by name.
    pub programs: BTreeMap<&'static str, TreePath>,
    /// What it has that tells of boot loaders: directories and files, as paths.
    pub places: BTreeSet<&'static str>,
    /// Whether systemd-boot is installed where the firmware finds it.
    pub systemd_boot: bool,
}

/// One program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootCommand {
    /// The program.
    pub program: TreePath,
    /// What it is told.
    pub arguments: Vec<OsString>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These programs are run, in this order.
    Run(Vec<BootCommand>),
    /// The boot loader finds what changed by itself.
    Nothing,
    /// Nobody knows.
    Unknown,
}

const PROGRAMS: [&str; 7] =
    ["zipl", "lilo", "bootctl", "kernel-install", "update-grub", "grub2-mkconfig", "grub-mkconfig"];
/// Where entries are that boot loaders read at boot.
pub const ENTRIES: [&str; 3] =
    ["boot/loader/entries", "boot/efi/loader/entries", "efi/loader/entries"];
/// What tells of boot loaders that they are used.
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
/// Where systemd-boot is installed.
const INSTALLED: [&str; 3] = ["boot/EFI/systemd", "boot/efi/EFI/systemd", "efi/EFI/systemd"];
/// Where the package of systemd-boot keeps what is to be installed.
const SYSTEMD_BOOT: &str = "usr/lib/systemd/boot/efi";
/// Below these everything is a boot file.
const BELOW: [&str; 6] =
    ["boot", "efi", "etc/grub.d", "etc/default/grub.d", "etc/kernel", SYSTEMD_BOOT];
/// So are these.
const FILES: [&str; 3] = ["etc/default/grub", "etc/zipl.conf", "etc/lilo.conf"];

/// Whether a boot loader may have to be told that `path` changed.
pub fn is_boot_file(path: &TreePath) -> bool {
    let bytes = path.as_bytes();
    let below =
        |top: &str| bytes.strip_prefix(top.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
    BELOW.iter().any(|top| below(top))
        || FILES.iter().any(|file| bytes == file.as_bytes())
        || kernel_at(path).is_some()
}

/// The release of the kernel whose image this is, below the modules.
fn kernel_at(path: &TreePath) -> Option<&[u8]> {
    let mut components = path.components().peekable();
    components.next_if(|name| *name == b"usr");
    let found = (
        components.next(),
        components.next(),
        components.next(),
        components.next(),
        components.next(),
    );
    match found {
        (Some(b"lib"), Some(b"modules"), Some(release), Some(b"vmlinuz"), None) => Some(release),
        _ => None,
    }
}

/// Looks at what the tree has.
pub fn equipment(root: &Root) -> Result<Equipment, RootError> {
    let programs = Programs::open(root)?;
    let mut found = Equipment::default();
    for name in PROGRAMS {
        if let Some(path) = programs.find(name)? {
            found.programs.insert(name, path);
        }
    }
    for place in PLACES {
        if stands(root, place)?.is_some() {
            found.places.insert(place);
        }
    }
    for place in INSTALLED {
        if let Some(directory) = stands(root, place)? {
            let children = root.children(&directory)?;
            found.systemd_boot |= children.iter().any(|(path, stat)| {
                stat.kind == FileKind::File
                    && path.name().to_ascii_lowercase().starts_with(b"systemd-boot")
            });
        }
    }
    Ok(found)
}

fn stands(root: &Root, place: &str) -> Result<Option<TreePath>, RootError> {
    TreePath::new(place).map_or(Ok(None), |place| resolve_symlinks(root, &place))
}

/// Decides which programs a tree with this `equipment` needs after these changes.
pub fn choose(changes: &BootChanges, equipment: &Equipment) -> Choice {
    let has = |place: &str| equipment.places.contains(place);
    let command = |name: &str, arguments: Vec<OsString>| equipment.command(name, arguments);
    let systemd_boot = |path: &TreePath| path.as_bytes().starts_with(SYSTEMD_BOOT.as_bytes());
    let mut commands = Vec::new();
    let entries = ENTRIES.iter().any(|place| has(place));
    // First, since it puts kernels and entries where the others look for them.
    if entries {
        commands.extend(
            kernels_to_install(changes)
                .into_iter()
                .filter_map(|told| command("kernel-install", told)),
        );
    }
    // The copy that the firmware starts is not the image's: it lies on a filesystem of the firmware's.
    if equipment.systemd_boot && changes.keys().any(systemd_boot) {
        commands.extend(command("bootctl", words(&["--graceful", "update"])));
    }
    let rest = changes.keys().any(|path| !systemd_boot(path));
    if rest {
        commands.extend(grub(equipment));
        // Last, since these note down where the blocks of all the others' results lie.
        for (place, name) in [("etc/zipl.conf", "zipl"), ("etc/lilo.conf", "lilo")] {
            commands.extend(has(place).then(|| command(name, words(&[]))).flatten());
        }
    }
    if !commands.is_empty() {
        return Choice::Run(commands);
    }
    // Entries and extlinux's configuration are read at boot; without systemd-boot its binaries mean nothing.
    if !rest || entries || has("boot/extlinux/extlinux.conf") {
        Choice::Nothing
    } else {
        Choice::Unknown
    }
}

/// What makes grub's configuration anew, on a tree that boots by it.
///
/// Debian's name for it comes first: it knows what the distribution wants. One program is enough, since a
/// tree boots from one grub; which one, its directory tells.
pub fn grub(equipment: &Equipment) -> Option<BootCommand> {
    let programs: [(&str, &str, &[&str]); 3] = [
        ("boot/grub", "update-grub", &[]),
        ("boot/grub2", "grub2-mkconfig", &["-o", "/boot/grub2/grub.cfg"]),
        ("boot/grub", "grub-mkconfig", &["-o", "/boot/grub/grub.cfg"]),
    ];
    let mut programs =
        programs.into_iter().filter(|(place, _, _)| equipment.places.contains(place));
    programs.find_map(|(_, name, told)| equipment.command(name, words(told)))
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

impl Equipment {
    fn command(&self, name: &str, arguments: Vec<OsString>) -> Option<BootCommand> {
        self.programs.get(name).map(|program| BootCommand { program: program.clone(), arguments })
    }
}

/// The arguments of kernel-install for each kernel that came or went and that the image itself does not put
/// where boot loaders look for it.
fn kernels_to_install(changes: &BootChanges) -> Vec<Vec<OsString>> {
    let mut told = BTreeMap::new();
    for (path, fate) in changes {
        let Some(release) = kernel_at(path).filter(|release| !brings(changes, release)) else {
            continue;
        };
        let release = OsString::from(OsStr::from_bytes(release));
        let mut image = OsString::from("/lib/modules/");
        image.push(&release);
        image.push("/vmlinuz");
        match fate {
            Fate::Came => told.insert(release.clone(), vec!["add".into(), release, image]),
            // Where /usr is merged or unmerged by the update it goes at one path and comes at the other.
            Fate::Went => Some(
                told.entry(release.clone())
                    .or_insert_with(|| vec!["remove".into(), release])
                    .clone(),
            ),
        };
    }
    // "add" before "remove": there is never a moment without a kernel.
    let mut told: Vec<Vec<OsString>> = told.into_values().collect();
    told.sort_by(|a, b| a[0].cmp(&b[0]));
    told
}

/// Whether the image itself has the kernel below `boot` or `efi`.
fn brings(changes: &BootChanges, release: &[u8]) -> bool {
    changes.keys().any(|path| {
        let at_boot = matches!(path.components().next(), Some(b"boot" | b"efi"));
        let named = path.name().strip_suffix(release).is_some_and(|kind| kind.ends_with(b"-"));
        at_boot && (named || path.components().any(|name| name == release))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).expect("a good path")
    }

    fn changes(paths: &[&str]) -> BootChanges {
        let change = |text: &&str| match text.strip_prefix('-') {
            Some(gone) => (path(gone), Fate::Went),
            None => (path(text), Fate::Came),
        };
        paths.iter().map(change).collect()
    }

    fn tree(programs: &[&'static str], places: &[&'static str]) -> Equipment {
        let programs =
            programs.iter().map(|name| (*name, path(&format!("usr/bin/{name}")))).collect();
        Equipment { programs, places: places.iter().copied().collect(), systemd_boot: false }
    }

    #[test]
    fn what_is_due_is_kept_until_it_is_done() {
        let top = tempfile::tempdir().expect("scratch");
        let root = Root::open(top.path()).expect("opens");
        assert_eq!(pending::load(&root).expect("reads"), BootChanges::new());
        let changes = changes(&["boot/a b\n", "-lib/modules/6/vmlinuz"]);
        pending::keep(&root, &changes).expect("writes");
        assert_eq!(pending::load(&root).expect("reads"), changes);
        pending::keep(&root, &BootChanges::new()).expect("removes");
        assert_eq!(pending::load(&root).expect("reads"), BootChanges::new());
    }

    /// The commands as lines, without their directory.
    fn chosen(paths: &[&str], equipment: &Equipment) -> Vec<String> {
        let Choice::Run(commands) = choose(&changes(paths), equipment) else { return Vec::new() };
        let line = |command: &BootCommand| {
            let mut line = String::from_utf8_lossy(command.program.name()).into_owned();
            for word in &command.arguments {
                line = format!("{line} {}", word.display());
            }
            line
        };
        commands.iter().map(line).collect()
    }

    #[test]
    fn boot_files_are_told_from_others() {
        for boot in [
            "boot/vmlinuz-6",
            "boot/efi/EFI/debian/grub.cfg",
            "efi/loader/loader.conf",
            "etc/default/grub",
            "etc/default/grub.d/10.cfg",
            "etc/grub.d/40_custom",
            "etc/kernel/cmdline",
            "etc/zipl.conf",
            "lib/modules/6.1/vmlinuz",
            "usr/lib/modules/6.1/vmlinuz",
            "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
        ] {
            assert!(is_boot_file(&path(boot)), "{boot}");
        }
        for other in [
            "boot",
            "bootstrap/x",
            "etc/default/grubby",
            "etc/default/ssh",
            "usr/lib/modules/6.1/modules.dep",
            "usr/lib/modules/6.1/build/vmlinuz",
            "srv/lib/modules/6.1/vmlinuz",
            "usr/lib/systemd/systemd",
        ] {
            assert!(!is_boot_file(&path(other)), "{other}");
        }
    }

    #[test]
    fn debian_with_grub() {
        let debian =
            tree(&["update-grub", "grub-mkconfig", "kernel-install", "bootctl"], &["boot/grub"]);
        assert_eq!(
            chosen(&["boot/vmlinuz-6", "usr/lib/modules/6/modules.dep"], &debian),
            ["update-grub"]
        );
        assert_eq!(chosen(&["etc/default/grub"], &debian), ["update-grub"]);
    }

    #[test]
    fn the_directory_tells_which_grub_it_is() {
        let both = ["grub2-mkconfig", "grub-mkconfig"];
        let two = tree(&both, &["boot/grub2"]);
        assert_eq!(chosen(&["boot/vmlinuz-6"], &two), ["grub2-mkconfig -o /boot/grub2/grub.cfg"]);
        let one = tree(&both, &["boot/grub"]);
        assert_eq!(chosen(&["boot/vmlinuz-6"], &one), ["grub-mkconfig -o /boot/grub/grub.cfg"]);
        assert_eq!(choose(&changes(&["boot/vmlinuz-6"]), &tree(&both, &[])), Choice::Unknown);
    }

    /// Fedora's grub reads entries, which kernel-install writes.
    #[test]
    fn kernels_that_lie_with_their_modules_only_are_installed_first() {
        let fedora = tree(
            &["kernel-install", "grub2-mkconfig", "bootctl"],
            &["boot/loader/entries", "boot/grub2"],
        );
        let paths = ["usr/lib/modules/6.2/vmlinuz", "-usr/lib/modules/6.1/vmlinuz"];
        assert_eq!(
            chosen(&paths, &fedora),
            [
                "kernel-install add 6.2 /lib/modules/6.2/vmlinuz",
                "kernel-install remove 6.1",
                "grub2-mkconfig -o /boot/grub2/grub.cfg"
            ]
        );
        let brought = ["usr/lib/modules/6.2/vmlinuz", "boot/vmlinuz-6.2"];
        assert_eq!(chosen(&brought, &fedora), ["grub2-mkconfig -o /boot/grub2/grub.cfg"]);
        let moved = ["lib/modules/6.1/vmlinuz", "-usr/lib/modules/6.1/vmlinuz"];
        assert_eq!(chosen(&moved, &fedora)[0], "kernel-install add 6.1 /lib/modules/6.1/vmlinuz");
    }

    #[test]
    fn systemd_boot_is_updated_where_it_is_installed() {
        let mut tree = tree(&["bootctl", "kernel-install"], &["boot/efi/loader/entries"]);
        let binary = ["usr/lib/systemd/boot/efi/systemd-bootx64.efi"];
        assert_eq!(choose(&changes(&binary), &tree), Choice::Nothing);
        tree.systemd_boot = true;
        assert_eq!(chosen(&binary, &tree), ["bootctl --graceful update"]);
        // what the image has among the entries is found by itself
        let entry =
            ["boot/efi/loader/entries/a-6.conf", "boot/efi/a/6/linux", "usr/lib/modules/6/vmlinuz"];
        assert_eq!(choose(&changes(&entry), &tree), Choice::Nothing);
    }

    #[test]
    fn who_notes_down_blocks_comes_last() {
        let s390 = tree(&["zipl", "kernel-install"], &["etc/zipl.conf", "boot/loader/entries"]);
        let kernel = ["lib/modules/6/vmlinuz"];
        assert_eq!(chosen(&kernel, &s390), ["kernel-install add 6 /lib/modules/6/vmlinuz", "zipl"]);
        assert_eq!(chosen(&["boot/x"], &tree(&["lilo"], &["etc/lilo.conf"])), ["lilo"]);
        assert_eq!(choose(&changes(&["boot/x"]), &tree(&["zipl"], &[])), Choice::Unknown);
    }
}
