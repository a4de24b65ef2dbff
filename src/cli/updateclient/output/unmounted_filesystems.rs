//! `--list-filesystems`: the filesystems that an initramfs has to mount.

use std::io::Write;

use crate::cli::console::Output;
use crate::update::UnmountedFilesystem;

/// Prints a line for each filesystem: mount point and, if known, device, type and options.
///
/// The fields are separated by spaces. `printf %b` of a POSIX shell decodes a field.
pub fn print_unmounted_filesystems(filesystems: &[UnmountedFilesystem]) {
    let mut out = Output::open();
    let lines: Vec<u8> = filesystems.iter().flat_map(line).collect();
    let _ = out.raw().write_all(&lines).and_then(|()| out.flush());
}

fn line(filesystem: &UnmountedFilesystem) -> Vec<u8> {
    let mut line = escape(&[b"/", filesystem.mount_root.as_bytes()].concat());
    if let Some(entry) = &filesystem.entry {
        for field in [&entry.device, &entry.kind, &entry.options] {
            line.push(b' ');
            line.extend(escape(field));
        }
    }
    line.push(b'\n');
    line
}

/// Writes white space, control characters and characters of a shell's own as `\0ooo`.
fn escape(field: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(field.len());
    for &byte in field {
        if byte.is_ascii_graphic() && !b"\\*?[".contains(&byte) || byte >= 0x80 {
            escaped.push(byte);
        } else {
            escaped.extend(format!("\\0{byte:03o}").bytes());
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::FstabEntry;
    use crate::tree_path::TreePath;

    #[test]
    fn line_has_one_word_per_field() {
        let mount_root = TreePath::new("srv/a b\\*\n").expect("a valid path");
        let entry = FstabEntry {
            device: b"LABEL=x y".to_vec(),
            kind: b"ext4".to_vec(),
            options: b"rw,noatime".to_vec(),
        };

        let known = UnmountedFilesystem { mount_root: mount_root.clone(), entry: Some(entry) };
        let unknown = UnmountedFilesystem { mount_root, entry: None };

        let path = "/srv/a\\0040b\\0134\\0052\\0012";
        let [known, unknown] = [known, unknown].map(|one| String::from_utf8(line(&one)));
        assert_eq!(known, Ok(format!("{path} LABEL=x\\0040y ext4 rw,noatime\n")));
        assert_eq!(unknown, Ok(format!("{path}\n")));
    }
}
