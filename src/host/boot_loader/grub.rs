//! The menu and the environment of grub, as far as a default entry needs them.

use std::io::Read;

use crate::host::MAX_FILE;
use crate::host::kernel::IMAGES;
use crate::process::resolve_symlinks;
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// Directories of grub below the root.
const DIRS: [&str; 2] = ["boot/grub", "boot/grub2"];
/// Line of the menu by which grub starts the saved entry.
const SAVED_DEFAULT: &str = "set default=\"${saved_entry}\"";

/// The entries of a `grub.cfg`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrubMenu {
    /// Whether grub starts the entry that `grub-set-default` saves.
    pub uses_saved_entry: bool,
    entries: Vec<MenuEntry>,
}

/// An entry that starts a Linux kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MenuEntry {
    /// Ids of the submenus and of the entry, joined as grub expects them.
    id: String,
    /// File name of the kernel image.
    image: String,
}

impl GrubMenu {
    /// Reads the menu of the tree; `None` if it has none.
    pub fn read(root: &Root) -> Result<Option<Self>, RootError> {
        Ok(read_file(root, "grub.cfg")?.map(|text| GrubMenu::parse(&text)))
    }

    fn parse(text: &str) -> Self {
        let mut menu = GrubMenu::default();
        // Ids of the open blocks; a block that is no menu item has none.
        let mut blocks: Vec<Option<String>> = Vec::new();

        for line in text.lines().map(str::trim) {
            menu.uses_saved_entry |= line == SAVED_DEFAULT;
            if line == "}" {
                blocks.pop();
            } else if line.ends_with('{') {
                blocks.push(item_id(line));
            } else if let Some(image) = image_name(line)
                && !blocks.is_empty()
            {
                let ids: Vec<&str> = blocks.iter().flatten().map(String::as_str).collect();
                menu.entries.push(MenuEntry { id: ids.join(">"), image: image.to_owned() });
            }
        }
        menu
    }

    /// The entry that starts the kernel of this release.
    ///
    /// An entry that names the release is best: other entries start the newest kernel.
    pub fn entry_of(&self, release: &str) -> Option<&str> {
        let entries: Vec<&MenuEntry> = self
            .entries
            .iter()
            .filter(|entry: &&MenuEntry| {
                let kind =
                    entry.image.strip_suffix(release).and_then(|kind| kind.strip_suffix('-'));
                kind.is_some_and(|kind| IMAGES.contains(&kind))
            })
            .collect();
        let named = entries.iter().find(|entry| entry.id.contains(release));
        named.or(entries.first()).map(|entry| entry.id.as_str())
    }
}

/// The id of a menu item, or its title; a `>` in it is doubled, as grub expects.
fn item_id(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    if !matches!(words.next(), Some("menuentry" | "submenu")) {
        return None;
    }
    let marked = ["$menuentry_id_option ", "--id "];
    let after_mark = marked.iter().find_map(|mark| Some(line.split_once(mark)?.1));
    quoted(after_mark.unwrap_or(line)).map(|id| id.replace('>', ">>"))
}

/// The first quoted text, or the first word if it has no quotes.
fn quoted(text: &str) -> Option<&str> {
    let word = text.split_whitespace().next()?;
    let start = text.find(['\'', '"']);
    match start {
        Some(start)
            if word.starts_with(['\'', '"']) || word == "menuentry" || word == "submenu" =>
        {
            let quote = &text[start..=start];
            text[start + 1..].split(quote).next()
        }
        _ => Some(word),
    }
}

/// The file name of the kernel image, if the line loads one.
fn image_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let is_linux = matches!(words.next(), Some("linux" | "linux16" | "linuxefi"));
    words.next().filter(|_| is_linux)?.rsplit('/').next()
}

/// Reads the saved entry of grub's environment.
pub fn read_saved_entry(root: &Root) -> Result<Option<String>, RootError> {
    let Some(text) = read_file(root, "grubenv")? else { return Ok(None) };
    Ok(text.lines().find_map(|line| line.strip_prefix("saved_entry=")).map(str::to_owned))
}

/// Reads a file of the first grub directory that has it, through symbolic links.
fn read_file(root: &Root, name: &str) -> Result<Option<String>, RootError> {
    for dir in DIRS {
        let Ok(path) = TreePath::new(format!("{dir}/{name}")) else { continue };
        let Some(path) = resolve_symlinks(root, &path)? else { continue };
        let mut bytes = Vec::new();
        let file = root.open_file(&path)?.take(MAX_FILE as u64).read_to_end(&mut bytes);
        file.map_err(|source| RootError { operation: "read", path: root.show(&path), source })?;
        return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a menu that Debian's grub-mkconfig writes.
    const DEBIAN: &str = r#"
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set boot_once=true
else
   set default="${saved_entry}"
fi
function gfxmode {
	set gfxpayload="${1}"
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1234' {
	linux	/boot/vmlinuz-6.1.0-57-amd64 root=UUID=1234 ro quiet
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1234' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-57-amd64' $menuentry_id_option 'gnulinux-6.1.0-57-amd64-advanced-1234' {
		if [ x$grub_platform = xxen ]; then insmod xzio; fi
		linux	/boot/vmlinuz-6.1.0-57-amd64 root=UUID=1234 ro quiet
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-50-amd64' $menuentry_id_option 'gnulinux-6.1.0-50-amd64-advanced-1234' {
		linux	/boot/vmlinuz-6.1.0-50-amd64 root=UUID=1234 ro quiet
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-50-amd64 (recovery mode)' $menuentry_id_option 'gnulinux-6.1.0-50-amd64-recovery-1234' {
		linux	/boot/vmlinuz-6.1.0-50-amd64 root=UUID=1234 ro single
	}
}
menuentry "A>B" {
	linux /vmlinuz-7
}
menuentry Plain --id plain {
	linux16 /vmlinuz-8
}
"#;

    #[test]
    fn entry_of_kernel_found_in_submenu() {
        let menu = GrubMenu::parse(DEBIAN);

        assert!(menu.uses_saved_entry);
        for (release, entry) in [
            (
                "6.1.0-50-amd64",
                Some("gnulinux-advanced-1234>gnulinux-6.1.0-50-amd64-advanced-1234"),
            ),
            (
                "6.1.0-57-amd64",
                Some("gnulinux-advanced-1234>gnulinux-6.1.0-57-amd64-advanced-1234"),
            ),
            ("7", Some("A>>B")),
            ("8", Some("plain")),
            ("50-amd64", None),
            ("9", None),
        ] {
            assert_eq!(menu.entry_of(release), entry, "{release}");
        }
    }

    #[test]
    fn fixed_default_is_no_saved_one() {
        assert!(!GrubMenu::parse("set default=\"0\"\n").uses_saved_entry);
    }
}
