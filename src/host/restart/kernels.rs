//! Whether another kernel would run after a reboot.

use std::cmp::Ordering;
use std::fs;
use std::path::Path;

use crate::root::{FileKind, Root, RootError, Stat};
use crate::tree_path::TreePath;

use super::RestartReason;

/// Where modules are; on many systems the first is a symlink to the second's.
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];
/// What the file of a kernel in `boot` is called, before its release.
const IMAGES: [&str; 5] = ["vmlinuz", "vmlinux", "Image", "bzImage", "kernel"];

/// Why another one would; nothing where the tree has no kernel, as where it comes over the network.
pub fn reasons(proc: &Path, root: &Root, running: &str) -> Result<Vec<RestartReason>, RootError> {
    let mut reasons = Vec::new();
    let installed = installed(root)?;
    if running.is_empty() || installed.is_empty() {
        return Ok(reasons);
    }
    match installed.iter().find(|kernel| kernel.release == running) {
        None => reasons.push(RestartReason::KernelGone { running: running.to_owned() }),
        Some(kernel) => {
            if booted(proc).is_some_and(|at| kernel.stat.ctime.seconds > at) {
                reasons.push(RestartReason::KernelChanged { file: root.show(&kernel.image) });
            }
        }
    }
    let newest = installed.into_iter().map(|kernel| kernel.release).max_by(|a, b| by_version(a, b));
    if let Some(newest) = newest.filter(|newest| by_version(newest, running) == Ordering::Greater) {
        reasons.push(RestartReason::KernelNewer { running: running.to_owned(), installed: newest });
    }
    Ok(reasons)
}

/// A kernel with its modules and its image.
struct Installed {
    release: String,
    image: TreePath,
    stat: Stat,
}

fn installed(root: &Root) -> Result<Vec<Installed>, RootError> {
    let mut found: Vec<Installed> = Vec::new();
    for modules in MODULES {
        for (path, stat) in root.children(&fixed(modules))? {
            let Ok(release) = std::str::from_utf8(path.name()) else { continue };
            if stat.kind != FileKind::Directory
                || found.iter().any(|kernel| kernel.release == release)
            {
                continue;
            }
            if let Some((image, stat)) = image(root, &path, release)? {
                found.push(Installed { release: release.to_owned(), image, stat });
            }
        }
    }
    Ok(found)
}

/// The file that the kernel of this release is started from: in `boot`, or beside its modules.
fn image(
    root: &Root,
    modules: &TreePath,
    release: &str,
) -> Result<Option<(TreePath, Stat)>, RootError> {
    let in_boot = IMAGES.iter().map(|name| format!("boot/{name}-{release}"));
    let beside = modules.join(b"vmlinuz").ok();
    for path in in_boot.map(|path| fixed(&path)).chain(beside) {
        if let Some(stat) = root.stat(&path)?.filter(|stat| stat.kind == FileKind::File) {
            return Ok(Some((path, stat)));
        }
    }
    Ok(None)
}

/// When the running system was started, in seconds since 1970.
fn booted(proc: &Path) -> Option<i64> {
    let text = fs::read_to_string(proc.join("stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// The order of kernel releases: runs of digits by their value and after words, the rest byte by byte; a release
/// candidate (`-rc1`) before what it leads to.
pub(super) fn by_version(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (KernelWords(a), KernelWords(b));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(word)) => {
                if word == "rc" {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (Some(word), None) => {
                if word == "rc" {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (Some(a), Some(b)) => match (number(a), number(b)) {
                (Some(a), Some(b)) => (a.len(), a).cmp(&(b.len(), b)),
                (Some(_), None) => Ordering::Greater,
                (None, Some(_)) => Ordering::Less,
                (None, None) => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// The digits without leading zeros, where `word` is of digits.
fn number(word: &str) -> Option<&str> {
    word.starts_with(|c: char| c.is_ascii_digit()).then(|| word.trim_start_matches('0'))
}

/// Runs of digits and runs of letters; what stands between them counts for nothing.
struct KernelWords<'a>(&'a str);

impl<'a> Iterator for KernelWords<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start_matches(|c: char| !c.is_alphanumeric());
        let first = rest.chars().next()?;
        let same = |c: char| c.is_alphanumeric() && c.is_ascii_digit() == first.is_ascii_digit();
        let (word, rest) = rest.split_at(rest.find(|c| !same(c)).unwrap_or(rest.len()));
        self.0 = rest;
        Some(word)
    }
}

fn fixed(path: &str) -> TreePath {
    TreePath::new(path).unwrap_or_else(|_| TreePath::root())
}
