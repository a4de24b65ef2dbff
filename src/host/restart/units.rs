//! Unit files that systemd has to read again.

use crate::entry::Mtime;
use crate::root::{FileKind, Root, RootError, Stat};
use crate::tree_path::TreePath;

/// Directories of unit files. The first may be a symbolic link to the second.
const UNITS: [&str; 4] = [
    "lib/systemd/system",
    "usr/lib/systemd/system",
    "usr/local/lib/systemd/system",
    "etc/systemd/system",
];
/// Files from which generators make units.
const SOURCES: [&str; 2] = ["etc/crypttab", "etc/fstab"];
/// Files of a running systemd, by their times. It touches the first whenever it has read all units;
/// versions before 246 have no such file, but create the second again.
const STAMPS: [&str; 2] = ["run/systemd/systemd-units-load", "run/systemd/generator"];

/// Unit files, and directories of them, that changed since systemd has read them.
///
/// Empty if no systemd runs. The ctime decides, since an update sets the mtime of the image. It is
/// never too early, but a hard link also changes it: an update and its rollback leave files as
/// systemd has read them, and they count as changed. A reload without need is harmless.
pub fn changed(root: &Root) -> Result<Vec<String>, RootError> {
    let Some(loaded) = load_time(root)? else { return Ok(Vec::new()) };
    let mut changed = Vec::new();

    for dir in UNITS {
        let dir = fixed(dir);
        if let Some(stat) = root.stat(&dir)?.filter(|stat| stat.kind == FileKind::Directory) {
            add_changed(root, &dir, &stat, loaded, &mut changed)?;
        }
    }
    for source in SOURCES {
        let source = fixed(source);
        if root.stat(&source)?.is_some_and(|stat| stat.ctime > loaded) {
            changed.push(source);
        }
    }
    Ok(changed.iter().map(|path| root.show(path)).collect())
}

/// Adds the changed files of a directory; itself, if a file was removed from it.
fn add_changed(
    root: &Root,
    dir: &TreePath,
    stat: &Stat,
    loaded: Mtime,
    changed: &mut Vec<TreePath>,
) -> Result<(), RootError> {
    let before = changed.len();
    for (path, child) in root.children(dir)? {
        if child.kind == FileKind::Directory {
            // A directory of drop-ins or of dependencies has no directories of its own.
            for (path, grandchild) in root.children(&path)? {
                if grandchild.ctime > loaded {
                    changed.push(path);
                }
            }
        }
        if child.ctime > loaded && !changed[before..].iter().any(|other| other.is_below(&path)) {
            changed.push(path);
        }
    }
    if stat.ctime > loaded && changed.len() == before {
        changed.push(dir.clone());
    }
    Ok(())
}

/// Time at which systemd has last read its units; `None` if it does not run.
fn load_time(root: &Root) -> Result<Option<Mtime>, RootError> {
    for stamp in STAMPS {
        if let Some(stat) = root.stat(&fixed(stamp))? {
            return Ok(Some(stat.mtime));
        }
    }
    Ok(None)
}

fn fixed(path: &str) -> TreePath {
    TreePath::new(path).unwrap_or_else(|_| TreePath::root())
}
