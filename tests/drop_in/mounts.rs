//! Mounts and foreign filesystems in the tree.

use super::*;

#[test]
fn foreign_mounts_and_dev_are_untouched() {
    require!(ROOT_AND_RSYNC, Program("unshare"));

    let mut tree = image();
    for path in ["dev/fromimage", "usr/mounted/fromimage", "mnt/data/fromimage"] {
        put_text(&mut tree, path, "the image's");
    }
    let old = OldSite::new(&trees::with_parents(tree), &[]);
    for path in ["dev", "usr/mounted", "mnt/data"] {
        fs::create_dir_all(old.node(path)).expect("makes");
    }
    old.on_node("etc/systemimager/client.conf", "fstype = ext4\nfstype = xfs\n");
    let port = old.site.rsync_port().expect("a daemon");
    let agent = format!(
        "{AGENT} --root . --server 127.0.0.1 --rsync-port {port} --image node --yes \
         --exclude-file /dev/null"
    );
    let script = format!(
        "set -e; cd {0}\n\
         mount -t tmpfs -o size=1m udev dev; echo own >dev/own\n\
         mount -t tmpfs -o size=1m none usr/mounted; echo own >usr/mounted/own\n\
         {agent} --directory /usr\n\
         {agent}\n\
         cat dev/own usr/mounted/own; ls dev usr/mounted",
        old.site.node().display()
    );
    let output =
        Command::new("unshare").args(["-m", "sh", "-c", &script]).output().expect("it runs");
    let run = Run::from_output(output);

    run.ended(0, &["own\nown\n"]);
    assert!(!run.out.contains("fromimage"), "{run:#?}");
    assert_eq!(read(&old.node("mnt/data/fromimage")), "the image's");
}

/// A filesystem type that `fstype` does not name is left alone, even if the agent supports it.
#[test]
fn filesystems_not_in_fstype_are_untouched() {
    require!(Root, LoopDevice, Program("mkfs.ext4"));

    let mut tree = image();
    put_text(&mut tree, "data/fromimage", "the image's");
    let old = OldSite::new(&trees::with_parents(tree), &[]);
    common::disk::enter_mount_namespace();
    let disk = common::disk::Disk::new("ext4", old.server("disk"), &old.node("data"));
    fs::write(old.node("data/own"), "own").expect("writes");
    old.on_node("etc/systemimager/client.conf", "fstype = xfs\n");
    let line = ["--image", "node", "--exclude-file", "/dev/null"];

    old.run(&line).ended(0, &[]);
    assert!(old.node("data/own").exists() && !old.node("data/fromimage").exists());

    // A named type takes part; the new file takes precedence over the old one.
    old.on_node("etc/systemimager/updateclient.toml", "fstype = [\"ext4\"]\n");
    old.run(&line).ended(0, &[]);
    assert!(!old.node("data/own").exists() && old.node("data/fromimage").exists());

    drop(disk);
}
