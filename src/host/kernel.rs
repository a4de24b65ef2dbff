//! The kernel that runs, and what of a tree belongs to it.

use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// The kernel that runs on the system that a tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    release: String,
}

impl Kernel {
    /// The running kernel, if the tree is the running system; on any other tree none runs.
    pub fn running_on(root: &Root) -> Result<Option<Self>, RootError> {
        if !root.is_running_system()? {
            return Ok(None);
        }
        let name = rustix::system::uname();
        Ok(Kernel::of(&name.release().to_string_lossy()))
    }

    /// The kernel with this release, as `uname -r` prints it.
    pub(crate) fn of(release: &str) -> Option<Self> {
        let good =
            !release.is_empty() && !release.contains('/') && release != "." && release != "..";
        good.then(|| Kernel { release: release.to_owned() })
    }

    /// As `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Whether `path` is, or lies in, its modules (`lib/modules/RELEASE`, also below `usr`) or one of its
    /// files in `boot` (`*-RELEASE`, `*-RELEASE.*`).
    pub fn owns(&self, path: &TreePath) -> bool {
        let release = self.release.as_bytes();
        let mut components = path.components().peekable();
        components.next_if(|name| *name == b"usr");
        match (components.next(), components.next(), components.next()) {
            (Some(b"lib"), Some(b"modules"), Some(found)) => found == release,
            (Some(b"boot"), Some(file), _) => {
                path.as_bytes().starts_with(b"boot") && is_for(file, release)
            }
            _ => false,
        }
    }
}

/// Whether a name ends with the release, or with the release and a suffix.
fn is_for(name: &[u8], release: &[u8]) -> bool {
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
    fn what_belongs_to_a_kernel_is_told_by_its_release() {
        let kernel = Kernel::of("6.1.0-18-amd64").expect("good");
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
    fn a_short_release_is_not_found_within_a_longer_one() {
        let kernel = Kernel::of("6.1.0-1").expect("good");
        assert!(kernel.owns(&TreePath::new("boot/vmlinuz-6.1.0-1").expect("good")));
        assert!(!kernel.owns(&TreePath::new("boot/vmlinuz-6.1.0-18").expect("good")));
        assert!(!kernel.owns(&TreePath::new("boot/vmlinuz-5-6.1.0-1-x").expect("good")));
        for bad in ["", ".", "..", "a/b"] {
            assert_eq!(Kernel::of(bad), None);
        }
    }
}
