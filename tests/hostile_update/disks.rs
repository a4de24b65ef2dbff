//! Full and read-only disks of a node.

use super::*;

#[test]
fn full_disk_refuses_update() {
    require!(DISK);

    let site = behind();
    let disk = SmallDisk::for_node(&site, 64, 2000);
    site.updated(&["--adopt"]);

    disk.fill(1 << 20);
    let before = site.snapshot();
    let free = disk.free();

    let run = site.update(&["--no-fallback"]);
    run.ended(5, &["no room on this node", "bytes free", "nothing was changed"]);
    site.unchanged_since(&before);
    assert!(disk.free() >= free - 65536, "{} of {free} bytes are left", disk.free());

    fs::remove_file(site.node().join("filler")).expect("removes");
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn lack_of_inodes_refuses_update() {
    require!(DISK);

    let site = behind();
    let disk = SmallDisk::for_node(&site, 64, 256);
    site.updated(&["--adopt"]);
    let free = rustix::fs::statvfs(&disk.at).expect("statvfs").f_favail;
    for number in 20..free {
        fs::write(disk.at.join(format!("filler-{number}")), "").expect("writes");
    }

    let before = site.snapshot();
    site.update(&["--no-fallback"])
        .ended(5, &["no room on this node", "inodes free", "nothing was changed"]);

    site.unchanged_since(&before);
}

#[test]
fn disk_filled_during_download_changes_nothing() {
    require!(DISK);

    let mut site = Site::new();
    site.publish(&tree(1));
    site.install_node();

    site.updated(&["--adopt"]);
    let mut bulky = tree(2);
    bulky.insert(b"usr/bulk".to_vec(), Item::file(noise(400_000, 9)));
    site.publish(&bulky);
    let disk = SmallDisk::for_node(&site, 64, 2000);

    site.updated(&["--adopt"]);
    // The filler file exists before the run, so that only its size changes during the run. The
    // run's stage is in the root directory, whose mtime is saved for the comparison.
    fs::write(site.node().join("filler"), "").expect("writes");
    let time = fs::metadata(site.node()).and_then(|top| top.modified()).expect("a time");
    let slow = SlowRun::start(&mut site, &["--no-fallback"]);

    // The snapshot is taken before the disk is full, when the run removes its stage.
    let before = site.snapshot();
    fs::File::open(&before).and_then(|top| top.set_modified(time)).expect("sets");
    disk.fill(0);

    let run = slow.end();
    run.ended(5, &["this node", "No space left on device", "nothing was changed"]);

    common::copy_tree(&site.node().join("filler"), &before.join("filler"));
    site.unchanged_since(&before);

    let spool = site.node().join("var/lib/systemimager/client/spool");
    assert_eq!(
        fs::read_dir(spool).expect("lists").count(),
        0,
        "the spool still holds the download"
    );

    fs::remove_file(site.node().join("filler")).expect("removes");
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn full_disk_refuses_full_sync() {
    require!(DISK);

    let mut large = tree(1);
    large.insert(b"usr/large".to_vec(), Item::file(noise(30_000_000, 1)));
    let site = Site::new().with_rsync();
    site.publish(&large);
    fs::create_dir_all(site.node().join("var/lib")).expect("makes");
    fs::write(site.node().join("precious"), "the node's own").expect("writes");
    let _disk = SmallDisk::for_node(&site, 32, 2000);
    let before = site.snapshot();

    let run = site.update(&["--max-delete", "100%"]);
    run.ended(5, &["no room on this node", "nothing was changed"]);
    site.unchanged_since(&before);
}

#[test]
fn read_only_root_refuses_update() {
    require!(DISK);

    let site = behind();
    let disk = SmallDisk::for_node(&site, 64, 2000);
    site.updated(&["--adopt"]);
    let before = site.snapshot();
    common::run(Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.at));

    site.update(&[]).ended(5, &["is mounted read-only", "nothing was changed"]);
    site.unchanged_since(&before);

    site.update(&["--dry-run"]).ended(5, &["/etc/version", "is not writable"]);
    common::run(Command::new("mount").args(["-o", "remount,rw"]).arg(&disk.at));
    common::run(Command::new("mount").arg("--bind").arg(&disk.at).arg(&disk.at));
    let over = SmallDisk { file: disk.file.clone(), at: disk.at.clone() };
    common::run(Command::new("mount").args(["-o", "remount,ro,bind"]).arg(&disk.at));

    site.update(&[]).ended(5, &["is mounted read-only", "nothing was changed"]);
    drop(over);
    site.updated(&["--no-fallback"]);

    site.same();
}
