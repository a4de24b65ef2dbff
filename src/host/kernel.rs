//! The running kernel, and the paths of a tree that belong to it.

use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// A kernel, by its release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    release: String,
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

    /// The release, as `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Whether a path belongs to this kernel.
    ///
    /// These are `lib/modules/RELEASE`, also below `usr`, with its content, and `*-RELEASE` and
    /// `*-RELEASE.*` in `boot`.
    pub fn owns(&self, path: &TreePath) -> bool {
        let release = self.release.as_bytes();
        let mut components = path.components().peekable();
        components.next_if(|name| *name == b"usr");

        match (components.next(), components.next(), components.next()) {
            (Some(b"lib"), Some(b"modules"), Some(found)) => found == release,
            (Some(b"boot"), Some(file), _) => {
                path.as_bytes().starts_with(b"boot") && is_file_of(file, release)
            }
            _ => false,
        }
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
