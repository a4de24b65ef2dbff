//! The default entry of a boot loader, and the record that this program has set it.
//!
//! A boot loader starts the newest kernel unless a default entry is set. A kernel that the tree
//! should not boot any more, but that cannot be removed from the boot menu, is overruled by a
//! default entry. The run that clears the entry has to restore the former value, so both are
//! recorded.

use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::host::boot_loader::grub::{self, GrubMenu};
use crate::host::boot_loader::{BootCommand, BootTools, ENTRIES, grub_command, words};
use crate::host::kernel::IMAGES;
use crate::host::{BadFile, MAX_FILE, NoDefaultEntry};
use crate::printable::one_line;
use crate::process::resolve_symlinks;
use crate::root::{FileKind, Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

const NAME: &str = "boot-default";
/// Directories of unified kernel images, which systemd-boot starts without an entry.
const UNIFIED_IMAGES: [&str; 3] = ["boot/EFI/Linux", "boot/efi/EFI/Linux", "efi/EFI/Linux"];
/// Variables of systemd-boot: the running boot loader, and the default entry.
const LOADER_INFO: &str =
    "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-442b29bb8c4f";
const LOADER_DEFAULT: &str =
    "sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-442b29bb8c4f";

/// A boot loader that can keep a default entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultKeeper {
    /// Grub, which stores the entry in `grubenv`.
    Grub,
    /// systemd-boot, which stores the entry in a variable of the firmware.
    SystemdBoot,
}

/// Record of a default entry that this program has set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultEntry {
    pub loader: DefaultKeeper,
    /// Release of the kernel that would start without the entry.
    pub kernel: String,
    /// The entry, as the boot loader names it.
    pub entry: String,
    /// Entry that was the default before; `None` if no entry was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<String>,
}

/// Reads the record; `None` if this program has set no entry.
pub fn load(root: &Root) -> Result<Option<DefaultEntry>, BadFile> {
    let path = state::file_path(NAME);
    let bad = |reason: String| BadFile::new(&root.show(&path), reason);
    let file = match root.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(None),
        answer => answer.map_err(|error| bad(error.to_string()))?,
    };

    let mut text = String::new();
    file.take(MAX_FILE as u64).read_to_string(&mut text).map_err(|error| bad(error.to_string()))?;
    toml::from_str(&text).map(Some).map_err(|error| bad(one_line(error.message()).into_owned()))
}

/// Writes the record durably; `None` removes it.
pub fn save(root: &Root, record: Option<&DefaultEntry>) -> Result<(), RootError> {
    let path = state::file_path(NAME);
    let Some(record) = record else { return root.unlink(&path) };
    // A record has only strings, which TOML can express.
    let text = toml::to_string(record).unwrap_or_default();
    state::create_dirs(root, &state::directory_path())?;
    root.write_durably(&path, text.as_bytes(), 0o600)
}

/// Finds the boot file by which the boot menu offers a kernel, if there is one.
pub fn find_boot_file(root: &Root, release: &str) -> Result<Option<TreePath>, RootError> {
    for image in IMAGES {
        let Ok(path) = TreePath::new(format!("boot/{image}-{release}")) else { continue };
        if root.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::File) {
            return Ok(Some(path));
        }
    }
    let entry = files_in(root, &ENTRIES, ".conf")?;
    for path in entry.into_iter().chain(files_in(root, &UNIFIED_IMAGES, ".efi")?) {
        if names_release(&entry_name(&path), release) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

impl DefaultKeeper {
    /// The boot loader of the tree, by the firmware's variables, else by its programs and files.
    pub fn find(root: &Root, tools: &BootTools) -> Result<Option<Self>, RootError> {
        let running = read_variable(root, LOADER_INFO)?;
        if running.is_some_and(|name| name.starts_with("systemd-boot")) {
            return Ok(Some(DefaultKeeper::SystemdBoot));
        }
        Ok(if grub_command(tools).is_some() {
            Some(DefaultKeeper::Grub)
        } else if tools.systemd_boot {
            Some(DefaultKeeper::SystemdBoot)
        } else {
            None
        })
    }

    /// The entry that starts a kernel of this release.
    pub fn find_entry(self, root: &Root, release: &str) -> Result<String, NoDefaultEntry> {
        if self == DefaultKeeper::Grub {
            let menu = GrubMenu::read(root)?.unwrap_or_default();
            if !menu.uses_saved_entry {
                return Err(NoDefaultEntry::NotSaved);
            }
            if let Some(entry) = menu.entry_of(release) {
                return Ok(entry.to_owned());
            }
        }

        let suffix = if self == DefaultKeeper::Grub { "" } else { ".conf" };
        for path in files_in(root, &ENTRIES, ".conf")? {
            let name = entry_name(&path);
            if names_release(&name, release) {
                return Ok(format!("{name}{suffix}"));
            }
        }
        let unified = files_in(root, &UNIFIED_IMAGES, ".efi")?.into_iter();
        let mut unified = unified.map(|path| entry_name(&path));
        match unified.find(|name| names_release(name, release)) {
            Some(name) if self == DefaultKeeper::SystemdBoot => Ok(format!("{name}.efi")),
            _ => Err(NoDefaultEntry::NoEntry),
        }
    }

    /// The default entry that is set now.
    pub fn read_default(self, root: &Root) -> Result<Option<String>, RootError> {
        let entry = match self {
            DefaultKeeper::Grub => grub::read_saved_entry(root)?,
            DefaultKeeper::SystemdBoot => read_variable(root, LOADER_DEFAULT)?,
        };
        Ok(entry.filter(|entry| !entry.is_empty()))
    }

    /// The command that sets the default entry; `None` clears it.
    pub fn command(
        self,
        tools: &BootTools,
        entry: Option<&str>,
    ) -> Result<BootCommand, NoDefaultEntry> {
        let (names, arguments): (&[&'static str], &[&str]) = match (self, entry) {
            (DefaultKeeper::Grub, Some(entry)) => {
                (&["grub-set-default", "grub2-set-default"], &[entry])
            }
            (DefaultKeeper::Grub, None) => {
                (&["grub-editenv", "grub2-editenv"], &["-", "unset", "saved_entry"])
            }
            // An empty name clears the entry.
            (DefaultKeeper::SystemdBoot, entry) => {
                (&["bootctl"], &["set-default", entry.unwrap_or_default()])
            }
        };
        names
            .iter()
            .find_map(|name| tools.command(name, words(arguments)))
            .ok_or(NoDefaultEntry::NoProgram(names[0]))
    }
}

/// Files with this suffix in directories of the tree.
fn files_in(root: &Root, dirs: &[&str], suffix: &str) -> Result<Vec<TreePath>, RootError> {
    let mut files = Vec::new();
    for dir in dirs {
        let Ok(dir) = TreePath::new(*dir) else { continue };
        let Some(dir) = resolve_symlinks(root, &dir)? else { continue };
        let children = root.children(&dir)?.into_iter();
        files.extend(
            children.map(|(path, _)| path).filter(|path| path.name().ends_with(suffix.as_bytes())),
        );
    }
    Ok(files)
}

/// Name of an entry: that of its file, without the suffix and without the count of boot attempts.
fn entry_name(path: &TreePath) -> String {
    let name = String::from_utf8_lossy(path.name()).into_owned();
    let name = name.rsplit_once('.').map_or(name.as_str(), |(name, _)| name);
    let counted = name.rsplit_once('+').filter(|(_, count)| {
        !count.is_empty() && count.chars().all(|c| c.is_ascii_digit() || c == '-')
    });
    counted.map_or(name, |(name, _)| name).to_owned()
}

/// Whether the name of an entry is the release, or ends with a dash and the release.
fn names_release(name: &str, release: &str) -> bool {
    name.strip_suffix(release).is_some_and(|rest| rest.is_empty() || rest.ends_with('-'))
}

/// Reads a variable of the firmware: four bytes of attributes, then UTF-16 with a final NUL.
fn read_variable(root: &Root, path: &str) -> Result<Option<String>, RootError> {
    let Ok(path) = TreePath::new(path) else { return Ok(None) };
    let file = match root.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(None),
        answer => answer?,
    };

    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64).read_to_end(&mut bytes).map_err(|source| RootError {
        operation: "read",
        path: root.show(&path),
        source,
    })?;
    let value = bytes.get(4..).unwrap_or_default();
    let units: Vec<u16> =
        value.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    Ok(Some(String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).expect("a good path")
    }

    fn tree(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let root = Root::open(dir.path()).expect("opens");
        for (file, content) in files {
            root.create_dirs(&path(file).parent().expect("a parent")).expect("makes");
            root.write_durably(&path(file), content, 0o644).expect("writes");
        }
        (dir, root)
    }

    fn variable(text: &str) -> Vec<u8> {
        let value = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        [7, 0, 0, 0].into_iter().chain(value).collect()
    }

    #[test]
    fn record_stored_until_removed() {
        let (_dir, root) = tree(&[]);
        let record = DefaultEntry {
            loader: DefaultKeeper::Grub,
            kernel: "6.1.0-2".into(),
            entry: "a>b \"c\"".into(),
            former: None,
        };
        assert_eq!(load(&root).expect("reads"), None);

        save(&root, Some(&record)).expect("writes");
        assert_eq!(load(&root).expect("reads"), Some(record));

        save(&root, None).expect("removes");
        assert_eq!(load(&root).expect("reads"), None);
    }

    #[test]
    fn boot_file_of_kernel_found_in_every_place() {
        for file in [
            "boot/vmlinuz-6.1.0-2",
            "boot/loader/entries/4711-6.1.0-2.conf",
            "efi/loader/entries/4711-6.1.0-2+3-0.conf",
            "boot/efi/EFI/Linux/debian-6.1.0-2.efi",
        ] {
            let (_dir, root) = tree(&[(file, b""), ("boot/initrd.img-6.1.0-1", b"")]);

            assert_eq!(find_boot_file(&root, "6.1.0-2").expect("reads"), Some(path(file)));
            assert_eq!(find_boot_file(&root, "6.1.0-1").expect("reads"), None);
            assert_eq!(find_boot_file(&root, "1.0-2").expect("reads"), None);
        }
    }

    #[test]
    fn entry_of_systemd_boot_named_by_its_file() {
        let keeper = DefaultKeeper::SystemdBoot;
        let (_dir, root) = tree(&[
            ("efi/loader/entries/4711-6.1.0-1+3.conf", b""),
            ("efi/EFI/Linux/debian-6.1.0-3.efi", b""),
            (LOADER_INFO, &variable("systemd-boot 252")),
            (LOADER_DEFAULT, &variable("4711-6.1.0-2.conf")),
        ]);

        let found = DefaultKeeper::find(&root, &BootTools::default()).expect("reads");

        assert_eq!(found, Some(keeper));
        assert_eq!(keeper.find_entry(&root, "6.1.0-1").expect("an entry"), "4711-6.1.0-1.conf");
        assert_eq!(keeper.find_entry(&root, "6.1.0-3").expect("an entry"), "debian-6.1.0-3.efi");
        assert!(keeper.find_entry(&root, "6.1.0-2").is_err());
        let default = keeper.read_default(&root).expect("reads");
        assert_eq!(default.as_deref(), Some("4711-6.1.0-2.conf"));
    }

    #[test]
    fn command_sets_or_clears_entry() {
        let programs = ["grub2-set-default", "grub2-editenv", "bootctl"];
        let programs = programs.map(|name| (name, path(&format!("usr/bin/{name}"))));
        let tools = BootTools { programs: programs.into(), ..BootTools::default() };
        let line = |keeper: DefaultKeeper, entry| {
            let command = keeper.command(&tools, entry).expect("a program");
            let arguments = command.arguments.iter().map(|word| word.display().to_string());
            format!("{} {}", command.program, arguments.collect::<Vec<_>>().join(" "))
        };

        for (keeper, entry, expected) in [
            (DefaultKeeper::Grub, Some("a>b"), "/usr/bin/grub2-set-default a>b"),
            (DefaultKeeper::Grub, None, "/usr/bin/grub2-editenv - unset saved_entry"),
            (DefaultKeeper::SystemdBoot, Some("a.conf"), "/usr/bin/bootctl set-default a.conf"),
            (DefaultKeeper::SystemdBoot, None, "/usr/bin/bootctl set-default "),
        ] {
            assert_eq!(line(keeper, entry), expected);
        }
        let result = DefaultKeeper::Grub.command(&BootTools::default(), None);
        assert!(matches!(result, Err(NoDefaultEntry::NoProgram("grub-editenv"))), "{result:?}");
    }

    #[test]
    fn grub_entry_needs_saved_default() {
        let (_dir, root) = tree(&[("boot/grub/grub.cfg", b"set default=\"0\"\n")]);

        let result = DefaultKeeper::Grub.find_entry(&root, "6.1.0-1");

        assert!(matches!(result, Err(NoDefaultEntry::NotSaved)), "{result:?}");
    }

    #[test]
    fn grub_entry_found_among_files_of_entries() {
        let saved = b"set default=\"${saved_entry}\"\nblscfg\n";
        let (_dir, root) =
            tree(&[("boot/grub2/grub.cfg", saved), ("boot/loader/entries/4711-6.1.0-1.conf", b"")]);

        let entry = DefaultKeeper::Grub.find_entry(&root, "6.1.0-1");

        assert_eq!(entry.expect("an entry"), "4711-6.1.0-1");
    }
}
