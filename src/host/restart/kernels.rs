//! Kernel reasons for a reboot: the running kernel was removed, changed or is not the newest.

use std::cmp::Ordering;
use std::fs;
use std::path::Path;

use crate::host::compare_releases;
use crate::host::kernel::{IMAGE_BESIDE_MODULES, IMAGES};
use crate::root::{FileKind, Root, RootError, Stat};
use crate::tree_path::TreePath;

use super::RestartReason;

/// Directories of modules; on many systems the first is a symbolic link to the second.
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// Reasons for a reboot; none if the tree has no kernel, for example if it boots over the network.
pub fn reasons(proc: &Path, root: &Root, running: &str) -> Result<Vec<RestartReason>, RootError> {
    let mut reasons = Vec::new();
    let installed = installed_kernels(root)?;
    if running.is_empty() || installed.is_empty() {
        return Ok(reasons);
    }

    match installed.iter().find(|kernel| kernel.release == running) {
        None => reasons.push(RestartReason::KernelGone { running: running.to_owned() }),
        Some(kernel) => {
            if boot_time(proc).is_some_and(|time| kernel.stat.ctime.seconds > time) {
                reasons.push(RestartReason::KernelChanged { file: root.show(&kernel.image) });
            }
        }
    }

    let releases = installed.into_iter().map(|kernel| kernel.release);
    let newest = releases.max_by(|a, b| compare_releases(a, b));
    let is_newer = |newest: &String| compare_releases(newest, running) == Ordering::Greater;
    if let Some(newest) = newest.filter(is_newer) {
        reasons.push(RestartReason::KernelNewer { running: running.to_owned(), installed: newest });
    }
    Ok(reasons)
}

/// A kernel that has both modules and an image.
struct InstalledKernel {
    release: String,
    image: TreePath,
    stat: Stat,
}

fn installed_kernels(root: &Root) -> Result<Vec<InstalledKernel>, RootError> {
    let mut kernels: Vec<InstalledKernel> = Vec::new();
    for modules in MODULES {
        for (path, stat) in root.children(&fixed(modules))? {
            let Ok(release) = std::str::from_utf8(path.name()) else { continue };
            let is_known = kernels.iter().any(|kernel| kernel.release == release);
            if stat.kind != FileKind::Directory || is_known {
                continue;
            }
            if let Some((image, stat)) = find_image(root, &path, release)? {
                kernels.push(InstalledKernel { release: release.to_owned(), image, stat });
            }
        }
    }
    Ok(kernels)
}

/// Finds the image of a kernel: in `boot`, or beside its modules.
fn find_image(
    root: &Root,
    modules: &TreePath,
    release: &str,
) -> Result<Option<(TreePath, Stat)>, RootError> {
    let in_boot = IMAGES.iter().map(|name| fixed(&format!("boot/{name}-{release}")));
    let beside_modules = modules.join(IMAGE_BESIDE_MODULES.as_bytes()).ok();
    for path in in_boot.chain(beside_modules) {
        if let Some(stat) = root.stat(&path)?.filter(|stat| stat.kind == FileKind::File) {
            return Ok(Some((path, stat)));
        }
    }
    Ok(None)
}

/// Time at which the running system was started, in seconds since 1970.
fn boot_time(proc: &Path) -> Option<i64> {
    let text = fs::read_to_string(proc.join("stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn fixed(path: &str) -> TreePath {
    TreePath::new(path).unwrap_or_else(|_| TreePath::root())
}
