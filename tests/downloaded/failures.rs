//! Interrupted and failed downloads and switches.

use super::*;
use crate::common::small_disk::{DISK, SmallDisk};
use crate::common::{ROOT_AND_RSYNC, require};

#[test]
fn directory_without_record_is_removed_by_next_run() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    fs::remove_file(store(&site).join("record")).expect("removes");

    client(&site, &["--status"]).ended(0, &[]);
    assert!(store(&site).exists());
    site.updated(&[]).ended(0, &["the downloaded update is removed: it is incomplete"]);

    site.same();
    assert!(!store(&site).exists());
}

#[test]
fn damaged_record_is_removed_by_next_run() {
    require!(ROOT_AND_RSYNC);
    for damage in ["format = 9\n", "", "\u{0}"] {
        let site = downloaded();
        fs::write(store(&site).join("record"), damage).expect("writes");

        site.updated(&[]).ended(0, &["the downloaded update is removed"]);

        site.same();
        assert!(!store(&site).exists(), "{damage:?}");
    }
}

#[test]
fn planted_directory_is_replaced() {
    require!(ROOT_AND_RSYNC);
    let site = behind();
    let outside = site.dir.path().join("outside");
    fs::create_dir(&outside).expect("creates");
    fs::write(outside.join("record"), "sentinel").expect("writes");
    let planted: [(&str, &dyn Fn()); 3] = [
        ("symlink", &|| std::os::unix::fs::symlink(&outside, store(&site)).expect("links")),
        ("file", &|| fs::write(store(&site), "file").expect("writes")),
        ("open directory", &|| {
            fs::create_dir(store(&site)).expect("creates");
            common::run(Command::new("chmod").arg("777").arg(store(&site)));
        }),
    ];
    for (kind, plant) in planted {
        plant();

        site.updated(&["--download-only"]).ended(0, &["the downloaded update is removed"]);

        assert!(has_record(&site) && store(&site).is_dir(), "{kind}");
        fs::remove_dir_all(store(&site)).expect("removes");
    }
    assert_eq!(common::read(&outside.join("record")), "sentinel");
}

#[test]
fn download_that_does_not_fit_leaves_nothing() {
    require!(DISK);
    let site = Site::at(&tree(1));
    let mut second = tree(2);
    trees::put(&mut second, "usr/large", Item::file(trees::noise(12 << 20, 5)));
    site.publish(&second);
    let _disk = SmallDisk::for_node(&site, 16, 4000);
    site.updated(&["--adopt"]);
    let before = site.snapshot();

    site.update(&["--download-only"]).ended(5, &["no room on this node"]);

    assert!(!store(&site).exists());
    site.unchanged_since(&before);
}

#[test]
fn switch_needs_no_room_for_downloaded_contents() {
    require!(DISK);
    let site = Site::at(&tree(1));
    let mut second = tree(2);
    trees::put(&mut second, "usr/large", Item::file(trees::noise(12 << 20, 5)));
    site.publish(&second);
    let disk = SmallDisk::for_node(&site, 48, 4000);
    site.updated(&["--adopt"]);
    site.updated(&["--download-only"]);
    disk.fill(6 << 20);
    disconnect(&site);

    switch(&site, &[]).ended(0, &["serial 2"]);

    disk.drain();
    site.same();
}
