use super::*;

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("a valid path")
}

fn filesystems() -> Filesystems {
    let vfat = Mount {
        at: path("boot/efi"),
        kind: "vfat".to_owned(),
        read_only: false,
        device: String::new(),
        source: b"/".to_vec(),
    };
    Filesystems::new(vec![path("boot/efi"), path("boot")]).with_limited(&[vfat])
}

#[test]
fn paths_belong_to_the_innermost_filesystem() {
    let filesystems = filesystems();

    assert_eq!(filesystems.mount_roots(), [TreePath::root(), path("boot"), path("boot/efi")]);
    for (file, entry, slot) in
        [("etc/fstab", 0, 0), ("bootable", 0, 0), ("boot/vmlinuz", 1, 1), ("boot/efi/a", 2, 0)]
    {
        assert_eq!(filesystems.entry_filesystem_of(&path(file)), entry, "{file}");
        assert_eq!(filesystems.slot_filesystem_of(&path(file)), slot, "{file}");
    }
}

#[test]
fn mount_roots_are_entries_of_the_filesystem_above() {
    let filesystems = filesystems();

    for (mount_root, entry, dir) in [("boot", 0, 1), ("boot/efi", 1, 0)] {
        assert_eq!(filesystems.slot_filesystem_of(&path(mount_root)), entry, "{mount_root}");
        assert_eq!(filesystems.slot_filesystem_of_dir(&path(mount_root)), dir, "{mount_root}");
    }
    assert!(filesystems.is_limited(&path("boot/efi")));
    assert!(!filesystems.is_limited(&path("boot")));
}
