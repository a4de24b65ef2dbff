//! The running kernel, and the paths of a tree that belong to it.

mod image;
mod release;

use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

use image::image_release;
pub use image::{IMAGE_BESIDE_MODULES, IMAGES, release_beside_modules, releases_in};
pub use release::compare_releases;

/// A kernel, by its release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    release: String,
}

/// Files of the running kernel that a transaction keeps although its target lacks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelRetention {
    /// Modules and boot files, so that the boot menu still offers the kernel that is known to work.
    ModulesAndBootFiles,
    /// Only the modules, which the running kernel loads until it stops.
    ///
    /// Boot loaders put the newest kernel first. If the boot files of a newer kernel stayed, each
    /// boot would start that kernel again.
    Modules,
}

impl Kernel {
    /// The running kernel; `None` if the tree is not the running system.
    pub fn running_on(root: &Root) -> Result<Option<Self>, RootError> {
        if !root.is_running_system()? {
            return Ok(None);
        }
        let name = rustix::system::uname();
        Ok(Kernel::new(&name.release().to_string_lossy()))
    }

    /// The kernel of a release; `None` if the release cannot be a name in `lib/modules`.
    pub(crate) fn new(release: &str) -> Option<Self> {
        let is_valid =
            !release.is_empty() && !release.contains('/') && release != "." && release != "..";
        is_valid.then(|| Kernel { release: release.to_owned() })
    }

    /// The kernel to which a path belongs by its place: its modules, or its image.
    pub fn from_path(path: &TreePath) -> Option<Self> {
        let mut components = path.components().peekable();
        components.next_if(|name| *name == b"usr");
        let release = match (components.next(), components.next(), components.next()) {
            (Some(b"lib"), Some(b"modules"), Some(release)) => release,
            _ => image_release(path)?,
        };
        Kernel::new(std::str::from_utf8(release).ok()?)
    }

    /// The release, as `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The files to keep in an update to a tree with the kernels `releases`.
    pub fn retention_for(&self, releases: &[String]) -> KernelRetention {
        if self.is_newer_than_all(releases) {
            KernelRetention::Modules
        } else {
            KernelRetention::ModulesAndBootFiles
        }
    }

    /// Whether there are other kernels, and all of them are older than this one.
    pub fn is_newer_than_all(&self, releases: &[String]) -> bool {
        !releases.is_empty()
            && releases
                .iter()
                .all(|release: &String| compare_releases(release, &self.release).is_lt())
    }

    /// Whether a path belongs to the part of this kernel that `retention` keeps.
    pub fn keeps(&self, path: &TreePath, retention: KernelRetention) -> bool {
        match retention {
            KernelRetention::ModulesAndBootFiles => self.owns(path),
            KernelRetention::Modules => self.owns_modules(path),
        }
    }

    /// Whether a path belongs to this kernel: its modules, its image and other boot files.
    ///
    /// Boot files are `*-RELEASE` and `*-RELEASE.*` in `boot`, with their content, and the image
    /// beside the modules.
    pub fn owns(&self, path: &TreePath) -> bool {
        let mut components = path.components();
        let is_boot_file = components.next() == Some(b"boot")
            && components.next().is_some_and(|file| is_file_of(file, self.release.as_bytes()));
        is_boot_file || self.is_below_modules(path)
    }

    /// Whether a path belongs to the modules of this kernel.
    ///
    /// These are `lib/modules/RELEASE`, also below `usr`, with its content except the image.
    pub fn owns_modules(&self, path: &TreePath) -> bool {
        self.is_below_modules(path) && release_beside_modules(path).is_none()
    }

    fn is_below_modules(&self, path: &TreePath) -> bool {
        let mut components = path.components().peekable();
        components.next_if(|name| *name == b"usr");
        let parts = (components.next(), components.next(), components.next());
        parts == (Some(b"lib"), Some(b"modules"), Some(self.release.as_bytes()))
    }
}

/// Whether a name ends with the release, or with the release and a suffix.
fn is_file_of(name: &[u8], release: &[u8]) -> bool {
    (1..name.len()).any(|dash| {
        let rest = name[dash..].strip_prefix(release);
        name[dash - 1] == b'-'
            && dash > 1
            && rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_kernel_recognised_by_release() {
        let kernel = Kernel::new("6.1.0-18-amd64").expect("good");

        for path in [
            "lib/modules/6.1.0-18-amd64",
            "usr/lib/modules/6.1.0-18-amd64/kernel/fs/xfs.ko",
            "boot/vmlinuz-6.1.0-18-amd64",
            "boot/System.map-6.1.0-18-amd64",
            "boot/initrd.img-6.1.0-18-amd64",
            "boot/initramfs-6.1.0-18-amd64.img",
            "boot/initramfs-6.1.0-18-amd64.img.old",
            "boot/dtb-6.1.0-18-amd64/board.dtb",
        ] {
            assert!(kernel.owns(&TreePath::new(path).expect("good")), "{path}");
        }
        for path in [
            "lib/modules",
            "lib/modules/6.1.0-18-amd64-dbg/vmlinux",
            "lib/modules/6.1.0-18-amd6/kernel",
            "boot",
            "boot/vmlinuz",
            "boot/vmlinuz-6.1.0-18-amd64-rescue",
            "boot/vmlinuz-16.1.0-18-amd64",
            "boot/vmlinuz-6x1.0-18-amd64",
            "boot/-6.1.0-18-amd64",
            "boot/efi/vmlinuz-6.1.0-18-amd64",
            "usr/boot/vmlinuz-6.1.0-18-amd64",
            "opt/lib/modules/6.1.0-18-amd64",
            "srv/boot/vmlinuz-6.1.0-18-amd64",
        ] {
            assert!(!kernel.owns(&TreePath::new(path).expect("good")), "{path}");
        }
    }

    #[test]
    fn modules_of_kernel_do_not_include_its_image() {
        let kernel = Kernel::new("6.1.0").expect("good");

        for (path, modules) in [
            ("lib/modules/6.1.0", true),
            ("usr/lib/modules/6.1.0/kernel/fs/xfs.ko", true),
            ("usr/lib/modules/6.1.0/build/vmlinuz", true),
            ("usr/lib/modules/6.1.0/vmlinuz", false),
            ("boot/vmlinuz-6.1.0", false),
        ] {
            let path = TreePath::new(path).expect("good");
            assert!(kernel.keeps(&path, KernelRetention::ModulesAndBootFiles), "{path}");
            assert_eq!(kernel.keeps(&path, KernelRetention::Modules), modules, "{path}");
        }
    }

    #[test]
    fn boot_files_are_kept_unless_all_kernels_of_the_target_are_older() {
        let kernel = Kernel::new("6.1.0-18-amd64").expect("good");

        for (releases, retention) in [
            (&[][..], KernelRetention::ModulesAndBootFiles),
            (&["6.1.0-9-amd64"], KernelRetention::Modules),
            (&["6.1.0-18-amd64"], KernelRetention::ModulesAndBootFiles),
            (&["6.1.0-9-amd64", "6.1.0-21-amd64"], KernelRetention::ModulesAndBootFiles),
        ] {
            let releases: Vec<String> = releases.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(kernel.retention_for(&releases), retention, "{releases:?}");
        }
    }

    #[test]
    fn short_release_not_found_within_longer_one() {
        let kernel = Kernel::new("6.1.0-1").expect("good");
        assert!(kernel.owns(&TreePath::new("boot/vmlinuz-6.1.0-1").expect("good")));
        assert!(!kernel.owns(&TreePath::new("boot/vmlinuz-6.1.0-18").expect("good")));
        assert!(!kernel.owns(&TreePath::new("boot/vmlinuz-5-6.1.0-1-x").expect("good")));
        for bad in ["", ".", "..", "a/b"] {
            assert_eq!(Kernel::new(bad), None);
        }
    }
}
