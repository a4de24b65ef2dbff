//! Kernel reasons for a reboot: the running kernel was removed, changed or is not the newest.

use std::cmp::Ordering;
use std::fs;
use std::io::Read;
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
            if is_changed(proc, root, kernel)? {
                reasons.push(RestartReason::KernelChanged { file: root.show(&kernel.image) });
            }
        }
    }

    let releases = installed.into_iter().map(|kernel| kernel.release);
    let newest = releases.max_by(|a, b| compare_releases(a, b));
    if let Some(newest) =
        newest.filter(|newest: &String| compare_releases(newest, running) == Ordering::Greater)
    {
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

/// Whether the image of the running kernel is another one than that which was started.
///
/// An x86 image has the build of its kernel in its header, which is compared with that of the
/// running kernel. For other images the birth time of the inode decides: a rollback moves the old
/// inode back, and a hard link to a backup does not change its birth time. A file that was
/// overwritten in place has a new mtime. On a filesystem without birth times the ctime decides,
/// which is also changed by a hard link: then a reboot may be named without need.
fn is_changed(proc: &Path, root: &Root, kernel: &InstalledKernel) -> Result<bool, RootError> {
    let running = fs::read_to_string(proc.join("sys/kernel/version")).unwrap_or_default();
    let build = read_build(root, &kernel.image)?;
    if let Some(build) = build.filter(|_| !running.trim().is_empty()) {
        return Ok(build != running.trim());
    }

    let Some(boot) = boot_time(proc) else { return Ok(false) };
    let InstalledKernel { image, stat, .. } = kernel;
    Ok(match root.birth_time(image)? {
        Some(birth) => birth.seconds > boot || stat.mtime.seconds > boot,
        None => stat.ctime.seconds > boot,
    })
}

/// Reads the build of an x86 kernel from its image, as `uname -v` prints it.
///
/// The header has a pointer to the text `RELEASE (BUILDER) BUILD` (Documentation/arch/x86/boot.rst
/// of Linux, fields `header` and `kernel_version`).
fn read_build(root: &Root, image: &TreePath) -> Result<Option<String>, RootError> {
    const SIGNATURE: std::ops::Range<usize> = 0x202..0x206;
    const POINTER: std::ops::Range<usize> = 0x20e..0x210;
    /// The pointer is relative to this, and has 16 bits.
    const BASE: usize = 0x200;
    const MAX_TEXT: usize = 512;

    let mut bytes = Vec::new();
    root.open_file(image)?
        .take((BASE + usize::from(u16::MAX) + MAX_TEXT) as u64)
        .read_to_end(&mut bytes)
        .map_err(|source| RootError { operation: "read", path: root.show(image), source })?;
    if bytes.get(SIGNATURE) != Some(b"HdrS") {
        return Ok(None);
    }

    let pointer = bytes.get(POINTER).map_or(0, |pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text = bytes.get(BASE + usize::from(pointer)..).unwrap_or_default();
    let text = text.split(|byte| *byte == 0).next().filter(|text| text.len() <= MAX_TEXT);
    let text = text.and_then(|text| std::str::from_utf8(text).ok());
    Ok(text.and_then(|text| Some(text.split_once(") ")?.1.trim().to_owned())))
}

/// Time at which the running system was started, in seconds since 1970.
fn boot_time(proc: &Path) -> Option<i64> {
    let text = fs::read_to_string(proc.join("stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn fixed(path: &str) -> TreePath {
    TreePath::new(path).unwrap_or_else(|_| TreePath::root())
}
