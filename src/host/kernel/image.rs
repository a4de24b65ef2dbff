//! Kernel images: their paths in a tree, and the releases that these paths name.

use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// Names of a kernel image in `boot`, before its release.
pub const IMAGES: [&str; 5] = ["vmlinuz", "vmlinux", "Image", "bzImage", "kernel"];
/// Name of a kernel image beside its modules.
pub const IMAGE_BESIDE_MODULES: &str = "vmlinuz";

/// Releases of the kernels whose image a manifest has, without duplicates.
pub fn releases_in(manifest: &Manifest) -> Vec<String> {
    let images = manifest.entries().iter().filter(|entry| !entry.is_dir());
    let mut releases: Vec<String> = images
        .filter_map(|entry| image_release(&entry.path))
        .filter_map(|release| String::from_utf8(release.to_vec()).ok())
        .collect();
    releases.sort_unstable();
    releases.dedup();
    releases
}

/// The release, if the path is that of a kernel image.
pub(super) fn image_release(path: &TreePath) -> Option<&[u8]> {
    let mut components = path.components();
    match (components.next(), components.next(), components.next()) {
        (Some(b"boot"), Some(name), None) => IMAGES.iter().find_map(|image| {
            let release = name.strip_prefix(image.as_bytes())?.strip_prefix(b"-")?;
            (!release.is_empty()).then_some(release)
        }),
        _ => release_beside_modules(path),
    }
}

/// The release, if the path is that of a kernel image beside its modules.
pub fn release_beside_modules(path: &TreePath) -> Option<&[u8]> {
    let mut components = path.components().peekable();
    components.next_if(|name| *name == b"usr");
    let names: Vec<&[u8]> = components.collect();
    match names[..] {
        [b"lib", b"modules", release, image] if image == IMAGE_BESIDE_MODULES.as_bytes() => {
            Some(release)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_recognised_by_path() {
        for (path, release) in [
            ("boot/vmlinuz-6.1.0-18-amd64", Some("6.1.0-18-amd64")),
            ("boot/Image-6.6.1", Some("6.6.1")),
            ("lib/modules/6.1.0/vmlinuz", Some("6.1.0")),
            ("usr/lib/modules/6.1.0/vmlinuz", Some("6.1.0")),
            ("boot/vmlinuz", None),
            ("boot/vmlinuz-", None),
            ("boot/initrd.img-6.1.0", None),
            ("boot/efi/vmlinuz-6.1.0", None),
            ("usr/boot/vmlinuz-6.1.0", None),
            ("usr/lib/modules/6.1.0/build/vmlinuz", None),
        ] {
            let path = TreePath::new(path).expect("a good path");
            assert_eq!(image_release(&path), release.map(str::as_bytes), "{path}");
        }
    }
}
