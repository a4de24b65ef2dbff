//! Interrupted and failed downloads and switches.

use super::*;
use crate::common::small_disk::{DISK, SmallDisk};
use crate::common::{Need, ROOT_AND_RSYNC, require};

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

/// Names of the files of the download that begin with `prefix`, except the record.
fn names(site: &Site, prefix: &str) -> Vec<String> {
    files(site).into_keys().filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn damaged_download_is_reported_by_switch_and_status_and_replaced() {
    require!(ROOT_AND_RSYNC);
    let damages: [SiteChange; 5] = [
        ("data removed", &|site| {
            for name in names(site, "data-") {
                fs::remove_file(store(site).join(name)).expect("removes");
            }
        }),
        ("data overwritten", &|site| {
            for name in names(site, "data-") {
                let path = store(site).join(name);
                let size = fs::metadata(&path).expect("is there").len();
                fs::write(path, vec![b'x'; size as usize]).expect("writes");
            }
        }),
        ("record of another format", &|site| {
            fs::write(store(site).join("record"), "format = 9\n").expect("writes");
        }),
        ("empty record", &|site| fs::write(store(site).join("record"), "").expect("writes")),
        ("open directory", &|site| {
            common::run(Command::new("chmod").arg("755").arg(store(site)));
        }),
    ];
    for (kind, damage) in damages {
        let site = downloaded();
        damage(&site);

        client(&site, &["--status"]).ended(0, &["downloaded:  damaged"]);
        client(&site, &["--status", "--json"]).ended(0, &["\"downloaded_fault\":"]);
        client(&site, &["--recover"]).ended(0, &["the downloaded update is damaged"]);
        site.refused(&["--from-downloaded"], 5, &["it is damaged", "--download-only"]);
        assert!(has_record(&site), "{kind}");

        site.updated(&["--download-only"]).ended(0, &["downloaded node serial 2"]);
        disconnect(&site);
        switch(&site, &[]).ended(0, &["serial 2"]);
        site.same();
    }
}

#[test]
fn each_damaged_data_file_stops_switch_and_is_downloaded_again() {
    require!(ROOT_AND_RSYNC);
    for at in 0..names(&downloaded(), "data-").len() {
        let site = downloaded();
        let path = store(&site).join(&names(&site, "data-")[at]);
        let size = fs::metadata(&path).expect("is there").len();
        fs::write(&path, vec![b'x'; size as usize]).expect("writes");

        site.refused(&["--from-downloaded"], 5, &["it is damaged", "data-"]);
        client(&site, &["--status"]).ended(0, &["downloaded:  damaged", "data-"]);

        site.updated(&["--download-only"]).ended(0, &["downloaded node serial 2"]);
        disconnect(&site);
        switch(&site, &[]).ended(0, &["serial 2"]);
        site.same();
    }
}

#[test]
fn object_that_is_no_file_is_damage_of_download() {
    require!(ROOT_AND_RSYNC);
    let plants: [PathChange; 3] = [
        ("fifo", &|path| {
            common::run(Command::new("mkfifo").arg(path));
        }),
        ("socket", &|path| {
            std::os::unix::net::UnixListener::bind(path).expect("binds");
        }),
        ("directory", &|path| {
            fs::create_dir(path).expect("creates");
            fs::write(path.join("below"), "below").expect("writes");
        }),
    ];
    let content = systemimager::digest::Digest::of(b"version 2");
    for name in ["record", "data-", &format!("{content}"), "filesystems"] {
        for (kind, plant) in plants {
            for options in [&[][..], &["--download-only"]] {
                let site = downloaded();
                let all = if name == "record" { vec![name.to_owned()] } else { names(&site, name) };
                // A socket has a short path.
                std::env::set_current_dir(store(&site)).expect("enters");
                for name in &all {
                    fs::remove_file(name).expect("removes");
                    plant(Path::new(name));
                }
                std::env::set_current_dir("/").expect("leaves");

                client(&site, &["--status"]).ended(0, &["downloaded:"]);
                if name != "filesystems" {
                    site.refused(&["--from-downloaded"], 5, &["--download-only"]);
                }
                site.updated(options);
                if !options.is_empty() {
                    disconnect(&site);
                    switch(&site, &[]).ended(0, &["serial 2"]);
                }
                site.same();
                assert!(!store(&site).exists(), "{kind} at {name}");
            }
        }
    }
}

#[test]
fn download_that_cannot_be_removed_is_warning() {
    require!(ROOT_AND_RSYNC, Need::Program("chattr"));
    let site = downloaded();
    let chattr = |flag: &str| {
        common::run(Command::new("chattr").arg(flag).arg(store(&site)));
    };
    chattr("+i");
    let warning = "cannot remove the downloaded update";

    let run = switch(&site, &[]);
    run.ended(0, &[warning, "the next run will retry", "updated to node serial 2"]);
    assert!(!format!("{}{}", run.out, run.err).contains("nothing was changed"), "{run:#?}");
    let again = site.update(&[]);
    chattr("-i");

    again.ended(0, &[warning, "is up to date"]);
    site.updated(&[]);
    site.same();
    assert!(!store(&site).exists());
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
